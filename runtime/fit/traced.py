"""The traced activations and the sizes of the parts of each model, shipped as data in `traced.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from types import MappingProxyType
from typing import Any

from runtime.fit.cost import Activations, ModelLadder
from runtime.fit.ladder import ModelParts, Part, build_ladder
from runtime.fit.workspaces import with_workspaces

FILE_NAME = "traced.json"
TINY_PROFILE = "tiny"
VERSION = 1


class TracedDataError(ValueError):
    """`traced.json` is not what this code reads; the message says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedModel:
    """What is known of one model without loading it.

    Attributes:
        profile: `tiny` or `a10g`.
        fingerprint: of the network's configuration and of the code that was traced.
        activations: by the names of `ladder.ACTIVATION_NAMES`.
        parts: by storage format of the large matrices: `fp8`, `bf16`, and `float32` for tiny ones.
    """

    model: str
    profile: str
    fingerprint: str
    activations: Mapping[str, Activations]
    parts: Mapping[str, ModelParts]

    def ladder(self, storage: str) -> ModelLadder:
        """The ladder with weights stored so; real models are for GPUs. Raises ValueError where there is none."""
        if storage not in self.parts:
            msg = f"{self.model}: no weights stored as {storage}; there are {', '.join(sorted(self.parts))}"
            raise ValueError(msg)
        activations = self.activations if self.profile == TINY_PROFILE else with_workspaces(self.activations)
        return build_ladder(self.parts[storage], activations)


def parse(text: str) -> Mapping[str, TracedModel]:
    """The models of a document of the schema of `traced.json`, by key. Raises TracedDataError."""
    try:
        content = json.loads(text)
        if content["version"] != VERSION:
            msg = f"version {content['version']} is not {VERSION}"
            raise TracedDataError(msg)
        return MappingProxyType({key: _model(entry) for key, entry in content["models"].items()})
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        msg = f"{FILE_NAME} cannot be read: {type(error).__name__}: {error}"
        raise TracedDataError(msg) from error


def document(models: Mapping[str, TracedModel]) -> str:
    """The inverse of `parse`: what the tracer writes."""
    entries = {
        key: {
            "model": traced.model,
            "profile": traced.profile,
            "fingerprint": traced.fingerprint,
            "activations": {
                name: {"fixed": one.fixed, "per_token": one.per_token, "per_pixel": one.per_pixel, "per_frame_pixel": one.per_frame_pixel}
                for name, one in traced.activations.items()
            },
            "parts": {
                storage: [{"name": part.name, "rest_bytes": part.rest_bytes, "block_bytes": list(part.block_bytes)} for part in parts.parts]
                for storage, parts in traced.parts.items()
            },
        }
        for key, traced in models.items()
    }
    return json.dumps({"version": VERSION, "models": entries}, indent=1) + "\n"


def _model(entry: Mapping[str, Any]) -> TracedModel:
    model = str(entry["model"])
    return TracedModel(
        model=model,
        profile=str(entry["profile"]),
        fingerprint=str(entry["fingerprint"]),
        activations=MappingProxyType({name: _activations(f"{model} {name}", one) for name, one in entry["activations"].items()}),
        parts=MappingProxyType({storage: ModelParts(model=model, parts=_parts(parts)) for storage, parts in entry["parts"].items()}),
    )


def _activations(where: str, entry: Mapping[str, float]) -> Activations:
    made = Activations(**entry)
    # A larger request must never be predicted to need less: the search for the largest one that fits goes by halving.
    if min(made.per_token, made.per_pixel, made.per_frame_pixel) < 0:
        msg = f"{where}: activations that shrink with size"
        raise TracedDataError(msg)
    return made


def _parts(entries: list[Mapping[str, Any]]) -> tuple[Part, ...]:
    return tuple(
        Part(name=entry["name"], rest_bytes=int(entry["rest_bytes"]), block_bytes=tuple(int(size) for size in entry["block_bytes"]))
        for entry in entries
    )


class _Shipped(Mapping[str, TracedModel]):
    """The models of the file beside this module, read when they are first asked for."""

    @cached_property
    def _models(self) -> Mapping[str, TracedModel]:
        return parse(resources.files("runtime.fit").joinpath(FILE_NAME).read_text(encoding="utf-8"))

    def __getitem__(self, key: str) -> TracedModel:
        return self._models[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)


TRACED: Mapping[str, TracedModel] = _Shipped()
"""By key: `anisora`, `phr00t`, `anisora-tiny`, `phr00t-tiny`."""
