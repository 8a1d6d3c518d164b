"""What a pipeline's process times of an attempt, and what it says of each part."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import obstore
import pytest

from runtime.fit.placement import MemoryPhase
from runtime.lane.child_protocol import PartEnded, decode_event, encode_event
from runtime.lane.parts import OF_PHASE, Part
from runtime.lane.renderer import RenderJob
from runtime.lane.state import Attempt
from tests.harness.lane_attempt import Behaviour, Bench, black, failing


def _phased(job: RenderJob) -> npt.NDArray[np.uint8]:
    for phase in (MemoryPhase.LOAD, MemoryPhase.TEXT, MemoryPhase.ENCODE, MemoryPhase.DENOISE):
        job.on_phase(phase)
    for step in range(1, 5):
        job.on_step(step, 4)
    job.on_phase(MemoryPhase.DECODE)
    return np.zeros((job.request.num_frames, job.request.height, job.request.width, 3), dtype=np.uint8)


def _bench(folder: Path, behaviour: Behaviour) -> Bench:
    bench = Bench(folder, behaviour)
    bench.order = replace(bench.order, is_timed=True)
    return bench


def _names(parts: list[PartEnded]) -> list[str]:
    return [part.part for part in parts]


def test_every_phase_of_a_render_is_a_part() -> None:
    assert OF_PHASE.keys() == set(MemoryPhase)


def test_each_part_is_told_once_and_in_order_when_a_clip_is_rendered(tmp_path: Path) -> None:
    bench = _bench(tmp_path, _phased)
    bench.memory.peak_bytes = 0
    outcome = bench.run()
    assert outcome.result is not None
    assert _names(bench.parts) == [
        "load", "place weights", "text encode", "image encode", *["denoising step"] * 4, "denoise", "decode", "encode", "upload",
    ]  # fmt: skip
    assert {part.attempt for part in bench.parts} == {bench.order.attempt}
    assert {(part.try_number, part.has_failed) for part in bench.parts} == {(1, False)}
    one_by_one = [part for part in bench.parts if part.part is not Part.STEP]
    assert all(before.began_ns <= before.ended_ns <= after.began_ns for before, after in pairwise(one_by_one))


def test_parts_say_what_is_known_of_them_when_a_clip_is_rendered(tmp_path: Path) -> None:
    bench = _bench(tmp_path, _phased)
    bench.memory.peak_bytes = 0
    outcome = bench.run()
    assert outcome.result is not None
    by_name = {part.part: part.figures for part in bench.parts}
    assert by_name[Part.LOAD].keys() == {"loaded_model", "loaded_bytes", "source", "load_s", "process_replaced"}
    assert (by_name[Part.LOAD]["loaded_model"], by_name[Part.LOAD]["source"]) == ("phr00t", "disk")
    assert by_name[Part.DENOISE] == {"placement": "resident_all", "peak_bytes": 0}
    assert by_name[Part.STEP] == {"step": 4, "steps": 4}
    assert by_name[Part.ENCODE] == {"frames": 5, "format": "webm"}
    assert by_name[Part.UPLOAD] == {"video_bytes": outcome.result.size_bytes}


def test_steps_fill_the_denoising_when_a_clip_is_rendered(tmp_path: Path) -> None:
    bench = _bench(tmp_path, _phased)
    bench.run()
    steps = [part for part in bench.parts if part.part is Part.STEP]
    [denoise] = [part for part in bench.parts if part.part is Part.DENOISE]
    assert [step.figures["step"] for step in steps] == [1, 2, 3, 4]
    assert all(before.ended_ns == after.began_ns for before, after in pairwise(steps))
    assert denoise.began_ns == steps[0].began_ns
    assert steps[-1].ended_ns <= denoise.ended_ns


def test_nothing_is_loaded_when_the_model_is_there(tmp_path: Path) -> None:
    bench = _bench(tmp_path, black)
    bench.run()
    bench.parts.clear()
    bench.run()
    # A pipeline that tells no phase has none.
    assert _names(bench.parts) == ["encode", "upload"]


def test_no_part_is_told_when_nobody_asked(tmp_path: Path) -> None:
    bench = Bench(tmp_path, _phased)
    bench.run()
    assert bench.parts == []


def test_the_part_that_an_error_ended_says_so_when_the_pipeline_raises(tmp_path: Path) -> None:
    def breaks(job: RenderJob) -> npt.NDArray[np.uint8]:
        job.on_phase(MemoryPhase.TEXT)
        job.on_phase(MemoryPhase.DENOISE)
        job.on_step(1, 4)
        return failing(ValueError("marked"))(job)

    bench = _bench(tmp_path, breaks)
    bench.run()
    assert [(part.part, part.has_failed) for part in bench.parts] == [
        ("load", False), ("text encode", False), ("denoising step", False), ("denoise", True),
    ]  # fmt: skip
    assert "marked" not in repr(bench.parts)


@pytest.mark.torch
def test_each_try_is_told_apart_when_the_memory_runs_out(tmp_path: Path) -> None:
    import torch

    tries: list[str] = []

    def runs_out(job: RenderJob) -> npt.NDArray[np.uint8]:
        tries.append(job.placement.name)
        if len(tries) == 1:
            job.on_phase(MemoryPhase.DENOISE)
            raise torch.OutOfMemoryError
        return _phased(job)

    bench = _bench(tmp_path, runs_out)
    bench.memory.peak_bytes = 0
    outcome = bench.run()
    assert outcome.result is not None
    denoised = [part for part in bench.parts if part.part is Part.DENOISE]
    assert [(part.try_number, part.has_failed, part.figures["placement"]) for part in denoised] == [
        (1, True, tries[0]), (2, False, tries[1]),
    ]  # fmt: skip
    assert tries[0] != tries[1]


def test_a_load_that_failed_is_told_when_nothing_can_be_rendered(tmp_path: Path) -> None:
    bench = _bench(tmp_path, black)
    bench.pipeline.load_errors.append(RuntimeError("broken"))
    bench.run()
    assert [(part.part, part.has_failed) for part in bench.parts] == [("load", True)]


def test_the_upload_says_that_it_failed_when_the_store_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError

    monkeypatch.setattr(obstore, "put", refuse)
    bench = _bench(tmp_path, black)
    bench.run()
    assert [(part.part, part.has_failed) for part in bench.parts][-2:] == [("encode", False), ("upload", True)]


def test_a_part_comes_through_the_socket_as_it_was_sent() -> None:
    figures: dict[str, str | int | float | bool] = {"text": "1", "whole": 2**40, "real": 1.0, "true": True}
    part = PartEnded(
        attempt=Attempt(task_id="a", number=1), part=Part.STEP, try_number=1, began_ns=2**60, ended_ns=2**60 + 1, figures=figures
    )
    back = decode_event(encode_event(part))
    assert back == part
    assert isinstance(back, PartEnded)
    assert {name: type(value) for name, value in back.figures.items()} == {name: type(value) for name, value in figures.items()}
