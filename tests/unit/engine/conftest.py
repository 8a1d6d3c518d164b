"""The engine under test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness.engine import Rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await rig.store.open()
    await rig.engine.start()
    yield rig
    rig.store.gate.set()
    await rig.engine.stop()
    await rig.store.close()
