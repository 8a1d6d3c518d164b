"""Submissions that share calls, against an admission that does what a test says, over a real channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import admission_service_pb2_grpc as stubs
from warmlane.admission.v1.task_pb2 import Task
from warmlane.generation.v1.generation_pb2 import ArbitraryFrame, GenerationRequest, InputImage

from http_bridge import gathering
from http_bridge.gathering import MOST_BYTES, MOST_CALLS, MOST_ITEMS, GatheringLine
from runtime.errors import ErrorCode, ServiceError
from runtime.rpc import GrpcServer, create_channel
from runtime.rpc_errors import to_status
from runtime.traces.current import OpenSpan, entered
from tests.unit.traces.spans import CONTEXT

SERVICE = "warmlane.admission.v1.AdmissionService"
TIMEOUT_S = 20.0
Answers = Callable[[pb.SubmitTasksItem], pb.SubmitTasksAnswer]


def accepted(item: pb.SubmitTasksItem) -> pb.SubmitTasksAnswer:
    """The id of the task is that of its request."""
    return pb.SubmitTasksAnswer(task_id=item.submission.request_id)


@dataclass
class Admission(stubs.AdmissionServiceServicer):
    """What a test sets and looks at.

    Attributes:
        gate: SubmitTasks answers once it is set.
        place: SubmitTask answers once it is set, as a held request.
        batches: the request ids of each SubmitTasks, when it came.
        is_away: the next CancelTask is not let in.
        left: how many SubmitTasks their caller ended.
    """

    answers: Answers = accepted
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    place: asyncio.Event = field(default_factory=asyncio.Event)
    batches: list[list[str]] = field(default_factory=list)
    items: list[pb.SubmitTasksItem] = field(default_factory=list)
    singly: list[str] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)
    cancels: list[pb.CancelTaskRequest] = field(default_factory=list)
    left: int = 0
    is_old: bool = False
    is_away: bool = False
    is_short: bool = False

    async def SubmitTasks(self, request: pb.SubmitTasksRequest, context: object) -> pb.SubmitTasksResponse:  # noqa: N802
        self.batches.append([item.submission.request_id for item in request.items])
        self.items += request.items
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise
        return pb.SubmitTasksResponse(answers=[self.answers(item) for item in request.items][int(self.is_short) :])

    async def SubmitTask(self, request: pb.SubmitTaskRequest, context: object) -> pb.SubmitTaskResponse:  # noqa: N802
        self.singly.append(request.request_id)
        self.waited.append(request.waited.ToNanoseconds() / 1e9)
        await self.place.wait()
        return pb.SubmitTaskResponse(task=Task(task_id=f"single-{request.request_id}"))

    async def CancelTask(self, request: pb.CancelTaskRequest, context: object) -> pb.CancelTaskResponse:  # noqa: N802
        if self.is_away:
            self.is_away = False
            raise ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="Starting.", metadata={"admission": "starting"})
        self.cancels.append(request)
        return pb.CancelTaskResponse()

    def add(self, server: object) -> None:
        """To a server; an old one has no SubmitTasks."""
        stubs.add_AdmissionServiceServicer_to_server(_Old(self) if self.is_old else self, server)  # type: ignore[abstract, arg-type]


class _Old(stubs.AdmissionServiceServicer):
    """Answers UNIMPLEMENTED to what it does not know, as generated code does."""

    def __init__(self, admission: Admission) -> None:
        self.SubmitTask = admission.SubmitTask  # type: ignore[method-assign]


@dataclass
class Rig:
    """A line to an admission, and a clock that only a test moves."""

    admission: Admission
    server: GrpcServer
    line: GatheringLine
    now_s: float = 1000.0

    def send(self, key: str, *, prompt: str = "a lake", timeout_s: float = TIMEOUT_S, **fields: object) -> asyncio.Task[str]:
        """A client that asks; the id of its task."""
        request = GenerationRequest(model="anisora", prompt=prompt)
        message = pb.SubmitTaskRequest(request=request, owner="session:s1", request_id=key, abandon=True)
        message.MergeFrom(pb.SubmitTaskRequest(**fields))  # type: ignore[arg-type]

        async def sent() -> str:
            return (await self.line.send(message, timeout_s)).task.task_id

        return asyncio.create_task(sent())

    async def busy(self, calls: int = MOST_CALLS) -> list[asyncio.Task[str]]:
        """So many calls are under way, each with one item."""
        sent = []
        for number in range(calls):
            sent.append(self.send(f"busy-{number}"))
            await self.until(lambda: len(self.admission.batches) == len(sent))
        return sent

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Waits until something is so."""
        for _ in range(2500):
            if is_so():
                return
            await asyncio.sleep(0.002)
        pytest.fail("it did not become so")


