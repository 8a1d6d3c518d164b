"""How a request survives an admission that goes away, against a line that does what a test says."""

from __future__ import annotations

import pytest
from warmlane.admission.v1.admission_service_pb2 import SubmitTaskRequest, SubmitTaskResponse
from warmlane.admission.v1.task_pb2 import Task, TaskState
from warmlane.generation.v1.generation_pb2 import GenerationRequest

from runtime.errors import ErrorCode, ServiceError
from runtime.submitter import OWN_KEY_PREFIX, Patience, Submitter

PATIENCE = Patience()
WANTED = GenerationRequest(model="anisora", prompt="a lake")
ACCEPTED = SubmitTaskResponse(task=Task(task_id="1" * 32, state=TaskState.TASK_STATE_QUEUED))
ABANDONED = SubmitTaskResponse(task=Task(task_id="2" * 32, state=TaskState.TASK_STATE_CANCELLED), is_duplicate=True)


def broken(status: str = "unavailable") -> ServiceError:
    return ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="Broken.", metadata={"grpc_status": status})


def at_the_door(state: str) -> ServiceError:
    return ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="Not now.", metadata={"admission": state}, retry_after_s=1.0)


class ScriptedLine:
    """Answers in turn, each after so many seconds of a clock that it moves; admission is away from `away` to its end."""

    def __init__(self, *answers: tuple[float, SubmitTaskResponse | ServiceError], away: tuple[float, float] = (0.0, 0.0)) -> None:
        self.now_s = 1000.0
        self.sent: list[SubmitTaskRequest] = []
        self.timeouts: list[float] = []
        self._begun_s = self.now_s
        self._answers = list(answers)
        self._away = away

    @property
    def passed_s(self) -> float:
        return self.now_s - self._begun_s

    async def connect(self, within_s: float) -> bool:
        begins_s, ends_s = self._away
        if not begins_s <= self.passed_s < ends_s:
            return True
        is_back = ends_s - self.passed_s <= within_s
        self.now_s += min(within_s, ends_s - self.passed_s)
        return is_back

    async def send(self, message: SubmitTaskRequest, timeout_s: float) -> SubmitTaskResponse:
        copy = SubmitTaskRequest()
        copy.CopyFrom(message)
        self.sent.append(copy)
        self.timeouts.append(timeout_s)
        after_s, answer = self._answers.pop(0)
        self.now_s += after_s
        if isinstance(answer, ServiceError):
            raise answer
        return answer

    async def pause(self, seconds: float) -> None:
        self.now_s += seconds

    def waited(self) -> list[float | None]:
        """What each submission said of the time that passed."""
        return [one.waited.ToMilliseconds() / 1000 if one.HasField("waited") else None for one in self.sent]


async def submit(line: ScriptedLine, key: str = "") -> Task:
    return await Submitter(line, patience=PATIENCE, now_s=lambda: line.now_s).submit(WANTED, "session:s1", key)


async def refusal(line: ScriptedLine, key: str = "") -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await submit(line, key)
    assert caught.value.code == ErrorCode.SERVICE_UNAVAILABLE
    return caught.value


async def test_key_of_the_bridge_is_sent_when_the_client_has_none() -> None:
    lines = [ScriptedLine((0, ACCEPTED)), ScriptedLine((0, ACCEPTED))]

    for line in lines:
        assert (await submit(line)).task_id == "1" * 32

    [first], [second] = (line.sent for line in lines)
    assert first.request_id.startswith(OWN_KEY_PREFIX)
    assert first.request_id != second.request_id
    assert (first.owner, first.abandon, first.HasField("waited")) == ("session:s1", True, False)
    assert (first.request, lines[0].timeouts) == (WANTED, [40.0])


async def test_key_of_the_client_is_sent_when_it_has_one() -> None:
    line = ScriptedLine((0, ACCEPTED))

    await submit(line, "its own")

    assert [(one.request_id, one.abandon) for one in line.sent] == [("its own", False)]


@pytest.mark.parametrize("status", ["unavailable", "cancelled", "aborted"])
async def test_request_is_submitted_once_more_when_admission_died_with_it(status: str) -> None:
    line = ScriptedLine((12.0, broken(status)), (3.0, ACCEPTED), away=(12.0, 14.0))

    assert (await submit(line)).task_id == "1" * 32

    # 12 s held, then 2 s until the next one is there.
    assert line.waited() == [None, 14.0]
    assert line.timeouts == [40.0, 26.0]
    assert line.sent[0].request_id == line.sent[1].request_id


