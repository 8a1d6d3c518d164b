"""The GPUs known by name."""

from __future__ import annotations

import pytest

from runtime.fit.gpus import ASSUMED_HOST_BYTES, ASSUMED_MARGIN_BYTES, BASELINE, GPUS, assumptions, limits_on_host
from tests.unit.fit.figures import GIB


def test_baseline_comes_first_with_what_torch_sees_of_it_when_gpus_are_listed() -> None:
    assert next(iter(GPUS)) == BASELINE
    baseline = GPUS[BASELINE]
    assert (baseline.gpu, baseline.total_bytes) == ("NVIDIA A10G", int(22.06 * GIB))
    # 22.06 less 0.5 for context and libraries and 0.5 of margin.
    assert baseline.budget_bytes / GIB == pytest.approx(21.06, abs=0.001)


def test_host_is_another_when_its_memory_is_named() -> None:
    named = limits_on_host(GPUS[BASELINE], 32 * GIB)
    assert (named.host_bytes, named.pinned_limit_bytes, named.budget_bytes) == (32 * GIB, 24 * GIB, GPUS[BASELINE].budget_bytes)


def test_assumed_host_is_not_named_when_the_host_was_given() -> None:
    assert "host" in assumptions(limits_on_host(GPUS[BASELINE], ASSUMED_HOST_BYTES))
    assert set(assumptions(limits_on_host(GPUS[BASELINE], 32 * GIB))) == {"other", "margin", "pinned"}


@pytest.mark.torch
def test_margin_is_the_lanes_own_when_plan_tells_of_it() -> None:
    from runtime.lane.memory.cuda import DEFAULT_MARGIN_BYTES

    assert ASSUMED_MARGIN_BYTES == DEFAULT_MARGIN_BYTES
