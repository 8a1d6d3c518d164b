"""The admin paths of accounts: passed on to their server where one is set."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from http_bridge.admin import admin
from http_bridge.bodies import read_body
from http_bridge.context import bridge_of
from http_bridge.schemas import ErrorReply
from http_bridge.upstream.accounts import Passed, checked_path, checked_query, without_upstream

router = APIRouter(prefix="/admin", tags=["accounts"])

_MOST_BYTES = 1024 * 1024
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_REPLIES: dict[int | str, dict[str, Any]] = {
    "2XX": {"description": "What the server of accounts answered."},
    501: {"model": ErrorReply, "description": "No server of accounts is set; `detail` names the setting."},
}

_BODY = {
    "requestBody": {"description": "As the server of accounts wants it; at most 1 MiB.", "content": {"application/json": {"schema": {}}}}
}


async def _pass_on(request: Request, path: str) -> Response:
    bridge = bridge_of(request)
    if bridge.accounts is None:
        raise without_upstream()
    checked, query = checked_path(path, request.scope.get("raw_path")), checked_query(request.url.query)
    async with bridge.large_bodies.room() as room:
        content = await read_body(request, room, limit_bytes=_MOST_BYTES, timeout_s=bridge.settings.body_timeout_s)
    content_type = request.headers.get("content-type")
    return await bridge.accounts.pass_on(
        Passed(method=request.method, path=checked, query=query, content=content, content_type=content_type)
    )


async def accounts_root(request: Request) -> Response:
    """Passed on to the server of accounts."""
    return await _pass_on(request, "accounts")


async def accounts(request: Request, path: str) -> Response:
    """Passed on to the server of accounts."""
    return await _pass_on(request, f"accounts/{path}")


async def deploy_all(request: Request) -> Response:
    """Passed on to the server of accounts; it may take ten minutes."""
    return await _pass_on(request, "deploy-all")


def _add(path: str, endpoint: Any, action: str, *methods: str) -> None:
    for method in methods:
        name = f"{action}_{method.lower()}"
        router.add_api_route(
            path,
            endpoint,
            methods=[method],
            name=name,
            operation_id=f"{name}_{endpoint.__name__}",
            dependencies=[admin(name)],
            response_class=Response,
            responses=_REPLIES,
            openapi_extra=_BODY if method in ("POST", "PUT", "PATCH") else None,
        )


# GET of the list itself is ours, and has the upstream's part in it.
_add("/accounts", accounts_root, "admin_accounts", *_METHODS[1:])
_add("/accounts/{path:path}", accounts, "admin_accounts", *_METHODS)
_add("/deploy-all", deploy_all, "admin_deploy_all", *_METHODS)
