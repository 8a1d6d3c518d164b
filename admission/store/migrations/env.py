"""Alembic runs this file for each command: it runs the revisions on the connection that `apply` gave."""

from __future__ import annotations

from alembic import context

from admission.store.schema import METADATA

# The caller's transaction spans all of it. Batch mode, because SQLite alters a table by making it anew.
context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, render_as_batch=True)
context.run_migrations()
