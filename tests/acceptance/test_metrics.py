"""Every process of `warmlane up` serves its metrics on the port that the stack's list has."""

from __future__ import annotations

from tests.harness.http import Frontend
from tests.harness.metrics import scraped
from tests.harness.stack import Stack

LANES = {"lane-anisora": "dedicated", "lane-phr00t": "dedicated", "degraded-pool": "degraded_shared"}


def test_all_five_answer_when_the_stack_runs(stack: Stack, frontend: Frontend) -> None:
    frontend.render(model="phr00t", prompt="a paper boat", width=256, height=256, num_frames=5, seed=3)
    pages = {name: scraped(stack.ports()[f"{name}-metrics"]) for name in ("http-bridge", "admission", *LANES)}
    assert {name: page.value("build_info", process=name) for name, page in pages.items()} == dict.fromkeys(pages, 1)
    for lane, mode in LANES.items():
        assert pages[lane].value("lane_warm", lane=lane, lane_mode=mode) == 1
        assert pages["admission"].value("admission_lane_availability", lane=lane, lane_mode=mode, availability="ready") == 1
    assert (pages["lane-phr00t"].value("lane_attempts_total", model="phr00t", code="done") or 0) >= 1
    assert (pages["lane-phr00t"].value("lane_peak_ratio_count", model="phr00t") or 0) >= 1
    assert "metrics" not in stack.printed().split("ready")[0]
