"""The rows of image models and of the accounts' paths with a server behind them, on both prefixes and with both credentials."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract_http.doors import PREFIXES, SMALL, assert_envelope, session_headers, wrong_fields
from tests.harness.admission_services import until
from tests.harness.bridge import WITH_KEY
from tests.harness.contract_bridge import ADMIN_KEY, contract_bridge
from tests.harness.http import NO_AUTHORITIES
from tests.harness.upstream import ADMIN_KEY as UPSTREAM_ADMIN_KEY
from tests.harness.upstream import IMAGE_BODY, IMAGE_KEY, UpstreamDouble, image_settings, upstream_double

_DOORS = pytest.mark.parametrize(
    ("prefix", "credential"), [(prefix, credential) for prefix in PREFIXES for credential in ("key", "session")]
)
_ADMIN = {"X-Admin-Key": ADMIN_KEY}


@asynccontextmanager
async def _door(folder: Path, prefix: str, credential: str) -> AsyncIterator[tuple[httpx.AsyncClient, UpstreamDouble]]:
    """A client of a bridge with an upstream of images and of accounts."""
    async with upstream_double(folder / "upstream") as upstream:
        accounts: dict[str, Any] = {"accounts_upstream_url": upstream.url, "accounts_upstream_key": UPSTREAM_ADMIN_KEY}
        with contract_bridge(folder, **image_settings(upstream), **accounts) as bridge:
            headers = WITH_KEY if credential == "key" else await asyncio.to_thread(session_headers, bridge.url)
            async with httpx.AsyncClient(verify=NO_AUTHORITIES, base_url=bridge.url + prefix, headers=headers, timeout=20.0) as client:
                yield client, upstream


@_DOORS
async def test_image_goes_the_whole_way_through_to_its_server(tmp_path: Path, prefix: str, credential: str) -> None:
    async with _door(tmp_path, prefix, credential) as (client, upstream):
        accepted = await client.post("/generate", json=IMAGE_BODY)
        assert (accepted.status_code, set(accepted.json()), accepted.json()["status"]) == (202, {"task_id", "status"}, "pending")
        task_id = accepted.json()["task_id"]
        # Ids of the upstream are told apart by a prefix.
        own_id = re.fullmatch(r"image-(.+)", task_id)
        assert own_id is not None
        assert (await client.get(f"/status/{task_id}")).json()["status"] == "pending"
        assert_envelope(await client.get(f"/results/{task_id}"), 425, "task_not_done")
        upstream.add_image(own_id[1])
        status = (await client.get(f"/status/{task_id}")).json()
        assert (status["task_id"], status["status"], status["result_url"]) == (task_id, "done", f"/results/{task_id}")
        result, preview = await client.get(f"/results/{task_id}"), await client.get(f"/preview/{task_id}")
        assert (result.status_code, result.content, preview.status_code) == (200, b"png bytes", 200)
        part = await client.get(f"/results/{task_id}", headers={"Range": "bytes=0-2"})
        assert (part.status_code, part.content) == (206, b"png")
        assert [item["id"] for item in (await client.get("/gallery?type=image")).json()["items"]] == [task_id]
        assert (await client.delete(f"/gallery/{task_id}")).json() == {"deleted": True, "id": task_id}
        assert_envelope(await client.get(f"/status/{task_id}"), 404, "task_not_found")


@_DOORS
async def test_gallery_and_models_list_both(tmp_path: Path, prefix: str, credential: str) -> None:
    async with _door(tmp_path, prefix, credential) as (client, upstream):
        upstream.add_image("one")
        video = (await client.post("/generate", json=SMALL)).json()["task_id"]

        async def is_done() -> bool:
            return bool((await client.get(f"/status/{video}")).json()["status"] == "done")

        await until(is_done)
        page = (await client.get("/gallery")).json()
        assert ({item["id"] for item in page["items"]}, page["total"], page["has_more"]) == ({video, "image-one"}, 2, False)
        assert [item["type"] for item in (await client.get("/gallery?type=video")).json()["items"]] == ["video"]
        listed = (await client.get("/models")).json()["models"]
        assert {model["id"]: model["type"] for model in listed} == {"anisora": "video", "phr00t": "video", "pony": "image"}


@_DOORS
async def test_no_credential_of_either_side_is_told_to_the_other(tmp_path: Path, prefix: str, credential: str) -> None:
    async with _door(tmp_path, prefix, credential) as (client, upstream):
        upstream.add_image("one")
        replies = [await client.post("/generate", json=IMAGE_BODY), await client.get("/status/image-one"), await client.get("/gallery")]
        for reply in replies:
            assert IMAGE_KEY not in str(reply.headers) + reply.text
            assert "upstream_session" not in str(reply.headers)
        for came in upstream.requests:
            assert WITH_KEY["X-API-Key"] not in came.everything()
            assert "gg_session" not in came.everything()


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("clip_skip", (1, 4), (0, 5, "1")),
        ("sampler", ("euler",), (5,)),
        ("type", ("image",), ("video",)),
        ("mode", ("txt2img",), ("t2v", "i2v")),
        ("width", (256, 2048), (255, 2049)),
        ("output_format", ("png", "jpeg"), ("gif",)),
        ("reference_image", (), ("no picture",)),
    ],
)
async def test_fields_of_image_models_have_their_limits(
    tmp_path: Path, field: str, good: tuple[object, ...], bad: tuple[object, ...]
) -> None:
    async with _door(tmp_path, "", "key") as (client, _upstream):
        for value in good:
            assert (await client.post("/generate", json={**IMAGE_BODY, field: value})).status_code == 202, value
        for value in bad:
            assert wrong_fields(await client.post("/generate", json={**IMAGE_BODY, field: value})) == {field}, value


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_paths_of_accounts_are_passed_on(tmp_path: Path, prefix: str) -> None:
    async with _door(tmp_path, prefix, "key") as (client, upstream):
        created = await client.post("/admin/accounts", json={"name": "one"}, headers=_ADMIN)
        deployed = await client.post("/admin/deploy-all", headers=_ADMIN)
        deleted = await client.delete("/admin/accounts/7", headers=_ADMIN)
        assert [reply.status_code for reply in (created, deployed, deleted)] == [201, 201, 200]
        assert all(ADMIN_KEY not in came.everything() for came in upstream.requests)
        assert_envelope(await client.post("/admin/deploy-all"), 401, "admin_session_missing")


async def test_image_server_that_does_not_answer_is_told_as_unavailable(tmp_path: Path) -> None:
    async with _door(tmp_path, "", "key") as (client, upstream):
        upstream.add_image("one")
        upstream.error("GET", "/status/one", 500, {"detail": "a stack trace"})
        reply = await client.get("/status/image-one")
        assert_envelope(reply, 503, "service_unavailable")
        assert int(reply.headers["retry-after"]) >= 1
        assert "a stack trace" not in reply.text
