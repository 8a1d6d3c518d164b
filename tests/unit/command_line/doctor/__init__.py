"""Tests of `warmlane doctor`."""
