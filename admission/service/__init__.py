"""The gRPC services of admission: they translate, check at the door and answer; decisions are the engine's."""
