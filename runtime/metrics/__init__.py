"""Metrics as every process has them: what a metric is, the registry of a process, and the server of `/metrics`."""
