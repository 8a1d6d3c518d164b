"""The bridge on a real stack: credentials, ranges, gallery, and bad input that stores nothing and touches no worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.harness.http import NO_AUTHORITIES, Frontend
from tests.harness.stack import Stack
from tests.harness.video import data_uri, picture

_GOOD: dict[str, Any] = {"model": "anisora", "prompt": "a paper boat", "width": 256, "height": 256, "num_frames": 9}


@pytest.fixture(scope="module")
def done(stack: Stack) -> Iterator[str]:
    """A finished task."""
    with Frontend(stack.http_url, stack.api_key) as frontend:
        status, _ = frontend.render(**_GOOD, seed=3)
        yield str(status["task_id"])


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_browser_goes_the_whole_way_with_a_session_cookie(stack: Stack, prefix: str) -> None:
    with httpx.Client(verify=NO_AUTHORITIES, base_url=stack.http_url + prefix, timeout=60.0) as browser:
        assert browser.get("/health").json()["status"] == "ok"
        assert browser.get("/models").status_code == 401
        assert browser.post("/auth/session").status_code == 201
        assert {model["id"] for model in browser.get("/models").json()["models"]} == {"anisora", "phr00t"}
        task_id = browser.post("/generate", json={**_GOOD, "model": "phr00t"}).json()["task_id"]
        with Frontend(stack.http_url, stack.api_key) as frontend:
            frontend.wait(task_id)
        assert browser.get(f"/results/{task_id}").headers["content-type"] == "video/mp4"


def test_ranges_make_up_the_file_when_they_are_read_one_by_one(frontend: Frontend, done: str) -> None:
    whole = frontend.result(done)
    middle = len(whole) // 2
    first = frontend.client.get(f"/results/{done}", headers={"Range": f"bytes=0-{middle - 1}"})
    rest = frontend.client.get(f"/results/{done}", headers={"Range": f"bytes={middle}-"})
    assert (first.status_code, rest.status_code) == (206, 206)
    assert first.content + rest.content == whole
    assert rest.headers["content-range"] == f"bytes {middle}-{len(whole) - 1}/{len(whole)}"


def test_file_is_not_sent_again_when_the_browser_has_it(frontend: Frontend, done: str) -> None:
    etag = frontend.client.get(f"/results/{done}").headers["etag"]
    assert frontend.client.get(f"/results/{done}", headers={"If-None-Match": etag}).status_code == 304


def test_preview_is_a_jpeg(frontend: Frontend, done: str) -> None:
    reply = frontend.client.get(f"/preview/{done}")
    assert reply.headers["content-type"] == "image/jpeg"
    assert reply.content.startswith(b"\xff\xd8")


def test_result_is_too_early_when_the_task_is_not_done(frontend: Frontend) -> None:
    task_id = frontend.generate(**{**_GOOD, "num_frames": 81})
    assert frontend.client.get(f"/results/{task_id}").status_code == 425
    assert frontend.client.post(f"/cancel/{task_id}").json()["task_id"] == task_id
    status = frontend.wait(task_id)
    assert (status["status"], status["error_code"]) == ("failed", "cancelled")


def test_task_and_files_are_gone_when_it_is_deleted(stack: Stack, frontend: Frontend) -> None:
    status, _ = frontend.render(**_GOOD)
    task_id = status["task_id"]
    folder = stack.data_dir / "objects" / "results" / task_id
    assert list(folder.rglob("video.mp4"))
    assert frontend.client.delete(f"/gallery/{task_id}").json() == {"deleted": True, "id": task_id}
    assert frontend.client.get(f"/status/{task_id}").status_code == 404
    _until(lambda: not list(folder.rglob("*.*")))


def _files(stack: Stack) -> set[str]:
    return {str(path.relative_to(stack.data_dir)) for path in (stack.data_dir / "objects" / "inputs").rglob("*")}


_BAD: list[tuple[str, dict[str, Any], str]] = [
    ("wrong steps", {"steps": 9}, "steps"),
    ("wrong cfg", {"model": "phr00t", "cfg_scale": 2.0}, "cfg_scale"),
    ("size too small", {"width": 100}, "width"),
    ("word for a number", {"num_frames": "many"}, "num_frames"),
    ("no prompt", {"prompt": "   "}, "prompt"),
    ("unknown mode", {"mode": "dream"}, "mode"),
    ("missing image", {"mode": "i2v"}, "reference_image"),
    ("corrupt image", {"mode": "i2v", "reference_image": data_uri(picture()[:200])}, "reference_image"),
    ("text as image", {"mode": "i2v", "reference_image": data_uri(b"hello", "text/plain")}, "reference_image"),
    ("PNG said to be JPEG", {"mode": "i2v", "reference_image": data_uri(picture(), "image/jpeg")}, "reference_image"),
    ("address for an image", {"mode": "i2v", "reference_image": "http://127.0.0.1/picture.png"}, "reference_image"),
]


@pytest.mark.parametrize(("change", "field"), [pytest.param(change, field, id=name) for name, change, field in _BAD])
def test_field_is_named_and_nothing_is_stored_when_it_is_wrong(
    stack: Stack, frontend: Frontend, change: dict[str, Any], field: str
) -> None:
    before, tasks = _files(stack), frontend.client.get("/gallery").json()["total"]
    reply = frontend.client.post("/generate", json={**_GOOD, **change})
    assert reply.status_code == 422
    detail = reply.json()["detail"]
    assert detail["code"] == "validation_error"
    assert field in {entry["field"] for entry in detail["metadata"]["fields"]}
    assert detail["user_action"]
    assert (_files(stack), frontend.client.get("/gallery").json()["total"]) == (before, tasks)


def test_body_is_refused_when_it_is_too_large(stack: Stack, frontend: Frontend) -> None:
    before = _files(stack)
    reply = frontend.client.post("/generate", content=b" " * (65 * 1024 * 1024), headers={"Content-Type": "application/json"})
    assert reply.status_code == 413
    assert reply.json()["detail"]["user_action"]
    assert _files(stack) == before


def test_credentials_are_told_apart(stack: Stack) -> None:
    assert httpx.get(f"{stack.http_url}/gallery").status_code == 401
    assert httpx.get(f"{stack.http_url}/gallery", headers={"X-API-Key": "wrong"}).status_code == 403
    assert stack.api_key not in "".join(stack.log(name) for name in ("http-bridge", "admission", "lane-anisora"))


def _until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    ends_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_s
        time.sleep(0.05)
