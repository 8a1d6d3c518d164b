"""The table of paths, row by row, on every door: replies of the right shape, and the named refusals."""

from __future__ import annotations

import time
import uuid
from typing import Any

import httpx
import pytest

from tests.contract_http.doors import PREFIXES, SMALL, Door, assert_envelope, wrong_fields
from tests.harness.contract_bridge import ContractBridge
from tests.harness.noop_lanes import video_bytes

_MODEL_MEMBERS = {
    "id",
    "name",
    "type",
    "category",
    "description",
    "modes",
    "default_mode",
    "fixed_parameters",
    "parameters_schema",
}
_STATUS_MEMBERS = {
    "task_id",
    "status",
    "progress",
    "stage",
    "stage_detail",
    "lane_mode",
    "fallback_reason",
    "diagnostics",
    "result_url",
    "preview_url",
    "error",
    "error_msg",
    "created_at",
    "updated_at",
    "queue_position",
    "eta_seconds",
    "attempt",
    "error_code",
}
_ITEM_MEMBERS = {
    "id",
    "model",
    "type",
    "mode",
    "prompt",
    "negative_prompt",
    "parameters",
    "width",
    "height",
    "seed",
    "created_at",
    "preview_url",
    "result_url",
}
_STAGES = {"queued", "dispatch", "loading_pipeline", "inference", "encoding", "completed", "failed"}
_NO_TASK = uuid.UUID(int=0).hex


def test_models_are_listed_with_their_rules(door: Door) -> None:
    models = {model["id"]: model for model in door.http.get("/models").json()["models"]}
    assert set(models) == {"anisora", "phr00t"}
    for model in models.values():
        assert set(model) >= _MODEL_MEMBERS
        assert (model["type"], model["default_mode"]) == ("video", "t2v")
    assert models["anisora"]["modes"] == ["t2v", "i2v", "first_last_frame", "arbitrary_frame"]
    assert models["phr00t"]["modes"] == ["t2v", "i2v", "first_last_frame"]
    assert models["anisora"]["fixed_parameters"] == {"steps": {"value": 8, "locked": True}}
    assert models["phr00t"]["fixed_parameters"] == {"steps": {"value": 4, "locked": True}, "cfg_scale": {"value": 1.0, "locked": True}}
    assert models["anisora"]["parameters_schema"]["properties"]["num_frames"]["maximum"] == 241


def test_status_of_a_done_task_has_every_member(door: Door) -> None:
    task_id = door.done()
    status = door.http.get(f"/status/{task_id}").json()
    assert set(status) >= _STATUS_MEMBERS
    assert (status["task_id"], status["status"], status["progress"], status["stage"]) == (task_id, "done", 100, "completed")
    assert (status["lane_mode"], status["fallback_reason"]) == ("dedicated", None)
    assert (status["error"], status["error_msg"], status["error_code"]) == (None, None, None)
    assert (status["result_url"], status["preview_url"]) == (f"/results/{task_id}", f"/preview/{task_id}")
    assert (status["attempt"], status["queue_position"]) == (1, None)
    for event in status["diagnostics"]["events"]:
        assert set(event) >= {"event_type", "value", "reason", "created_at"}


def test_status_of_a_failed_task_says_why_twice(door: Door) -> None:
    status = door.ended(door.accepted(prompt="fails"))
    assert (status["status"], status["stage"], status["error_code"]) == ("failed", "failed", "render_failed")
    assert status["error"] == status["error_msg"] != ""
    assert (status["result_url"], status["preview_url"]) == (None, None)


def test_status_while_a_task_is_rendered_and_while_one_waits_behind_it(door: Door) -> None:
    rendered = door.accepted(prompt="waits")
    waiting = door.accepted(prompt="waits")
    try:
        status = door.ended(rendered, until=("processing",))
        assert (status["progress"], status["stage"], status["stage_detail"]) == (10, "inference", "step 1 of 8")
        status = door.http.get(f"/status/{waiting}").json()
        assert (status["status"], status["stage"], status["progress"], status["queue_position"]) == ("pending", "queued", 0, 0)
        assert status["stage"] in _STAGES
        for path in (f"/results/{rendered}", f"/results/{waiting}"):
            assert_envelope(door.http.get(path), 425, "task_not_done")
        assert door.http.get(f"/preview/{rendered}").status_code == 404
    finally:
        for task_id in (waiting, rendered):
            assert door.http.delete(f"/gallery/{task_id}").status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/status/{}"), ("GET", "/results/{}"), ("GET", "/preview/{}"), ("DELETE", "/gallery/{}"), ("POST", "/cancel/{}")],
)
@pytest.mark.parametrize("task_id", [_NO_TASK, "x", "a.b", "x" * 300, "%00", "..%2f..%2fetc"])
def test_task_that_is_not_there_is_404(door: Door, method: str, path: str, task_id: str) -> None:
    reply = door.http.request(method, path.format(task_id))
    assert_envelope(reply, 404, "not_found" if "%2f" in task_id else "task_not_found")


