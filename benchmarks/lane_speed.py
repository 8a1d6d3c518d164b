"""`python -m benchmarks.lane_speed`: what the things that make a lane faster give, each as a ratio to the same clip without it.

The tiny models on this machine's device; on a GPU that has them, `--profile a10g --models-dir D` takes the prepared checkpoints. Both sides
of a ratio are rendered in turns, and the medians are compared, so that runs on different machines can be compared too. On a CPU with the
tiny models the text encoder and the attention are small parts of a clip: the ratios show that the way works, not what a GPU gains.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

from degraded_pool.catalog import catalog
from lane_anisora.tiny import build_text_to_video_pair
from runtime.fit.placement import BY_NAME, MemoryPhase
from runtime.lane.memory.open import open_device
from runtime.lane.renderer import HostWeights, LoadSettings, Pipeline, RenderJob
from runtime.lane.wan.attention import BACKENDS, AttentionBackendError, choose_backend, offer_of
from runtime.lane.wan.compiling import can_compile
from runtime.rules.check import check_request
from runtime.rules.effective import effective
from runtime.rules.request import GenerationRequest

_SIZE = (256, 256, 9)
_ROUNDS = 3
_TAKES = count(1)


@dataclass(slots=True, kw_only=True)
class Clip:
    """How long one clip took: in all and by phase, in seconds."""

    seconds: float
    phases: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison.

    Attributes:
        what: is compared.
        before_s, after_s: medians.
        ratio: after to before.
    """

    what: str
    before_s: float
    after_s: float
    ratio: float


class Lane:
    """One model with its weights, from which pipelines are made."""

    def __init__(self, model: str, settings: LoadSettings, size: tuple[int, int, int], placement: str) -> None:
        """Reads the weights."""
        self.model = model
        self._settings = settings
        self._size = size
        self._placement = placement
        self._weights: HostWeights = catalog.read(model, settings, lambda _stage: None)

    def pipeline(self, **changes: Any) -> Pipeline:
        """A new one, with other settings."""
        settings = replace(self._settings, **changes)
        return catalog.assemble(self.model, self._weights, settings, lambda _stage: None)

    def request(self, **fields: Any) -> GenerationRequest:
        """With a text that no render has seen, unless one is given."""
        width, height, frames = self._size
        raw = {"model": self.model, "prompt": f"waves on a beach, take {next(_TAKES)}", "width": width, "height": height}
        return effective(check_request(raw | {"num_frames": frames} | fields), seed=1)

    def clip(self, pipeline: Pipeline, **fields: Any) -> Clip:
        """Renders one."""
        wait, phases, marks = self._settings.memory.wait, list[str](), list[float]()

        def on_phase(phase: MemoryPhase) -> None:
            wait()
            phases.append(phase.value)
            marks.append(time.perf_counter())

        job = RenderJob(
            request=self.request(**fields),
            images={},
            placement=BY_NAME[self._placement],
            on_phase=on_phase,
            on_step=lambda _step, _steps: None,
            check=lambda: None,
        )
        started_s = time.perf_counter()
        pipeline.render(job)
        wait()
        ended_s = time.perf_counter()
        spans = zip(phases, marks, [*marks[1:], ended_s], strict=True)
        return Clip(seconds=ended_s - started_s, phases={phase: end - begin for phase, begin, end in spans})


