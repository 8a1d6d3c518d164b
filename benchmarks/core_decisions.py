"""`python -m benchmarks.core_decisions`: what one decision of the pure core costs, with few lanes attached and with many.

Every event kind of normal operation is timed on a core with 25 requests held and few tasks queued, 25 at most (there a queue closes): a
lane's report with and without progress, a task that ends and frees its lane for the next one, an acceptance, a refusal, a caller that
leaves. Lanes have said what memory they have; nearly every request fits at the first look, and one kind is refused because it never
would. Times are microseconds of one `handle`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

from admission.core.events import CallerLeft, CoreEvent, LaneReported, RequestTurnedAway, TaskSubmitted
from admission.core.lanes import LaneSpec, Outcome, Report, Work
from admission.core.limits import Limits
from admission.core.queue import QueueState
from admission.core.tasks import LaneId, LaneMode, MemoryRecord, Model, Result, Stage, Task, TaskId, TaskState
from admission.core.time import Now
from runtime.fit.cost import Activations, DeviceLimits, ModelLadder, PhaseCost, Rung, WorkerMemory
from runtime.fit.placement import MemoryPhase

_ANISORA, _PHR00T = Model("anisora"), Model("phr00t")
_START = datetime(2026, 1, 1, tzinfo=UTC)
_ROUNDS = 2_000
_FULL = Limits().degraded_depth
FEW, MANY = 32, 1_000
"""Lanes attached."""

Timed = dict[str, list[float]]


def _memory() -> WorkerMemory:
    """Of a GPU as large as an A10G, with five rungs: the second one fits what is asked here, 16 times the frames fit none."""
    gib = 1024**3
    limits = DeviceLimits(
        gpu="bench", total_bytes=23 * gib, other_bytes=gib, margin_bytes=gib, host_bytes=64 * gib, pinned_limit_bytes=48 * gib
    )
    rungs = tuple(
        Rung(
            placement=f"rung-{number}",
            phases=tuple(
                PhaseCost(phase=phase, weights_bytes=weights * gib, activations=Activations(per_token=180_000))
                for phase in (MemoryPhase.TEXT, MemoryPhase.ENCODE, MemoryPhase.DENOISE, MemoryPhase.DECODE)
            ),
        )
        for number, weights in enumerate((30, 15, 8, 4, 2))
    )
    return WorkerMemory(limits=limits, ladders=(ModelLadder(model=_ANISORA, rungs=rungs),))


class Bench:
    """A core whose lanes are all busy with AniSora tasks, with 25 Phr00t requests held (no lane of theirs is there)."""

    def __init__(self, lanes: int) -> None:
        """So many AniSora lanes."""
        self.ids, self.elapsed_s, self.memory = count(), 0.0, _memory()
        self.core = QueueState(Limits(queue_depth=1_000_000), [_ANISORA, _PHR00T], self.now())
        self.lanes = [LaneId(f"lane-{index:04d}") for index in range(lanes)]
        for lane_id in self.lanes:
            self.handle(LaneReported(report=self.report(lane_id)))
        for _ in range(lanes):
            self.handle(self.submitted(_ANISORA))
        self.handle(self.submitted(_ANISORA))
        for _ in range(_FULL):
            self.handle(self.submitted(_PHR00T))
        assert len(self.core.state.held) == _FULL
        assert all(self.core.state.lanes[lane_id].lease is not None for lane_id in self.lanes)

    @property
    def queued(self) -> int:
        """AniSora tasks that wait for a lane."""
        return len(self.core.state.queues[_ANISORA])

    def now(self) -> Now:
        """A little later every time, and never so much that a wait runs out."""
        self.elapsed_s += 0.0005
        return Now(monotonic_s=1000.0 + self.elapsed_s, utc=_START + timedelta(seconds=self.elapsed_s))

    def handle(self, event: CoreEvent) -> None:
        """One decision."""
        self.core.handle(event, self.now())

    def timed(self, event: CoreEvent) -> float:
        """Microseconds of one decision."""
        now = self.now()
        started_ns = time.perf_counter_ns()
        self.core.handle(event, now)
        return (time.perf_counter_ns() - started_ns) / 1000

    def turned_away(self) -> RequestTurnedAway:
        """A new request that no lane could serve."""
        return RequestTurnedAway(task_id=TaskId(f"task-{next(self.ids)}"), model=_ANISORA, shape=(720, 1280, 241, "t2v"))

    def submitted(self, model: Model) -> TaskSubmitted:
        """A new request."""
        at = _START
        task_id = TaskId(f"task-{next(self.ids)}")
        task = Task(
            task_id=task_id,
            owner=f"owner-{hash(task_id) % 7}",
            model=model,
            mode="t2v",
            parameters={"width": 480, "height": 832, "num_frames": 81},
            tokens=32760,
            state=TaskState.HELD,
            created_at=at,
            updated_at=at,
        )
        return TaskSubmitted(task=task)

    def report(self, lane_id: LaneId, work: Work | None = None) -> Report:
        """What the lane says."""
        lane = self.core.state.lanes.get(lane_id)
        spec = LaneSpec(lane_id=lane_id, mode=LaneMode.DEDICATED, models=(_ANISORA,), memory=self.memory)
        return Report(
            spec=spec,
            boot_id="boot",
            session=1,
            seen_sequence=0 if lane is None else lane.wish.sequence,
            warm=True,
            healthy=True,
            draining=False,
            resident_model=_ANISORA,
            work=work,
        )

    def works(self, lane_id: LaneId, progress: int) -> LaneReported:
        """The lane is so far with its lease."""
        lease = self.core.state.lanes[lane_id].lease
        assert lease is not None
        work = Work(task_id=lease.task_id, attempt=lease.attempt, stage=Stage.INFERENCE, progress=progress)
        return LaneReported(report=self.report(lane_id, work))

    def ended(self, lane_id: LaneId) -> LaneReported:
        """The lane's lease is done."""
        event = self.works(lane_id, 99)
        assert event.report.work is not None
        task_id, attempt = event.report.work.task_id, event.report.work.attempt
        prefix = f"results/{task_id}/{attempt}/"
        result = Result(
            video_key=prefix + "video.mp4",
            media_type="video/mp4",
            size_bytes=1,
            sha256="0" * 64,
            preview_key=prefix + "preview.jpg",
            width=512,
            height=512,
            num_frames=17,
            fps=16,
        )
        outcome = Outcome(result=result, memory=MemoryRecord(figures={"device": "cpu"}), render_s=10.0)
        return LaneReported(report=replace(event.report, work=replace(event.report.work, outcome=outcome)))


