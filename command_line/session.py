"""Runs one command against admission: the address, the client, and what an error or Ctrl-C means."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

from command_line.address import find_admission
from command_line.client import PATIENCE_S, AdmissionClient, Listener, admission_client
from command_line.credentials import credentials_of
from command_line.failures import CommandError, ExitCode, command_error
from runtime.errors import ErrorCode, ServiceError
from runtime.handshakes import handshake_problem
from runtime.roles import Role

_T = TypeVar("_T")


def with_admission(
    address: str | None,
    work: Callable[[AdmissionClient], Awaitable[_T]],
    *,
    role: Role = Role.CLIENT,
    interrupted: Callable[[], str] | None = None,
    listener: Listener | None = None,
) -> _T:
    """Runs `work` with a client.

    Args:
        address: as named by option or environment; None looks for it.
        work: what the command does.
        role: whose token is shown; the environment is asked for it here, as it is for the address, when a command needs it.
        interrupted: what to say after Ctrl-C.
        listener: is told when a stream breaks and when it goes on.

    Raises:
        CommandError: admission refused, could not be reached, or Ctrl-C came.
    """
    found = find_admission(address)
    credentials = credentials_of(os.environ, role, found)

    async def run() -> _T:
        async with admission_client(found, credentials=credentials, patience_s=PATIENCE_S, listener=listener) as client:
            return await work(client)

    try:
        return asyncio.run(run())
    except ServiceError as error:
        is_away = error.code == ErrorCode.SERVICE_UNAVAILABLE and "grpc_status" in error.metadata
        problem = handshake_problem(found, credentials) if is_away else None
        raise command_error(error, address=found, tls_problem=problem) from error
    except KeyboardInterrupt as error:
        said = interrupted() if interrupted is not None else "interrupted."
        raise CommandError(said, exit_code=ExitCode.INTERRUPTED) from error