@asynccontextmanager
async def rig(admission: Admission | None = None) -> AsyncIterator[Rig]:
    """All of it, while the block lasts."""
    admission = admission or Admission()  # type: ignore[abstract]
    server = GrpcServer("127.0.0.1:0", {SERVICE: admission.add})
    await server.start()
    channel = create_channel(f"127.0.0.1:{server.port}")
    made = Rig(admission, server, GatheringLine(channel, now_s=lambda: made.now_s))
    try:
        assert await made.line.connect(5)
        yield made
    finally:
        await made.line.close()
        await channel.close()
        await made.server.stop(0)


async def test_lone_request_goes_at_once() -> None:
    async with rig() as one:
        one.admission.gate.set()
        assert await one.send("a") == "a"
        assert one.admission.batches == [["a"]]


async def test_requests_of_one_moment_share_a_call_in_their_order() -> None:
    async with rig() as one:
        one.admission.gate.set()
        keys = [f"k{number}" for number in range(MOST_ITEMS)]
        assert await asyncio.gather(*(one.send(key) for key in keys)) == keys
        assert one.admission.batches == [keys]


async def test_what_comes_while_calls_are_under_way_goes_with_the_next() -> None:
    async with rig() as one:
        busy = await one.busy()
        late = [one.send(f"late-{number}") for number in range(MOST_ITEMS + 3)]
        await asyncio.sleep(0)
        assert len(one.admission.batches) == MOST_CALLS
        one.admission.gate.set()
        assert await asyncio.gather(*busy, *late)
        # Bounded: the first so many, and then the rest.
        assert [len(batch) for batch in one.admission.batches[MOST_CALLS:]] == [MOST_ITEMS, 3]
        assert [key for batch in one.admission.batches[MOST_CALLS:] for key in batch] == [f"late-{n}" for n in range(MOST_ITEMS + 3)]


