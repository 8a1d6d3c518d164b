"""The HTTP contract against a running admission double: access, errors, tasks, gallery, documentation, cross-origin rules."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from warmlane.admission.v1.admission_service_pb2 import TaskSort
from warmlane.admission.v1.task_pb2 import Stage, TaskState

from runtime.errors import ErrorCode, ServiceError
from tests.harness.admission_double import make_task
from tests.harness.bridge import DONE_ID, KEY, WITH_KEY, BridgeUnderTest, running_bridge

PREFIXES = pytest.mark.parametrize("prefix", ["", "/api"])
PROTECTED = [
    ("GET", "/models"),
    ("POST", "/generate"),
    ("POST", "/generate_direct"),
    ("GET", "/status/x"),
    ("GET", "/events/x"),
    ("GET", "/results/x"),
    ("HEAD", "/results/x"),
    ("GET", "/preview/x"),
    ("GET", "/gallery"),
    ("DELETE", "/gallery/x"),
    ("POST", "/cancel/x"),
]


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[BridgeUnderTest]:
    async with running_bridge(tmp_path / "objects") as bridge:
        yield bridge


@PREFIXES
async def test_health_is_open_when_nobody_is_known(bridge: BridgeUnderTest, prefix: str) -> None:
    reply = await bridge.http.get(f"{prefix}/health")
    assert reply.status_code == 200
    assert reply.json() == {"status": "ok", "version": bridge.app.version, "app": "warmlane"}
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


@PREFIXES
async def test_session_opens_with_a_cookie_and_is_active_when_it_is_sent_back(bridge: BridgeUnderTest, prefix: str) -> None:
    opened = await bridge.http.post(f"{prefix}/auth/session")
    assert opened.status_code == 201
    assert opened.json() == {"session_status": "active", "expires_at": "2026-01-02T12:00:00Z"}
    cookie = opened.headers["Set-Cookie"]
    assert cookie.startswith("gg_session=token-0; ")
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "path=/", "secure", "samesite=none", "expires=fri, 02 jan 2026 12:00:00 gmt"} == attributes
    checked = await bridge.http.get(f"{prefix}/auth/session", headers={"Cookie": "gg_session=token-0"})
    assert (checked.status_code, checked.json()) == (200, {"active": True, "expires_at": "2026-01-02T12:00:00Z"})


@pytest.mark.parametrize(
    ("state", "code"),
    [(None, "generation_session_missing"), ("EXPIRED", "generation_session_expired"), ("INVALID", "generation_session_invalid")],
)
async def test_session_check_says_what_is_wrong_when_it_is_not_active(bridge: BridgeUnderTest, state: str | None, code: str) -> None:
    headers = bridge.add_session(state=state) if state else {}
    reply = await bridge.http.get("/auth/session", headers=headers)
    assert (reply.status_code, reply.json()["detail"]["code"]) == (401, code)


async def test_token_is_refused_without_a_call_when_it_is_longer_than_any(bridge: BridgeUnderTest) -> None:
    reply = await bridge.http.get("/status/x", headers={"Cookie": f"gg_session={'x' * 5000}"})
    assert (reply.status_code, reply.json()["detail"]["code"]) == (401, "generation_session_invalid")


@PREFIXES
async def test_every_protected_path_is_refused_with_401_when_no_credential_comes(bridge: BridgeUnderTest, prefix: str) -> None:
    for method, path in PROTECTED:
        reply = await bridge.http.request(method, prefix + path)
        assert reply.status_code == 401, path
        assert method == "HEAD" or reply.json()["detail"]["code"] == "unauthenticated", path


async def test_wrong_key_is_refused_with_403_when_a_good_session_comes_too(tmp_path: Path) -> None:
    async with running_bridge(tmp_path / "objects", bad_keys_per_minute=0) as bridge:
        headers = {**bridge.add_session(), "X-API-Key": "wröng"}
        encoded = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
        for method, path in PROTECTED:
            reply = await bridge.http.request(method, path, headers=encoded)
            assert reply.status_code == 403, path
            assert method == "HEAD" or reply.json()["detail"]["code"] == "forbidden", path


async def test_key_wins_when_an_expired_session_comes_too(bridge: BridgeUnderTest) -> None:
    reply = await bridge.http.get("/models", headers={**bridge.add_session(state="EXPIRED"), **WITH_KEY})
    assert reply.status_code == 200


async def test_session_does_not_open_generate_direct_when_no_key_comes(bridge: BridgeUnderTest) -> None:
    reply = await bridge.http.post("/generate_direct", headers=bridge.add_session(), json={})
    assert (reply.status_code, reply.json()["detail"]["code"]) == (401, "unauthenticated")


async def test_missing_setting_is_named_on_every_protected_path_when_no_key_is_configured(tmp_path: Path) -> None:
    async with running_bridge(tmp_path / "objects", api_key=None) as bridge:
        for method, path in PROTECTED:
            reply = await bridge.http.request(method, path, headers={**bridge.add_session(), **WITH_KEY})
            assert reply.status_code == 503, path
            if method != "HEAD":
                detail = reply.json()["detail"]
                assert (detail["code"], detail["metadata"]) == ("service_unavailable", {"missing_setting": "WARMLANE_API_KEY"}), path


async def test_everyone_is_served_when_no_key_is_configured_and_that_is_allowed(tmp_path: Path) -> None:
    async with running_bridge(tmp_path / "objects", api_key=None, allow_unauthenticated=True) as bridge:
        assert (await bridge.http.get("/models")).status_code == 200


async def test_key_is_asked_for_when_one_is_configured_though_everyone_is_allowed(tmp_path: Path) -> None:
    async with running_bridge(tmp_path / "objects", allow_unauthenticated=True) as bridge:
        assert (await bridge.http.get("/models")).status_code == 401


@PREFIXES
async def test_models_lists_the_rule_set_when_asked(bridge: BridgeUnderTest, prefix: str) -> None:
    reply = await bridge.http.get(f"{prefix}/models", headers=bridge.add_session())
    models = {model["id"]: model for model in reply.json()["models"]}
    assert set(models) == {"anisora", "phr00t"}
    assert models["phr00t"]["fixed_parameters"] == {"steps": {"value": 4, "locked": True}, "cfg_scale": {"value": 1.0, "locked": True}}
    assert set(models["anisora"]) == {
        "id",
        "name",
        "type",
        "category",
        "description",
        "modes",
        "default_mode",
        "fixed_parameters",
        "parameters_schema",
        "limits",
        "text_to_video_weights",
    }
    assert {name: model["text_to_video_weights"] for name, model in models.items()} == {"anisora": ["image_to_video_experts"], "phr00t": []}
    assert models["anisora"]["parameters_schema"]["properties"]["steps"]["const"] == 8
    assert models["anisora"]["limits"] == {
        "gpus": ["NVIDIA A10G"],
        "sizes": [
            {
                "width": 480,
                "height": 832,
                "max_num_frames": 81,
                "placement": "streamed",
                "predicted_peak_bytes": 20 * 1024**3,
                "predicted_seconds": None,
            }
        ],
    }


async def test_models_have_no_limits_when_admission_does_not_answer(bridge: BridgeUnderTest) -> None:
    headers = bridge.add_session()
    bridge.admission.refusal = ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="Not now.")
    reply = await bridge.http.get("/models", headers=headers)
    assert reply.status_code == 200
    assert [(model["limits"], model["text_to_video_weights"]) for model in reply.json()["models"]] == [(None, []), (None, [])]


@PREFIXES
async def test_status_is_told_when_the_task_is_known(bridge: BridgeUnderTest, prefix: str) -> None:
    bridge.admission.tasks["a"] = make_task(
        "a", state=TaskState.TASK_STATE_LEASED, stage=Stage.STAGE_INFERENCE, progress=40, stage_detail="step 3 of 8", attempt=1
    )
    reply = await bridge.http.get(f"{prefix}/status/a", headers=bridge.add_session())
    assert reply.status_code == 200
    assert reply.json() == {
        "task_id": "a",
        "status": "processing",
        "progress": 40,
        "stage": "inference",
        "stage_detail": "step 3 of 8",
        "lane_mode": None,
        "fallback_reason": None,
        "diagnostics": None,
        "result_url": None,
        "preview_url": None,
        "error": None,
        "error_msg": None,
        "error_code": None,
        "created_at": "2026-01-01T12:00:00Z",
        "updated_at": "2026-01-01T12:00:00Z",
        "queue_position": None,
        "eta_seconds": None,
        "attempt": 1,
        "text_to_video_weights": None,
    }
    assert reply.headers["Cache-Control"] == "no-store"


async def test_urls_are_absolute_when_the_public_address_is_set(tmp_path: Path) -> None:
    async with running_bridge(tmp_path / "objects", public_base_url="https://host/api/") as bridge:
        bridge.add_done_task()
        status = (await bridge.http.get(f"/status/{DONE_ID}", headers=WITH_KEY)).json()
        item = (await bridge.http.get("/gallery", headers=WITH_KEY)).json()["items"][0]
    assert status["result_url"] == item["result_url"] == f"https://host/api/results/{DONE_ID}"
    assert status["preview_url"] == item["preview_url"] == f"https://host/api/preview/{DONE_ID}"


async def test_task_is_not_found_when_the_id_is_unknown(bridge: BridgeUnderTest) -> None:
    paths = [("GET", "/status/"), ("GET", "/results/"), ("GET", "/preview/"), ("POST", "/cancel/"), ("DELETE", "/gallery/")]
    for method, path in paths:
        for task_id in ("unknown", "x" * 200, "a%20b", "%00", "%F0%9F%90%9F", "%2e%2e%2fhealth"):
            reply = await bridge.http.request(method, path + task_id, headers=WITH_KEY)
            assert reply.status_code == 404, path + task_id
            assert reply.json()["detail"]["code"] in ("task_not_found", "not_found"), path + task_id


@PREFIXES
async def test_cancel_gives_the_same_answer_when_repeated(bridge: BridgeUnderTest, prefix: str) -> None:
    bridge.admission.tasks["a"] = make_task("a")
    for _ in range(2):
        reply = await bridge.http.post(f"{prefix}/cancel/a", headers=WITH_KEY)
        assert (reply.status_code, reply.json()) == (200, {"task_id": "a", "status": "failed"})
    status = (await bridge.http.get("/status/a", headers=WITH_KEY)).json()
    assert (status["status"], status["error_code"]) == ("failed", "cancelled")


@PREFIXES
async def test_deleted_task_is_gone_when_asked_for_again(bridge: BridgeUnderTest, prefix: str) -> None:
    bridge.add_done_task()
    reply = await bridge.http.delete(f"{prefix}/gallery/{DONE_ID}", headers=bridge.add_session())
    assert (reply.status_code, reply.json()) == (200, {"deleted": True, "id": DONE_ID})
    assert (await bridge.http.get(f"/status/{DONE_ID}", headers=WITH_KEY)).status_code == 404
    assert (await bridge.http.delete(f"/gallery/{DONE_ID}", headers=WITH_KEY)).status_code == 404


@PREFIXES
async def test_gallery_pages_through_done_tasks_when_there_are_more(bridge: BridgeUnderTest, prefix: str) -> None:
    for number in range(3):
        bridge.add_done_task(task_id=f"{number}" * 32)
    bridge.admission.tasks["a"] = make_task("a")
    first = (await bridge.http.get(f"{prefix}/gallery?per_page=2", headers=WITH_KEY)).json()
    last = (await bridge.http.get(f"{prefix}/gallery?per_page=2&page=2", headers=WITH_KEY)).json()
    assert [len(first["items"]), first["total"], first["page"], first["per_page"], first["has_more"]] == [2, 3, 1, 2, True]
    assert [len(last["items"]), last["has_more"]] == [1, False]
    item = first["items"][0]
    assert {"id", "model", "type", "mode", "prompt", "negative_prompt", "parameters", "width", "height", "seed"} < set(item)
    assert item["result_url"] == f"/results/{item['id']}"


@pytest.mark.parametrize(
    ("query", "sort", "model"),
    [
        ("", TaskSort.TASK_SORT_CREATED_AT, ""),
        ("sort=height", TaskSort.TASK_SORT_HEIGHT, ""),
        ("sort=prompt", TaskSort.TASK_SORT_CREATED_AT, ""),
        ("model=phr00t&type=video", TaskSort.TASK_SORT_CREATED_AT, "phr00t"),
        ("model=&type=", TaskSort.TASK_SORT_CREATED_AT, ""),
    ],
)
async def test_gallery_asks_admission_for_what_was_asked_when_it_can_exist(
    bridge: BridgeUnderTest, query: str, sort: TaskSort.ValueType, model: str
) -> None:
    assert (await bridge.http.get(f"/gallery?{query}", headers=WITH_KEY)).status_code == 200
    asked = bridge.admission.listed[0]
    assert (asked.sort, asked.model, asked.page, asked.page_size) == (sort, model, 1, 20)
    assert list(asked.states) == [TaskState.TASK_STATE_DONE]


@pytest.mark.parametrize("query", ["type=image", "model=pony", "model=anisora&type=image", "type=song"])
async def test_gallery_is_empty_when_nothing_of_the_kind_is_made_here(bridge: BridgeUnderTest, query: str) -> None:
    bridge.add_done_task()
    reply = await bridge.http.get(f"/gallery?{query}", headers=WITH_KEY)
    assert reply.json() == {"items": [], "total": 0, "page": 1, "per_page": 20, "has_more": False}


@pytest.mark.parametrize(
    ("query", "field"), [("page=0", "page"), ("page=x", "page"), ("per_page=101", "per_page"), ("page=9999999999", "page")]
)
async def test_gallery_names_the_parameter_when_it_is_out_of_range(bridge: BridgeUnderTest, query: str, field: str) -> None:
    reply = await bridge.http.get(f"/gallery?{query}", headers=WITH_KEY)
    assert reply.status_code == 422
    detail = reply.json()["detail"]
    assert (detail["code"], [entry["field"] for entry in detail["metadata"]["fields"]]) == ("validation_error", [field])


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/api/nothing", 404, "not_found"),
        ("GET", "/gallery/", 404, "not_found"),
        ("PUT", "/health", 405, "method_not_allowed"),
        ("GET", "/generate", 405, "method_not_allowed"),
        ("OPTIONS", "/health", 405, "method_not_allowed"),
    ],
)
async def test_envelope_is_sent_when_the_framework_refuses(bridge: BridgeUnderTest, method: str, path: str, status: int, code: str) -> None:
    reply = await bridge.http.request(method, path, headers=WITH_KEY)
    assert reply.status_code == status
    assert set(reply.json()) == {"detail"}
    assert set(reply.json()["detail"]) == {"code", "detail", "user_action"}
    assert reply.json()["detail"]["code"] == code
    assert ("Allow" in reply.headers) == (status == 405)


@pytest.mark.parametrize(("method", "path"), [("GET", "/status/x"), ("GET", "/gallery"), ("POST", "/auth/session"), ("POST", "/cancel/x")])
async def test_unavailability_is_told_when_admission_is_away(bridge: BridgeUnderTest, method: str, path: str) -> None:
    bridge.admission.refusal = ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="Not now.", retry_after_s=3)
    reply = await bridge.http.request(method, path, headers=WITH_KEY)
    assert (reply.status_code, reply.json()["detail"]["code"], reply.headers["Retry-After"]) == (503, "service_unavailable", "3")


async def test_envelope_is_sent_without_the_cause_when_the_bridge_itself_fails(
    bridge: BridgeUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_task_id: str) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(bridge.app.state.bridge.client, "get_task", fail)
    with capture_logs() as logs:
        reply = await bridge.http.get("/status/x", headers={**WITH_KEY, "Origin": "http://localhost:5173"})
    assert (reply.status_code, reply.json()["detail"]["code"]) == (500, "internal")
    assert "secret" not in reply.text
    assert reply.headers["Access-Control-Allow-Origin"] == "http://localhost:5173"
    assert [entry["event"] for entry in logs] == ["http_request_failed", "http_request"]


async def test_log_has_no_secret_when_requests_bring_some(bridge: BridgeUnderTest) -> None:
    headers = {**bridge.add_session(session_id="hush"), **WITH_KEY}
    with capture_logs() as logs:
        await bridge.http.post("/generate?key=hush", headers=headers, json={"model": "anisora", "prompt": "hush"})
        await bridge.http.get("/models", headers={"X-API-Key": "hush"})
    assert [(entry["path"], entry["status"]) for entry in logs] == [("/generate", 202), ("/models", 403)]
    assert "hush" not in str(logs)
    assert KEY not in str(logs)


@pytest.mark.parametrize("origin", ["https://app.example.org", "http://localhost:5173", "http://127.0.0.1:5173"])
async def test_reply_may_be_read_when_the_origin_is_allowed(tmp_path: Path, origin: str) -> None:
    async with running_bridge(tmp_path / "objects", cors_origins=("https://app.example.org",)) as bridge:
        preflight = await bridge.http.options(
            "/generate", headers={"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
        )
        refused = await bridge.http.get("/status/x", headers={"Origin": origin})
    assert (preflight.status_code, refused.status_code) == (200, 401)
    for reply in (preflight, refused):
        assert reply.headers["Access-Control-Allow-Origin"] == origin
        assert reply.headers["Access-Control-Allow-Credentials"] == "true"


async def test_reply_may_not_be_read_when_the_origin_is_not_allowed(bridge: BridgeUnderTest) -> None:
    origin = {"Origin": "https://evil.example.org"}
    reply = await bridge.http.get("/health", headers=origin)
    preflight = await bridge.http.options("/generate", headers={**origin, "Access-Control-Request-Method": "POST"})
    assert "Access-Control-Allow-Origin" not in reply.headers
    assert "Access-Control-Allow-Origin" not in preflight.headers
    assert (preflight.status_code, preflight.json()["detail"]["code"]) == (400, "bad_request")


@PREFIXES
async def test_documentation_speaks_of_its_own_prefix_when_opened(bridge: BridgeUnderTest, prefix: str) -> None:
    page = await bridge.http.get(f"{prefix}/docs")
    schema = (await bridge.http.get(f"{prefix}/openapi.json")).json()
    start = await bridge.http.get(f"{prefix}/docs/start.js")
    assert f'src="{prefix}/docs/start.js"' in page.text
    assert f'"{prefix}/openapi.json"' in start.text
    assert schema["servers"] == [{"url": prefix or "/"}]
    bodies = schema["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    assert [body["properties"]["model"]["enum"] for body in bodies] == [["anisora"], ["phr00t"], ["pony", "flux"]]
    assert bodies[0]["properties"]["reference_image"]["type"] == ["string", "null"]
    assert "HTTPValidationError" not in schema["components"]["schemas"]
