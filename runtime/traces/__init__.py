"""Traces of OpenTelemetry: contexts, spans, and the way out of a process. Only `encoding` imports opentelemetry, while traces are on."""
