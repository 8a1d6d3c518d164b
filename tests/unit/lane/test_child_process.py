"""What a pipeline process is given and how its end is told."""

from __future__ import annotations

import signal
from pathlib import Path

from runtime.fit.cost import WorkerMemory
from runtime.lane.child_process import Exit, child_environment
from runtime.lane.child_protocol import (
    REPLACE_EXIT_CODE,
    Release,
    Render,
    RenderEnded,
    Start,
    Started,
    decode_command,
    decode_event,
    encode_command,
    encode_event,
)
from runtime.lane.outcome import Failure, FailureCode, MemoryRecord, Outcome, OutOfMemory, PhasePeak, ResidencyChange, unmeasured
from runtime.lane.state import Attempt
from tests.harness.lane_memory import FakeMemory, flat_ladder

ATTEMPT = Attempt(task_id="a", number=2)


def test_the_allocator_can_grow_its_segments_when_nothing_is_set() -> None:
    for device in ("auto", "cuda:0"):
        assert child_environment({}, device=device, torch_threads=3)["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


def test_the_allocator_is_left_alone_when_the_device_is_the_cpu() -> None:
    assert "PYTORCH_ALLOC_CONF" not in child_environment({}, device="cpu", torch_threads=3)


def test_what_the_operator_set_stays_when_the_older_name_was_used() -> None:
    child = child_environment({"PYTORCH_CUDA_ALLOC_CONF": "pinned_use_background_threads:True"}, device="auto", torch_threads=3)
    assert child["PYTORCH_ALLOC_CONF"] == "pinned_use_background_threads:True,expandable_segments:True"
    assert "PYTORCH_CUDA_ALLOC_CONF" not in child


def test_threads_are_fixed_when_a_number_is_given() -> None:
    child = child_environment({"OMP_NUM_THREADS": "9"}, device="cpu", torch_threads=3)
    assert (child["OMP_NUM_THREADS"], child["MKL_NUM_THREADS"]) == ("3", "3")


def test_every_core_is_used_when_no_number_of_threads_is_given() -> None:
    assert int(child_environment({}, device="cpu", torch_threads=0)["OMP_NUM_THREADS"]) >= 1


def test_keys_stay_behind_when_the_agent_has_them() -> None:
    assert "WARMLANE_API_KEY" not in child_environment({"WARMLANE_API_KEY": "k", "WARMLANE_ADMIN_KEY": "k"}, device="cpu", torch_threads=1)


def test_the_signal_is_named_when_a_process_died_of_it() -> None:
    assert str(Exit(code=-signal.SIGSEGV)) == "signal 11, SIGSEGV"


def test_the_text_says_what_is_not_known_when_a_process_was_killed() -> None:
    assert "memory runs out" in str(Exit(code=-signal.SIGKILL))


def test_only_its_own_exit_code_asks_for_replacement_when_a_process_ends() -> None:
    assert Exit(code=REPLACE_EXIT_CODE).asks_for_replacement
    assert not Exit(code=1).asks_for_replacement


def test_commands_are_the_same_when_they_crossed_the_socket() -> None:
    start = Start(
        catalog="m:c",
        profile="tiny",
        models_dir=Path("models"),
        device="cpu",
        object_store_url="file:///objects",
        warm_model="anisora",
        memory_budget_bytes=7,
    )
    released = Release(model="anisora", weight_bytes=1, residue_bytes=2, release_s=0.5)
    render = Render(
        attempt=ATTEMPT,
        parameters={"prompt": "two\nlines", "fps": 16},
        artifact_prefix="results/a/2/",
        placement="streamed",
        predicted_peak_bytes=2**40,
        released=released,
        out_of_memory=(OutOfMemory(phase="denoise", placement="resident"),),
    )
    for command in (start, render):
        line = encode_command(command)
        assert line.count(b"\n") == 1
        assert decode_command(line) == command


def test_outcomes_are_the_same_when_they_crossed_the_socket() -> None:
    failure = Failure(code=FailureCode.GPU_MEMORY_EXCEEDED, message="Full.")
    change = ResidencyChange(loaded_model="phr00t", loaded_bytes=5, load_s=0.25)
    record = MemoryRecord(
        measured_at=unmeasured("").measured_at,
        device="cpu",
        host_rss_after_bytes=7,
        residency_change=change,
        placement="streamed",
        phase_peaks=(PhasePeak(phase="text", peak_bytes=8),),
        out_of_memory=(OutOfMemory(phase="denoise", placement="resident"),),
        drift_bytes=0,
    )
    event = RenderEnded(attempt=ATTEMPT, outcome=Outcome(failure=failure, memory=record, denoise_s=1.5))
    assert decode_event(encode_event(event)) == event


def test_the_worker_s_memory_is_the_same_when_it_crossed_the_socket() -> None:
    memory = WorkerMemory(limits=FakeMemory().limits(), ladders=(flat_ladder("anisora"),))
    event = Started(device="cpu", memory=memory)
    assert decode_event(encode_event(event)) == event