@pytest.mark.parametrize(("output_format", "media_type"), [("mp4", "video/mp4"), ("webm", "video/webm")])
def test_result_is_the_file_with_its_type_and_tag(door: Door, output_format: str, media_type: str) -> None:
    task_id = door.done(output_format=output_format)
    reply = door.http.get(f"/results/{task_id}")
    assert (reply.status_code, reply.headers["content-type"]) == (200, media_type)
    assert reply.content == video_bytes(task_id, output_format)
    assert int(reply.headers["content-length"]) == len(reply.content)
    tag = reply.headers["etag"]
    unchanged = door.http.get(f"/results/{task_id}", headers={"If-None-Match": tag})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)
    part = door.http.get(f"/results/{task_id}", headers={"Range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, reply.content[2:6])
    assert part.headers["content-range"] == f"bytes 2-5/{len(reply.content)}"
    beyond = door.http.get(f"/results/{task_id}", headers={"Range": f"bytes={len(reply.content)}-"})
    assert_envelope(beyond, 416, "range_not_satisfiable")
    head = door.http.head(f"/results/{task_id}")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(reply.content)))


def test_preview_is_a_jpeg(door: Door) -> None:
    reply = door.http.get(f"/preview/{door.done()}")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "image/jpeg")
    assert reply.content.startswith(b"\xff\xd8")


def test_result_of_a_failed_task_is_404(door: Door) -> None:
    task_id = door.accepted(prompt="fails")
    door.ended(task_id)
    assert_envelope(door.http.get(f"/results/{task_id}"), 404, "result_not_found")
    assert_envelope(door.http.get(f"/preview/{task_id}"), 404, "result_not_found")


def test_gallery_lists_done_tasks_newest_first(door: Door) -> None:
    failed = door.accepted(prompt="fails")
    door.ended(failed)
    older, newer = door.done(), door.done(model="phr00t")
    reply = door.http.get("/gallery")
    assert reply.status_code == 200
    page = reply.json()
    assert set(page) == {"items", "total", "page", "per_page", "has_more"}
    assert (page["page"], page["per_page"]) == (1, 20)
    ids = [item["id"] for item in page["items"]]
    assert ids[:2] == [newer, older]
    assert failed not in ids
    assert all(set(item) >= _ITEM_MEMBERS for item in page["items"])
    first = page["items"][0]
    assert (first["model"], first["type"], first["mode"], first["width"], first["height"]) == ("phr00t", "video", "t2v", 256, 256)
    assert (first["preview_url"], first["result_url"]) == (f"/preview/{newer}", f"/results/{newer}")


def test_gallery_is_paged_sorted_and_filtered(door: Door) -> None:
    for model, width in (("anisora", 512), ("phr00t", 256), ("phr00t", 768)):
        door.done(model=model, width=width)

    def listed(**query: int | str) -> dict[str, Any]:
        reply = door.http.get("/gallery", params=query)
        assert reply.status_code == 200, reply.text
        page: dict[str, Any] = reply.json()
        return page

    everything = listed(per_page=100)
    first, second = listed(per_page=2), listed(per_page=2, page=2)
    assert [item["id"] for item in (*first["items"], *second["items"])] == [item["id"] for item in everything["items"][:4]]
    assert (first["has_more"], first["total"]) == (True, everything["total"])
    beyond = listed(page=10_000)
    assert (beyond["items"], beyond["has_more"]) == ([], False)
    for key in ("width", "height"):
        values = [item[key] for item in listed(per_page=100, sort=key)["items"]]
        assert values == sorted(values, reverse=True) or values == sorted(values)
    assert listed(sort="no such key")["items"] == listed()["items"] == listed(sort="created_at")["items"]
    assert {item["model"] for item in listed(model="phr00t", per_page=100)["items"]} == {"phr00t"}
    assert listed(type="video")["total"] == everything["total"]
    assert (listed(type="image")["total"], listed(model="wan")["total"]) == (0, 0)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"per_page": 0}, "per_page"),
        ({"per_page": 101}, "per_page"),
        ({"per_page": "many"}, "per_page"),
        ({"page": 0}, "page"),
        ({"page": "x"}, "page"),
    ],
)
def test_page_is_refused_when_it_is_beyond_the_limits(door: Door, query: dict[str, int | str], field: str) -> None:
    assert wrong_fields(door.http.get("/gallery", params=query)) == {field}


