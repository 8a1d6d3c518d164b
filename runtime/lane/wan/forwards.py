"""Replacing the forward pass of single modules for a while, so that nothing of it outlives the while."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    Forward = Callable[..., Any]


@contextmanager
def replaced_forwards(replacements: list[tuple[torch.nn.Module, Forward]]) -> Iterator[None]:
    """Within it, each module runs its replacement; afterwards, also after an exception, what it ran before. May be nested.

    The list is emptied at the end: this generator's caller may be kept by an exception, and would keep the modules.
    """
    # Not torch's hooks: a frame in which torch calls one holds the module by a closure, beside a kept exception.
    before = [(module, vars(module).get("forward")) for module, _ in replacements]
    try:
        for module, forward in replacements:
            vars(module)["forward"] = forward
        yield
    finally:
        for module, earlier in before:
            if earlier is None:
                vars(module).pop("forward", None)  # the class's own again
            else:
                vars(module)["forward"] = earlier
        before.clear()
        replacements.clear()
