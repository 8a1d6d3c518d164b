"""A stand-in for the servers behind the bridge: a real HTTP server with images and accounts, that keeps every byte it gets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

from http_bridge.config import BridgeSettings
from http_bridge.server import http_server

IMAGE_KEY = "upstream-image-key-7c1f"
ADMIN_KEY = "upstream-admin-key-93ab"

IMAGE_BODY = {"model": "pony", "type": "image", "mode": "txt2img", "prompt": "a lake at dawn", "steps": 28, "anything": {"else": [1]}}
ONE_TASK = [
    ("GET", "/status/"),
    ("GET", "/results/"),
    ("HEAD", "/results/"),
    ("GET", "/preview/"),
    ("POST", "/cancel/"),
    ("DELETE", "/gallery/"),
]
"""Methods and paths of one task; its id follows."""

# What such a server sends with everything, and no client of ours may ever see.
_OWN_HEADERS = {"Set-Cookie": "upstream_session=secret-of-upstream; Path=/", "Server": "upstream/9", "X-Debug-Key": IMAGE_KEY}


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One request as it came in."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def everything(self) -> str:
        """All of it as one text, to look for what must not be there."""
        return f"{self.method} {self.path}?{self.query}\n{self.headers}\n{self.body.decode('latin-1')}"

    def header(self, name: str) -> str | None:
        """A header's value."""
        return next((value for found, value in self.headers if found == name.lower()), None)


@dataclass
class UpstreamDouble:
    """What tests set and look at.

    Attributes:
        folder: where files lie.
        images: by id: the members of a status and of a gallery item together. Those that are done are in the gallery.
        accounts: what GET /admin/accounts answers.
        answers: replies to a method and path, instead of what the server would say.
        requests: everything that came, in order.
        hold: when set, every request waits for it.
        holding: set while one waits.
        cancels: whether the server has the path /cancel.
        has_head: whether the server answers HEAD of files.
        pieces: of a file that is sent slowly: they are sent as they are put, None ends it.
        slow_closed: set when the reader of a slow file left or the file ended.
    """

    folder: Path
    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    accounts: dict[str, Any] = field(default_factory=lambda: {"accounts": [], "diagnostics": {}, "events": []})
    answers: dict[tuple[str, str], Callable[[], Response]] = field(default_factory=dict)
    requests: list[Recorded] = field(default_factory=list)
    hold: asyncio.Event | None = None
    holding: asyncio.Event = field(default_factory=asyncio.Event)
    cancels: bool = True
    has_head: bool = False
    pieces: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    slow_closed: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    def add_image(self, image_id: str, *, content: bytes = b"png bytes", status: str = "done", **members: Any) -> dict[str, Any]:
        """An image with its file; its status and gallery item are believable but for the given members."""
        (self.folder / f"{image_id}.png").write_bytes(content)
        (self.folder / f"{image_id}.jpg").write_bytes(b"preview of " + image_id.encode())
        image = {
            "id": image_id,
            "status": status,
            "progress": 100 if status == "done" else 40,
            "stage": "completed" if status == "done" else "inference",
            "model": "pony",
            "type": "image",
            "mode": "txt2img",
            "prompt": "a lake at dawn",
            "negative_prompt": "",
            "parameters": {"sampler": "euler", "reference_image": "data:image/png;base64,AAAA"},
            "width": 1024,
            "height": 1024,
            "seed": 5,
            "created_at": "2026-01-01T12:00:00",
            "updated_at": "2026-01-01T12:00:09",
            **members,
        }
        self.images[image_id] = image
        return image

    def error(self, method: str, path: str, status: int, content: Any, **headers: str) -> None:
        """The server answers this from now on."""
        self.answers[method, path] = lambda: JSONResponse(content, status_code=status, headers=headers)

    def came(self, method: str, path: str) -> list[Recorded]:
        """The requests of this method and path."""
        return [one for one in self.requests if (one.method, one.path) == (method, path)]


def envelope(code: str, detail: str, **metadata: Any) -> dict[str, Any]:
    """The contract's error body."""
    inside: dict[str, Any] = {"code": code, "detail": detail, "user_action": "Do as the upstream says."}
    return {"detail": {**inside, "metadata": metadata} if metadata else inside}


def code_of(reply: httpx.Response) -> tuple[int, str]:
    """Status and code of an error reply of the bridge."""
    return reply.status_code, reply.json()["detail"]["code"]


def image_settings(upstream: UpstreamDouble, **more: Any) -> dict[str, Any]:
    """Settings of a bridge before this upstream."""
    return {"image_upstream_url": upstream.url, "image_upstream_key": IMAGE_KEY, "upstream_timeout_s": 5, **more}


def _not_found() -> JSONResponse:
    return JSONResponse(envelope("task_not_found", "No such image upstream."), status_code=404)


def _sorted(double: UpstreamDouble, request: Request) -> list[dict[str, Any]]:
    query = request.query_params
    found = [one for one in double.images.values() if one["status"] == "done" and one["type"] == query.get("type", one["type"])]
    found = [one for one in found if query.get("model") in (None, "", one["model"])]
    # Newest first, and stable: among equals its own order, which is not that of ids.
    return sorted(found, key=lambda one: one[query.get("sort", "created_at")], reverse=True)


