"""A double of admission for lanes: a real gRPC server that records every report and sends the wishes that a test sets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import grpc.aio
from warmlane.lane.v1 import dispatch_service_pb2 as pb
from warmlane.lane.v1 import dispatch_service_pb2_grpc as pb_grpc

WAIT_S = 30.0


class AdmissionDouble(pb_grpc.DispatchServiceServicer):
    """Level-triggered like the real one: answers the first report, every change of its wish, and each report that ends an attempt.

    Attributes:
        reports: every report, in order of arrival.
        streams: streams that were opened.
        sequence: of the last wish.
        lease: what the lane should work on.
        finishing: an earlier lease that the lane shall finish beside it.
        acknowledges: acknowledge ended attempts as soon as they are reported.
        epoch: of this controller; a test raises it for a restart.
    """

    def __init__(self) -> None:
        """Serves from `start` on."""
        self.reports: list[pb.LaneReport] = []
        self.streams = 0
        self.sequence = 0
        self.lease: pb.Lease | None = None
        self.finishing: pb.Lease | None = None
        self.acknowledges = True
        self.epoch = 1
        self.interval_s = 0.2
        self.address = ""
        self._acknowledged: list[pb.AttemptReference] = []
        self._newest: asyncio.Queue[bool] | None = None
        self._arrived = asyncio.Event()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listens; after a `stop` on the port that it had."""
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        pb_grpc.add_DispatchServiceServicer_to_server(self, server)
        self.address = f"127.0.0.1:{server.add_insecure_port(self.address or '127.0.0.1:0')}"
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Cuts every stream at once."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    def wish(self, lease: pb.Lease | None, *, finishing: pb.Lease | None = None) -> None:
        """Changes what the lane should work on, and what it should finish beside it."""
        self.lease, self.finishing = lease, finishing
        if self._newest is not None:
            self._newest.put_nowait(True)

    async def until(self, condition: Callable[[pb.LaneReport], bool]) -> pb.LaneReport:
        """The first report, from the next one on, that fulfils the condition."""
        seen = len(self.reports)
        async with asyncio.timeout(WAIT_S):
            while True:
                for report in self.reports[seen:]:
                    if condition(report):
                        return report
                seen = len(self.reports)
                self._arrived.clear()
                await self._arrived.wait()

    async def until_ended(self, task_id: str) -> pb.Outcome:
        """How the attempt of this task ended."""
        report = await self.until(lambda report: any(work.task_id == task_id for work in _ended(report)))
        return next(work.outcome for work in _ended(report) if work.task_id == task_id)

    async def until_gpu_free(self, task_id: str) -> None:
        """Returns when the lane said that it needs its GPU no more for this task."""
        await self.until(lambda report: report.work.task_id == task_id and report.work.gpu_free)

    async def Attach(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.AttachRequest], context: grpc.aio.ServicerContext[pb.AttachRequest, pb.AttachResponse]
    ) -> AsyncIterator[pb.AttachResponse]:
        """One stream; a newer one ends it."""
        self.streams += 1
        self.sequence = 0
        wake: asyncio.Queue[bool] = asyncio.Queue()
        if self._newest is not None:
            self._newest.put_nowait(False)
        self._newest = wake
        reading = asyncio.create_task(self._read(request_iterator, wake), name="double-read")
        try:
            sequence = 0
            while await wake.get():
                sequence += 1
                self.sequence = sequence
                yield self._response(sequence)
            if self._newest is not wake:
                await context.abort(grpc.StatusCode.ABORTED, "a newer stream of this lane")
        finally:
            reading.cancel()
            await asyncio.wait({reading})

    async def _read(self, requests: AsyncIterator[pb.AttachRequest], wake: asyncio.Queue[bool]) -> None:
        is_first = True
        async for request in requests:
            report = request.report
            self.reports.append(report)
            self._arrived.set()
            ended = _ended(report)
            if self.acknowledges:
                for work in ended:
                    self._acknowledge(work)
            if is_first or ended:
                wake.put_nowait(True)
            is_first = False
        wake.put_nowait(False)

    def _acknowledge(self, ended: pb.Work) -> None:
        reference = pb.AttemptReference(task_id=ended.task_id, attempt=ended.attempt)
        self._acknowledged = [*(one for one in self._acknowledged if one != reference), reference][-2:]
        if self.lease is not None and self.lease.task_id == ended.task_id:
            self.lease = None
        if self.finishing is not None and self.finishing.task_id == ended.task_id:
            self.finishing = None

    def _response(self, sequence: int) -> pb.AttachResponse:
        desired = pb.DesiredState(controller_epoch=self.epoch, sequence=sequence)
        desired.report_interval.FromMilliseconds(round(self.interval_s * 1000))
        if self.lease is not None:
            desired.lease.CopyFrom(self.lease)
        if self.finishing is not None:
            desired.finishing.task_id, desired.finishing.attempt = self.finishing.task_id, self.finishing.attempt
        for field, reference in zip((desired.acknowledged, desired.acknowledged_before), reversed(self._acknowledged), strict=False):
            field.CopyFrom(reference)
        return pb.AttachResponse(desired=desired)


def _ended(report: pb.LaneReport) -> list[pb.Work]:
    """What ended and is not forgotten yet."""
    return [work for work in (report.finishing, report.work) if work.phase == pb.WORK_PHASE_ENDED]
