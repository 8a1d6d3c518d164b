"""Which pages of a browser may make it change something here with a cookie that it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from http_bridge.context import bridge_of
from http_bridge.errors import HttpError
from runtime.errors import ErrorCode

if TYPE_CHECKING:
    from starlette.requests import Request

    from http_bridge.config import BridgeSettings

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def is_foreign_page(request: Request) -> bool:
    """Whether a page that has no business here makes this request, one that changes something.

    A browser says where a page is from: in Origin, and in Sec-Fetch-Site, which no page can forge. Without either it is no browser's
    page (curl, a backend), and nobody's cookie is misused.
    """
    if request.method in _SAFE_METHODS:
        return False
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site in ("same-origin", "none"):
        return False
    if origin is not None:
        return not _is_known(origin, request)
    return site is not None


def refuse_foreign_page(request: Request) -> None:
    """For callers that are known by a cookie, or by nothing at all.

    Raises:
        HttpError: 403, a page of an origin that is not allowed makes this request.
    """
    if is_foreign_page(request):
        raise foreign_page_error()


def foreign_page_error() -> HttpError:
    """The 403 for such a page."""
    return HttpError(
        ErrorCode.FORBIDDEN,
        "A page of an origin that is not allowed sent this request with a cookie.",
        user_action="Call from an allowed origin (the operator sets WARMLANE_CORS_ORIGINS), or send a key in a header.",
    )


def _is_known(origin: str, request: Request) -> bool:
    settings = bridge_of(request).settings
    return origin in settings.allowed_origins() or origin.lower() in _own_origins(request, settings)


def _own_origins(request: Request, settings: BridgeSettings) -> tuple[str, ...]:
    """The address that was called, and the public one where a proxy changes the Host."""
    called = f"{request.scope['scheme']}://{request.headers.get('host', '')}".lower()
    if not settings.public_base_url:
        return (called,)
    public = urlsplit(settings.public_base_url)
    return (called, f"{public.scheme}://{public.netloc}".lower())
