"""Tests of the arithmetic of GPU memory."""
