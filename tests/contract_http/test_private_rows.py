"""Whose tasks are whose: everyone's by default; with the private gallery one's own, and the key sees all."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.contract_http.doors import Door, assert_envelope, session_headers
from tests.harness.bridge import WITH_KEY
from tests.harness.contract_bridge import ContractBridge, contract_bridge
from tests.harness.http import NO_AUTHORITIES

_TASK_PATHS = [
    ("GET", "/status/{}"),
    ("GET", "/results/{}"),
    ("GET", "/preview/{}"),
    ("GET", "/events/{}"),
    ("POST", "/cancel/{}"),
    ("DELETE", "/gallery/{}"),
]


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContractBridge]:
    """A bridge with the private gallery."""
    with contract_bridge(tmp_path_factory.mktemp("private"), gallery_private=True) as running:
        yield running


def _door(bridge: ContractBridge, headers: dict[str, str]) -> Door:
    client = httpx.Client(verify=NO_AUTHORITIES, base_url=bridge.url, headers=headers, timeout=20.0)
    return Door(name="own", http=client, tick=lambda: bridge.admission.clock.advance(0.001))


@pytest.fixture
def callers(private: ContractBridge) -> Iterator[tuple[Door, Door, Door]]:
    """A session, another one, and the key."""
    doors = (_door(private, session_headers(private.url)), _door(private, session_headers(private.url)), _door(private, WITH_KEY))
    yield doors
    for door in doors:
        door.http.close()


def test_everyone_sees_and_deletes_everything_by_default(bridge: ContractBridge, doors: list[Door]) -> None:
    stranger = _door(bridge, session_headers(bridge.url))
    task_id = doors[0].done()
    assert stranger.http.get(f"/status/{task_id}").status_code == 200
    assert stranger.item(task_id)["id"] == task_id
    assert stranger.http.delete(f"/gallery/{task_id}").status_code == 200
    stranger.http.close()


@pytest.mark.parametrize(("method", "path"), _TASK_PATHS)
def test_task_of_another_session_is_404_when_the_gallery_is_private(callers: tuple[Door, Door, Door], method: str, path: str) -> None:
    own, other, _key = callers
    task_id = own.done()
    assert_envelope(other.http.request(method, path.format(task_id)), 404, "task_not_found")
    assert own.http.get(f"/status/{task_id}").json()["status"] == "done"


@pytest.mark.parametrize(("method", "path"), _TASK_PATHS)
def test_own_task_and_any_task_by_the_key_is_served(callers: tuple[Door, Door, Door], method: str, path: str) -> None:
    own, _other, key = callers
    for door in (own, key):
        assert door.http.request(method, path.format(own.done())).status_code == 200


def test_lists_show_ones_own_and_to_the_key_all(callers: tuple[Door, Door, Door]) -> None:
    own, other, key = callers
    ids = {own: {own.done(), own.done()}, other: {other.done()}, key: {key.done()}}

    def listed(door: Door) -> set[str]:
        page = door.http.get("/gallery?per_page=100").json()
        assert page["total"] == len(page["items"])
        return {item["id"] for item in page["items"]}

    assert listed(own) == ids[own]
    assert listed(other) == ids[other]
    assert listed(key) >= ids[own] | ids[other] | ids[key]
    assert_envelope(own.http.get(f"/status/{next(iter(ids[key]))}"), 404, "task_not_found")
