"""Every way that the contract opens a protected path: two prefixes, two credentials."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from tests.harness.bridge import KEY
from tests.harness.contract_bridge import ContractBridge
from tests.harness.http import NO_AUTHORITIES, fetch

PREFIXES = ("", "/api")
TERMINAL = ("done", "failed")
_PATIENCE_S = 20.0
_POLL_S = 0.005
# A lane is out of contact after 10 s: thousands of these are less.
_TICK_S = 0.001

SMALL: dict[str, Any] = {"model": "anisora", "prompt": "a paper boat", "width": 256, "height": 256, "num_frames": 9}
"""A request that is right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A client with one prefix and one credential.

    Attributes:
        name: for messages.
        http: speaks to the bridge.
        tick: lets a little time pass for admission, so that no two tasks have the same age.
    """

    name: str
    http: httpx.Client
    tick: Callable[[], None]

    def accepted(self, **body: Any) -> str:
        """The id of a task that was accepted."""
        self.tick()
        reply = self.http.post("/generate", json={**SMALL, **body})
        assert reply.status_code == 202, (self.name, body, reply.text)
        assert reply.json() == {"task_id": reply.json()["task_id"], "status": "pending"}
        return str(reply.json()["task_id"])

    def ended(self, task_id: str, *, until: tuple[str, ...] = TERMINAL) -> dict[str, Any]:
        """The task's status once it is one of these."""
        ends_s = time.monotonic() + _PATIENCE_S
        while True:
            reply = self.http.get(f"/status/{task_id}")
            assert reply.status_code == 200, (self.name, reply.text)
            status: dict[str, Any] = reply.json()
            if status["status"] in until:
                return status
            assert time.monotonic() < ends_s, status
            time.sleep(_POLL_S)

    def done(self, **body: Any) -> str:
        """The id of a task that is done."""
        task_id = self.accepted(**body)
        assert self.ended(task_id)["status"] == "done"
        return task_id

    def item(self, task_id: str) -> dict[str, Any]:
        """The task in the gallery."""
        page = 0
        while True:
            page += 1
            reply = self.http.get("/gallery", params={"per_page": 100, "page": page})
            assert reply.status_code == 200, (self.name, reply.text)
            for item in reply.json()["items"]:
                if item["id"] == task_id:
                    found: dict[str, Any] = item
                    return found
            assert reply.json()["has_more"], f"{task_id} is not in the gallery"


@contextmanager
def opened_doors(bridge: ContractBridge) -> Iterator[list[Door]]:
    """All four, the session opened as a browser does."""
    clients = [
        httpx.Client(verify=NO_AUTHORITIES, base_url=bridge.url + prefix, timeout=_PATIENCE_S, headers=credential)
        for prefix in PREFIXES
        for credential in (session_headers(bridge.url + prefix), {"X-API-Key": KEY})
    ]
    try:
        yield [Door(name=_name(client), http=client, tick=lambda: bridge.admission.clock.advance(_TICK_S)) for client in clients]
    finally:
        for client in clients:
            client.close()


def _name(client: httpx.Client) -> str:
    return f"{client.base_url.path} with {'key' if 'x-api-key' in client.headers else 'session'}"


def session_headers(url: str) -> dict[str, str]:
    """Opens a session; the header that sends its cookie. By hand: admission's clock stands in a past where a cookie jar would forget it."""
    opened = fetch("POST", f"{url}/auth/session")
    assert opened.status_code == 201, opened.text
    return {"Cookie": opened.headers["set-cookie"].partition(";")[0]}


def assert_envelope(reply: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The reply is this refusal, in the contract's envelope; its inner object."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert set(body) == {"detail"}, body
    detail: dict[str, Any] = body["detail"]
    assert {"code", "detail", "user_action"} <= set(detail) <= {"code", "detail", "user_action", "metadata"}, detail
    assert detail["code"] == code, detail
    assert detail["detail"].strip().endswith((".", "!")), detail
    assert detail["user_action"].strip(), detail
    return detail


def wrong_fields(reply: httpx.Response) -> set[str]:
    """The fields that a 422 names; each with a message."""
    detail = assert_envelope(reply, 422, "validation_error")
    fields = detail["metadata"]["fields"]
    assert all(set(one) == {"field", "message"} and one["message"] for one in fields), fields
    return {one["field"] for one in fields}
