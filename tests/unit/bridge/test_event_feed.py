"""One reader of one task: what it is told while admission goes away, when it stands still, and when nobody reads any more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, MutableMapping
from contextlib import ExitStack
from typing import Any

import pytest
from warmlane.admission.v1.admission_service_pb2 import WatchTaskResponse
from warmlane.admission.v1.task_pb2 import TaskEvent, TaskState

from http_bridge.convert import Links
from http_bridge.errors import HttpError
from http_bridge.event_feed import Feed, Pace
from http_bridge.event_format import HEARTBEAT, Script
from http_bridge.event_stream import EventStreamReply, EventStreams
from runtime.errors import ErrorCode, ServiceError
from tests.harness.admission_double import make_task

AWAY = ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="Away.")
GONE = ServiceError(code=ErrorCode.TASK_NOT_FOUND, message="Gone.")
OLD = ServiceError(code=ErrorCode.STREAM_RECYCLED, message="Old.")
LEASED, DONE = TaskState.TASK_STATE_LEASED, TaskState.TASK_STATE_DONE


class Clock:
    """Time that passes by being waited for; a wait for news ends with the silence unless it came."""

    def __init__(self) -> None:
        self.at_s = 0.0
        self.silences: asyncio.Queue[None] = asyncio.Queue()

    def now_s(self) -> float:
        return self.at_s

    async def sleep(self, seconds: float) -> None:
        self.at_s += seconds
        await asyncio.sleep(0)

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        waiting = asyncio.ensure_future(event.wait())
        silence = asyncio.ensure_future(self.silences.get())
        await asyncio.wait((waiting, silence), return_when=asyncio.FIRST_COMPLETED)
        heard = waiting.done()
        for one in (waiting, silence):
            one.cancel()
        self.at_s += 0 if heard else seconds
        return heard


class Admission:
    """Answers each watch with the next script: responses in order, an error that is raised, or None to go on for ever."""

    def __init__(self, *scripts: list[WatchTaskResponse | ServiceError | None]) -> None:
        self.scripts = list(scripts)
        self.asked: list[int] = []
        self.open = 0

    async def watch(self, after: int) -> AsyncGenerator[WatchTaskResponse, None]:
        self.asked.append(after)
        self.open += 1
        try:
            for line in self.scripts.pop(0) if self.scripts else [AWAY]:
                if line is None:
                    await asyncio.Event().wait()
                elif isinstance(line, ServiceError):
                    raise line
                else:
                    yield line
                    await settle()
        finally:
            self.open -= 1


async def settle(turns: int = 5) -> None:
    """Lets everyone else take a turn, or several."""
    for _ in range(turns):
        await asyncio.sleep(0)


def change(sequence: int, *events: int, **fields: Any) -> WatchTaskResponse:
    """The task at this sequence, with these events that are new."""
    made = WatchTaskResponse(task=make_task("a", **{"state": LEASED, **fields}), last_sequence=sequence)
    made.events.extend(TaskEvent(event_type=f"event-{number}", sequence=number) for number in events)
    return made


async def told(admission: Admission, clock: Clock | None = None) -> tuple[list[tuple[int, int]], ServiceError | None]:
    """Progress and sequence of each state that a quick reader gets, and why it was the last one."""
    seen = []
    async with Feed(admission.watch, pace=Pace(), clock=clock or Clock()) as feed:
        while True:
            feed.news.clear()
            if (update := feed.take()) is not None:
                seen.append((update.task.progress, update.last_sequence))
                if update.is_last:
                    return seen, None
            elif feed.failure is not None:
                return seen, feed.failure
            else:
                await feed.news.wait()


async def test_watch_goes_on_behind_the_last_sequence_when_it_breaks_or_is_recycled() -> None:
    admission = Admission([change(3, progress=10), AWAY], [AWAY], [change(5, progress=20), OLD], [change(9, state=DONE, progress=100)])
    seen, failure = await told(admission)
    assert (seen, failure) == ([(10, 3), (20, 5), (100, 9)], None)
    assert admission.asked == [0, 3, 3, 5]


async def test_reader_is_let_go_when_admission_stays_away_for_a_minute() -> None:
    clock, admission = Clock(), Admission([change(3)])
    seen, failure = await told(admission, clock)
    assert seen == [(0, 3)]
    assert failure is AWAY
    assert 57 < clock.at_s <= 60
    # Every 2 s in the end: admission is not overrun when it comes back.
    assert len(admission.asked) < 40


async def test_minute_begins_anew_when_admission_was_there_meanwhile() -> None:
    clock = Clock()
    outage: list[list[WatchTaskResponse | ServiceError | None]] = [[AWAY]] * 20
    seen, failure = await told(Admission([change(1)], *outage, [change(2)], *outage, [change(3, state=DONE)]), clock)
    assert ([sequence for _, sequence in seen], failure) == ([1, 2, 3], None)
    assert clock.at_s > 60


async def test_first_state_is_waited_for_only_briefly_when_admission_is_away() -> None:
    clock = Clock()
    with pytest.raises(ServiceError, match="Away"):
        async with Feed(Admission().watch, pace=Pace(), clock=clock):
            pass
    assert clock.at_s <= 2.5


async def test_first_state_comes_when_admission_was_only_restarting() -> None:
    assert await told(Admission([AWAY], [AWAY], [change(4, state=DONE)])) == ([(0, 4)], None)


@pytest.mark.parametrize("refusal", [GONE, ServiceError(code=ErrorCode.FORBIDDEN, message="No.")])
async def test_refusal_is_raised_at_once_when_there_was_no_state_yet(refusal: ServiceError) -> None:
    admission = Admission([refusal])
    with pytest.raises(ServiceError) as caught:
        async with Feed(admission.watch, pace=Pace(), clock=Clock()):
            pass
    assert caught.value is refusal
    assert admission.asked == [0]


async def test_deletion_is_found_out_when_the_watch_ends_before_the_task() -> None:
    assert await told(Admission([change(3)], [GONE])) == ([(0, 3)], GONE)


async def test_bug_ends_the_feed_instead_of_leaving_its_reader_waiting() -> None:
    def broken(_after: int) -> AsyncGenerator[WatchTaskResponse, None]:
        raise RuntimeError

    with pytest.raises(ServiceError, match="internal"):
        async with Feed(broken, pace=Pace(), clock=Clock()):
            pass


async def test_states_are_merged_and_events_kept_when_the_reader_stands_still() -> None:
    changes = [change(number, number, progress=number % 100) for number in range(1, 101)]
    admission = Admission([*changes, None])
    async with Feed(admission.watch, pace=Pace(), clock=Clock()) as feed:
        await settle(1000)
        update = feed.take()
        assert update is not None
        assert (update.task.progress, update.last_sequence) == (0, 100)
        assert [event.sequence for event in update.events] == list(range(1, 101))
        assert feed.take() is None


async def test_watch_is_read_no_further_when_very_many_events_were_not_taken() -> None:
    admission = Admission([*(change(number, number) for number in range(1, 1001)), None])
    async with Feed(admission.watch, pace=Pace(), clock=Clock()) as feed:
        seen: list[int] = []
        while len(seen) < 1000:
            await settle(2000)
            update = feed.take()
            assert update is not None
            assert len(update.events) <= 257
            seen += [event.sequence for event in update.events]
        assert seen == list(range(1, 1001))


async def test_watch_is_closed_when_the_reader_leaves() -> None:
    admission = Admission([change(1), None])
    async with Feed(admission.watch, pace=Pace(), clock=Clock()):
        assert admission.open == 1
    assert admission.open == 0


class Connection:
    """The server's side of a reply: what was sent, a client that may leave, and one that may take nothing."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self.left = asyncio.Event()
        self.takes = asyncio.Event()
        self.takes.set()

    async def receive(self) -> MutableMapping[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await self.takes.wait()
        self.sent.put_nowait(message)

    async def body(self) -> bytes:
        async with asyncio.timeout(5):
            message = await self.sent.get()
        assert message["type"] == "http.response.body"
        return bytes(message["body"])


def reply(admission: Admission, streams: EventStreams, after: int = 0, owner: str = "session:s") -> EventStreamReply:
    """The reply to a client that knows what was recorded up to `after`."""
    return EventStreamReply(streams, owner=owner, watch=admission.watch, script=Script("a", Links(), after))


async def test_silence_is_filled_with_heartbeats_and_a_leaving_client_ends_everything() -> None:
    clock, connection, admission = Clock(), Connection(), Admission([change(1), None])
    streams = EventStreams(most=9, most_of_session=9, clock=clock)
    serving = asyncio.create_task(reply(admission, streams)({}, connection.receive, connection.send))
    assert (await connection.sent.get())["status"] == 200
    assert b"event: status" in await connection.body()
    for beats in (1, 2):
        clock.silences.put_nowait(None)
        assert await connection.body() == HEARTBEAT
        assert clock.at_s == 15 * beats
    connection.left.set()
    async with asyncio.timeout(5):
        await serving
    assert (admission.open, len(streams)) == (0, 0)


@pytest.mark.parametrize("leaves_early", [True, False])
async def test_watch_without_an_answer_is_closed_at_once_when_the_client_leaves(leaves_early: bool) -> None:
    connection, admission = Connection(), Admission([None])
    streams = EventStreams(most=9, most_of_session=9, clock=Clock())
    if leaves_early:
        connection.left.set()
    serving = asyncio.create_task(reply(admission, streams)({}, connection.receive, connection.send))
    await settle()
    connection.left.set()
    async with asyncio.timeout(5):
        with pytest.raises(ServiceError):
            await serving
    assert (admission.open, len(streams)) == (0, 0)


async def test_reader_that_takes_nothing_is_let_go() -> None:
    connection, admission = Connection(), Admission([change(1), None])
    connection.takes.clear()
    streams = EventStreams(most=9, most_of_session=9, pace=Pace(write_s=0.01), clock=Clock())
    async with asyncio.timeout(5):
        await reply(admission, streams)({}, connection.receive, connection.send)
    # The reply is not completed: the server closes such a connection.
    assert connection.sent.qsize() == 1
    assert (admission.open, len(streams)) == (0, 0)


async def test_only_what_is_new_is_told_when_a_client_comes_back() -> None:
    connection = Connection()
    admission = Admission([change(3, 1, 2, 3, progress=7), change(3, progress=7), change(4, 4, progress=7, state=DONE)])
    streams = EventStreams(most=9, most_of_session=9, clock=Clock())
    await reply(admission, streams, after=2)({}, connection.receive, connection.send)
    sent = b"".join([message.get("body", b"") for message in connection.sent._queue])  # type: ignore[attr-defined]
    assert [b"event-%d" % number in sent for number in (1, 2, 3, 4)] == [False, False, True, True]
    # The state in the middle says nothing that was not said before.
    assert sent.count(b"event: status") == 2
    assert b"id: 4-end" in sent
    assert admission.asked == [0]


async def test_place_is_free_again_when_a_stream_could_not_begin() -> None:
    streams = EventStreams(most=1, most_of_session=1, clock=Clock())
    for _ in range(3):
        with pytest.raises(ServiceError):
            await reply(Admission([GONE]), streams)({}, Connection().receive, Connection().send)
    assert len(streams) == 0


async def test_no_stream_begins_when_the_server_stops() -> None:
    streams, stopping = EventStreams(most=9, most_of_session=9), asyncio.Event()
    async with streams.ended_by(stopping):
        with streams.place("key") as reader:
            stopping.set()
            await settle()
            assert reader.has_left
            with pytest.raises(HttpError) as refused, streams.place("key"):
                pass
    assert refused.value.status == 503


async def test_key_has_no_limit_of_its_own_and_a_session_has() -> None:
    streams = EventStreams(most=3, most_of_session=1)
    with streams.place("key"), streams.place("key"):
        with streams.place("session:s"), pytest.raises(HttpError) as full, streams.place("key"):
            pass
        assert full.value.status == 503
        with streams.place("session:s"):
            pass
    with streams.place("session:s"), pytest.raises(HttpError) as many, streams.place("session:s"):
        pass
    assert (many.value.status, many.value.headers["Retry-After"]) == (429, "30")


async def test_sessions_of_one_address_do_not_take_every_stream_when_there_are_ever_new_ones() -> None:
    # Twenty sessions a minute, each with its streams, took all of them; behind a proxy nothing else counted by address.
    streams = EventStreams(most=9, most_of_session=2, most_of_address=3)
    with ExitStack() as opened:
        for session in ("a", "a", "b"):
            opened.enter_context(streams.place(f"session:{session}", "192.0.2.1"))
        for session in ("a", "c"):
            with pytest.raises(HttpError) as many, streams.place(f"session:{session}", "192.0.2.1"):
                pass
            assert many.value.status == 429
        for owner, address in (("session:d", "192.0.2.2"), ("key", "192.0.2.1")):
            with streams.place(owner, address):
                pass
    with streams.place("session:c", "192.0.2.1"):
        assert len(streams) == 1
