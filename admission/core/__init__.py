"""Decisions only: an event and the time go in, commands come out. No clock, randomness, lock, socket, log or import beyond the standard library's values."""
