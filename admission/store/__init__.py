"""Durable state: one port, its implementations, the schema's migrations."""