def measure(settings: LoadSettings, *, size: tuple[int, int, int], placement: str, rounds: int) -> Iterator[Row]:
    """Every comparison; a kernel of attention that cannot work here is left out."""
    anisora = Lane("anisora", settings, size, placement)
    pipeline = anisora.pipeline()
    known = anisora.request().prompt
    anisora.clip(pipeline, prompt=known)

    def whole(clip: Clip) -> float:
        return clip.seconds

    def denoising(clip: Clip) -> float:
        return clip.phases["denoise"]

    yield _row(
        "text known from before, whole clip",
        rounds,
        whole,
        lambda: anisora.clip(pipeline),
        lambda: anisora.clip(pipeline, prompt=known),
    )
    yield _row(
        "no unconditional pass (guidance 1 instead of 3), denoising",
        rounds,
        denoising,
        lambda: anisora.clip(pipeline, guidance_scale=3.0),
        lambda: anisora.clip(pipeline, guidance_scale=1.0),
    )
    for backend in _usable_backends(settings):
        other = anisora.pipeline(attention_backend=backend)
        yield _row(
            f"attention {backend} instead of native, denoising",
            rounds,
            denoising,
            lambda: anisora.clip(pipeline),
            lambda other=other: anisora.clip(other),  # type: ignore[misc]
        )
        other.release()
    if can_compile(torch.device(settings.memory.device)):
        compiled = anisora.pipeline(is_compiled=True)
        anisora.clip(compiled)
        yield _row("compiled blocks, denoising", rounds, denoising, lambda: anisora.clip(pipeline), lambda: anisora.clip(compiled))
        compiled.release()
    pipeline.release()


def measure_text_to_video(settings: LoadSettings, *, size: tuple[int, int, int], placement: str, rounds: int) -> Row:
    """AniSora's t2v with a pair beside the experts, against the experts with an empty condition. Tiny models only."""
    plain = Lane("anisora", settings, size, placement)
    with tempfile.TemporaryDirectory() as folder:
        beside = replace(settings, models_dir=Path(folder))
        catalog.ladder("anisora", beside)  # makes the parts
        (parts,) = Path(folder).iterdir()
        build_text_to_video_pair(parts)
        paired = Lane("anisora", beside, size, placement)
        one, other = plain.pipeline(), paired.pipeline()
        return _row(
            "t2v with a text-to-video pair, whole clip",
            rounds,
            lambda clip: clip.seconds,
            lambda: plain.clip(one),
            lambda: paired.clip(other),
        )


def _row(what: str, rounds: int, seconds: Callable[[Clip], float], before: Callable[[], Clip], after: Callable[[], Clip]) -> Row:
    taken: tuple[list[float], list[float]] = ([], [])
    before(), after()  # the first of a size is slower
    for _ in range(rounds):
        for times, render in zip(taken, (before, after), strict=True):
            times.append(seconds(render()))
    before_s, after_s = (statistics.median(times) for times in taken)
    return Row(what=what, before_s=round(before_s, 4), after_s=round(after_s, 4), ratio=round(after_s / before_s, 3))


def _usable_backends(settings: LoadSettings) -> Iterator[str]:
    """All that work on this device, but native."""
    compute = torch.float32 if settings.profile == "tiny" else torch.bfloat16
    for backend in BACKENDS[1:]:
        try:
            yield choose_backend(backend, offer_of(torch.device(settings.memory.device), compute))
        except AttentionBackendError:
            continue


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", choices=("tiny", "a10g"), default="tiny")
    parser.add_argument("--models-dir", type=Path, help="of the prepared checkpoints; the tiny models are made in a folder that goes again")
    parser.add_argument("--placement", choices=tuple(BY_NAME), default="resident")
    parser.add_argument("--size", type=int, nargs=3, default=_SIZE, metavar=("WIDTH", "HEIGHT", "FRAMES"))
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    chosen = parser.parse_args(arguments)
    # Clips this small gain nothing from more, and threads that wait for each other take time from whatever else runs.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        memory = open_device("auto")
        settings = LoadSettings(profile=chosen.profile, models_dir=chosen.models_dir or Path(folder), memory=memory)
        options: dict[str, Any] = {"size": tuple(chosen.size), "placement": chosen.placement, "rounds": chosen.rounds}
        rows = list(measure(settings, **options))
        if chosen.profile == "tiny":
            rows.append(measure_text_to_video(settings, **options))
    machine = f"{memory.label}, {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
    print(f"machine: {machine}\n\n| what | without, s | with, s | ratio |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.before_s} | {row.after_s} | {row.ratio} |")
    if chosen.json is not None:
        figures = {"machine": machine, "rows": [{name: getattr(row, name) for name in Row.__dataclass_fields__} for row in rows]}
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
