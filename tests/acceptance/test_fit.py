"""A request that fits no GPU is refused over HTTP before anything is stored, by the baseline GPU while no lane was ever seen."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.harness.light_stack import ADMISSION, HTTP_BRIDGE, LightStack
from tests.harness.stack import API_KEY

_HUGE = {"model": "phr00t", "type": "video", "prompt": "a lake", "width": 2048, "height": 2048, "num_frames": 241}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Calls the bridge of a stack that never saw a lane."""
    stack = LightStack(tmp_path_factory.mktemp("fit"), processes=(ADMISSION, HTTP_BRIDGE))
    with stack, httpx.Client(base_url=stack.http_url, headers={"X-API-Key": API_KEY}, timeout=10.0) as client:
        yield client


def test_request_is_refused_with_what_fits_when_no_gpu_has_room_for_it(client: httpx.Client) -> None:
    reply = client.post("/generate", json=_HUGE)

    detail = reply.json()["detail"]
    assert (reply.status_code, detail["code"]) == (422, "vram_exceeded")
    assert detail["metadata"]["predicted_bytes"] > detail["metadata"]["limit_bytes"] > 20 * 1024**3
    assert set(detail["metadata"]) >= {"placement", "max_num_frames"}
    assert "Ask for" in detail["detail"]
    assert client.get("/gallery").json()["total"] == 0


def test_models_tell_what_fits_the_baseline_when_no_lane_was_seen(client: httpx.Client) -> None:
    models = client.get("/models").json()["models"]

    for model in models:
        sizes = {(size["width"], size["height"]): size for size in model["limits"]["sizes"]}
        assert model["limits"]["gpus"] == ["NVIDIA A10G"]
        assert min(sizes[480, 832]["max_num_frames"], sizes[720, 1280]["max_num_frames"]) >= 81
        assert sizes[480, 832]["placement"]
