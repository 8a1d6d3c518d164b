"""503 `queue_overloaded`: the 26th held request by depth, a wait of 30.000 s by wait, with the facts and Retry-After of the page."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.contract_http.doors import SMALL, assert_envelope, session_headers
from tests.harness.admission_services import until
from tests.harness.bridge import WITH_KEY
from tests.harness.contract_bridge import ADMIN_KEY, ContractBridge, contract_bridge
from tests.harness.http import NO_AUTHORITIES

_HELD = 25


async def _depth(bridge: ContractBridge, client: httpx.AsyncClient) -> int:
    reply = await client.get("/admin/health", headers={"X-Admin-Key": ADMIN_KEY})
    return int(reply.json()["diagnostics"]["queue_depth"])


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_26th_held_request_is_refused_by_depth_and_the_others_after_30_s_by_wait(tmp_path: Path, prefix: str) -> None:
    with contract_bridge(tmp_path, models=()) as bridge:
        session = await asyncio.to_thread(session_headers, bridge.url)
        async with httpx.AsyncClient(verify=NO_AUTHORITIES, base_url=bridge.url, timeout=30.0) as client:

            async def depth_is(wanted: int) -> bool:
                return await _depth(bridge, client) == wanted

            held = [
                asyncio.create_task(client.post(f"{prefix}/generate", json=SMALL, headers=session if number % 2 else WITH_KEY))
                for number in range(_HELD)
            ]
            await until(lambda: depth_is(_HELD))
            refused = await client.post(f"{prefix}/generate", json=SMALL, headers=session)
            bridge.advance(29.999)
            assert await depth_is(_HELD)
            bridge.advance(0.001)
            waited = await asyncio.gather(*held)

    detail = assert_envelope(refused, 503, "queue_overloaded")
    assert detail["metadata"] == {"cause": "depth", "depth": 25, "max_depth": 25, "waited_seconds": 0.0, "max_wait_seconds": 30.0}
    for reply in waited:
        facts = assert_envelope(reply, 503, "queue_overloaded")["metadata"]
        assert (facts["cause"], facts["waited_seconds"], facts["max_depth"], facts["max_wait_seconds"]) == ("wait", 30.0, 25, 30.0)
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in (refused, *waited))


async def test_place_is_free_again_when_the_caller_hangs_up(tmp_path: Path) -> None:
    with contract_bridge(tmp_path, models=()) as bridge:
        async with httpx.AsyncClient(verify=NO_AUTHORITIES, base_url=bridge.url, timeout=30.0) as client:

            async def depth_is(wanted: int) -> bool:
                return await _depth(bridge, client) == wanted

            held = asyncio.create_task(client.post("/generate", json=SMALL, headers=WITH_KEY))
            await until(lambda: depth_is(1))
            held.cancel()
            await until(lambda: depth_is(0))
