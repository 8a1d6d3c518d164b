"""Traces what the models need beside their weights and writes `runtime/fit/traced.json`, or checks it.

`python -m runtime.lane.wan.tracing` writes; `--check` traces other sizes and compares. No weights and no GPU are needed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from importlib import resources
from importlib.metadata import version
from typing import TYPE_CHECKING

from runtime.fit.cost import Shape
from runtime.fit.ladder import ACTIVATION_NAMES
from runtime.fit.traced import FILE_NAME, TracedModel, document, parse
from runtime.lane.wan.tracing_envelope import PIXEL_SLOPES, TOKEN_SLOPES, envelope, scaled
from runtime.lane.wan.tracing_networks import Subject, subjects
from runtime.lane.wan.tracing_phases import peak_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from runtime.fit.cost import Activations

_LIBRARIES = ("torch", "diffusers", "transformers")

_SQUARE, _LANDSCAPE, _PORTRAIT, _LARGE, _HUGE, _WIDE = (256, 256), (832, 480), (480, 832), (1280, 720), (2048, 2048), (1536, 272)

_SHAPES = {
    "text": ((_SQUARE, 5),),
    # Of one frame and of few: the first chunk is shorter, and caches fill up to the third.
    "vae": tuple(
        [(_SQUARE, frames) for frames in (1, 5, 9, 81)]
        + [(_LANDSCAPE, frames) for frames in (1, 5, 9, 49, 161)]
        + [(_LARGE, frames) for frames in (5, 81, 161)]
        + [(_HUGE, 17), (_WIDE, 81)]
    ),
    # Tiles of 256 pixels every 192: what their overlaps cost goes up and down with the size.
    "vae_tiled": tuple(
        [(_SQUARE, frames) for frames in (1, 81)]
        + [((272, 272), frames) for frames in (1, 5, 81)]
        + [((400, 400), frames) for frames in (5, 81)]
        + [(_LANDSCAPE, frames) for frames in (5, 49, 161)]
        + [((592, 784), 81), ((832, 1216), 81), (_WIDE, 81)]
        + [(_LARGE, frames) for frames in (1, 81, 161)]
        + [(_HUGE, 9)]
    ),
    "denoise": tuple(
        [(_SQUARE, frames) for frames in (1, 5, 49, 241)]
        + [(_LANDSCAPE, frames) for frames in (1, 9, 49, 81, 161)]
        + [(_LARGE, frames) for frames in (5, 81, 241)]
        + [(_HUGE, 241), (_WIDE, 81)]
    ),
}

_CHECKED = {
    "text": ((_SQUARE, 5),),
    "vae": ((_PORTRAIT, 81), ((640, 640), 33), ((1024, 576), 121), ((320, 512), 13)),
    "vae_tiled": ((_PORTRAIT, 81), ((640, 640), 33), ((1024, 576), 121), ((320, 512), 13)),
    "denoise": ((_PORTRAIT, 81), ((640, 640), 33), ((1024, 576), 121), ((320, 512), 13), ((1280, 720), 49)),
}
"""Other sizes than the envelope was made from."""

_CHECKED_QUICKLY = {"text": ((_SQUARE, 5),), "vae": (((448, 320), 13),), "vae_tiled": (((448, 320), 13),), "denoise": ((_PORTRAIT, 81),)}

_TILES_EXTRA = 1.05
"""On what tiles cost: no linear function of the size; between the traced sizes up to 4.3 % more than the envelope was traced."""

_MIB = 1024**2

_ALLOWED_EXCESS = 0.035
"""How far a prediction may be above a trace, as a share of it."""

_ALLOWED_EXCESS_BYTES = {"text": 0, "vae": 16 * _MIB, "vae_tiled": 576 * _MIB, "denoise": 128 * _MIB, "denoise_chunked": 320 * _MIB}
"""Or in bytes, by name or family: small clips (a matrix cast at use takes 141 MB at any size), tiles and chunks are not linear in the size.

