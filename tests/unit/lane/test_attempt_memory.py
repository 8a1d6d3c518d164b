"""One attempt and the GPU's memory: which placement it uses, what happens when the memory runs out, what the record says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from runtime.fit.placement import MemoryPhase
from runtime.lane.child_protocol import ReplacementNeeded
from runtime.lane.outcome import FailureCode, OutOfMemory, PhasePeak
from runtime.lane.renderer import RenderJob
from tests.harness.lane_attempt import Behaviour, Bench, black, code_of, failing

RAN_OUT = RuntimeError("CUDA error: out of memory")


def running_out(*times: MemoryPhase) -> Behaviour:
    """A pipeline that runs out of memory in these phases, one render after another, and then works."""
    left = list(times)

    def render(job: RenderJob) -> npt.NDArray[np.uint8]:
        for phase in (MemoryPhase.TEXT, MemoryPhase.ENCODE, MemoryPhase.DENOISE, MemoryPhase.DECODE):
            job.on_phase(phase)
            if left and left[0] is phase:
                left.pop(0)
                raise RAN_OUT
            if phase is MemoryPhase.DENOISE:
                for step in range(1, 5):
                    job.on_step(step, 4)
        return np.zeros((job.request.num_frames, job.request.height, job.request.width, 3), dtype=np.uint8)

    return render


def test_the_ordered_placement_is_used_and_recorded_when_it_fits(tmp_path: Path) -> None:
    bench = Bench(tmp_path, black)
    bench.order = replace(bench.order, placement="streamed", predicted_peak_bytes=222)
    record = bench.run().memory
    assert bench.pipeline.placements == ["streamed"]
    assert (record.placement, record.predicted_peak_bytes, record.out_of_memory) == ("streamed", 222, ())


def test_the_record_tells_the_weights_when_a_text_was_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.lane.files.AttemptFiles.images", lambda *_: {})
    bench = Bench(tmp_path, black)
    bench.pipeline.text_to_video_weights = "text_to_video_pair"
    assert bench.run().memory.text_to_video_weights == "text_to_video_pair"
    picture = bench.run(mode="i2v", reference_image={"key": f"inputs/{'a' * 64}"})
    assert (picture.failure, picture.memory.text_to_video_weights) == (None, "")


def test_the_fastest_placement_is_used_when_none_is_ordered(tmp_path: Path) -> None:
    bench = Bench(tmp_path, black)
    assert bench.run().memory.placement == "resident_all"


def test_a_leaner_placement_is_used_when_another_process_took_memory(tmp_path: Path) -> None:
    bench = Bench(tmp_path, black)
    bench.memory.free_bytes = 350
    bench.order = replace(bench.order, placement="resident_all", predicted_peak_bytes=500)
    record = bench.run().memory
    assert (record.placement, record.predicted_peak_bytes) == ("resident_tiled", 300)


@pytest.mark.parametrize("phase", [MemoryPhase.TEXT, MemoryPhase.ENCODE, MemoryPhase.DENOISE, MemoryPhase.DECODE])
def test_the_next_rung_serves_the_attempt_when_the_memory_ran_out(tmp_path: Path, phase: MemoryPhase) -> None:
    bench = Bench(tmp_path, running_out(phase))
    outcome = bench.run()
    assert outcome.result is not None
    assert bench.pipeline.placements == ["resident_all", "resident"]
    assert outcome.memory.placement == "resident"
    assert outcome.memory.out_of_memory == (OutOfMemory(phase=phase, placement="resident_all", budget_bytes=1000),)
    # One load, and nothing was left to be released.
    assert bench.pipeline.assembled == 1


def test_the_next_rung_serves_the_attempt_when_the_memory_ran_out_in_the_load(tmp_path: Path) -> None:
    bench = Bench(tmp_path, black)
    bench.pipeline.load_errors = [RAN_OUT]
    outcome = bench.run()
    assert outcome.result is not None
    assert outcome.memory.out_of_memory == (OutOfMemory(phase="load", placement="resident_all", budget_bytes=1000),)
    assert outcome.memory.placement == "resident"
    assert outcome.memory.residency_change is not None


def test_progress_never_falls_when_a_second_try_begins_anew(tmp_path: Path) -> None:
    bench = Bench(tmp_path, running_out(MemoryPhase.DECODE))
    bench.run()
    told = [one.progress for one in bench.told]
    assert told == sorted(told)
    assert any("again" in one.detail for one in bench.told)


def test_the_attempt_fails_when_the_memory_runs_out_twice(tmp_path: Path) -> None:
    bench = Bench(tmp_path, running_out(MemoryPhase.DENOISE, MemoryPhase.TEXT))
    outcome = bench.run()
    assert code_of(outcome) is FailureCode.GPU_MEMORY_EXCEEDED
    assert [(one.phase, one.placement) for one in outcome.memory.out_of_memory] == [("denoise", "resident_all"), ("text", "resident")]
    assert not bench.runner.is_broken


def test_the_next_request_is_not_poisoned_when_the_memory_ran_out_twice(tmp_path: Path) -> None:
    bench = Bench(tmp_path, running_out(MemoryPhase.DENOISE, MemoryPhase.DENOISE))
    bench.run()
    outcome = bench.run()
    assert outcome.result is not None
    assert (outcome.memory.placement, outcome.memory.out_of_memory) == ("resident_all", ())


def test_there_is_no_second_try_when_nothing_is_leaner(tmp_path: Path) -> None:
    bench = Bench(tmp_path, running_out(MemoryPhase.DENOISE))
    bench.order = replace(bench.order, placement="streamed_chunked")
    assert code_of(bench.run()) is FailureCode.GPU_MEMORY_EXCEEDED
    assert len(bench.pipeline.placements) == 1


def test_the_second_try_does_not_begin_when_the_attempt_was_cancelled_meanwhile(tmp_path: Path) -> None:
    def cancel_and_run_out(job: RenderJob) -> npt.NDArray[np.uint8]:
        bench.is_cancelled = True
        raise RAN_OUT

    bench = Bench(tmp_path, cancel_and_run_out)
    assert code_of(bench.run()) is FailureCode.CANCELLED


def test_the_process_is_replaced_and_the_next_goes_on_leaner_when_what_ran_out_is_not_given_back(tmp_path: Path) -> None:
    def leak(job: RenderJob) -> npt.NDArray[np.uint8]:
        bench.memory.alive_bytes += 60
        raise RAN_OUT

    bench = Bench(tmp_path, leak)
    end = bench.end()
    assert isinstance(end, ReplacementNeeded)
    assert (end.released.model, end.released.residue_bytes) == ("phr00t", 60)
    assert end.out_of_memory == (OutOfMemory(phase="load", placement="resident_all", budget_bytes=1000),)
    following = Bench(tmp_path, black)
    following.order = replace(following.order, placement="resident_all", released=end.released, out_of_memory=end.out_of_memory)
    record = following.run().memory
    assert (record.placement, record.out_of_memory) == ("resident", end.out_of_memory)
    assert record.residency_change is not None
    assert record.residency_change.process_replaced


def test_the_attempt_ends_and_the_process_is_given_up_when_the_last_try_leaves_memory_behind(tmp_path: Path) -> None:
    tries: list[int] = []

    def leak_at_last(job: RenderJob) -> npt.NDArray[np.uint8]:
        tries.append(1)
        bench.memory.alive_bytes += 60 * (len(tries) - 1)
        raise RAN_OUT

    bench = Bench(tmp_path, leak_at_last)
    assert code_of(bench.run()) is FailureCode.GPU_MEMORY_EXCEEDED
    assert bench.runner.is_broken


def test_tries_of_an_earlier_process_count_when_the_memory_runs_out_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, running_out(MemoryPhase.TEXT))
    bench.order = replace(bench.order, out_of_memory=(OutOfMemory(phase="text", placement="resident_all"),))
    outcome = bench.run()
    assert code_of(outcome) is FailureCode.GPU_MEMORY_EXCEEDED
    assert len(outcome.memory.out_of_memory) == 2


def test_an_error_that_is_not_about_memory_is_not_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, failing(ValueError()))
    assert code_of(bench.run()) is FailureCode.RENDER_FAILED
    assert len(bench.pipeline.placements) == 1


def test_the_peak_of_each_phase_is_recorded_when_it_ends(tmp_path: Path) -> None:
    peaks = {MemoryPhase.TEXT: 5, MemoryPhase.DENOISE: 70, MemoryPhase.DECODE: 30}

    def measured(job: RenderJob) -> npt.NDArray[np.uint8]:
        for phase, peak in peaks.items():
            job.on_phase(phase)
            bench.memory.peak_bytes = peak
        return black(job)

    bench = Bench(tmp_path, measured)
    bench.memory.peak_bytes = 0
    record = bench.run().memory
    assert record.phase_peaks == tuple(PhasePeak(phase=phase, peak_bytes=peak) for phase, peak in peaks.items())
    assert record.peak_allocated_bytes == 70


def test_the_peaks_are_those_of_the_last_try_when_there_were_two(tmp_path: Path) -> None:
    tries: list[int] = []

    def measured(job: RenderJob) -> npt.NDArray[np.uint8]:
        tries.append(1)
        job.on_phase(MemoryPhase.DENOISE)
        bench.memory.peak_bytes = 90 if len(tries) == 1 else 40
        if len(tries) == 1:
            raise RAN_OUT
        return black(job)

    bench = Bench(tmp_path, measured)
    bench.memory.peak_bytes = 0
    record = bench.run().memory
    assert record.phase_peaks == (PhasePeak(phase="denoise", peak_bytes=40),)
    # The attempt as a whole did take that much.
    assert record.peak_allocated_bytes == 90


def test_drift_grows_when_every_attempt_leaves_a_little(tmp_path: Path) -> None:
    def leak(job: RenderJob) -> npt.NDArray[np.uint8]:
        bench.memory.alive_bytes += 7
        return black(job)

    bench = Bench(tmp_path, leak)
    assert [bench.run().memory.drift_bytes for _ in range(3)] == [0, 7, 14]


def test_weights_that_stay_are_no_drift_when_the_placement_changes(tmp_path: Path) -> None:
    def place(job: RenderJob) -> npt.NDArray[np.uint8]:
        bench.memory.alive_bytes = 500 if job.placement.name == "resident_all" else 0
        return black(job)

    bench = Bench(tmp_path, place)
    drifts = []
    for placement in ("streamed", "resident_all", "streamed", "resident_all"):
        bench.order = replace(bench.order, placement=placement)
        drifts.append(bench.run().memory.drift_bytes)
    assert drifts == [0, 0, 0, 0]


def test_the_model_s_failure_is_told_when_its_ladder_cannot_be_read(tmp_path: Path) -> None:
    bench = Bench(tmp_path, black)
    bench.pipeline.ladder_error = FileNotFoundError("no checkpoint")
    outcome = bench.run()
    assert outcome.failure is not None
    assert outcome.failure.message == "The model could not be loaded."
    assert not bench.runner.is_broken


def test_a_second_try_is_made_when_a_library_wrapped_the_error(tmp_path: Path) -> None:
    # A tokenizer that could not make its tensors raised a ValueError, and the attempt failed as if the pipeline were at fault.
    tries: list[int] = []

    def wrap(job: RenderJob) -> npt.NDArray[np.uint8]:
        tries.append(1)
        if len(tries) == 1:
            msg = "unable to create tensor"
            raise ValueError(msg) from RAN_OUT
        return black(job)

    outcome = Bench(tmp_path, wrap).run()
    assert outcome.result is not None
    assert len(outcome.memory.out_of_memory) == 1
