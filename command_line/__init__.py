"""The command `warmlane`: starts everything on one machine, and talks to admission as a client."""

import os

# Read when gRPC is imported: its C library tells a handshake that fails in a line of its own, between those of the command.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
