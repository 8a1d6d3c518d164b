"""A client of the bridge as the frontend is one: plain HTTP, polling."""

from __future__ import annotations

import ssl
import time
from types import TracebackType
from typing import Any

import httpx

NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For clients of plain http: without one, each client reads the system's authorities, which takes longer than most tests."""

TERMINAL = frozenset({"done", "failed"})
_POLL_S = 0.1


def fetch(method: str, url: str, **options: Any) -> httpx.Response:
    """One request over plain http with a client of its own."""
    return httpx.request(method, url, verify=NO_AUTHORITIES, timeout=20.0, **options)


class Frontend:
    """Speaks the HTTP contract with an API key."""

    def __init__(self, base_url: str, api_key: str) -> None:
        """Opens a client; use as a context manager."""
        self.client = httpx.Client(verify=NO_AUTHORITIES, base_url=base_url, headers={"X-API-Key": api_key}, timeout=60.0)

    def __enter__(self) -> Frontend:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the connections."""
        self.client.close()

    def generate(self, **body: object) -> str:
        """Asks for a video; returns the task's id."""
        reply = self.client.post("/generate", json=body)
        assert reply.status_code == 202, reply.text
        content = reply.json()
        assert content["status"] == "pending"
        return str(content["task_id"])

    def status(self, task_id: str) -> dict[str, Any]:
        """The task's status."""
        reply = self.client.get(f"/status/{task_id}")
        assert reply.status_code == 200, reply.text
        content: dict[str, Any] = reply.json()
        return content

    def wait(self, task_id: str, *, timeout_s: float = 120.0, until: frozenset[str] = TERMINAL) -> dict[str, Any]:
        """Polls until the status is one of these. A bridge or admission that is away meanwhile is waited for, as a browser does."""
        ends_s = time.monotonic() + timeout_s
        last: object = None
        while time.monotonic() < ends_s:
            try:
                reply = self.client.get(f"/status/{task_id}")
            except httpx.TransportError as error:
                last = error
            else:
                last = reply.text
                assert reply.status_code in (200, 503), reply.text
                if reply.status_code == 200 and reply.json()["status"] in until:
                    content: dict[str, Any] = reply.json()
                    return content
            time.sleep(_POLL_S)
        msg = f"task {task_id} did not become {' or '.join(sorted(until))} within {timeout_s:g} s; last answer: {last}"
        raise AssertionError(msg)

    def wait_for_stage(self, task_id: str, stage: str, *, timeout_s: float = 60.0) -> dict[str, Any]:
        """Polls until the task is in this stage; fails when it ends before."""
        ends_s = time.monotonic() + timeout_s
        while time.monotonic() < ends_s:
            status = self.status(task_id)
            if status["stage"] == stage:
                return status
            assert status["status"] not in TERMINAL, status
            time.sleep(_POLL_S / 4)
        msg = f"task {task_id} did not reach stage {stage} within {timeout_s:g} s"
        raise AssertionError(msg)

    def result(self, task_id: str) -> bytes:
        """The whole file."""
        reply = self.client.get(f"/results/{task_id}")
        assert reply.status_code == 200, reply.text
        return reply.content

    def render(self, **body: object) -> tuple[dict[str, Any], bytes]:
        """Asks, waits and fetches."""
        task_id = self.generate(**body)
        status = self.wait(task_id)
        assert status["status"] == "done", status
        return status, self.result(task_id)