Only the upper end differs: no prediction may be below a trace. Not asked of the tiny models, whose figures decide nothing.
"""


def family(name: str) -> str:
    """Which sizes show the cost of this activation."""
    if name.startswith(("encode", "decode")):
        return "vae_tiled" if name.endswith("_tiled") else "vae"
    return "text" if name == "text" else "denoise"


def trace(subject: Subject, name: str, points: Sequence[tuple[tuple[int, int], int]]) -> dict[Shape, int]:
    """Peak bytes beside the weights at these points of (width, height) and frames."""
    shapes = [Shape(width=width, height=height, num_frames=frames) for (width, height), frames in points]
    return {shape: peak_bytes(subject, name, shape) for shape in shapes}


def traced_model(subject: Subject, known: Mapping[str, Activations] | None = None) -> TracedModel:
    """All that is traced of a model, but for what is known already."""
    activations: dict[str, Activations] = {}
    for name in ACTIVATION_NAMES:
        activations[name] = (known or {}).get(name) or _envelope(subject, name)
        sys.stderr.write(f"{subject.key} {name}: {activations[name]}\n")
    return TracedModel(
        model=subject.model,
        profile=subject.profile,
        fingerprint=fingerprint(subject),
        activations=activations,
        parts={storage: subject.sizes(storage) for storage in subject.storages},
    )


def _envelope(subject: Subject, name: str) -> Activations:
    found = envelope(trace(subject, name, _SHAPES[family(name)]), TOKEN_SLOPES if family(name) == "denoise" else PIXEL_SLOPES)
    return scaled(found, _TILES_EXTRA) if family(name) == "vae_tiled" else found


def trace_all() -> dict[str, TracedModel]:
    """All models, by key."""
    traced: dict[str, TracedModel] = {}
    shared: dict[str, dict[str, Activations]] = {}
    for subject in subjects():
        traced[subject.key] = traced_model(subject, shared.get(subject.profile))
        # The models of a profile have the same text encoder and VAE, and prompts and latents of the same shape.
        shared[subject.profile] = {name: traced[subject.key].activations[name] for name in ("text", "decode", "decode_tiled")}
    return traced


def fingerprint(subject: Subject) -> str:
    """Versions of the libraries, and a hash of the configurations of the networks."""
    configs = {name: dict(_config(subject.part(name, is_whole=True))) for name in subject.parts}
    digest = hashlib.sha256(json.dumps(configs, sort_keys=True, default=str).encode()).hexdigest()[:16]
    # Builds for a CPU and for CUDA name themselves after a plus.
    return " ".join((*(f"{library} {version(library).partition('+')[0]}" for library in _LIBRARIES), f"configs {digest}"))


def differences(subject: Subject, traced: TracedModel, *, is_quick: bool) -> Iterator[str]:
    """What of the shipped figures a new trace contradicts, one sentence each.

    Args:
        subject: the model.
        traced: what is shipped of it.
        is_quick: at one size each, and of the second model only what is its own; otherwise at several sizes, everything.
    """
    if traced.fingerprint != fingerprint(subject):
        yield f"{subject.key}: traced with {traced.fingerprint}, here is {fingerprint(subject)}"
    for storage in subject.storages:
        if traced.parts.get(storage) != subject.sizes(storage):
            yield f"{subject.key}: its parts as {storage} have other sizes"
    # What both models of a profile share is traced once.
    names = ACTIVATION_NAMES if not is_quick or subject.model == "anisora" else ("encode", "denoise", "denoise_lazy", "denoise_chunked")
    for name in names:
        points = (_CHECKED_QUICKLY if is_quick else _CHECKED)[family(name)]
        for shape, peak in trace(subject, name, points).items():
            predicted = traced.activations[name].bytes_at(shape)
            allowed = max(peak * _ALLOWED_EXCESS, _ALLOWED_EXCESS_BYTES.get(name, _ALLOWED_EXCESS_BYTES[family(name)]))
            is_too_high = predicted > peak + allowed and subject.profile != "tiny"
            if predicted < peak or is_too_high:
                size = f"{shape.width}x{shape.height}x{shape.num_frames}"
                yield f"{subject.key} {name} at {size}: {peak} bytes traced, {predicted} predicted ({predicted / peak - 1:+.1%})"


def _config(module: object) -> dict[str, object]:
    config = module.config  # type: ignore[attr-defined]  # of both libraries' networks
    named = config.to_dict() if hasattr(config, "to_dict") else config
    # Not the libraries' own notes: diffusers lists the defaults that were used, in another order in each process.
    return {name: value for name, value in named.items() if not name.startswith("_")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes or checks the file; returns the exit code: 1 when the check found a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare the file with new traces and write nothing")
    parser.add_argument("--quick", action="store_true", help="with --check: at fewer sizes")
    options = parser.parse_args(arguments)
    with resources.as_file(resources.files("runtime.fit").joinpath(FILE_NAME)) as file:
        if not options.check:
            file.write_text(document(trace_all()), encoding="utf-8")
            return 0
        shipped = parse(file.read_text(encoding="utf-8"))
    found = [text for subject in subjects() for text in differences(subject, shipped[subject.key], is_quick=options.quick)]
    sys.stdout.write("".join(f"{text}\n" for text in found) or "the traced figures hold\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
