"""What was raised, with all that it came from: whether the GPU's memory ran out, and the tensors that it holds."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

from runtime.lane.memory.open import is_out_of_gpu_memory


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


def drop_frames(error: BaseException) -> None:
    """Drops what an error and those before it hold through their tracebacks; while they do, no tensor of theirs is freed."""
    for one in tuple(chain(error)):
        traceback.clear_frames(one.__traceback__)
        one.__traceback__ = None
