"""What a person is told while admission is away, and when it was away for too long."""

from __future__ import annotations

from collections.abc import Awaitable

from rich.console import Console
from warmlane.admission.v1 import task_pb2

from command_line.client import PATIENCE_S
from command_line.failures import CommandError, ExitCode
from runtime.errors import ErrorCode, ServiceError


class SaidBreaks:
    """Says each break, and that it is over, on a console."""

    def __init__(self, console: Console) -> None:
        """Standard error, so that output stays what it is."""
        self._console = console
        self._has_said_repeated = False

    def broken(self, error: ServiceError) -> None:
        """Admission is away."""
        self._say(f"admission is away ({error.metadata.get('grpc_status', error.message)}); waiting for it, at most {PATIENCE_S:.0f} s")

    def resumed(self, after_sequence: int) -> None:
        """It is back."""
        where = f" after event {after_sequence}" if after_sequence else ""
        self._say(f"admission is back; going on{where}")

    def repeated(self, error: ServiceError) -> None:
        """The request was not answered; said once, however often it is tried while admission starts."""
        if not self._has_said_repeated:
            self._has_said_repeated = True
            reason = error.metadata.get("grpc_status", error.message)
            self._say(f"admission went away before it answered ({reason}); the request is sent again under its key")

    def _say(self, sentence: str) -> None:
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)


async def told_if_given_up(following: Awaitable[task_pb2.Task], resume: str) -> task_pb2.Task:
    """What comes of it; an admission that stays away is a CommandError that says how to go on with an accepted task."""
    try:
        return await following
    except ServiceError as error:
        if error.code != ErrorCode.SERVICE_UNAVAILABLE:
            raise
        msg = f"admission did not come back within {PATIENCE_S:.0f} s. It keeps every accepted task: {resume}"
        raise CommandError(msg, exit_code=ExitCode.UNAVAILABLE) from error
