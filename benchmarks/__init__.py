"""Measurements: each is one command that prints JSON and a table; ratios are taken within one run."""
