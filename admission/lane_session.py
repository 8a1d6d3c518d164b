"""One stream of one lane, between the service that speaks gRPC and the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from admission.core.lanes import Report
from admission.core.tasks import LaneId
from admission.engine_types import LaneWish, SessionEndedError


class EngineLaneSession:
    """Reports in, wishes out. Wishes are level-triggered, so a newer one replaces an older one that was not sent yet."""

    def __init__(
        self, number: int, take_report: Callable[[EngineLaneSession, Report], None], detach: Callable[[EngineLaneSession], None]
    ) -> None:
        """`take_report` and `detach` are the engine's."""
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
        """Engine only: the lane shall have this."""
        if not self._ended:
            self._wish = wish
            self._changed.set()

    def end(self) -> None:
        """Engine only: a newer stream of the lane took over, or admission stops."""
        self._ended = True
        self._changed.set()
