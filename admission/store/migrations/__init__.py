"""The way of the schema from nothing to now, run by `apply` when a store opens."""

from __future__ import annotations

import threading

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

# Alembic keeps the environment of the migration that runs in its own module globals: one at a time in a process.
_ONE_AT_A_TIME = threading.Lock()


def apply(connection: Connection, *, to: str = "head") -> None:
    """Brings the schema to the newest revision (or an older one, for tests), within the transaction that the caller began.

    Raises:
        alembic.util.CommandError: the database is of a revision that this program does not know.
    """
    config = Config()
    config.set_main_option("script_location", "admission.store:migrations")
    config.attributes["connection"] = connection
    with _ONE_AT_A_TIME:
        command.upgrade(config, to)
