"""Tests of the whole path: real processes, HTTP and gRPC only."""
