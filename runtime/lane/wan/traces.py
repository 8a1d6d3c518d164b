"""The traced activations of a model's folder: the shipped ones where they are of its networks, otherwise traced once and kept beside it."""

from __future__ import annotations

import copy
import hashlib
import os
import tempfile
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import torch

from runtime.fit.ladder import TRANSFORMERS, ModelParts
from runtime.fit.traced import TRACED, TracedDataError, TracedModel, document, parse
from runtime.lane.wan.components import TINY_PROFILE
from runtime.lane.wan.networks import stored_types
from runtime.lane.wan.parts import layout_of, part_of
from runtime.lane.wan.tracing_networks import Subject

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.fit.cost import Activations

    Modules = Mapping[str, torch.nn.Module]

_log = structlog.get_logger("runtime.lane.wan")

_LIBRARIES = ("torch", "diffusers", "transformers")

_STORAGES = {TINY_PROFILE: "float32"}
_PREPARED_STORAGE = "fp8"
"""The format whose sizes are compared and that is traced: with it, a layer's weights are cast at use, which needs the most."""


def activations_of(model: str, profile: str, models_dir: Path, modules: Modules) -> Mapping[str, Activations]:
    """What the networks need beside their weights, by the names of `runtime.fit.ladder.ACTIVATION_NAMES`.

    Args:
        model: id.
        profile: `tiny` or `a10g`.
        models_dir: keeps what had to be traced here; a trace takes minutes.
        modules: the networks by part, on the meta device.
    """
    parts = _sizes(model, profile, modules)
    shipped = TRACED.get(f"{model}-tiny" if profile == TINY_PROFILE else model)
    if shipped is not None and _is_of(shipped, parts, profile):
        return shipped.activations
    kept = models_dir / f".traced-{model}-{hashlib.sha256(repr((profile, _versions(), parts)).encode()).hexdigest()[:16]}.json"
    known = _read(kept, model)
    if known is None:
        known = _trace(model, profile, modules)
        _keep(kept, known)
    return known.activations


def _is_of(traced: TracedModel, parts: ModelParts, profile: str) -> bool:
    """Whether these networks were traced, with these libraries. Networks whose parts and blocks all have the same sizes are the same.

    With tiny ones, the libraries may be others: a trace takes longer than all that they are for.
    """
    is_current = profile == TINY_PROFILE or traced.fingerprint.startswith(f"{_versions()} ")
    return is_current and traced.parts.get(_storage(profile)) == parts


def _versions() -> str:
    """As the fingerprints have it: builds for a CPU and for CUDA name themselves after a plus."""
    return " ".join(f"{library} {version(library).partition('+')[0]}" for library in _LIBRARIES)


def _storage(profile: str) -> str:
    return _STORAGES.get(profile, _PREPARED_STORAGE)


def _sizes(model: str, profile: str, modules: Modules) -> ModelParts:
    """The bytes that the networks would take in the format that is compared."""
    storage = _storage(profile)
    layouts = {name: layout_of(name, module, stored_types(name, module, storage)) for name, module in modules.items()}
    return ModelParts(model=model, parts=tuple(part_of(name, layout) for name, layout in layouts.items()))


def _trace(model: str, profile: str, modules: Modules) -> TracedModel:
    # Late: a lane whose networks are known never traces.
    from runtime.lane.wan.tracing import traced_model

    _log.info("tracing_networks", model=model, profile=profile)
    storage = _storage(profile)
    compute = torch.float32 if profile == TINY_PROFILE else torch.bfloat16

    def build(name: str, is_whole: bool) -> torch.nn.Module:
        return copy.deepcopy(modules[name]) if is_whole or name not in TRANSFORMERS else _with_few_blocks(modules[name])

    return traced_model(Subject(model=model, profile=profile, parts=tuple(modules), compute=compute, storages=(storage,), build=build))


def _with_few_blocks(module: torch.nn.Module) -> torch.nn.Module:
    """The transformer with as many blocks as show the peak; `tracing_networks.FEW_BLOCKS` says why these."""
    network: Any = type(module)
    config: dict[str, Any] = dict(module.config)  # type: ignore[arg-type]  # of a diffusers network
    hints = len(config.get("vace_layers") or ())
    few = {"num_layers": hints + 1, "vace_layers": list(range(hints))} if hints else {"num_layers": min(2, config["num_layers"])}
    with torch.device("meta"):
        made: torch.nn.Module = network.from_config(config | few)
    return made


def _read(file: Path, model: str) -> TracedModel | None:
    """What was kept; None when there is nothing that can be read."""
    try:
        return parse(file.read_text(encoding="utf-8")).get(model)
    except (OSError, UnicodeDecodeError, TracedDataError):
        return None


def _keep(file: Path, traced: TracedModel) -> None:
    """Writes it wholly or not at all. A folder that cannot be written to costs a trace at the next start."""
    try:
        handle, name = tempfile.mkstemp(prefix=file.name, dir=file.parent)
    except OSError as error:
        _log.warning("trace_not_kept", model=traced.model, error=type(error).__name__)
        return
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as content:
            content.write(document({traced.model: traced}))
        Path(name).replace(file)
    except OSError as error:
        _log.warning("trace_not_kept", model=traced.model, error=type(error).__name__)
        with suppress(OSError):
            Path(name).unlink()