@pytest.mark.parametrize("query", [{"per_page": 1}, {"per_page": 100}, {"page": 1}])
def test_page_is_given_when_it_is_at_the_limits(door: Door, query: dict[str, int | str]) -> None:
    assert door.http.get("/gallery", params=query).status_code == 200


def test_deleted_task_and_its_files_are_gone(bridge: ContractBridge, door: Door) -> None:
    task_id = door.done()
    folder = bridge.objects / "results" / task_id
    assert list(folder.rglob("video.mp4"))
    reply = door.http.delete(f"/gallery/{task_id}")
    assert (reply.status_code, reply.json()) == (200, {"deleted": True, "id": task_id})
    for method, path in (("GET", "status"), ("GET", "results"), ("GET", "preview"), ("DELETE", "gallery")):
        assert_envelope(door.http.request(method, f"/{path}/{task_id}"), 404, "task_not_found")
    ends_s = time.monotonic() + 10
    while list(folder.rglob("*.*")):
        assert time.monotonic() < ends_s, "the files are still there"
        time.sleep(0.01)


def test_running_task_is_cancelled_when_it_is_deleted(door: Door) -> None:
    task_id = door.accepted(prompt="waits")
    door.ended(task_id, until=("processing",))
    assert door.http.delete(f"/gallery/{task_id}").json() == {"deleted": True, "id": task_id}
    assert_envelope(door.http.get(f"/status/{task_id}"), 404, "task_not_found")
    # The lane is free again.
    door.done()


def test_cancel_ends_a_task_and_says_the_same_again(door: Door) -> None:
    task_id = door.accepted(prompt="waits")
    replies = [door.http.post(f"/cancel/{task_id}") for _ in range(3)]
    assert [(reply.status_code, reply.json()) for reply in replies] == [(200, {"task_id": task_id, "status": "failed"})] * 3
    status = door.http.get(f"/status/{task_id}").json()
    assert (status["status"], status["stage"], status["error_code"]) == ("failed", "failed", "cancelled")


def test_cancel_leaves_a_done_task_done(door: Door) -> None:
    task_id = door.done()
    assert door.http.post(f"/cancel/{task_id}").json() == {"task_id": task_id, "status": "done"}


def test_same_idempotency_key_gives_the_same_task(door: Door) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    first, second = (door.http.post("/generate", json=SMALL, headers=headers) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    other = door.http.post("/generate", json={**SMALL, "prompt": "a kite"}, headers=headers)
    assert wrong_fields(other) == {"Idempotency-Key"}


def test_idempotency_key_belongs_to_its_owner(doors: list[Door]) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    ids = {door.http.post("/generate", json=SMALL, headers=headers).json()["task_id"] for door in doors}
    # Two sessions; the key is one owner under both prefixes.
    assert len(ids) == 3


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("path", ["/nothing", "/health/", "/models/x", "/gallery/", "/status", "/admin", "/auth"])
def test_unknown_path_has_the_envelope(anonymous: httpx.Client, prefix: str, path: str) -> None:
    assert_envelope(anonymous.get(prefix + path), 404, "not_found")


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(
    ("method", "path", "right"),
    [
        ("PUT", "/generate", {"POST"}),
        ("POST", "/models", {"GET"}),
        ("DELETE", "/auth/session", {"GET", "POST"}),
        ("POST", "/results/x", {"GET", "HEAD"}),
        ("PATCH", "/gallery", {"GET"}),
    ],
)
def test_wrong_method_has_the_envelope_and_says_which_are_right(
    anonymous: httpx.Client, prefix: str, method: str, path: str, right: set[str]
) -> None:
    reply = anonymous.request(method, prefix + path)
    assert_envelope(reply, 405, "method_not_allowed")
    assert set(reply.headers["allow"].split(", ")) == right


@pytest.mark.parametrize("prefix", PREFIXES)
def test_documentation_is_served_and_names_every_path(anonymous: httpx.Client, prefix: str) -> None:
    assert anonymous.get(f"{prefix}/docs").headers["content-type"].startswith("text/html")
    described = anonymous.get(f"{prefix}/openapi.json").json()
    assert described["servers"] == [{"url": prefix or "/"}]
    named = {f"{method.upper()} {path}" for path, methods in described["paths"].items() for method in methods}
    assert named >= {
        "GET /health",
        "POST /auth/session",
        "GET /auth/session",
        "GET /models",
        "POST /generate",
        "POST /generate_direct",
        "GET /status/{task_id}",
        "GET /results/{task_id}",
        "GET /preview/{task_id}",
        "GET /gallery",
        "DELETE /gallery/{task_id}",
        "POST /cancel/{task_id}",
    }
