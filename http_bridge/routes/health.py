"""GET /health: the bridge itself is up; open to everyone."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request

from http_bridge.schemas import HealthReply

router = APIRouter(tags=["health"])


@router.get("/health")
async def health(request: Request) -> HealthReply:
    """Says that the bridge serves. Asks nobody else, so a probe never restarts the bridge for another's fault."""
    return HealthReply(status="ok", version=request.app.version, app="warmlane")
