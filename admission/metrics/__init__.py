"""Admission's metrics: what is counted as it happens, and what is read from the core's state when somebody asks."""
