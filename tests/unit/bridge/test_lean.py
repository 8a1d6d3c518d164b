"""The short way to an endpoint fills in what FastAPI would, and leaves the rest to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, Header, Query, Security
from fastapi.security import APIKeyCookie, APIKeyHeader
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from http_bridge.errors import HttpError, install_handlers
from http_bridge.lean import LeanRoutes

router = APIRouter()
_KEY = APIKeyHeader(name="X-Key", auto_error=False)
_COOKIE = APIKeyCookie(name="token", auto_error=False)


class Told(BaseModel):
    """What the endpoint was given."""

    method: str
    item: str
    key: str | None
    token: str | None
    again: str | None


async def _credential(
    request: Request, key: Annotated[str | None, Security(_KEY)], token: Annotated[str | None, Security(_COOKIE)]
) -> tuple[str | None, str | None]:
    if key == "wrong":
        raise HttpError("forbidden", "No.")
    return key, token


async def _item(item_id: str) -> str:
    return item_id.upper()


async def _again(request: Request, _documented: Annotated[str | None, Header(alias="X-Again")] = None) -> str | None:
    return _documented


@router.get("/items/{item_id}")
async def read(
    request: Request,
    credential: Annotated[tuple[str | None, str | None], Depends(_credential)],
    item: Annotated[str, Depends(_item)],
    again: Annotated[str | None, Depends(_again)],
) -> Told:
    return Told(method=request.method, item=item, key=credential[0], token=credential[1], again=again)


@router.post("/items/{item_id}", status_code=202)
async def write(request: Request, item: Annotated[str, Depends(_item)]) -> Told:
    return Told(method=request.method, item=item, key=None, token=None, again=(await request.body()).decode())


@router.get("/plain", response_class=Response)
async def plain(request: Request) -> Response:
    return PlainTextResponse(f"caf\u00e9 {request.scope['route'].path}")


def app(*, lean: bool) -> ASGIApp:
    """The routes of this module under two prefixes, with the short way to them or without."""
    made = FastAPI(redirect_slashes=False)
    short = LeanRoutes((router,), ("/items/{item_id}", "/plain"), ("", "/api"), made)

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        await (short if lean and short.takes(scope) else made)(scope, receive, send)

    for prefix in ("", "/api"):
        made.include_router(router, prefix=prefix)
    install_handlers(made)
    return serve


@pytest.fixture
async def both() -> AsyncIterator[list[httpx.AsyncClient]]:
    clients = [httpx.AsyncClient(transport=httpx.ASGITransport(made), base_url="http://x") for made in (app(lean=True), app(lean=False))]
    yield clients
    for client in clients:
        await client.aclose()


@pytest.mark.parametrize("prefix", ["", "/api"])
@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/items/a", {}),
        ("GET", "/items/a", {"X-Key": "k", "Cookie": "token=t; other=o", "X-Again": "yes"}),
        ("GET", "/items/a", {"X-Key": "", "Cookie": "token="}),
        ("GET", "/items/a%20b?x=1", {}),
        ("GET", "/items/a%2Fb", {}),
        ("GET", "/items/a", {"X-Key": "wrong"}),
        ("POST", "/items/a", {}),
        ("GET", "/plain", {}),
        # These are left to FastAPI.
        ("HEAD", "/items/a", {}),
        ("DELETE", "/items/a", {}),
        ("GET", "/items/", {}),
        ("GET", "/items/a/b", {}),
        ("GET", "/items", {}),
        ("GET", "/plain/", {}),
        ("GET", "//plain", {}),
        ("GET", "/nothing", {}),
    ],
)
async def test_answer_is_the_same_by_the_short_way(
    both: list[httpx.AsyncClient], prefix: str, method: str, path: str, headers: dict[str, str]
) -> None:
    lean, full = [await one.request(method, prefix + path, headers=headers, content=b"body") for one in both]
    assert (lean.status_code, lean.content, dict(lean.headers)) == (full.status_code, full.content, dict(full.headers))


async def test_requests_really_take_the_short_way(monkeypatch: pytest.MonkeyPatch, both: list[httpx.AsyncClient]) -> None:
    async def refused(*_: object, **__: object) -> None:
        pytest.fail("FastAPI solved the dependencies")

    monkeypatch.setattr("fastapi.routing.solve_dependencies", refused)
    assert (await both[0].get("/api/items/a")).json()["item"] == "A"


def _routes(endpoint: Any) -> LeanRoutes:
    own = APIRouter()
    own.add_api_route("/own/{name}", endpoint)
    return LeanRoutes((own,), ("/own/{name}",), ("",), FastAPI())


async def _with_query(page: Annotated[int, Query()] = 1) -> None: ...


async def _with_number(name: int) -> None: ...


async def _with_body(body: Told) -> None: ...


async def _with_twice(one: Annotated[str, Depends(_item)], two: Annotated[str, Depends(_item)]) -> None: ...


@pytest.mark.parametrize("endpoint", [_with_query, _with_number, _with_body, _with_twice])
def test_endpoint_is_refused_at_the_start_when_only_fastapi_can_fill_it_in(endpoint: Any) -> None:
    with pytest.raises(TypeError):
        _routes(endpoint)


def test_path_without_a_route_is_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="/gone"):
        LeanRoutes((router,), ("/gone",), ("",), FastAPI())
