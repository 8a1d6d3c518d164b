"""How a command ends when it cannot do what was asked: one sentence for people, one exit code for scripts."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum

from runtime.errors import ErrorCode, ServiceError
from runtime.guard import is_credential_refusal


class ExitCode(IntEnum):
    """Exit codes of `warmlane`."""

    OK = 0
    FAILED = 1
    """It ended without a result: a task failed or was cancelled; a folder could not be prepared, or is not what it should be."""
    USAGE = 2
    """What was asked is wrong: an option, a field of the request, an unknown task. The same again gives the same."""
    UNAVAILABLE = 3
    """Nobody can serve it now: admission is away or overloaded. The same again may succeed."""
    INTERRUPTED = 130
    """Ctrl-C, as shells count it."""


EXIT_CODES: Mapping[ExitCode, str] = {
    ExitCode.OK: "done as asked",
    ExitCode.FAILED: (
        "it ended without what was asked for: the task failed or was cancelled, a folder could not be prepared or differs, a check failed"
    ),
    ExitCode.USAGE: (
        "what was asked is wrong: an option, a field of the request, an unknown task or lane, a setting, a missing token; "
        "the same again gives the same"
    ),
    ExitCode.UNAVAILABLE: "admission is away or overloaded; the same again may succeed",
    ExitCode.INTERRUPTED: "Ctrl-C; an accepted task goes on, and the command says how to watch it again",
}
"""What each means, for people."""


class CommandError(Exception):
    """Ends the command; the text says what is wrong and what to do."""

    def __init__(self, message: str, *, exit_code: ExitCode = ExitCode.USAGE) -> None:
        """Keeps the sentence and the code."""
        super().__init__(message)
        self.message = message
        self.exit_code = exit_code


_PASSING = frozenset({ErrorCode.SERVICE_UNAVAILABLE, ErrorCode.QUEUE_OVERLOADED, ErrorCode.RATE_LIMITED, ErrorCode.INTERNAL})

# Fields of a request by the option that sets them, where the names differ.
_OPTION_OF_FIELD: Mapping[str, str] = {
    "num_frames": "--frames",
    "output_format": "--format",
    "reference_image": "--image",
    "first_frame_image": "--image",
    "last_frame_image": "--image",
    "arbitrary_frames": "--image",
    "guidance_scale": "--guidance-scale",
    "motion_score": "--motion-score",
    "lighting_variant": "--lighting-variant",
    "negative_prompt": "--negative-prompt",
}


def command_error(error: ServiceError, *, address: str, tls_problem: str | None = None) -> CommandError:
    """What a refusal of admission means for the caller of a command; `tls_problem`: why the two cannot speak."""
    if tls_problem is not None:
        return CommandError(f"{tls_problem}.")
    if is_credential_refusal(error):
        return CommandError(f"admission at {address} does not let this command in. {error.message} {_token_advice(error)}")
    exit_code = ExitCode.UNAVAILABLE if error.code in _PASSING else ExitCode.USAGE
    return CommandError(_sentence(error, address), exit_code=exit_code)


def _token_advice(error: ServiceError) -> str:
    if error.code == ErrorCode.FORBIDDEN:
        return "Set WARMLANE_OPERATOR_TOKEN." if "operator" in error.metadata.get("needed", "") else "No command is for that role."
    return (
        "Set WARMLANE_CLIENT_TOKEN (submit, status, watch, cancel) or WARMLANE_OPERATOR_TOKEN (all commands) to what admission has there."
    )


def _sentence(error: ServiceError, address: str) -> str:
    if error.violations:
        return "; ".join(f"{_option(one.field)}: {one.message}" for one in error.violations)
    if error.code == ErrorCode.SERVICE_UNAVAILABLE and "grpc_status" in error.metadata:
        return (
            f"admission does not answer at {address} ({error.metadata['grpc_status']}). Start it with `warmlane up`, "
            "or name another address with --address or WARMLANE_ADMISSION_ADDRESS."
        )
    if error.retry_after_s is not None:
        return f"{error.message} Try again in {error.retry_after_s:.0f} s."
    return error.message


def _option(field: str) -> str:
    """The option that sets the field; with the field itself where that says more: which picture, which of several."""
    name = field.partition("[")[0].partition(".")[0]
    option = _OPTION_OF_FIELD.get(name, f"--{name}")
    return f"{option} ({field})" if option == "--image" else option
