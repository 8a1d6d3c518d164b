"""One Attach stream of a lane: an ordered way in each direction that can be slow, stall, and break with either end not knowing it."""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from admission.core.lanes import Report
from admission.engine_types import InvalidReportError, LaneWish, SessionEndedError

if TYPE_CHECKING:
    from admission.lane_session import EngineLaneSession
    from tests.simulation.admissions import Admission
    from tests.simulation.loop import Process
    from tests.simulation.world import World

# As in admission.service.lanes: a stream that is silent for as long as a lease lasts is ended.
_SILENCE_S = 30.0


class Dialler(Protocol):
    """The lane's end."""

    name: str
    process: Process
    unreachable_until_s: float

    def connected(self, stream: Stream) -> None:
        """The stream is open: the first report may go."""
        ...

    def wished(self, stream: Stream, wish: LaneWish) -> None:
        """A wish came."""
        ...

    def broken(self, stream: Stream, reason: str) -> None:
        """The stream is over."""
        ...


class Stream:
    """Lives from the dial to the moment at which both ends know that it is over."""

    def __init__(self, world: World, lane: Dialler, number: int) -> None:
        self.number = number
        self.is_left = False
        self.is_open = False
        self._world = world
        self._lane = lane
        self._admission: Admission | None = None
        self._session: EngineLaneSession | None = None
        self._is_cut = False
        self._up: deque[Report] = deque()
        self._down: deque[LaneWish] = deque()
        self._up_s = self._down_s = 0.0
        self._heard_s = 0.0
        lane.process.after(world.network.delay_s(), self._connect)

    def write(self, report: Report) -> None:
        """The lane says something; on a broken stream it is lost."""
        if self.is_left or self._is_cut or self._admission is None:
            return
        self._up.append(report)
        self._up_s = self._world.network.arrival_s(self._up_s)
        self._admission.process.at(self._up_s, self._arrive)

    def leave(self) -> None:
        """The lane ends it; admission hears of that unless the way is broken."""
        if self.is_left:
            return
        self.is_left = True
        if self._admission is not None and not self._is_cut:
            self._up_s = self._world.network.arrival_s(self._up_s)
            self._admission.process.at(self._up_s, self._close, "the lane left")

    def cut(self, admission_hears_s: float, lane_hears_s: float) -> None:
        """The way breaks: what is on it is lost, and each end hears of it so much later (admission by silence at the latest)."""
        if self._is_cut or self._admission is None:
            return
        self._is_cut = True
        self._up.clear()
        self._down.clear()
        if self._admission.process.is_alive:
            self._admission.process.after(admission_hears_s, self._close, "the connection broke")
        self._lane.process.after(lane_hears_s, self._break, "the connection broke")

    def lane_died(self) -> None:
        """The lane's process is gone; its machine says so soon."""
        if self._admission is not None and not self._is_cut:
            self._is_cut = True
            self._up.clear()
            self._admission.process.after(self._world.network.delay_s(), self._close, "the lane died")

    def _connect(self) -> None:
        if self.is_left:
            return
        front = self._world.front() if self._world.loop.time() >= self._lane.unreachable_until_s else None
        if front is None:
            self._lane.process.after(self._world.network.delay_s(), self._break, "nobody serves")
            return
        self._admission = front
        front.streams.append(self)
        front.process.call(self._accept, front)
        self.is_open = True
        self._lane.connected(self)

    def _accept(self, front: Admission) -> None:
        self._session = front.engine.open_lane()
        self._heard_s = self._world.loop.time()
        front.process.spawn(self._send(self._session), f"stream-{self._lane.name}-{self.number}")
        front.process.after(_SILENCE_S, self._look_at_silence)

    def _look_at_silence(self) -> None:
        if self._session is None:
            return
        silent_s = self._world.loop.time() - self._heard_s
        if silent_s >= _SILENCE_S and self._admission is not None:
            self._close("silent")
        elif self._admission is not None:
            self._admission.process.after(_SILENCE_S - silent_s, self._look_at_silence)

    async def _send(self, session: EngineLaneSession) -> None:
        try:
            while True:
                self._offer(await session.next_wish())
        except SessionEndedError:
            self._close("a newer stream took over, or admission stops")

    def _offer(self, wish: LaneWish) -> None:
        lease = wish.wish.lease
        is_whole = lease is None or (wish.task is not None and (wish.task.task_id, wish.task.attempt) == (lease.task_id, lease.attempt))
        self._world.checker.expect(is_whole, f"a wish with lease {lease} came with another task")
        self._world.checker.wished(wish.controller_epoch, wish.wish)
        if self._is_cut or self.is_left:
            return
        self._down.append(wish)
        self._down_s = self._world.network.arrival_s(self._down_s)
        self._lane.process.at(self._down_s, self._deliver)

    def _deliver(self) -> None:
        if self._down and not self.is_left:
            self._lane.wished(self, self._down.popleft())

    def _arrive(self) -> None:
        if not self._up or self._session is None:
            return
        self._heard_s = self._world.loop.time()
        try:
            _run(self._session.report(replace(self._up.popleft(), session=self._session.number)))
        except SessionEndedError:
            self._close("this stream is over")
        except InvalidReportError as error:
            self._world.checker.expect(False, f"a report of {self._lane.name} was refused: {error}")

    def _close(self, reason: str) -> None:
        """Admission's end of it is over."""
        session, self._session = self._session, None
        if session is None:
            return
        _run(session.close())
        if self._admission is not None and self in self._admission.streams:
            self._admission.streams.remove(self)
        if not self._is_cut:
            self._down_s = self._world.network.arrival_s(self._down_s)
            self._lane.process.at(self._down_s, self._break, reason)

    def _break(self, reason: str) -> None:
        if not self.is_left:
            self.is_left = True
            self._lane.broken(self, reason)


def _run(coroutine: Coroutine[object, object, None]) -> None:
    """Neither a report nor a close waits for anything: the next message of the stream may be handled right after it."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise AssertionError("a report waits")
