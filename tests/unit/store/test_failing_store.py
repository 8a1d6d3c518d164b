"""The store that fails on demand fails like a real one: whole, and only while it is told to."""

from __future__ import annotations

import pytest

from admission.core.tasks import TaskId
from admission.store.port import Batch, StoreUnavailableError
from tests.harness.store import FailingStore
from tests.harness.tasks import make_task


async def test_nothing_is_stored_when_writes_fail() -> None:
    store = FailingStore()
    await store.open()
    epoch = await store.claim_epoch()
    store.fail_writes = True
    with pytest.raises(StoreUnavailableError):
        await store.write(epoch, Batch(tasks=[make_task()]))
    assert await store.task(TaskId("task-1")) is None


async def test_a_task_is_stored_when_writes_work_again() -> None:
    store = FailingStore()
    await store.open()
    epoch = await store.claim_epoch()
    store.fail_writes = True
    store.fail_writes = False
    await store.write(epoch, Batch(tasks=[make_task()]))
    assert await store.task(TaskId("task-1")) == make_task()