async def test_batch_is_bounded_in_bytes_and_a_huge_request_goes_singly() -> None:
    async with rig() as one:
        one.admission.gate.set()
        one.admission.place.set()
        large = "x" * (MOST_BYTES // 3)
        await asyncio.gather(*(one.send(f"k{number}", prompt=large) for number in range(3)), one.send("huge", prompt="x" * MOST_BYTES))
        assert one.admission.batches == [["k0", "k1"], ["k2"]]
        assert one.admission.singly == ["huge"]


async def test_refusal_of_one_hurts_no_other() -> None:
    refusal = ServiceError(code=ErrorCode.QUEUE_OVERLOADED, message="Full.", metadata={"cause": "depth"}, retry_after_s=4.0)

    def answer(item: pb.SubmitTasksItem) -> pb.SubmitTasksAnswer:
        return pb.SubmitTasksAnswer(refusal=to_status(refusal)[1]) if item.submission.request_id == "b" else accepted(item)

    async with rig(Admission(answers=answer)) as one:  # type: ignore[abstract]
        one.admission.gate.set()
        first, second, third = await asyncio.gather(*(one.send(key) for key in "abc"), return_exceptions=True)
    assert (first, third) == ("a", "c")
    assert isinstance(second, ServiceError)
    assert (second.code, second.message, second.metadata, second.retry_after_s) == ("queue_overloaded", "Full.", {"cause": "depth"}, 4.0)


async def test_held_request_is_asked_singly_and_holds_up_no_other() -> None:
    def answer(item: pb.SubmitTasksItem) -> pb.SubmitTasksAnswer:
        return pb.SubmitTasksAnswer(ask_singly=True) if item.submission.request_id == "held" else accepted(item)

    async with rig(Admission(answers=answer)) as one:  # type: ignore[abstract]
        one.admission.gate.set()
        held, other = one.send("held"), one.send("other")
        assert await other == "other"
        await one.until(lambda: one.admission.singly == ["held"])
        assert await one.send("later") == "later"
        assert not held.done()
        one.admission.place.set()
        assert await held == "single-held"


@pytest.mark.parametrize(
    "fields",
    [
        {"waited": {"seconds": 1}},
        {"abandon": False},
        {"request": GenerationRequest(reference_image=InputImage(key="inputs/" + "0" * 64))},
        {"request": GenerationRequest(arbitrary_frames=[ArbitraryFrame()])},
    ],
    ids=["repeated", "client's key", "picture", "keyframes"],
)
async def test_what_may_have_to_wait_is_asked_singly_from_the_start(fields: dict[str, object]) -> None:
    async with rig() as one:
        one.admission.place.set()
        message = pb.SubmitTaskRequest(request_id="a", abandon=True)
        message.MergeFrom(pb.SubmitTaskRequest(**fields))  # type: ignore[arg-type]
        if fields.get("abandon") is False:
            message.abandon = False
        assert (await one.line.send(message, TIMEOUT_S)).task.task_id == "single-a"
        assert one.admission.batches == []


async def test_item_is_dropped_when_its_client_leaves_before_it_is_sent() -> None:
    async with rig() as one:
        busy = await one.busy()
        gone, stays = one.send("gone"), one.send("stays")
        await asyncio.sleep(0)
        gone.cancel()
        one.admission.gate.set()
        await asyncio.gather(*busy, stays)
        assert one.admission.batches[MOST_CALLS:] == [["stays"]]
        assert one.admission.cancels == []


async def test_call_is_ended_when_all_of_its_clients_left() -> None:
    async with rig() as one:
        clients = [one.send("a"), one.send("b")]
        await one.until(lambda: one.admission.batches == [["a", "b"]])
        for client in clients:
            client.cancel()
        await one.until(lambda: one.admission.left == 1)
        one.admission.gate.set()
        assert await one.send("c") == "c"
        assert one.admission.cancels == []


async def test_task_is_given_up_when_only_its_client_left_before_the_answer() -> None:
    async with rig() as one:
        gone, stays = one.send("gone"), one.send("stays")
        await one.until(lambda: one.admission.batches == [["gone", "stays"]])
        gone.cancel()
        one.admission.gate.set()
        assert await stays == "stays"
        await one.until(lambda: bool(one.admission.cancels))
    [cancel] = one.admission.cancels
    assert (cancel.task_id, cancel.only_owner, cancel.only_waiting) == ("gone", "session:s1", True)


async def test_task_of_a_client_that_left_is_given_up_when_the_bridge_stops_at_once() -> None:
    async with rig() as one:
        gone, stays = one.send("gone"), one.send("stays")
        await one.until(lambda: one.admission.batches == [["gone", "stays"]])
        gone.cancel()
        one.admission.gate.set()
        await stays
        await one.line.close()
        assert [cancel.task_id for cancel in one.admission.cancels] == ["gone"]


async def test_task_is_given_up_when_admission_is_back_after_a_restart() -> None:
    async with rig() as one:
        gone, stays = one.send("gone"), one.send("stays")
        await one.until(lambda: one.admission.batches == [["gone", "stays"]])
        one.admission.is_away = True
        gone.cancel()
        one.admission.gate.set()
        await stays
        await one.until(lambda: bool(one.admission.cancels))
    assert [cancel.task_id for cancel in one.admission.cancels] == ["gone"]


async def test_each_may_ask_again_when_admission_dies_with_the_batch() -> None:
    async with rig() as one:
        clients = [one.send("a"), one.send("b")]
        await one.until(lambda: one.admission.batches == [["a", "b"]])
        await one.server.stop(0)
        errors = await asyncio.gather(*clients, return_exceptions=True)
    told = [(error.code, error.metadata["grpc_status"]) for error in errors if isinstance(error, ServiceError)]
    assert len(told) == 2
    assert {code for code, _ in told} == {ErrorCode.SERVICE_UNAVAILABLE}
    # What `Submitter` takes for a connection that broke.
    assert {status for _, status in told} <= {"unavailable", "cancelled", "aborted"}
    assert errors[0] is not errors[1]


async def test_older_admission_is_asked_singly_and_that_is_said_once() -> None:
    async with rig(Admission(is_old=True)) as one:  # type: ignore[abstract]
        one.admission.place.set()
        with capture_logs() as lines:
            assert await asyncio.gather(*(one.send(key) for key in "ab")) == ["single-a", "single-b"]
            assert await one.send("c") == "single-c"
            one.now_s += gathering._ASK_AGAIN_S
            assert await one.send("d") == "single-d"
    assert [line["event"] for line in lines] == ["admission_takes_no_batches"]


async def test_newer_admission_gets_batches_again_when_a_minute_is_over() -> None:
    async with rig(Admission(is_old=True)) as one:  # type: ignore[abstract]
        one.admission.place.set()
        one.admission.gate.set()
        await one.send("a")
        port = one.server.port
        await one.server.stop(0)
        one.admission.is_old = False
        one.server = GrpcServer(f"127.0.0.1:{port}", {SERVICE: one.admission.add})
        await one.server.start()
        assert await one.line.connect(5)
        one.now_s += gathering._ASK_AGAIN_S
        assert await one.send("b") == "b"


async def test_answers_that_make_no_sense_are_an_error_of_the_server() -> None:
    for admission in (Admission(is_short=True), Admission(answers=lambda _: pb.SubmitTasksAnswer())):  # type: ignore[abstract]
        async with rig(admission) as one:
            one.admission.gate.set()
            errors = await asyncio.gather(one.send("a"), one.send("b"), return_exceptions=True)
        assert [error.code for error in errors if isinstance(error, ServiceError)] == [ErrorCode.INTERNAL] * 2


async def test_call_ends_with_the_time_of_its_first_item() -> None:
    async with rig() as one:
        errors = await asyncio.gather(one.send("a", timeout_s=0.05), one.send("b", timeout_s=0.05), return_exceptions=True)
        # One that has much more time is not in their batch.
        one.admission.gate.set()
        assert await one.send("c") == "c"
    assert {error.metadata["grpc_status"] for error in errors if isinstance(error, ServiceError)} == {"deadline_exceeded"}


async def test_items_of_very_different_age_do_not_share_a_call() -> None:
    async with rig() as one:
        one.admission.gate.set()
        await asyncio.gather(one.send("old", timeout_s=5.0), one.send("young", timeout_s=30.0))
        assert one.admission.batches == [["old"], ["young"]]


async def test_everyone_is_told_when_the_bridge_stops() -> None:
    async with rig() as one:
        busy = await one.busy()
        waiting = one.send("waiting")
        await asyncio.sleep(0)
        await one.line.close()
        errors = await asyncio.gather(*busy, waiting, return_exceptions=True)
        assert [error.code for error in errors if isinstance(error, ServiceError)] == [ErrorCode.SERVICE_UNAVAILABLE] * (MOST_CALLS + 1)
        with pytest.raises(ServiceError):
            await one.send("late")


async def test_each_item_has_its_own_trace_and_the_call_has_none() -> None:
    async with rig() as one:
        one.admission.gate.set()
        with entered(OpenSpan(CONTEXT, {})):
            traced = one.send("traced")
        await asyncio.gather(traced, one.send("plain"))
    found = {item.submission.request_id: (item.traceparent, item.tracestate) for item in one.admission.items}
    assert found == {"traced": (CONTEXT.traceparent, CONTEXT.state), "plain": ("", "")}


async def test_what_waits_goes_singly_when_the_calls_under_way_are_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "_STUCK_S", 0.02)
    async with rig() as one:
        one.admission.place.set()
        busy = await one.busy()
        # It may be one that admission refuses at once, which needs no disk.
        assert await one.send("waits") == "single-waits"
        assert await one.send("later") == "single-later"
        one.admission.gate.set()
        await asyncio.gather(*busy)
        assert await one.send("after") == "after"
        assert one.admission.singly == ["waits", "later"]