async def test_request_is_refused_when_a_second_admission_dies_with_it() -> None:
    line = ScriptedLine((1.0, broken()), (1.0, broken()))

    await refusal(line)

    assert len(line.sent) == 2


async def test_request_is_refused_when_admission_stays_away_for_30_s() -> None:
    line = ScriptedLine((12.0, broken()), away=(12.0, 600.0))

    error = await refusal(line)

    assert (line.passed_s, len(line.sent), error.retry_after_s) == (30.0, 1, 5.0)


async def test_request_is_refused_soon_when_there_was_no_admission_at_all() -> None:
    line = ScriptedLine(away=(0.0, 600.0))

    await refusal(line)

    assert (line.passed_s, line.sent) == (PATIENCE.reach_s, [])


async def test_request_is_accepted_when_admission_comes_back_within_its_reach() -> None:
    line = ScriptedLine((0, ACCEPTED), away=(0.0, 1.5))

    await submit(line)

    assert line.waited() == [1.5]


async def test_tries_that_were_not_let_in_do_not_count_when_admission_starts() -> None:
    starting = [(0.0, at_the_door("starting"))] * 15
    line = ScriptedLine((5.0, broken()), *starting, (0, ACCEPTED))

    await submit(line)

    assert len(line.sent) == 17
    assert line.waited()[-1] == pytest.approx(5.0 + 16 * PATIENCE.pause_s)


async def test_request_is_refused_when_admission_does_not_finish_its_start() -> None:
    line = ScriptedLine(*[(0.0, at_the_door("starting"))] * 400)

    await refusal(line)

    assert line.passed_s == pytest.approx(PATIENCE.reach_s, abs=2 * PATIENCE.pause_s)


@pytest.mark.parametrize("state", ["stopping", "superseded"])
async def test_request_moves_to_the_next_admission_when_one_stops(state: str) -> None:
    line = ScriptedLine((20.0, at_the_door(state)), (0.0, at_the_door(state)), (0, ACCEPTED), away=(20.2, 26.0))

    await submit(line)

    assert line.waited() == [None, pytest.approx(20.1), 26.0]


@pytest.mark.parametrize(
    "refused",
    [
        ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="The disk is full.", retry_after_s=5.0),
        ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="Late.", metadata={"grpc_status": "deadline_exceeded"}),
    ],
)
async def test_refusal_is_told_at_once_when_admission_gave_one(refused: ServiceError) -> None:
    line = ScriptedLine((0.0, refused))

    assert await refusal(line) is refused


async def test_overload_is_told_when_it_comes_after_a_restart() -> None:
    overloaded = ServiceError(code=ErrorCode.QUEUE_OVERLOADED, message="Full.")
    line = ScriptedLine((10.0, broken()), (20.0, overloaded))

    with pytest.raises(ServiceError) as caught:
        await submit(line)

    assert caught.value is overloaded


async def test_request_is_made_anew_when_admission_took_its_caller_for_gone() -> None:
    """Only the connection broke: admission lives, cancelled what it accepted, and finds that under the key."""
    line = ScriptedLine((0.0, broken()), (0.0, ABANDONED), (0.0, ACCEPTED))

    assert (await submit(line)).task_id == "1" * 32

    first, second, third = line.sent
    assert first.request_id == second.request_id != third.request_id
    assert third.request_id.startswith(OWN_KEY_PREFIX)


async def test_cancelled_task_is_no_acceptance_when_the_connection_breaks_under_the_second_key_too() -> None:
    line = ScriptedLine((0.0, broken()), (0.0, ABANDONED), (0.0, broken()), (0.0, ABANDONED))

    with pytest.raises(ServiceError) as refused:
        await submit(line)

    assert refused.value.code == ErrorCode.SERVICE_UNAVAILABLE
    assert len(line.sent) == 4


async def test_cancelled_task_is_told_when_the_client_has_a_key_of_its_own() -> None:
    """The client, or somebody that it told the id, cancelled it: the key still means that task."""
    line = ScriptedLine((0.0, ABANDONED))

    assert (await submit(line, "its own")).task_id == "2" * 32


async def test_repetition_is_never_taken_for_a_new_request() -> None:
    """Admission looks for an earlier task unless the key is new, which it knows by `waited`."""
    line = ScriptedLine((0.0, broken()), (0.0, ACCEPTED))
    impatient = Patience(pause_s=0.0001)

    await Submitter(line, patience=impatient, now_s=lambda: line.now_s).submit(WANTED, "key")

    assert line.waited() == [None, 0.001]
