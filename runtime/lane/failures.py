"""What people are told when an attempt failed; the log gets the kind of error and where, never its text: that may quote the prompt."""

from __future__ import annotations

import traceback
from pathlib import Path

import structlog

from runtime.lane.files import InputImageMissingError, StoreUnavailableError
from runtime.lane.outcome import Failure, FailureCode
from runtime.lane.raised import has_run_out
from runtime.lane.renderer import RenderCancelled
from runtime.lane.resident_set import LoadError
from runtime.rules.request import InvalidRequestError

_log = structlog.get_logger()


class UnfitRequestError(Exception):
    """This lane does not render the request; the text is safe to show."""


def failure_of(error: BaseException) -> Failure:
    """What an attempt that this error ended ends with; tells the log."""
    match error:
        case RenderCancelled():
            return Failure(code=FailureCode.CANCELLED, message="The render was cancelled.")
        case InvalidRequestError() | UnfitRequestError():
            return Failure(code=FailureCode.RENDER_FAILED, message=f"The lane refused the request: {error}")
        case InputImageMissingError():
            return Failure(code=FailureCode.RENDER_FAILED, message="An input image is no longer stored.")
        case StoreUnavailableError():
            _log.error("object_store_failed", reason=str(error))
            # Not the request's fault: the task may run again, as after the loss of a lane.
            return Failure(code=FailureCode.LANE_LOST, message="The object store did not take or give the files.")
        case LoadError():
            _log.error("load_failed", reason=str(error))
            if error.is_out_of_memory:
                message = "The GPU's memory ran out while the model was loaded."
                return Failure(code=FailureCode.GPU_MEMORY_EXCEEDED, message=message)
            return Failure(code=FailureCode.RENDER_FAILED, message="The model could not be loaded.")
    name = type(error).__name__
    _log.error("render_failed", error=name, frames=_where(error))
    if has_run_out(error):
        return Failure(code=FailureCode.GPU_MEMORY_EXCEEDED, message="The GPU's memory ran out. Try fewer frames or a smaller size.")
    return Failure(code=FailureCode.RENDER_FAILED, message=f"The pipeline failed ({name}).")


def _where(error: BaseException) -> list[str]:
    """File, line and function of each frame."""
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
