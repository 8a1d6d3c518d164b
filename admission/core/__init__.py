"""Decisions only: an event and the time go in, commands come out.

No clock, randomness, lock, socket or log in here, and no import beyond the standard library's value modules.
"""
