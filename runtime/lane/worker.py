"""Owns the pipeline's process: starts it, restarts it when it dies, gives it attempts, and makes an outcome of every attempt.

Whatever the process does (raise, hang, die), the agent's event loop goes on and the attempt ends with an outcome and a memory record.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any, assert_never

import structlog

from runtime.lane.child_process import ChildProcess, Exit, child_environment
from runtime.lane.child_protocol import (
    Cancel,
    Event,
    FilesStuck,
    GpuFreed,
    LimitsChanged,
    LoadFailed,
    Loading,
    PartEnded,
    Progressed,
    RenderEnded,
    ReplacementNeeded,
    ResidentChanged,
    Shutdown,
    Start,
    Started,
)
from runtime.lane.in_work import InWork
from runtime.lane.loading import LoadProgress
from runtime.lane.memory.process import oom_kill_count
from runtime.lane.outcome import Outcome, Phase
from runtime.lane.start_failure import StartCause
from runtime.lane.state import Attempt, StopReason
from runtime.lane.streak import Streak, told_end
from runtime.lane.work import Order, WorkerSettings, WorkerStatus

_log = structlog.get_logger()

_MIN_LIFE_S = 0.5
"""A process that asks for its replacement sooner is taken for one that died."""
_LOOK_AGAIN_S = 1.0
_FINISH_GRACE_S = 30.0
"""A process whose render is stuck is spared so much longer while it finishes an earlier attempt: that one is nearly there."""
_STORE_GRACE_S = 300.0
"""An attempt whose deadline passed in a call to the object store may hang there so long before another's render is lost for it."""
_REPLACED = "the pipeline's process is being replaced: memory did not come back, or the device did not answer"
_SHUTDOWN_GRACE_S = 3.0
"""When the lane stops, its supervisor waits: the process is killed soon after it was asked."""


