"""Which attention kernel transformers run on: chosen by what the GPU and the installed packages offer, before anything is rendered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName

AUTO = "auto"
NATIVE = "native"
"""torch's scaled dot product attention, which itself takes the fastest kernel that the GPU has. Everything is compared with it."""

_AMPERE, _HOPPER = (8, 0), (9, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Needs:
    """What a backend cannot work without: a GPU of this compute capability, a package, 16-bit numbers."""

    capability: tuple[int, int] | None = None
    package: str = ""
    is_half: bool = False


_NEEDS: Mapping[str, _Needs] = MappingProxyType(
    {
        NATIVE: _Needs(),
        "_native_math": _Needs(),
        "_native_efficient": _Needs(capability=(5, 0)),
        "_native_flash": _Needs(capability=_AMPERE, is_half=True),
        "_native_cudnn": _Needs(capability=_AMPERE, is_half=True),
        "flash": _Needs(capability=_AMPERE, package="flash_attn", is_half=True),
        "_flash_3": _Needs(capability=_HOPPER, package="flash_attn_interface", is_half=True),
        "xformers": _Needs(capability=(7, 0), package="xformers"),
        "sage": _Needs(capability=_AMPERE, package="sageattention", is_half=True),
    }
)

BACKENDS = tuple(_NEEDS)
"""All that may be asked for, by the names of diffusers. Those that download their kernels (`…_hub`) are not among them.

`sage` computes with 8-bit numbers: the picture changes by more than the order of additions. The others are the same arithmetic.
"""

_FASTEST = ("_flash_3", "flash")
"""What `auto` takes before `native`, the fastest first."""


class AttentionBackendError(Exception):
    """The backend that is set cannot work here; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What there is to choose from.

    Attributes:
        capability: of the GPU, such as (8, 6); None: no GPU.
        is_half: the transformers compute in 16 bits.
        packages: names of those that can be imported.
    """

    capability: tuple[int, int] | None
    is_half: bool
    packages: frozenset[str] = frozenset()


def choose_backend(asked: str, offer: Offer) -> str:
    """The backend for transformers: the one that is asked for, or for `auto` the fastest that gives the same picture but for rounding.

    Raises:
        AttentionBackendError: what is asked for does not exist, or cannot work here.
    """
    if asked == AUTO:
        return next((backend for backend in _FASTEST if not _obstacle(_NEEDS[backend], offer)), NATIVE)
    if asked not in _NEEDS:
        msg = f"there is no attention backend {asked!r}: {AUTO}, {', '.join(BACKENDS)}"
        raise AttentionBackendError(msg)
    obstacle = _obstacle(_NEEDS[asked], offer)
    if obstacle:
        msg = f"the attention backend {asked} cannot work here: {obstacle}"
        raise AttentionBackendError(msg)
    return asked


def offer_of(device: torch.device, compute: torch.dtype) -> Offer:
    """What this machine has for transformers that compute in this type."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    packages = frozenset(needs.package for needs in _NEEDS.values() if needs.package and find_spec(needs.package) is not None)
    return Offer(capability=capability, is_half=compute.itemsize == 2, packages=packages)


def set_backend(transformers: Iterable[torch.nn.Module], backend: str) -> None:
    """Has these transformers run on it, and no others: diffusers' own call would set it for the whole process."""
    name = AttentionBackendName(backend)
    for transformer in transformers:
        for module in transformer.modules():
            processor: Any = getattr(module, "processor", None)
            if processor is not None and hasattr(processor, "_attention_backend"):
                processor._attention_backend = name


def _obstacle(needs: _Needs, offer: Offer) -> str:
    """Why a backend cannot work; empty when it can."""
    if needs.capability is not None and offer.capability is None:
        return "there is no GPU"
    if needs.capability is not None and offer.capability is not None and offer.capability < needs.capability:
        least, found = (".".join(map(str, one)) for one in (needs.capability, offer.capability))
        return f"it needs a GPU of compute capability {least}, this one has {found}"
    if needs.package and needs.package not in offer.packages:
        return f"the package {needs.package} is not installed"
    return "it works in 16 bits only" if needs.is_half and not offer.is_half else ""