def _add_image_paths(app: FastAPI, double: UpstreamDouble) -> None:
    @app.post("/generate")
    async def generate() -> Response:
        image_id = f"up-{len(double.images):04d}"
        double.add_image(image_id, status="pending", progress=0, stage="queued")
        return JSONResponse({"task_id": image_id, "status": "pending", "queue": "internal"}, status_code=202)

    @app.get("/status/{image_id}")
    async def status(image_id: str) -> Response:
        image = double.images.get(image_id)
        if image is None:
            return _not_found()
        done = image["status"] == "done"
        urls = {"result_url": f"/results/{image_id}" if done else None, "preview_url": f"/preview/{image_id}" if done else None}
        return JSONResponse({"task_id": image_id, "host": "render-node-7", **urls, **image})

    @app.post("/cancel/{image_id}")
    async def cancel(image_id: str) -> Response:
        if not double.cancels:
            return JSONResponse({"detail": "Not Found"}, status_code=404)
        if image_id not in double.images:
            return _not_found()
        double.images[image_id]["status"] = "failed"
        return JSONResponse({"task_id": image_id, "status": "failed"})

    @app.get("/gallery")
    async def gallery(request: Request, page: int = 1, per_page: int = 20) -> Response:
        found = _sorted(double, request)
        items = [{**one, "preview_url": f"/preview/{one['id']}"} for one in found[(page - 1) * per_page : page * per_page]]
        return JSONResponse({"items": items, "total": len(found), "page": page, "per_page": per_page, "has_more": False})

    @app.delete("/gallery/{image_id}")
    async def delete(image_id: str) -> Response:
        return JSONResponse({"deleted": True, "id": image_id}) if double.images.pop(image_id, None) else _not_found()

    @app.get("/models")
    async def models() -> Response:
        listed = [
            {"id": "pony", "name": "Pony", "type": "image", "modes": ["txt2img", "img2img"], "fixed_parameters": {}, "secret": 1},
            {"id": "anisora", "name": "Old AniSora", "type": "video", "modes": ["t2v"]},
        ]
        return JSONResponse({"models": listed})


def _add_files(app: FastAPI, double: UpstreamDouble) -> None:
    def file(request: Request, path: Path) -> Response:
        if request.method == "HEAD" and not double.has_head:
            return JSONResponse({"detail": "Method Not Allowed"}, status_code=405)
        return FileResponse(path) if path.exists() else _not_found()

    @app.api_route("/results/{image_id}", methods=["GET", "HEAD"])
    async def result(request: Request, image_id: str) -> Response:
        if image_id == "slow":
            return StreamingResponse(_slowly(double), media_type="image/png")
        if image_id in double.images and double.images[image_id]["status"] != "done":
            return JSONResponse(envelope("task_not_done", "Not yet."), status_code=425)
        return file(request, double.folder / f"{image_id}.png")

    @app.api_route("/preview/{image_id}", methods=["GET", "HEAD"])
    async def preview(request: Request, image_id: str) -> Response:
        return file(request, double.folder / f"{image_id}.jpg")


def _add_accounts(app: FastAPI, double: UpstreamDouble) -> None:
    @app.get("/admin/accounts")
    async def accounts() -> Response:
        return JSONResponse(double.accounts)

    @app.get("/admin/health")
    async def health() -> Response:
        return JSONResponse({"ok": True, "ready_accounts": len(double.accounts["accounts"]), "diagnostics": {}})

    @app.api_route("/admin/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
    async def anything(request: Request, path: str) -> Response:
        return JSONResponse({"did": f"{request.method} {path}"}, status_code=201 if request.method == "POST" else 200)


async def _slowly(double: UpstreamDouble) -> AsyncIterator[bytes]:
    try:
        while (piece := await double.pieces.get()) is not None:
            yield piece
    finally:
        double.slow_closed.set()


def _app(double: UpstreamDouble) -> FastAPI:
    app = FastAPI(openapi_url=None)

    @app.middleware("http")
    async def record(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw)
        path, query = request.scope["raw_path"].decode("latin-1").partition("?")[0], request.url.query
        double.requests.append(Recorded(method=request.method, path=path, query=query, headers=headers, body=await request.body()))
        if double.hold is not None:
            double.holding.set()
            await double.hold.wait()
        response = await _let_in(request, call_next, double)
        for name, value in _OWN_HEADERS.items():
            response.headers.append(name, value)
        return response

    _add_image_paths(app, double)
    _add_files(app, double)
    _add_accounts(app, double)
    return app


async def _let_in(request: Request, call_next: Callable[[Request], Awaitable[Response]], double: UpstreamDouble) -> Response:
    own = double.answers.get((request.method, request.url.path))
    if own is not None:
        return own()
    is_admin = request.url.path.startswith("/admin")
    name, key = ("x-admin-key", ADMIN_KEY) if is_admin else ("x-api-key", IMAGE_KEY)
    if request.headers.get(name) != key:
        return JSONResponse(envelope("forbidden", f"Not the key; it is {key}."), status_code=403)
    return await call_next(request)


@asynccontextmanager
async def upstream_double(folder: Path) -> AsyncIterator[UpstreamDouble]:
    """A double that serves on a free port."""
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - once, before anything runs
    double = UpstreamDouble(folder=folder)
    server = http_server(_app(double), BridgeSettings(http_bind="127.0.0.1:0"))
    serving = asyncio.create_task(server.serve(), name="upstream-double")
    try:
        async with asyncio.timeout(10):
            await server.listening.wait()
        double.url = f"http://127.0.0.1:{server.port}"
        yield double
    finally:
        if double.hold is not None:
            double.hold.set()
        double.pieces.put_nowait(None)
        server.should_exit = True
        await serving