async def test_time_on_the_way_counts_as_waited_when_an_item_is_asked_singly() -> None:
    async with rig(Admission(answers=lambda _: pb.SubmitTasksAnswer(ask_singly=True))) as one:  # type: ignore[abstract]
        one.admission.place.set()
        asked = one.send("a")
        await one.until(lambda: bool(one.admission.batches))
        one.now_s += 7.0
        one.admission.gate.set()
        await asked
        await one.send("b")
        # One that was not held up goes as it came: its key need not be looked for.
        assert one.admission.waited == [7.0, 0.0]


async def test_nobody_waits_for_ever_when_a_call_breaks_in_an_unknown_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig() as one:
        one.admission.gate.set()
        with monkeypatch.context() as patched, capture_logs() as lines:
            patched.setattr(one.line._stub, "SubmitTasks", lambda *_, **__: 1 // 0)
            errors = await asyncio.wait_for(asyncio.gather(one.send("a"), one.send("b"), return_exceptions=True), 5)
        assert [error.code for error in errors if isinstance(error, ServiceError)] == [ErrorCode.INTERNAL] * 2
        assert [line["event"] for line in lines] == ["submit_tasks_broken"]
        assert await one.send("c") == "c"


async def test_nobody_waits_for_ever_when_the_bridge_stops_before_a_call_has_begun() -> None:
    async with rig() as one:
        asked = one.send("a")
        await asyncio.sleep(0)
        # The call has its task now, which did not run yet.
        one.line._flush()
        await one.line.close()
        with pytest.raises(ServiceError, match="stops"):
            await asyncio.wait_for(asked, 5)