def _measure(lanes: int) -> Timed:
    bench, timed = Bench(lanes), Timed()
    turns: Iterator[int] = count()

    def lane() -> LaneId:
        return bench.lanes[next(turns) % lanes]

    def left() -> CallerLeft:
        return CallerLeft(task_id=next(iter(bench.core.state.held)))

    events: dict[str, Callable[[], CoreEvent]] = {
        "report, nothing new": lambda: bench.works(bench.lanes[0], 10),
        "report, progress": lambda: bench.works(lane(), 10 + next(turns) % 80),
        "acceptance into a queue": lambda: bench.submitted(_ANISORA),
        "task ends, next lease": lambda: bench.ended(lane()),
        "refusal (depth)": lambda: bench.submitted(_PHR00T),
        "refusal (memory)": bench.turned_away,
        "held caller leaves": left,
    }
    for name, event in events.items():
        timed[name] = []
        for _ in range(_ROUNDS):
            timed[name].append(bench.timed(event()))
            while len(bench.core.state.held) < _FULL:
                bench.handle(bench.submitted(_PHR00T))
            while not bench.queued:
                bench.handle(bench.submitted(_ANISORA))
            while bench.queued > _FULL:
                bench.handle(bench.ended(lane()))
    return timed


def measure() -> dict[str, dict[str, float]]:
    """Median and 99th percentile in microseconds of each event kind, with few and with many lanes, and the ratio of the medians."""
    few, many = _measure(FEW), _measure(MANY)
    return {
        name: {
            "few_p50_us": statistics.median(few[name]),
            "few_p99_us": statistics.quantiles(few[name], n=100)[98],
            "many_p50_us": statistics.median(many[name]),
            "many_p99_us": statistics.quantiles(many[name], n=100)[98],
            "ratio": statistics.median(many[name]) / statistics.median(few[name]),
        }
        for name in few
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    figures = measure()
    print(f"{'decision':28} {FEW:>6} lanes p50  p99 us   {MANY:>5} lanes p50  p99 us   ratio of p50")
    for name, row in figures.items():
        few, many = f"{row['few_p50_us']:16.1f} {row['few_p99_us']:7.1f}", f"{row['many_p50_us']:17.1f} {row['many_p99_us']:7.1f}"
        print(f"{name:28} {few} {many} {row['ratio']:11.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
