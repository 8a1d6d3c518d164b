"""The admin paths: sessions, health, accounts, the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from http_bridge.admin import ADMIN_COOKIE, AdminAttempt, AdminGrant, admin, attempt
from http_bridge.context import Bridge, bridge_of
from http_bridge.convert import moment
from http_bridge.cookies import cookie_attributes
from http_bridge.diagnostics import (
    ADMISSION_EVENTS,
    LANE_EVENTS,
    MODEL_EVENTS,
    diagnostics,
    is_everything_served,
    ready_lanes,
    system_event,
)
from http_bridge.schemas_admin import (
    AccountsDiagnostics,
    AccountsReply,
    AdminHealthReply,
    AdminSessionReply,
    AuditItem,
    LogsReply,
    SystemDiagnostics,
    SystemEvent,
)
from http_bridge.upstream.accounts import AccountsOverview

router = APIRouter(prefix="/admin", tags=["admin"])

_SHOWN_EVENTS = 100


@router.post("/session", status_code=204)
async def open_session(request: Request, response: Response, attempted: Annotated[AdminAttempt, attempt("admin_session_create")]) -> None:
    """Opens an admin session for the key in X-Admin-Key and sets the cookie `gg_admin_session`."""
    bridge = bridge_of(request)
    opened = await bridge.client.access.open_admin_session(attempted.call)
    attempted.check(opened.verdict, opened.retry_after)
    # Without an end of its own: every use moves the end, and admission knows when it is.
    response.set_cookie(ADMIN_COOKIE, opened.token, **cookie_attributes(bridge.settings))


@router.get("/session")
async def show_session(request: Request, grant: Annotated[AdminGrant, admin("admin_session_get")]) -> AdminSessionReply:
    """Says that the session is good, which renews it; 401 says why it is not."""
    idle_timeout_s = bridge_of(request).settings.admin_idle_timeout_s
    return AdminSessionReply(active=True, idle_timeout_seconds=round(idle_timeout_s), last_activity_at=grant.last_activity_at)


@router.delete("/session", status_code=204)
async def close_session(request: Request, response: Response, attempted: Annotated[AdminAttempt, attempt("admin_session_delete")]) -> None:
    """Ends the admin session, for every server, and takes the cookie away."""
    bridge = bridge_of(request)
    closed = await bridge.client.access.close_admin_session(attempted.call)
    attempted.check(closed.verdict, closed.retry_after)
    bridge.consoles.end_session(attempted.call.token)
    response.delete_cookie(ADMIN_COOKIE, **cookie_attributes(bridge.settings))


@router.get("/health")
async def health(request: Request, _grant: Annotated[AdminGrant, admin("admin_health")]) -> AdminHealthReply:
    """Whether every model can be served, and what admission sees."""
    bridge = bridge_of(request)
    found = await _diagnostics(bridge)
    ready = ready_lanes(found) if bridge.accounts is None else await bridge.accounts.ready()
    return AdminHealthReply(ok=is_everything_served(found), ready_accounts=ready, diagnostics=found)


@router.get("/accounts")
async def accounts(request: Request, _grant: Annotated[AdminGrant, admin("admin_accounts")]) -> AccountsReply:
    """The accounts of their own server, beside what admission sees and what happened to lanes and models. Lanes are no accounts.

    503 while a server of accounts is set and does not answer; /admin/health has what admission sees all the same.
    """
    bridge = bridge_of(request)
    told = await bridge.accounts.overview() if bridge.accounts is not None else AccountsOverview()
    found = AccountsDiagnostics(**dict(await _diagnostics(bridge)), upstream=told.diagnostics)
    return AccountsReply(accounts=told.accounts, diagnostics=found, events=[*await _events(bridge), *told.events])


@router.get("/logs")
async def logs(
    request: Request, _grant: Annotated[AdminGrant, admin("admin_logs")], limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> LogsReply:
    """The newest admin calls, refused ones too."""
    entries = await bridge_of(request).client.access.list_audit(limit)
    return LogsReply(
        logs=[
            AuditItem(id=entry.id, ts=moment(entry.at), ip=entry.address, action=entry.action, details=entry.details, success=entry.success)
            for entry in entries
        ]
    )


async def _diagnostics(bridge: Bridge) -> SystemDiagnostics:
    return diagnostics(await bridge.client.operator.snapshot())


async def _events(bridge: Bridge) -> list[SystemEvent]:
    events = await bridge.client.operator.newest_events((*ADMISSION_EVENTS, *LANE_EVENTS, *MODEL_EVENTS), _SHOWN_EVENTS)
    return [system_event(event) for event in events]
