"""Weights stored in another type than the computation's: each layer casts its own for as long as it works."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from transformers.models.umt5.modeling_umt5 import UMT5DenseActDense, UMT5DenseGatedActDense

if TYPE_CHECKING:
    from collections.abc import Iterator

_BYTE = 1
"""Size of an element of the float8 types."""


def cast_at_use(module: torch.nn.Module, compute: torch.dtype | None = None) -> None:
    """Makes every layer of a network cast its weights to its input's type when it works; the stored weights stay as they are.

    The same arithmetic as diffusers' layerwise casting, which casts each layer's weights up and back in place (facts/models.md, section 3);
    this one writes nothing, so weights may lie in read-only or shared memory. To be called once, when the network is put together.

    Args:
        module: the network; its parameters may be on any device, also fake.
        compute: the type that embeddings give; theirs when None.

    Raises:
        ValueError: a tensor of one byte an element stands where no layer casts it; names all of them.
    """
    stuck = sorted(_uncastable(module))
    if stuck:
        msg = f"these tensors cannot be stored in 8 bits, as they set the type of what is computed: {', '.join(stuck)}"
        raise ValueError(msg)
    for layer in module.modules():
        if isinstance(layer, UMT5DenseGatedActDense | UMT5DenseActDense):
            _change_class(layer, _TypedDense)
        elif isinstance(layer, torch.nn.Embedding):
            if compute is not None:
                _change_class(layer, _TypedEmbedding)
                vars(layer)["compute"] = compute
        elif _is_layer(layer):
            _change_class(layer, _CastingLayer)


class _CastingLayer(torch.nn.Module):
    """A layer without children whose first argument is its input."""

    def forward(self, inputs: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        stored = self._parameters
        if all(tensor is None or tensor.dtype == inputs.dtype for tensor in stored.values()):
            return super().forward(inputs, *arguments, **named)
        casted = {name: None if tensor is None else tensor.to(inputs.dtype) for name, tensor in stored.items()}
        vars(self)["_parameters"] = casted
        try:
            return super().forward(inputs, *arguments, **named)
        finally:
            vars(self)["_parameters"] = stored


class _TypedEmbedding(torch.nn.Module):
    """An embedding that gives a type of its own: the rows are cast, not the table."""

    compute: torch.dtype

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        table: torch.Tensor = self.weight  # type: ignore[assignment]
        if table.dtype.itemsize > _BYTE:
            return torch.nn.functional.embedding(ids, table).to(self.compute)
        # Not every device can index 8-bit numbers, but all can index bytes.
        return torch.nn.functional.embedding(ids, table.view(torch.uint8)).view(table.dtype).to(self.compute)


class _TypedDense(torch.nn.Module):
    """UMT5's dense layers, which cast what they compute to the stored type of their last weight."""

    def forward(self, inputs: torch.Tensor) -> Any:
        gate = self.wi_0 if hasattr(self, "wi_0") else self.wi
        hidden = self.act(gate(inputs))  # type: ignore[operator]
        if hasattr(self, "wi_1"):
            hidden = hidden * self.wi_1(inputs)  # type: ignore[operator]
        return self.wo(hidden)  # type: ignore[operator]


def _is_layer(module: torch.nn.Module) -> bool:
    return bool(module._parameters) and next(module.children(), None) is None


def _uncastable(module: torch.nn.Module) -> Iterator[str]:
    """Tensors of one byte that something else than a layer reads, or whose type a network computes in."""
    for path, owner in module.named_modules():
        for name, tensor in owner._parameters.items():
            is_small = tensor is not None and tensor.is_floating_point() and tensor.dtype.itemsize == _BYTE
            if is_small and (not _is_layer(owner) or "time_embedder" in path.split(".")):
                yield f"{path}.{name}" if path else name


def _change_class(layer: torch.nn.Module, behaviour: Any) -> None:
    if not isinstance(layer, behaviour):
        own: Any = type(layer)
        layer.__class__ = _derived(own, behaviour)


@cache
def _derived(layer: Any, behaviour: Any) -> Any:
    """The layer's class with another behaviour before its own. It keeps its name, by which the libraries tell classes apart."""
    return type(layer.__name__, (behaviour, layer), {"__module__": layer.__module__})
