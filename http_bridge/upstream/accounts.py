"""The server of the accounts' admin paths: what of it stands in our replies, and requests that are passed on to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import structlog
from starlette.responses import JSONResponse, Response

from http_bridge.errors import HttpError
from http_bridge.upstream.client import Call, UpstreamClient
from http_bridge.upstream.errors import not_understood
from http_bridge.upstream.reply import Reply

_LOG = structlog.get_logger()

ACTION_TIMEOUT_S = 600.0
"""For what changes something: a deployment takes minutes."""

# Health is asked by probes and people in a hurry.
_READY_TIMEOUT_S = 2.0
_LONGEST_QUERY = 4096
_SEGMENT = re.compile(r"[0-9A-Za-z._~@:+=,-]{1,128}")
# What a server may take for a slash or a dot, in a path that is not decoded yet.
_HIDDEN = re.compile(rb"%2f|%5c|%2e", re.IGNORECASE)
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_CONTENT_TYPE = re.compile(r"[0-9A-Za-z!#$&^_.+/=;\"' -]{1,200}")
# Types that no browser runs code of: the admin cookie is good for this origin.
_SAFE_TYPES = frozenset({"application/json", "text/plain"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountsOverview:
    """What of GET /admin/accounts is the upstream's, as it tells it."""

    accounts: list[dict[str, Any]] = field(default_factory=list)
    diagnostics: dict[str, Any] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A request to pass on.

    Attributes:
        path: behind `/admin/`, as `checked_path` made it.
        query: as it came; it is in no log of ours.
        content: the body, empty for none.
    """

    method: str
    path: str
    query: str
    content: bytes | bytearray
    content_type: str | None


class AccountsUpstream:
    """Calls the accounts' server with the admin key of the settings. Methods raise `HttpError`."""

    def __init__(self, client: UpstreamClient) -> None:
        """Over a client that `start` starts."""
        self._client = client

    async def start(self) -> None:
        """Makes the connections' pool."""
        await self._client.start()

    async def close(self) -> None:
        """Ends every connection."""
        await self._client.close()

    async def overview(self) -> AccountsOverview:
        """What stands in our GET /admin/accounts."""
        body = (await self._client.call(Call(name="accounts", method="GET", path="/admin/accounts"))).body()
        accounts, diagnostics = body.get("accounts"), body.get("diagnostics")
        if not isinstance(accounts, list):
            raise not_understood(self._client.name, "accounts that are no list")
        return AccountsOverview(
            accounts=_objects(accounts),
            diagnostics=diagnostics if isinstance(diagnostics, dict) else None,
            events=_objects(body.get("events")),
        )

    async def ready(self) -> int:
        """How many accounts are ready; 0 while the server does not say so."""
        call = Call(name="health", method="GET", path="/admin/health", timeout_s=min(_READY_TIMEOUT_S, self._client.timeout_s))
        try:
            found = (await self._client.call(call)).body().get("ready_accounts")
        except HttpError:
            return 0
        return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else 0

    async def pass_on(self, passed: Passed) -> Response:
        """The upstream's answer: a good one as it is, a refusal in the envelope."""
        is_action = passed.method != "GET"
        has_type = passed.content_type is not None and _CONTENT_TYPE.fullmatch(passed.content_type) is not None
        reply = await self._client.call(
            Call(
                name="deploy_all" if passed.path == "deploy-all" else "pass_on",
                method=passed.method,
                path=f"/admin/{passed.path}",
                query=passed.query or None,
                headers={"Content-Type": passed.content_type or ""} if has_type and passed.content else None,
                content=passed.content or None,
                timeout_s=ACTION_TIMEOUT_S if is_action else None,
            )
        )
        return _answer(reply)


def checked_path(path: str, raw_path: bytes | None) -> str:
    """The same path behind `/admin/`, made of checked segments; raises HttpError `not_found` for one that might mean another path."""
    segments = path.split("/")
    is_plain = all(_SEGMENT.fullmatch(segment) and segment not in (".", "..") for segment in segments)
    if not is_plain or (raw_path is not None and _HIDDEN.search(raw_path)):
        raise HttpError("not_found", "There is nothing at this path.")
    return "/".join(quote(segment, safe="~@:+=,") for segment in segments)


def checked_query(query: str) -> str:
    """The same query; raises HttpError `bad_request` for one that cannot be passed on."""
    if len(query) > _LONGEST_QUERY or not query.isascii() or not query.isprintable():
        raise HttpError("bad_request", f"The query must have at most {_LONGEST_QUERY} printable ASCII characters.")
    return query


def without_upstream() -> HttpError:
    """What these paths answer where no server of accounts is set."""
    setting = "WARMLANE_ACCOUNTS_UPSTREAM_URL"
    detail = f"Accounts are kept by another server; its address is not set ({setting})."
    return HttpError("not_supported", detail, metadata={"missing_setting": setting})


def _answer(reply: Reply) -> Response:
    if 200 <= reply.status < 300:
        plain = (reply.content_type or "").partition(";")[0].strip().lower()
        media_type = plain if plain in _SAFE_TYPES else "application/octet-stream"
        if reply.status in (204, 205):
            return Response(status_code=reply.status)
        return Response(reply.content, status_code=reply.status, media_type=media_type)
    own = _own_refusal(reply)
    if own is not None:
        return own
    if reply.status == 404:
        raise HttpError("not_found", "The accounts server has nothing at this path.")
    reply.check()
    raise not_understood(reply.upstream, f"the status {reply.status}")


def _own_refusal(reply: Reply) -> Response | None:
    """A refusal in the contract's envelope, with its own code: those paths have codes that only their server knows. None: it is none."""
    body = reply.json()
    inside = body.get("detail") if isinstance(body, dict) else None
    if not 400 <= reply.status < 500 or reply.status in (401, 403) or not isinstance(inside, Mapping):
        return None
    code, detail, action = inside.get("code"), inside.get("detail"), inside.get("user_action")
    if not isinstance(code, str) or not _CODE.fullmatch(code) or not isinstance(detail, str):
        return None
    told: dict[str, Any] = {"code": code, "detail": detail, "user_action": action if isinstance(action, str) else "Check the request."}
    if isinstance(inside.get("metadata"), dict):
        told["metadata"] = inside["metadata"]
    wait = reply.retry_after or ""
    headers = {"Retry-After": wait} if wait.isascii() and wait.isdigit() else None
    return JSONResponse({"detail": told}, status_code=reply.status, headers=headers)


def _objects(found: object) -> list[dict[str, Any]]:
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
