"""Tests of `warmlane up`, with small stand-in processes."""
