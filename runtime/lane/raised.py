"""What was raised, with all that it came from: what kind of failure it is, and the tensors that it holds."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator

from runtime.lane.memory.open import is_out_of_gpu_memory
from runtime.lane.renderer import ModelFilesMissingError, ModelFilesUnusableError
from runtime.lane.start_failure import StartCause

# torch's allocators for host memory raise a plain RuntimeError.
_HOST_MEMORY_TEXTS = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory", "unable to mmap")


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those before it, each once, newest first."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            left += (one.__context__, one.__cause__)


def has_run_out(error: BaseException) -> bool:
    """Whether the GPU's memory ran out. Libraries raise their own errors from torch's: a tokenizer that cannot make its tensors, say."""
    return any(is_out_of_gpu_memory(one) for one in chain(error))


def cause_of_load(error: BaseException) -> StartCause:
    """What kind of failure this is, raised while a model was loaded."""
    if has_run_out(error):
        return StartCause.GPU_MEMORY
    for one in chain(error):
        if isinstance(one, MemoryError) or (isinstance(one, OSError) and one.errno == errno.ENOMEM) or _is_of_allocator(one):
            return StartCause.HOST_MEMORY
        if isinstance(one, ModelFilesMissingError):
            return StartCause.WEIGHTS_MISSING
        # Libraries raise OSError for a configuration that they cannot find or read.
        if isinstance(one, ModelFilesUnusableError | OSError):
            return StartCause.WEIGHTS_UNUSABLE
    return StartCause.DEVICE if "CUDA error" in str(error) else StartCause.OTHER


def drop_frames(error: BaseException) -> None:
    """Drops what an error and those before it hold through their tracebacks; while they do, no tensor of theirs is freed."""
    for one in tuple(chain(error)):
        traceback.clear_frames(one.__traceback__)
        one.__traceback__ = None


def _is_of_allocator(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _HOST_MEMORY_TEXTS)
