"""Files are made beside the next render: one attempt after another, each to its end, and nothing is held longer than that."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from pathlib import Path

import pytest

from runtime.lane.child_protocol import RenderEnded
from runtime.lane.finish import Finisher, Rendered
from runtime.lane.outcome import FailureCode
from tests.harness.lane_attempt import Bench, black, code_of

WAIT_S = 30.0


def rendered(bench: Bench) -> Rendered:
    """An attempt whose frames are there."""
    end = bench.end_on_gpu()
    assert isinstance(end, Rendered)
    return end


def test_attempts_end_in_their_order_and_all_are_told_when_one_waits_for_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, black)
    told: list[RenderEnded] = []
    finisher = Finisher(bench.files, told.append)
    for _ in range(3):
        finisher.begin(rendered(bench))
    finisher.wait()
    assert [code_of(end.outcome) for end in told] == [None, None, None]
    assert (tmp_path / "store" / "results" / "a" / "1" / "video.webm").exists()


def test_frames_are_let_go_when_their_attempt_has_ended(tmp_path: Path) -> None:
    # Hundreds of megabytes of a large clip would otherwise be held until the next one.
    bench = Bench(tmp_path, black)
    ended = threading.Event()
    finisher = Finisher(bench.files, lambda end: ended.set())
    end = rendered(bench)
    frames = weakref.ref(end.frames)
    finisher.begin(end)
    del end
    assert ended.wait(WAIT_S)
    finisher.wait()
    gc.collect()
    assert frames() is None


def test_waiting_attempt_is_cancelled_before_anything_is_written(tmp_path: Path) -> None:
    bench = Bench(tmp_path, black)
    told: list[RenderEnded] = []
    finisher = Finisher(bench.files, told.append)
    end = rendered(bench)
    bench.is_cancelled = True
    finisher.begin(end)
    finisher.wait()
    assert [code_of(one.outcome) for one in told] == [FailureCode.CANCELLED]
    assert told[0].outcome.memory == end.memory
    assert not (tmp_path / "store" / "results").exists()


def test_what_lies_between_the_frames_and_the_files_is_no_time_of_the_render(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Else a clip that waited for the object store would teach admission that its like take minutes.
    bench = Bench(tmp_path, black)
    now_s = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    end = rendered(bench)
    now_s[0] += 600.0
    outcome = bench.finisher.finish(end).outcome
    assert outcome.render_s == 0.0