class Worker:
    """The pipeline's process and what it works on: one attempt on the GPU, and at most one that is finished beside it.

    One event loop owns it.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        on_change: Callable[[], None],
        on_progress: Callable[[Attempt, Phase, int, str], None],
        on_gpu_free: Callable[[Attempt], None],
        on_part: Callable[[PartEnded], None] = lambda _part: None,
    ) -> None:
        """Starts nothing yet.

        Args:
            settings: what for.
            on_change: called when `status` changed.
            on_progress: called with the attempt, its phase, its progress (0 to 99) and a short sentence.
            on_gpu_free: called when the attempt needs the GPU no more; from then on `render` takes another.
            on_part: called when a part of an attempt is over that is timed.
        """
        self._settings = settings
        self._on_change = on_change
        self._on_progress = on_progress
        self._on_gpu_free = on_gpu_free
        self._on_part = on_part
        self._status = WorkerStatus()
        self._child: ChildProcess | None = None
        self._leaving: ChildProcess | None = None
        self._works: dict[Attempt, InWork] = {}
        self._streak = Streak(lambda: asyncio.get_running_loop().time())
        self._failure: LoadFailed | None = None
        self._stopping = asyncio.Event()

    @property
    def status(self) -> WorkerStatus:
        """What can be said of the process now."""
        return self._status

    async def run(self) -> None:
        """Keeps a process running until `stop`; ends with none running, also when cancelled."""
        while not self._stopping.is_set():
            oom_kills = oom_kill_count()
            end = await self._live()
            self._after(end)
            if not self._stopping.is_set():
                await self._pause(self._count(end, is_starved=oom_kill_count() > oom_kills))
        self._settle_all("the lane was stopped")
        self._update(pid=0, warm=False, resident_model="", reason="the lane was stopped")

    async def stop(self, grace_s: float) -> None:
        """Has the process release everything and end, or kills it after `grace_s`; an attempt in work is stopped. Then `run` returns."""
        self._stopping.set()
        child = self._child
        if child is not None:
            child.send(Shutdown())
            # In the middle of an attempt or a load it would not see the command.
            is_busy = bool(self._works) or not self._status.warm
            if is_busy or not await child.wait(grace_s):
                child.kill()

    async def render(self, order: Order) -> Outcome:
        """Works on one attempt to its end; never raises for what the pipeline does. One at a time has the GPU."""
        if any(not other.is_gpu_free for other in self._works.values()):
            msg = "an attempt has the GPU already"
            raise RuntimeError(msg)
        current = self._works[order.attempt] = InWork(
            order=order, ended=asyncio.get_running_loop().create_future(), left_s=order.deadline_s
        )
        try:
            current.run_clock(self.cancel)
            self._submit()
            return await current.ended
        finally:
            current.stop_clock()
            del self._works[order.attempt]
            # What waited for this one to be finished goes on.
            for other in self._works.values():
                other.run_clock(self.cancel)

    def cancel(self, attempt: Attempt, reason: StopReason) -> None:
        """Ends an attempt: asks the process first, kills it after the grace. An attempt that is not in work is ignored.

        A deadline or a shutdown overrides that it is merely unwanted; of these two the first stays, but a shutdown shortens the grace.
        """
        current = self._works.get(attempt)
        if current is None:
            return
        if reason.replaces(current.stop):
            current.stop, current.stopped_s = reason, asyncio.get_running_loop().time()
        elif reason is not StopReason.SHUTDOWN:
            return
        if current.sent_to is None:
            self._settle(current, "no pipeline process ran")
            return
        current.sent_to.send(Cancel(attempt=attempt))
        grace_s = self._settings.cancel_grace_s
        if reason is StopReason.SHUTDOWN:
            grace_s = min(grace_s, _SHUTDOWN_GRACE_S)
        asyncio.get_running_loop().call_later(grace_s, self._kill_if_stuck, current)

    async def _live(self) -> Exit | OSError:
        """One process from start to end; an OSError when it could not be started."""
        settings = self._settings
        self._streak.started()
        self._update(cold_starts=self._status.cold_starts + 1)
        try:
            environment = child_environment(os.environ, device=settings.device, torch_threads=settings.torch_threads)
            child = await ChildProcess.start(name=settings.name, environment=environment)
        except OSError as error:
            return error
        overdue = asyncio.get_running_loop().call_later(settings.load_deadline_s, self._kill_if_not_warm, child)
        try:
            self._child = child
            self._update(pid=child.pid)
            child.send(_start_of(settings))
            self._submit()
            if self._stopping.is_set():
                # `stop` came while it was being started and did not see it.
                child.kill()
            async for event in child.events():
                self._take(event)
        except asyncio.CancelledError:
            child.kill()
            raise
        finally:
            overdue.cancel()
            self._child = None
            end = await child.end()
            self._update(warm=False, resident_model="", pid=0, load=None, object_store_failure="")
        return end

    def _submit(self) -> None:
        """Gives the process that runs what no process has yet. One that leaves gets nothing: that waits for the next."""
        child = self._child
        if child is None or child is self._leaving:
            return
        for current in self._works.values():
            if current.sent_to is None:
                current.send_to(child)

    def _take(self, event: Event) -> None:
        match event:
            case Started() | LimitsChanged() | ResidentChanged():
                self._learn(event)
            case Loading():
                self._load(event.progress)
            case LoadFailed():
                self._failure = event
                self._update(load=None)
            case FilesStuck():
                self._update(object_store_failure=event.reason)
            case Progressed():
                self._progress(event)
            case PartEnded():
                self._on_part(event)
            case GpuFreed():
                self._free(event)
            case RenderEnded():
                if event.leaving:
                    self._leave()
                self._end(event)
            case ReplacementNeeded():
                self._leave()
                self._hand_on(event)
            case _:
                assert_never(event)

    def _learn(self, event: Started | LimitsChanged | ResidentChanged) -> None:
        match event:
            case Started():
                self._update(device=event.device, memory=event.memory, **self._warmth(""))
            case LimitsChanged():
                if self._status.memory is not None:
                    self._update(memory=replace(self._status.memory, limits=event.limits))
            case ResidentChanged():
                self._update(resident_model=event.model, **self._warmth(event.model))
            case _:
                assert_never(event)

    def _hand_on(self, event: ReplacementNeeded) -> None:
        """The attempt goes on in the next process, which is told what this one knows."""
        current = self._works.get(event.attempt)
        if current is not None:
            current.released, current.out_of_memory = event.released, event.out_of_memory
            _log.warning("memory_not_returned", model=event.released.model, residue_bytes=event.released.residue_bytes)

    def _leave(self) -> None:
        """The process gave its last message; it is gone soon."""
        self._leaving = self._child
        self._update(warm=False, resident_model="", reason=_REPLACED)

    def _warmth(self, resident_model: str) -> dict[str, Any]:
        warm = not self._settings.warm_model or resident_model == self._settings.warm_model
        if not warm:
            return {"warm": False, "reason": f"{self._settings.warm_model} is being loaded{self._last_failure()}"}
        if self._streak.warmed():
            _log.info("pipeline_warm", start_s=round(self._streak.lived_s, 3))
        # Three deaths in a row take the health away; a process that is ready gives it back.
        return {"warm": True, "healthy": True, "reason": "", "failure": None, "load": None}

    def _load(self, progress: LoadProgress) -> None:
        self._update(load=progress)
        for current in self._works.values():
            if current.phase is Phase.LOADING:
                # Also what comes before its process could take it up.
                self._on_progress(current.attempt, Phase.LOADING, 0, str(progress))

    def _progress(self, event: Progressed) -> None:
        current = self._works.get(event.attempt)
        if current is not None:
            current.phase = event.phase
            self._on_progress(event.attempt, event.phase, event.progress, event.detail)

    def _free(self, event: GpuFreed) -> None:
        current = self._works.get(event.attempt)
        if current is None or current.ended.done():
            return
        current.memory, current.phase = event.memory, Phase.ENCODING
        if len(self._works) > 1:
            # Another is being finished: what this one waits for that is no time of its own.
            current.stop_clock()
        self._on_gpu_free(event.attempt)

    def _end(self, event: RenderEnded) -> None:
        current = self._works.get(event.attempt)
        if current is None or not current.is_gpu_free:
            # What was being loaded was for this one.
            self._update(load=None)
        if current is not None:
            current.end(event.outcome)

    def _after(self, end: Exit | OSError) -> None:
        """What the end of the process means for the attempts that it had."""
        for current in self._works.values():
            if current.sent_to is None:
                continue
            if current.released is not None and current.stop is None and isinstance(end, Exit) and end.asks_for_replacement:
                # The next process takes it over. It has nothing to release, so this happens once.
                current.sent_to = None
            else:
                self._settle(current, f"the pipeline's process ended: {end}")

    def _settle_all(self, why: str) -> None:
        for current in self._works.values():
            self._settle(current, why)

    def _settle(self, current: InWork, why: str) -> None:
        current.settle(why, is_shutdown=self._stopping.is_set())

    def _kill_if_stuck(self, current: InWork) -> None:
        """The grace of a cancel is over."""
        if current.ended.done() or current.is_killed or current.sent_to is None or current.sent_to is not self._child:
            return
        if self._is_spared(current):
            asyncio.get_running_loop().call_later(_LOOK_AGAIN_S, self._kill_if_stuck, current)
            return
        current.is_killed = True
        with current.order.about().told():
            _log.warning("pipeline_killed", reason=current.stop)
        current.sent_to.kill()

    def _is_spared(self, current: InWork) -> bool:
        """Whether the process goes on for now although it does not end this attempt.

        A load that is merely unwanted ends by itself, and killing it costs the model. Its attempt's deadline, which overrides the reason,
        bounds that. Nor does an attempt easily take another one with it: what is finished beside it has a little time, and a render has
        more when it is the finishing that hangs.
        """
        if current.stop is StopReason.UNWANTED and current.phase is Phase.LOADING:
            return True
        has_other = any(not other.ended.done() for other in self._works.values() if other is not current)
        if not has_other or current.stop is StopReason.SHUTDOWN:
            return False
        late_s = asyncio.get_running_loop().time() - current.stopped_s - self._settings.cancel_grace_s
        if current.is_gpu_free:
            return current.stop is StopReason.UNWANTED or late_s < _STORE_GRACE_S
        return late_s < _FINISH_GRACE_S

    def _kill_if_not_warm(self, child: ChildProcess) -> None:
        if child is self._child and not self._status.warm:
            load = self._status.load
            reason = f"it was not ready within {self._settings.load_deadline_s:g} s" + (f": {load}" if load is not None else "")
            self._failure = LoadFailed(model=self._settings.warm_model, reason=reason, cause=StartCause.DEADLINE)
            child.kill()

    def _count(self, end: Exit | OSError, *, is_starved: bool) -> float:
        """Counts an end that nobody asked for; returns the pause before the next start, in seconds."""
        if isinstance(end, Exit) and end.asks_for_replacement and self._streak.lived_s >= _MIN_LIFE_S:
            self._update(reason=_REPLACED)
            return 0.0
        said, self._failure = self._failure, None
        cause, reason = told_end(end, said, is_starved=is_starved)
        lived_s = self._streak.lived_s
        pause_s, failure = self._streak.died(cause, reason)
        _log.error("pipeline_died", cause=cause, reason=reason, lived_s=round(lived_s, 1), pause_s=pause_s)
        told = {"reason": reason} if failure is None else {"reason": str(failure), "failure": failure}
        self._update(healthy=not self._streak.is_long, **told)
        return pause_s

    def _last_failure(self) -> str:
        """Of a start, for operators; empty when the last one did not fail."""
        failure = self._status.failure
        return "" if failure is None else f"; try {failure.attempts} failed: {failure.reason}"

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _update(self, **changes: Any) -> None:
        status = replace(self._status, **changes)
        if status != self._status:
            self._status = status
            self._on_change()


def _start_of(settings: WorkerSettings) -> Start:
    return Start(
        catalog=settings.catalog,
        profile=settings.profile,
        models_dir=settings.models_dir,
        device=settings.device,
        object_store_url=settings.object_store_url,
        warm_model=settings.warm_model,
        memory_budget_bytes=settings.memory_budget_bytes,
        memory_margin_bytes=settings.memory_margin_bytes,
        pinned_limit_bytes=settings.pinned_limit_bytes,
        attention_backend=settings.attention_backend,
        compile_blocks=settings.compile_blocks,
        overlap=settings.overlap,
    )
