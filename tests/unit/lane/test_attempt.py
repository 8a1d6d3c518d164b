"""One attempt inside the pipeline's process: what each end becomes."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from runtime.lane.outcome import FailureCode, Phase
from runtime.lane.renderer import RenderJob
from tests.harness.lane_attempt import Bench, black, code_of, failing


def test_progress_goes_from_loading_to_encoding_when_a_clip_is_rendered(tmp_path: Path) -> None:
    bench = Bench(tmp_path, black)
    outcome = bench.run()
    assert outcome.result is not None
    assert outcome.result.media_type == "video/webm"
    assert [phase for phase, _ in groupby(bench.told, key=lambda told: told.phase)] == [Phase.LOADING, Phase.INFERENCE, Phase.ENCODING]
    # 0 once the model is there, 90 percent for four steps, then one per encoded part up to 99.
    assert [told.progress for told in bench.told if told.phase is Phase.INFERENCE] == [0, 22, 45, 67, 90]
    assert bench.told[-1].progress == 99
    assert outcome.denoise_s is not None


def test_the_agent_knows_that_the_load_is_over_when_the_first_step_has_not_ended(tmp_path: Path) -> None:
    # Inference was told only after a step, so a pipeline that hung in the text encoder or its first step passed for a load: it was spared.
    before_a_step: list[Phase] = []

    def look(job: RenderJob) -> npt.NDArray[np.uint8]:
        before_a_step.extend(told.phase for told in bench.told)
        return black(job)

    bench = Bench(tmp_path, look)
    bench.run()
    assert list(dict.fromkeys(before_a_step)) == [Phase.LOADING, Phase.INFERENCE]


def test_inference_is_told_first_when_the_model_is_resident_already(tmp_path: Path) -> None:
    bench = Bench(tmp_path, black)
    bench.run()
    bench.told.clear()
    bench.run()
    assert (bench.told[0].phase, bench.told[0].progress) == (Phase.INFERENCE, 0)


def test_every_value_of_the_request_reaches_the_pipeline_when_rendered(tmp_path: Path) -> None:
    seen: list[RenderJob] = []

    def look(job: RenderJob) -> npt.NDArray[np.uint8]:
        seen.append(job)
        return black(job)

    Bench(tmp_path, look).run(seed=5)
    assert seen[0].request.seed == 5
    assert (seen[0].request.width, seen[0].request.num_frames) == (256, 5)


def test_nothing_is_loaded_when_the_request_breaks_the_rules(tmp_path: Path) -> None:
    bench = Bench(tmp_path, black)
    outcome = bench.run(steps=5)
    assert code_of(outcome) is FailureCode.RENDER_FAILED
    assert bench.told == []


@pytest.mark.parametrize("changes", [{"width": 260}, {"num_frames": 7}, {"seed": -1}])
def test_nothing_is_loaded_when_the_request_is_not_effective(tmp_path: Path, changes: dict[str, object]) -> None:
    bench = Bench(tmp_path, black)
    assert code_of(bench.run(**changes)) is FailureCode.RENDER_FAILED
    assert bench.told == []


def test_the_attempt_ends_as_cancelled_when_a_step_sees_the_cancel(tmp_path: Path) -> None:
    def cancel_in_work(job: RenderJob) -> npt.NDArray[np.uint8]:
        job.on_step(1, 4)
        bench.is_cancelled = True
        job.on_step(2, 4)
        raise AssertionError

    bench = Bench(tmp_path, cancel_in_work)
    outcome = bench.run()
    assert code_of(outcome) is FailureCode.CANCELLED
    assert outcome.memory.unmeasured_reason == ""


def test_the_attempt_ends_as_cancelled_when_a_block_sees_the_cancel(tmp_path: Path) -> None:
    # Only the end of a step looked.
    waits: list[int] = []

    def cancel_in_a_step(job: RenderJob) -> npt.NDArray[np.uint8]:
        job.check()
        waits.append(bench.memory.waits)
        bench.is_cancelled = True
        job.check()
        raise AssertionError

    bench = Bench(tmp_path, cancel_in_a_step)
    assert code_of(bench.run()) is FailureCode.CANCELLED
    # A GPU would otherwise hold the rest of the step in its queue.
    assert waits == [1]


def test_wrong_frames_are_a_failure_when_the_pipeline_gives_another_size(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lambda job: np.zeros((1, 8, 8, 3), dtype=np.uint8))
    assert code_of(bench.run()) is FailureCode.RENDER_FAILED


def test_the_message_quotes_nothing_when_the_pipeline_raises(tmp_path: Path) -> None:
    outcome = Bench(tmp_path, failing(ValueError("a secret prompt"))).run()
    assert outcome.failure is not None
    assert outcome.failure.message == "The pipeline failed (ValueError)."


def test_memory_is_cleaned_up_and_recorded_when_the_pipeline_raises(tmp_path: Path) -> None:
    bench = Bench(tmp_path, failing(ValueError()))
    cleanups = bench.memory.cleanups
    outcome = bench.run()
    assert bench.memory.cleanups > cleanups
    assert outcome.memory.host_rss_after_bytes is not None


def test_the_process_is_given_up_when_the_device_is_lost(tmp_path: Path) -> None:
    def lose(job: RenderJob) -> npt.NDArray[np.uint8]:
        bench.memory.is_lost = True
        raise ValueError

    bench = Bench(tmp_path, lose)
    outcome = bench.run()
    assert "did not answer" in outcome.memory.unmeasured_reason
    assert bench.runner.is_broken


def test_the_task_may_run_again_and_keeps_its_record_when_the_store_takes_no_files(tmp_path: Path) -> None:
    bench = Bench(tmp_path, black)
    (tmp_path / "store" / "results").write_bytes(b"")
    outcome = bench.run()
    assert code_of(outcome) is FailureCode.LANE_LOST
    assert outcome.memory.placement == "resident_all"


@pytest.mark.torch
def test_the_failure_is_told_apart_when_the_gpu_s_memory_runs_out(tmp_path: Path) -> None:
    import torch

    assert code_of(Bench(tmp_path, failing(torch.OutOfMemoryError())).run()) is FailureCode.GPU_MEMORY_EXCEEDED


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), FailureCode.GPU_MEMORY_EXCEEDED),
        (OSError("no such file"), FailureCode.RENDER_FAILED),
    ],
)
def test_the_failure_is_told_apart_when_the_gpu_s_memory_runs_out_in_a_load(tmp_path: Path, error: Exception, code: FailureCode) -> None:
    # Every failed load was a render_failed, which blames the request.
    bench = Bench(tmp_path, black)
    bench.pipeline.load_errors = [error, error]
    assert code_of(bench.run()) is code
