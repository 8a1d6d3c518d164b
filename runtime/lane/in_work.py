"""An attempt that the worker has: which process has it, how long it may go on, how it ends when no process ends it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from runtime.lane.child_process import ChildProcess
from runtime.lane.child_protocol import Release, Render
from runtime.lane.outcome import Failure, FailureCode, MemoryRecord, Outcome, OutOfMemory, Phase, unmeasured
from runtime.lane.state import Attempt, StopReason, stop_failure
from runtime.lane.work import Order


@dataclass(slots=True, kw_only=True, eq=False)
class InWork:
    """One event loop owns it.

    Attributes:
        ended: how it ended.
        deadline: ends it; None while its time stands still, and then `left_s` is what is left.
        sent_to: the process that has it; None while none does.
        memory: its record, once it needs the GPU no more.
        released: set once a process asked to be replaced.
        out_of_memory: what had happened to the attempt by then.
        stopped_s: monotonic time of the loop at which it was told to stop.
        is_killed: the agent killed the process because of this attempt.
    """

    order: Order
    ended: asyncio.Future[Outcome]
    deadline: asyncio.TimerHandle | None = None
    left_s: float = 0.0
    arrived_s: float = field(default_factory=time.monotonic)
    waited_s: float = 0.0
    sent_to: ChildProcess | None = None
    phase: Phase = Phase.LOADING
    memory: MemoryRecord | None = None
    released: Release | None = None
    out_of_memory: tuple[OutOfMemory, ...] = ()
    stop: StopReason | None = None
    stopped_s: float = 0.0
    is_killed: bool = False

    @property
    def attempt(self) -> Attempt:
        """Which."""
        return self.order.attempt

    @property
    def is_gpu_free(self) -> bool:
        """It needs the GPU no more."""
        return self.memory is not None

    def run_clock(self, cancel: Callable[[Attempt, StopReason], None]) -> None:
        """Its time to the deadline goes on, if it stood still; at the deadline it is cancelled."""
        if self.deadline is None:
            self.deadline = asyncio.get_running_loop().call_later(self.left_s, cancel, self.attempt, StopReason.DEADLINE)

    def stop_clock(self) -> None:
        """Its time stands still."""
        if self.deadline is not None:
            self.left_s = max(0.0, self.deadline.when() - asyncio.get_running_loop().time())
            self.deadline.cancel()
            self.deadline = None

    def send_to(self, child: ChildProcess) -> None:
        """A process gets it."""
        self.sent_to = child
        self.waited_s = time.monotonic() - self.arrived_s
        order = self.order
        child.send(
            Render(
                attempt=order.attempt,
                parameters=dict(order.parameters),
                artifact_prefix=order.artifact_prefix,
                placement=order.placement,
                predicted_peak_bytes=order.predicted_peak_bytes,
                released=self.released,
                out_of_memory=self.out_of_memory,
                trace_id=order.trace_id,
                is_timed=order.is_timed,
            )
        )

    def end(self, outcome: Outcome) -> None:
        """As its process says; nothing when it has ended already."""
        if self.ended.done():
            return
        if outcome.render_s is not None:
            outcome = replace(outcome, render_s=outcome.render_s + self.waited_s)
        if self.stop is not None and outcome.failure is not None and outcome.failure.code is FailureCode.CANCELLED:
            outcome = replace(outcome, failure=stop_failure(self.stop))
        self.ended.set_result(outcome)

    def settle(self, why: str, *, is_shutdown: bool) -> None:
        """Ends without a process, for this reason; nothing when it has ended already. `is_shutdown`: the lane is being stopped."""
        if self.ended.done():
            return
        stop = self.stop or (StopReason.SHUTDOWN if is_shutdown else None)
        if stop is not None:
            failure = stop_failure(stop)
        else:
            # As lost as with its machine: the task runs again, and the third loss ends it.
            failure = Failure(code=FailureCode.LANE_LOST, message="The pipeline's process ended unexpectedly.")
        if self.is_killed:
            why = "its agent killed the pipeline's process: it did not end the attempt in time when it was asked to"
        self.ended.set_result(Outcome(failure=failure, memory=self.memory or unmeasured(why)))
