"""The streams of the lanes, between the service that speaks gRPC and the core: one of each lane counts, the newest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from admission.core.commands import SendWish
from admission.core.events import LaneDetached, LaneReported
from admission.core.lanes import Report
from admission.core.state import State
from admission.core.tasks import LaneId
from admission.engine_types import InvalidReportError, LaneWish, SessionEndedError
from runtime.rules.catalogue import MODELS


class EngineLaneSession:
    """Reports in, wishes out. Wishes are level-triggered, so a newer one replaces an older one that was not sent yet."""

    def __init__(
        self, number: int, take_report: Callable[[EngineLaneSession, Report], None], detach: Callable[[EngineLaneSession], None]
    ) -> None:
        """`take_report` and `detach` are those of its LaneSessions."""
        self.number = number
        self.lane_id: LaneId | None = None
        self._take_report = take_report
        self._detach = detach
        self._wish: LaneWish | None = None
        self._changed = asyncio.Event()
        self._ended = False

    async def report(self, report: Report) -> None:
        """Takes the lane's state in; raises InvalidReportError or SessionEndedError."""
        if self._ended:
            raise SessionEndedError
        self._take_report(self, report)

    async def next_wish(self) -> LaneWish:
        """The newest wish, once; waits for it. Raises SessionEndedError when this stream is over."""
        await self._changed.wait()
        if self._ended or self._wish is None:
            raise SessionEndedError
        self._changed.clear()
        wish, self._wish = self._wish, None
        return wish

    async def close(self) -> None:
        """The stream is over; may be called twice."""
        if not self._ended:
            self.end()
            self._detach(self)

    def offer(self, wish: LaneWish) -> None:
        """LaneSessions only: the lane shall have this."""
        if not self._ended:
            self._wish = wish
            self._changed.set()

    def end(self) -> None:
        """LaneSessions only: a newer stream of the lane took over, or admission stops."""
        self._ended = True
        self._changed.set()


class LaneSessions:
    """Every open stream. Hands what lanes say to the core, in its turn, and what the core wants to the stream that it is meant for."""

    def __init__(self, state: State, handle: Callable[[LaneReported | LaneDetached], None], report_interval_s: float) -> None:
        """`state` is read only; `handle` has the core decide."""
        self._state = state
        self._handle = handle
        self._report_interval_s = report_interval_s
        self._sessions: dict[int, EngineLaneSession] = {}
        self._session_of: dict[LaneId, EngineLaneSession] = {}
        self._count = 0

    def open(self) -> EngineLaneSession:
        """A new stream of some lane; its first report says which."""
        self._count += 1
        session = EngineLaneSession(self._count, self._take_report, self._detach)
        self._sessions[session.number] = session
        return session

    def send(self, command: SendWish, epoch: int) -> None:
        """Offers the wish to its stream."""
        session = self._sessions.get(command.session)
        lease = command.wish.lease
        task = None if lease is None else self._state.tasks.get(lease.task_id)
        if session is None or (lease is not None and (task is None or task.attempt != lease.attempt)):
            # The stream is gone, or the lease is over already: the wish that followed from that is on its way.
            return
        session.offer(LaneWish(controller_epoch=epoch, wish=command.wish, task=task, report_interval_s=self._report_interval_s))

    def end(self) -> None:
        """Admission stops: every stream is over."""
        for session in list(self._sessions.values()):
            session.end()

    def _take_report(self, session: EngineLaneSession, report: Report) -> None:
        known = self._state.lanes.get(report.spec.lane_id)
        if known is not None and report.boot_id in known.past_boots:
            # An older process of the lane that is still going down: the newer one rules, whoever dials last.
            raise SessionEndedError
        if session.lane_id is None:
            self._adopt(session, report.spec.lane_id)
        elif session.lane_id != report.spec.lane_id:
            msg = f"lane_id changed from {session.lane_id} to {report.spec.lane_id} within one stream"
            raise InvalidReportError(msg)
        unknown = [model for model in report.spec.models if model not in MODELS]
        if unknown or not report.spec.models:
            msg = f"models must name some of {', '.join(MODELS)}; got {', '.join(unknown) or 'none'}"
            raise InvalidReportError(msg)
        self._handle(LaneReported(report=report))

    def _adopt(self, session: EngineLaneSession, lane_id: LaneId) -> None:
        """The newest stream of a lane is the only one."""
        session.lane_id = lane_id
        other = self._session_of.get(lane_id)
        if other is not None and other is not session:
            other.end()
            self._sessions.pop(other.number, None)
        self._session_of[lane_id] = session

    def _detach(self, session: EngineLaneSession) -> None:
        self._sessions.pop(session.number, None)
        if session.lane_id is not None:
            if self._session_of.get(session.lane_id) is session:
                del self._session_of[session.lane_id]
            self._handle(LaneDetached(lane_id=session.lane_id, session=session.number))
