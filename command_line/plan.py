"""`warmlane plan`: which requests fit a GPU, with which placement, and why. It asks nobody: the figures are shipped with the program."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from enum import StrEnum
from typing import Annotated

import typer

from command_line.completion import complete_gpu, complete_mode, complete_model
from command_line.failures import CommandError
from command_line.options import AsJson
from command_line.plan_rows import MAX_FRAMES, RULES, Asked, Row, make_rows, shapes
from command_line.plan_tables import print_explanations, print_rows
from command_line.tables import output_console
from runtime.fit.cost import DeviceLimits, Shape
from runtime.fit.gpus import BASELINE, GPUS, assumptions, baseline_models, limits_on_host
from runtime.fit.host import host_room
from runtime.fit.predict import explain, peak_bytes
from runtime.fit.traced import TracedModel
from runtime.rules.catalogue import MODELS, SIZE_MULTIPLE

_MIN_SIDE, _MAX_SIDE = int(RULES["width"].minimum or 0), int(RULES["width"].maximum or 0)
_GIB = 1024**3


class Storage(StrEnum):
    """How the large matrices are stored."""

    FP8 = "fp8"
    BF16 = "bf16"


# One parameter per option: typer makes the command line from the signature.
def plan(  # noqa: PLR0913
    *,
    gpu: Annotated[str, typer.Option(help=f"One of {', '.join(GPUS)}.", autocompletion=complete_gpu)] = BASELINE,
    model: Annotated[str | None, typer.Option(help="anisora or phr00t.", show_default="both", autocompletion=complete_model)] = None,
    mode: Annotated[str | None, typer.Option(help="Only this mode.", show_default="all", autocompletion=complete_mode)] = None,
    storage: Annotated[Storage, typer.Option(help="How the large matrices are stored.")] = Storage.FP8,
    host_gib: Annotated[float | None, typer.Option(min=1, help="Memory of the GPU's machine in GiB.", show_default="64")] = None,
    width: Annotated[int | None, typer.Option(min=_MIN_SIDE, max=_MAX_SIDE, help="Pixels, with --height.", show_default=False)] = None,
    height: Annotated[int | None, typer.Option(min=_MIN_SIDE, max=_MAX_SIDE, help="Pixels, with --width.", show_default=False)] = None,
    frames: Annotated[int | None, typer.Option(min=1, max=MAX_FRAMES, help="Frames of the clip.", show_default=False)] = None,
    explained: Annotated[bool, typer.Option("--explain", help="Show every phase of every placement by its parts, for one size.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show which requests fit a GPU, with which placement of the weights and with what predicted peak.

    Nothing needs to run: the figures come from tracing the real networks. Lanes measure their own GPU and their peaks.
    """
    asked = Asked(model=model, mode=mode, size=_size(width, height), frames=frames)
    _check(asked)
    limits = _limits(gpu, host_gib)
    models = [traced for traced in baseline_models() if model in (None, traced.model)]
    if explained:
        _explain(models, limits, storage, asked, as_json=as_json)
        return
    rows = [row for traced in models for row in make_rows(traced.ladder(storage), limits, asked)]
    if as_json:
        typer.echo(_json({"gpu": _gpu_document(limits), "storage": storage.value, "rows": [_row_document(row, limits) for row in rows]}))
    else:
        print_rows(output_console(), rows, limits, storage)


def _explain(models: list[TracedModel], limits: DeviceLimits, storage: Storage, asked: Asked, *, as_json: bool) -> None:
    defaults = (int(RULES["width"].default or 0), int(RULES["height"].default or 0), int(RULES["num_frames"].default or 0))
    one = replace(asked, size=asked.size or defaults[:2], frames=asked.frames or defaults[2])
    # Of a model's modes the last takes the most images, so it has every phase.
    chosen = [(traced, made[-1]) for traced in models if (made := list(shapes(traced.model, one)))]
    if not as_json:
        print_explanations(output_console(), chosen, limits, storage)
        return
    explained = [_explanation_document(traced, shape, limits, storage) for traced, shape in chosen]
    typer.echo(_json({"gpu": _gpu_document(limits), "storage": storage.value, "models": explained}))


def _size(width: int | None, height: int | None) -> tuple[int, int] | None:
    if width is None and height is None:
        return None
    if width is None or height is None:
        msg = "--width and --height go together."
        raise CommandError(msg)
    return width // SIZE_MULTIPLE * SIZE_MULTIPLE, height // SIZE_MULTIPLE * SIZE_MULTIPLE


def _check(asked: Asked) -> None:
    """Refuses a model or a mode that there is not."""
    if asked.model is not None and asked.model not in MODELS:
        msg = f"--model: must be one of {', '.join(MODELS)}, not {asked.model}."
        raise CommandError(msg)
    modes = sorted({mode for model, rules in MODELS.items() if asked.model in (None, model) for mode in rules.modes})
    if asked.mode is not None and asked.mode not in modes:
        msg = f"--mode: must be one of {', '.join(modes)}, not {asked.mode}."
        raise CommandError(msg)


def _limits(gpu: str, host_gib: float | None) -> DeviceLimits:
    by_name = {name.lower(): limits for name, limits in GPUS.items()}
    limits = by_name.get(gpu.lower())
    if limits is None:
        msg = f"--gpu: {gpu} is not known; there are {', '.join(GPUS)}."
        raise CommandError(msg)
    return limits if host_gib is None else limits_on_host(limits, int(host_gib * _GIB))


def _json(document: object) -> str:
    return json.dumps(document, indent=2)


def _gpu_document(limits: DeviceLimits) -> dict[str, object]:
    return {**asdict(limits), "budget_bytes": limits.budget_bytes, "assumptions": assumptions(limits)}


def _row_document(row: Row, limits: DeviceLimits) -> dict[str, object]:
    rung = None if row.choice is None else row.choice.rung
    return {
        "model": row.model,
        "mode": row.shape.mode,
        "width": row.shape.width,
        "height": row.shape.height,
        "num_frames": row.shape.num_frames,
        "fits": row.choice is not None,
        "placement": None if rung is None else rung.placement,
        "predicted_peak_bytes": row.least_peak_bytes if row.choice is None else row.choice.peak_bytes,
        "host_bytes": None if rung is None else rung.host_bytes,
        "host": None if rung is None else host_room(rung, limits).value,
        "least_denoising_s": row.least_s,
        "largest_num_frames": row.largest_frames,
        "largest_size": None if row.largest_size is None else list(row.largest_size),
    }


def _explanation_document(traced: TracedModel, shape: Shape, limits: DeviceLimits, storage: Storage) -> dict[str, object]:
    return {
        "model": traced.model,
        "mode": shape.mode,
        "width": shape.width,
        "height": shape.height,
        "num_frames": shape.num_frames,
        "tokens": shape.tokens,
        "parts": [
            {"name": part.name, "total_bytes": part.total_bytes, "streamed_bytes": part.streamed_bytes, "blocks": len(part.block_bytes)}
            for part in traced.parts[storage].parts
        ],
        "placements": [
            {
                "placement": rung.placement,
                "fits": peak_bytes(rung, shape) <= limits.budget_bytes,
                "predicted_peak_bytes": peak_bytes(rung, shape),
                "host_bytes": rung.host_bytes,
                "pinned_bytes": rung.pinned_bytes,
                "host": host_room(rung, limits).value,
                "phases": [asdict(phase) for phase in explain(rung, shape)],
            }
            for rung in traced.ladder(storage).rungs
        ],
    }
