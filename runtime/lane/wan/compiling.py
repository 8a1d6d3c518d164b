"""Compiled transformer blocks, behind a setting: quicker steps after a slow first one, and other last bits in the picture.

Blocks are compiled, not whole networks: all blocks of a transformer share one compiled form, and what is put around them (weights that come
and go, checks for a cancel, hints when they are needed) stays as it is. Parameters are inputs of the compiled form, so that it serves
whatever tensors a placement puts there. Where a placement works over slices of the tokens, its own forward takes the block's place, and
nothing is compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable


def can_compile(device: torch.device) -> bool:
    """Not on a CPU: there the account of memory sees every operation, and a compiled block has none of them."""
    return device.type != "cpu"


def compile_blocks(transformers: Iterable[torch.nn.Module], *, backend: str = "inductor") -> None:
    """Has every block of these Wan transformers compiled when it first runs, and again for the second size of clips; then sizes may vary.

    Args:
        transformers: `WanTransformer3DModel` or `WanVACETransformer3DModel`; their blocks have no replaced forward yet.
        backend: of torch.compile.
    """
    for transformer in transformers:
        network: Any = transformer
        for block in (*network.blocks, *getattr(network, "vace_blocks", ())):
            block.forward = torch.compile(block.forward, backend=backend)


def forget_compiled() -> None:
    """Drops every compiled form of this process: until then they keep references to networks (facts/models.md, section 5)."""
    torch._dynamo.reset()
