"""The networks of the models without content: real sizes and types, no memory; and the kernels that a device would run for them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from runtime.fit.ladder import TEXT_ENCODER, TRANSFORMERS, VAE, ModelParts
from runtime.lane.memory.account import TensorAccount
from runtime.lane.wan import networks
from runtime.lane.wan.lean import cast_at_use
from runtime.lane.wan.networks import stored_types
from runtime.lane.wan.parts import model_parts, state_of
from runtime.lane.wan.tiny import build_text_encoder, build_vae

FEW_BLOCKS: Mapping[str, Mapping[str, Any]] = {
    "anisora": {"num_layers": 2},
    # Every control layer, as the hints of all are kept; a main block of its own for each, and one more.
    "phr00t": {"num_layers": 9, "vace_layers": list(range(8))},
}
"""What a trace may leave out: main blocks run one after the other, so more of them change no peak. Tests compare with all of them."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model in one profile.

    Attributes:
        profile: `tiny` or `a10g`.
        parts: names, as in `runtime.fit.ladder`.
        compute: type of what is computed.
        storages: formats of the weights; the first is the one that is traced.
        build: makes one part, with all blocks or as few as show the peak; on the meta device unless tiny.
    """

    model: str
    profile: str
    parts: tuple[str, ...]
    compute: torch.dtype
    storages: tuple[str, ...]
    build: Callable[[str, bool], Any]

    @property
    def key(self) -> str:
        """In `traced.json`."""
        return f"{self.model}-tiny" if self.profile == "tiny" else self.model

    def sizes(self, storage: str) -> ModelParts:
        """The bytes of all parts in one format."""
        modules = {}
        for name in self.parts:
            module = self.build(name, True)
            stored = stored_types(name, module, storage)
            _replace(module, partial(_as_meta, stored))
            modules[name] = module
        return model_parts(self.model, modules)

    @contextmanager
    def tracing(self, name: str, *, is_whole: bool = False) -> Iterator[tuple[Any, TensorAccount]]:
        """Within it, tensors on the meta device are counted, as the kernels of the profile's device would make them.

        Gives a part with weights of the types in which they are stored, cast at use, that do not count; and the account. The meta device is
        what FakeTensorMode computes with, too; alone it gives the same figures several times faster (a test compares).
        """
        module = self.part(name, is_whole=is_whole)
        account = TensorAccount(counts_meta=True)
        # The truth that is asked: whether a text needs no mask (it does), whether latents are finite.
        with torch.no_grad(), _HostReads(truth=name != TEXT_ENCODER), Kernels(has_fused_norm=self.profile != "tiny"), account:
            yield module, account

    @cache  # noqa: B019  # subjects are few and live as long as the process
    def part(self, name: str, *, is_whole: bool = False) -> Any:
        """A part on the meta device, with weights of the types in which they are stored."""
        module = self.build(name, is_whole)
        _replace(module, partial(_as_meta, stored_types(name, module, self.storages[0])))
        cast_at_use(module, self.compute)
        return module.eval()


def subjects() -> tuple[Subject, ...]:
    """All that are traced."""
    shared = (TEXT_ENCODER, VAE)
    parts = {"anisora": (*shared, *TRANSFORMERS), "phr00t": (*shared, TRANSFORMERS[0])}
    real = {"profile": "a10g", "compute": torch.bfloat16, "storages": ("fp8", "bf16")}
    tiny = {"profile": "tiny", "compute": torch.float32, "storages": ("float32",)}
    return tuple(
        Subject(model=model, parts=names, build=partial(build, model), **options)  # type: ignore[arg-type]  # of mixed values
        for options, build in ((real, _build_real), (tiny, _build_tiny))
        for model, names in parts.items()
    )


def _build_real(model: str, name: str, is_whole: bool) -> Any:
    if name == TEXT_ENCODER:
        return networks.build_text_encoder()
    if name == VAE:
        return networks.build_vae()
    fewer = {} if is_whole else FEW_BLOCKS[model]
    return networks.build_expert(**fewer) if model == "anisora" else networks.build_vace(**fewer)


def _build_tiny(model: str, name: str, is_whole: bool) -> Any:  # a tiny part is always whole
    if name == TEXT_ENCODER:
        return build_text_encoder()
    if name == VAE:
        return build_vae()
    # By name, as a catalog is: the lanes stand above this package.
    tiny = importlib.import_module(f"lane_{model}.tiny")
    return tiny.build_expert() if model == "anisora" else tiny.build_transformer()


def _as_meta(stored: Mapping[str, torch.dtype], key: str, tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=stored.get(key, tensor.dtype), device="meta")


def _replace(module: torch.nn.Module, make: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    """Puts another tensor in the place of each parameter and buffer; tied ones stay tied."""
    canonical = {id(tensor): key for key, tensor in state_of(module).items()}
    made: dict[int, Any] = {}
    for owner in module.modules():
        for entries in (owner._parameters, owner._buffers):
            for name, tensor in entries.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    new = make(canonical[id(tensor)], tensor)
                    made[id(tensor)] = torch.nn.Parameter(new, requires_grad=False) if entries is owner._parameters else new
                entries[name] = made[id(tensor)]


class _HostReads(TorchFunctionMode):
    """Answers what a program reads from tensors without content: a truth, zeros for an array; and keeps them where they are."""

    def __init__(self, *, truth: bool) -> None:
        super().__init__()
        self._truth = truth

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if not args or not isinstance(args[0], torch.Tensor) or not args[0].is_meta:
            return func(*args, **(kwargs or {}))
        if func is torch.Tensor.__bool__:
            return self._truth
        if func is torch.Tensor.cpu:
            return args[0]
        if func is torch.Tensor.numpy:
            return np.zeros(tuple(args[0].shape), dtype=np.uint8)
        return func(*args, **(kwargs or {}))


class Kernels(TorchFunctionMode):
    """Attention, and on a GPU RMS norm, as fused kernels make them, in place of the parts that they are made of on the meta device.

    Flash attention, CUDA's and the CPU's, and CUDA's memory-efficient attention, which takes masks and wide heads, give their output in the
    layout of the query and one float32 a row; RMS norm gives its output and one float32 a row.
    """

    def __init__(self, *, has_fused_norm: bool) -> None:
        super().__init__()
        self._has_fused_norm = has_fused_norm

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            query, value = (args[index] if len(args) > index else kwargs[name] for index, name in ((0, "query"), (2, "value")))
            return _fused(query, value.shape[-1])
        if func is torch.rms_norm and self._has_fused_norm and (args[2] is None or args[2].dtype == args[0].dtype):
            return _fused(args[0], args[0].shape[-1])
        return func(*args, **kwargs)


def _fused(like: torch.Tensor, width: int) -> torch.Tensor:
    """The output of a kernel that needs one float32 a row beside it."""
    output = torch.empty_like(like) if width == like.shape[-1] else like.new_empty(*like.shape[:-1], width)
    like.new_empty(like.shape[:-1], dtype=torch.float32)
    return output
