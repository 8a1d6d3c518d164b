"""The HTTP bridge: keeps the API that the web frontend speaks, in front of admission's gRPC."""
