"""Puts the bridge together: routes under both prefixes, errors, middleware, and the life of its connections."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI
from starlette.middleware import Middleware

from http_bridge.addresses import ClientAddress, TrustedProxies
from http_bridge.bodies import LargeBodies
from http_bridge.console.wiring import console_schemas, consoles
from http_bridge.context import Bridge
from http_bridge.convert import Links
from http_bridge.errors import install_handlers
from http_bridge.event_stream import EventStreams
from http_bridge.lean import LeanRoutes
from http_bridge.metrics import HttpMetrics, Measured
from http_bridge.middleware import CORS_METHODS, CORS_REPLY_HEADERS, CORS_REQUEST_HEADERS, Cors, Edge
from http_bridge.reply_headers import ReplyHeaders
from http_bridge.routes import accounts, admin, console, events, gallery, generate, health, images, media, models, sessions, tasks
from http_bridge.routes.docs import docs_router
from http_bridge.routes.pages import pages_router
from http_bridge.schemas import ErrorReply
from http_bridge.traces import Traced
from http_bridge.upstream.ids import PREFIX as IMAGE_PREFIX
from http_bridge.upstream.wiring import accounts_upstream, image_upstream
from runtime.traces.tracer import SILENT, Tracer

if TYPE_CHECKING:
    from obstore.store import ObjectStore
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Receive, Scope, Send

    from http_bridge.client import AdmissionClient
    from http_bridge.config import BridgeSettings

# The production proxy calls with this prefix; scripts call without.
_PROXY_PREFIX = "/api"
_PREFIXES = ("", _PROXY_PREFIX)

_DESCRIPTION = f"""Text and pictures in, video out. Every path is served at `/` and, the same, under `{_PROXY_PREFIX}/`.

Send the header `X-API-Key`, or open a session with POST /auth/session and send its cookie. Admin paths take `X-Admin-Key`, or the cookie of
POST /admin/session. Every error has the same envelope:
a stable code, what went wrong, what to do, and facts for programs. URLs in replies are paths below the base that was called, unless
the server knows its public address."""

# Those of image ids come before those of any id.
_ROUTES = (health, sessions, models, generate, images, tasks, events, media, gallery, admin, console, accounts)

# Called by every frontend all the time; see `LeanRoutes`.
_BUSY_PATHS = ("/generate", "/status/{task_id}")

_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "Refused; `detail.code` says why."},
    # Named on its own: FastAPI would describe its own form of it, which is never sent.
    422: {"model": ErrorReply, "description": "A field is wrong; `detail.metadata.fields` names all."},
    503: {"model": ErrorReply, "description": "Not now; Retry-After says when."},
}


class _Application(FastAPI):
    """Its description has the schemas of what streams hold, beside those that FastAPI finds; a short way leads past it to busy routes."""

    lean: LeanRoutes
    short: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request, or the lifespan."""
        if self.lean.takes(scope):
            await self.short(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """Made when it is asked for, and once."""
        is_made = self.openapi_schema is not None
        described = super().openapi()
        if not is_made:
            described["components"]["schemas"] = console_schemas() | described["components"]["schemas"]
        return described


def create_app(
    settings: BridgeSettings,
    client: AdmissionClient,
    objects: ObjectStore,
    metrics: HttpMetrics | None = None,
    tracer: Tracer = SILENT,
) -> FastAPI:
    """The application. Its lifespan opens the client and closes it; the object store needs no closing.
    With `metrics`, requests are counted; `tracer` writes their spans.

    The connections are in `app.state.bridge`; set its `stopping` before the server stops, and held requests and event streams end at once.
    """
    bridge = _bridge(settings, client, objects, metrics)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with _running(bridge):
            yield

    app = _Application(
        title="Warmlane",
        version=version("warmlane"),
        description=_DESCRIPTION,
        lifespan=lifespan,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.bridge = bridge
    app.lean = LeanRoutes((generate.router, tasks.router), _BUSY_PATHS, _PREFIXES, app, leaves=f"/{IMAGE_PREFIX}")
    # Straight into the application: every level of nesting costs a pass over its routes at each request.
    app.router.routes.extend(_routes())
    install_handlers(app)
    _surround(app, settings, metrics, tracer)
    return app


@cache
def _routes() -> tuple[BaseRoute, ...]:
    """Every route. They know nothing of an application and its settings, and FastAPI takes a while over each: made once in a process."""
    made = APIRouter()
    for prefix in _PREFIXES:
        for module in _ROUTES:
            made.include_router(module.router, prefix=prefix, responses=_ERRORS, include_in_schema=not prefix)
        made.include_router(docs_router(prefix))
    made.include_router(pages_router())
    return tuple(made.routes)


def _surround(app: _Application, settings: BridgeSettings, metrics: HttpMetrics | None, tracer: Tracer) -> None:
    """Adds what every request passes, by whichever way; the last one added is the outermost."""
    layers = [
        Middleware(Edge),
        Middleware(
            Cors,
            allow_origins=settings.allowed_origins(),
            allow_credentials=True,
            allow_methods=CORS_METHODS,
            allow_headers=CORS_REQUEST_HEADERS,
            expose_headers=CORS_REPLY_HEADERS,
        ),
        Middleware(ReplyHeaders),
    ]
    if metrics is not None:
        layers.append(Middleware(Measured, metrics=metrics))
    if tracer.is_on:
        layers.append(Middleware(Traced, tracer=tracer))
    layers.append(Middleware(ClientAddress, proxies=TrustedProxies(settings.trusted_proxies)))
    app.user_middleware[:0] = reversed(layers)
    app.short = app.lean
    for layer in layers:
        app.short = layer.cls(app.short, *layer.args, **layer.kwargs)


def _bridge(settings: BridgeSettings, client: AdmissionClient, objects: ObjectStore, metrics: HttpMetrics | None) -> Bridge:
    links = Links(base_url=settings.public_base_url or "")
    on_ended = metrics.upstream_ended if metrics is not None else None
    return Bridge(
        settings=settings,
        client=client,
        objects=objects,
        links=links,
        large_bodies=LargeBodies(settings.large_bodies_at_once),
        event_streams=EventStreams(
            most=settings.max_event_streams,
            most_of_session=settings.max_event_streams_per_session,
            most_of_address=settings.max_event_streams_per_address,
        ),
        consoles=consoles(client),
        images=image_upstream(settings, links, on_ended),
        accounts=accounts_upstream(settings, on_ended),
    )


@asynccontextmanager
async def _running(bridge: Bridge) -> AsyncIterator[None]:
    """While this lasts, its connections are there."""
    async with AsyncExitStack() as stack:
        stack.callback(bridge.image_checks.close)
        stack.push_async_callback(bridge.client.close)
        await bridge.client.open()
        for upstream in (bridge.images, bridge.accounts):
            if upstream is not None:
                stack.push_async_callback(upstream.close)
                await upstream.start()
        for streams in (bridge.event_streams, bridge.consoles.streams):
            await stack.enter_async_context(streams.ended_by(bridge.stopping))
        yield
