"""Submissions that come together: what can be decided at once is, and nothing else is touched."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from admission import engine
from admission.core.tasks import LaneMode, Task, TaskState
from admission.engine_types import Accepted, OverloadedError, Submission
from admission.store.port import StoreUnavailableError
from runtime.rules.request import GenerationRequest
from tests.harness.engine import PATIENCE_S, Rig, settle


def first(rig: Rig, key: str, *, owner: str = "owner", waited_s: float = 0.0, abandon: bool = True, **changes: object) -> Submission:
    """A first try under a key that was made for it, but for what is given."""
    return Submission(request=rig.request(**changes), owner=owner, request_id=key, waited_s=waited_s, abandon=abandon)


def together(rig: Rig, *submissions: Submission) -> asyncio.Task[list[Accepted | Exception | None]]:
    """A caller that waits for all."""
    return asyncio.create_task(rig.engine.submit_together(submissions))


async def outcomes(rig: Rig, *submissions: Submission) -> list[Accepted | Exception | None]:
    """What comes of them; nothing of it waits for long."""
    return await asyncio.wait_for(together(rig, *submissions), PATIENCE_S)


def tasks_of(answers: Sequence[object]) -> list[Task]:
    """Of those that were accepted."""
    return [answer.task for answer in answers if isinstance(answer, Accepted)]


async def test_all_are_accepted_in_one_commit_and_in_their_order(rig: Rig) -> None:
    await rig.lane()
    await settle()
    before = len(rig.store.batches)

    answers = await outcomes(rig, *(first(rig, f"key-{number}", prompt=f"boat {number}") for number in range(5)))

    assert [task.parameters["prompt"] for task in tasks_of(answers)] == [f"boat {number}" for number in range(5)]
    # The lane takes the first of them with the same commit.
    assert len(rig.store.batches) == before + 1
    assert {task.task_id for task in await rig.store.unfinished()} == {task.task_id for task in tasks_of(answers)}


async def test_nobody_waits_for_more_when_a_crowd_was_written_before(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_EACH_S", "_PAUSE_S"):
        # Longer than the test may last: whoever waits for others to come, fails.
        monkeypatch.setattr(f"admission.crowd.{name}", 60.0)
    await rig.lane()
    await settle()
    for turn in range(3):
        answers = await outcomes(rig, *(first(rig, f"key-{turn}-{number}") for number in range(8)))
        assert len(tasks_of(answers)) == 8


async def test_nothing_is_answered_before_it_is_on_disk(rig: Rig) -> None:
    await rig.lane()
    await settle()
    rig.store.gate.clear()
    asking = together(rig, first(rig, "a"), first(rig, "b"))
    await settle()
    assert not asking.done()
    rig.store.gate.set()
    assert len(tasks_of(await asking)) == 2


async def test_what_would_be_held_is_left_undone_and_others_are_accepted(rig: Rig) -> None:
    await rig.lane()

    answers = await outcomes(rig, first(rig, "a"), first(rig, "b", model="phr00t"), first(rig, "c"))

    assert [answer is None for answer in answers] == [False, True, False]
    assert rig.engine.snapshot().degraded.depth == 0
    assert rig.engine.snapshot().counters.fallbacks == 0
    # Its key is free: the call that it makes by itself is held as ever.
    held = rig.submit_keyed("b", abandon=True, model="phr00t")
    await settle()
    assert rig.engine.snapshot().degraded.depth == 1
    held.cancel()


async def test_held_ones_of_the_model_go_first(rig: Rig) -> None:
    held = rig.submit_keyed("held", abandon=True)
    await settle()
    assert await outcomes(rig, first(rig, "late")) == [None]
    await rig.lane()
    assert (await held).task.lane_mode in (None, LaneMode.DEDICATED)


async def test_queue_closes_in_the_middle_when_it_becomes_full(rig: Rig) -> None:
    lane = await rig.lane()
    await outcomes(rig, first(rig, "leased"))
    await lane.leased()

    answers = await outcomes(rig, *(first(rig, f"key-{number}") for number in range(27)))

    # 25 wait in the queue; the others would be held.
    assert [isinstance(answer, Accepted) for answer in answers] == [True] * 25 + [False] * 2
    assert answers[25:] == [None, None]


async def test_those_beyond_the_last_place_are_refused_at_once(rig: Rig) -> None:
    held = [rig.submit_keyed(f"held-{number}", abandon=True) for number in range(25)]
    await settle()

    answers = await outcomes(rig, first(rig, "a"), first(rig, "b"))

    assert [type(answer) for answer in answers] == [OverloadedError, OverloadedError]
    assert rig.engine.snapshot().degraded.depth == 25
    for call in held:
        call.cancel()
    await asyncio.gather(*held, return_exceptions=True)


@pytest.mark.parametrize("changes", [{"key": ""}, {"abandon": False}, {"waited_s": 1.0}])
async def test_what_may_be_known_already_is_left_undone(rig: Rig, changes: dict[str, object]) -> None:
    await rig.lane()
    assert await outcomes(rig, first(rig, **{"key": "key", **changes})) == [None]  # type: ignore[arg-type]
    assert not await rig.store.unfinished()


async def test_second_of_the_same_key_is_left_undone_and_joins_by_itself(rig: Rig) -> None:
    await rig.lane()
    await settle()
    rig.store.gate.clear()
    both = together(rig, first(rig, "key"), first(rig, "key"))
    await settle()
    joined = rig.submit_keyed("key", abandon=True)
    await settle()
    rig.store.gate.set()

    [accepted] = tasks_of(await both)
    assert (await both)[1] is None
    assert ((await joined).task.task_id, (await joined).is_duplicate) == (accepted.task_id, True)


async def test_key_is_found_again_when_it_is_repeated_after_the_answer(rig: Rig) -> None:
    await rig.lane()
    [task] = tasks_of(await outcomes(rig, first(rig, "key")))
    again = await rig.engine.submit(first(rig, "key", waited_s=0.5))
    assert (again.task.task_id, again.is_duplicate) == (task.task_id, True)


async def test_each_hears_of_it_when_the_store_fails(rig: Rig) -> None:
    await rig.lane()
    await settle()
    rig.store.fail_writes = True
    answers = await outcomes(rig, first(rig, "a"), first(rig, "b"))
    assert [type(answer) for answer in answers] == [StoreUnavailableError] * 2
    rig.store.fail_writes = False
    assert len(tasks_of(await outcomes(rig, first(rig, "a")))) == 1


@pytest.mark.parametrize("broken", ["shape_key", "latent_tokens"])
async def test_error_of_one_is_its_own_when_nobody_expects_it(rig: Rig, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def breaks(request: GenerationRequest) -> object:
        if request.prompt == "odd":
            raise ZeroDivisionError
        return sound(request)

    sound = getattr(engine, broken)
    monkeypatch.setattr(engine, broken, breaks)
    await rig.lane()
    one, odd, other = await outcomes(rig, first(rig, "a"), first(rig, "odd", prompt="odd"), first(rig, "b"))
    assert [type(answer) for answer in (one, odd, other)] == [Accepted, ZeroDivisionError, Accepted]
    # Its key is free again.
    monkeypatch.undo()
    assert len(tasks_of(await outcomes(rig, first(rig, "odd", prompt="odd")))) == 1


async def test_none_is_rendered_when_the_caller_left_before_they_were_on_disk(rig: Rig) -> None:
    lane = await rig.lane()
    await outcomes(rig, first(rig, "leased"))
    await lane.leased()
    rig.store.gate.clear()
    asking = together(rig, first(rig, "a"), first(rig, "b"))
    await settle()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    rig.store.gate.set()
    await settle()
    assert [task.request_id for task in await rig.store.unfinished()] == ["leased"]


@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("is_early", [False, True])
async def test_who_comes_back_hears_that_it_was_cancelled_when_its_connection_broke(rig: Rig, *, is_batch: bool, is_early: bool) -> None:
    lane = await rig.lane()
    await outcomes(rig, first(rig, "leased"))
    await lane.leased()
    rig.store.gate.clear()
    asking: asyncio.Task[object] = together(rig, first(rig, "a")) if is_batch else rig.submit_keyed("a", abandon=True)
    await settle()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    if not is_early:
        # The acceptance comes on disk, the cancellation does not yet.
        rig.store.gate.set()
        await asyncio.sleep(0)
        rig.store.gate.clear()
        await settle()
    again = asyncio.create_task(rig.engine.submit(first(rig, "a", waited_s=0.1)))
    await settle()
    rig.store.gate.set()
    told = await asyncio.wait_for(again, PATIENCE_S)
    assert (told.is_duplicate, told.task.state) == (True, TaskState.CANCELLED)


async def test_one_goes_on_when_another_caller_of_its_key_still_waits(rig: Rig) -> None:
    await rig.lane()
    await settle()
    rig.store.gate.clear()
    asking = together(rig, first(rig, "a"))
    await settle()
    other = rig.submit_keyed("a", abandon=True)
    await settle()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    rig.store.gate.set()
    assert (await other).task.state is not TaskState.CANCELLED


async def test_all_hear_of_it_when_the_engine_stops(rig: Rig) -> None:
    await rig.lane()
    await settle()
    rig.store.answers.clear()
    asking = together(rig, first(rig, "a"))
    await settle()
    stopping = asyncio.create_task(rig.engine.stop())
    await settle()
    rig.store.answers.set()
    await stopping
    [answer] = await asking
    # Its commit came through within the patience of a stop.
    assert isinstance(answer, Accepted)


async def test_abandoned_task_is_cancelled_only_while_it_waits(rig: Rig) -> None:
    lane = await rig.lane()
    leased, waiting = tasks_of(await outcomes(rig, first(rig, "a"), first(rig, "b")))
    assert (await lane.leased()).task_id == leased.task_id

    states = [(await rig.engine.cancel(task.task_id, only_waiting=True)).task.state for task in (leased, waiting)]

    assert states == [TaskState.LEASED, TaskState.CANCELLED]


def _kind(call: asyncio.Task[Accepted]) -> str:
    if not call.done():
        return "held"
    return "accepted" if call.exception() is None else type(call.exception()).__name__


async def _one_by_one(rig: Rig, models: Sequence[str]) -> tuple[list[str], list[asyncio.Task[Accepted]]]:
    calls = []
    for number, model in enumerate(models):
        calls.append(rig.submit_keyed(f"key-{number}", abandon=True, model=model))
        await settle()
    return [_kind(call) for call in calls], calls


async def _in_batches(rig: Rig, models: Sequence[str], sizes: random.Random) -> tuple[list[str], list[asyncio.Task[Accepted]]]:
    kinds: list[str] = []
    calls = []
    while len(kinds) < len(models):
        at = len(kinds)
        some = list(enumerate(models))[at : at + sizes.randint(1, 8)]
        answers = await outcomes(rig, *(first(rig, f"key-{number}", model=model) for number, model in some))
        for (number, model), answer in zip(some, answers, strict=True):
            if answer is None:
                calls.append(rig.submit_keyed(f"key-{number}", abandon=True, model=model))
                await settle()
                kinds.append(_kind(calls[-1]))
            else:
                kinds.append("accepted" if isinstance(answer, Accepted) else type(answer).__name__)
    return kinds, calls


@pytest.mark.parametrize("seed", range(8))
async def test_both_ways_in_decide_alike(rig: Rig, tmp_path: Path, seed: int) -> None:
    draws = random.Random(seed)  # noqa: S311 - repeatable, not secret
    # The queue of anisora takes 25 and its lane one more; phr00t has no lane, and 25 places are there for whatever finds no room.
    models = [draws.choice(("anisora", "anisora", "phr00t")) for _ in range(90)]
    other = Rig(tmp_path / "other")
    await other.store.open()
    await other.engine.start()
    calls: list[asyncio.Task[Accepted]] = []
    try:
        for one in (rig, other):
            await one.lane()
        singly, held = await _one_by_one(rig, models)
        calls += held
        gathered, held = await _in_batches(other, models, draws)
        calls += held
        assert gathered == singly
        assert {"accepted", "held", "OverloadedError"} == set(singly)
        assert rig.engine.snapshot().degraded == other.engine.snapshot().degraded
        assert len(await rig.store.unfinished()) == len(await other.store.unfinished()) == singly.count("accepted")
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await other.engine.stop()
        await other.store.close()
