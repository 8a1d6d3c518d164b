"""The rules of a request, in one pure place: every door (HTTP, gRPC, lane, `/models`) asks here, so none can drift."""
