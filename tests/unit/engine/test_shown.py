"""What is shown of tasks: as made durable, kept while they are not over, and no longer."""

from __future__ import annotations

from tests.harness.engine import Rig, settle


async def test_nothing_of_a_task_is_kept_in_memory_when_it_is_over(rig: Rig) -> None:
    lane = await rig.lane()
    await rig.submit()
    task = await lane.leased()
    shown = rig.engine._shown
    assert task.task_id in shown
    await lane.finish(task)
    await settle()
    assert task.task_id not in shown
    found = await shown.task(task.task_id)
    assert found is not None
    assert found.result is not None
    waiting = await rig.submit(prompt="another boat")
    await lane.leased()
    await rig.engine.cancel(waiting.task_id)
    await lane.wish()
    # Its lane may work on it, and owes the memory record: it is shown until then.
    assert waiting.task_id in shown
    await lane.report()
    await settle()
    assert waiting.task_id not in shown


async def test_files_are_wanted_of_the_attempt_alone_that_is_committed_or_under_way(rig: Rig) -> None:
    lane = await rig.lane()
    await rig.submit()
    task = await lane.leased()
    shown = rig.engine._shown
    assert await shown.needs(task.task_id, 1)
    assert not await shown.needs(task.task_id, 2)
    await lane.finish(task)
    await settle()
    assert await shown.needs(task.task_id, 1)
    assert not await shown.needs(task.task_id, 0)
    waiting = await rig.submit(prompt="another boat")
    await rig.engine.cancel(waiting.task_id)
    assert not await shown.needs(waiting.task_id, 1)
