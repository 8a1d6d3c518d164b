"""A short way to the endpoints that are called all the time: the same functions and dependencies, without FastAPI's machinery around them.

FastAPI matches every route in turn, twice, solves dependencies from a description of them at each request, and passes it through a dozen
layers; that takes longer than all that such a request does here. What FastAPI knows of these routes, it knows for the documentation, and
for methods that they do not take.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args, get_origin, get_type_hints

from fastapi.params import Depends, Header
from fastapi.routing import APIRoute
from fastapi.security import APIKeyCookie, APIKeyHeader
from pydantic import BaseModel
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

if TYPE_CHECKING:
    import re

    from fastapi import APIRouter, FastAPI
    from starlette.types import Receive, Scope, Send

_SERVES = "warmlane.lean"

_Value = Callable[[Request], Any]
"""Gives the value of one parameter for a request; of a dependency something to await."""
_Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Short:
    """One route: which paths are its, and what serves them."""

    route: APIRoute
    path: re.Pattern[str]
    serves: _Handler


class LeanRoutes:
    """The routes of these routers at these paths, under every prefix. An ASGI application for requests that it takes; anything else is
    FastAPI's. Errors are told by the handlers of the application that the routes are of."""

    def __init__(
        self, routers: Iterable[APIRouter], paths: Sequence[str], prefixes: Sequence[str], app: FastAPI, *, leaves: str | None = None
    ) -> None:
        """Paths that have `leaves` in them are not taken.

        Raises TypeError when one of the endpoints has a parameter that only FastAPI can fill in, ValueError when a path has none.
        """
        self._app = app
        self._leaves = leaves
        self._prefixes = sorted((prefix for prefix in prefixes if prefix), reverse=True)
        self._shorts: dict[tuple[str, str], _Short] = {}
        routes = [route for router in routers for route in router.routes if isinstance(route, APIRoute)]
        for path in paths:
            found = [route for route in routes if route.path == path]
            if not found:
                msg = f"no route has the path {path}"
                raise ValueError(msg)
            for route in found:
                short = _Short(route=route, path=route.path_regex, serves=_handler(route))
                for method in route.methods or ():
                    self._shorts[method, _first_segment(path)] = short

    def takes(self, scope: Scope) -> bool:
        """Whether the request is for one of the routes; then its scope says which. By its first segment, then the whole path."""
        if scope["type"] != "http" or scope.get("root_path"):
            return False
        path: str = scope["path"]
        if self._leaves is not None and self._leaves in path:
            return False
        for prefix in self._prefixes:
            if path.startswith(f"{prefix}/"):
                path = path[len(prefix) :]
                break
        short = self._shorts.get((scope["method"], _first_segment(path)))
        match = short.path.match(path) if short is not None else None
        if short is None or match is None:
            return False
        scope["app"], scope["route"], scope["endpoint"] = self._app, short.route, short.route.endpoint
        scope["path_params"], scope[_SERVES] = match.groupdict(), short.serves
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request that it took."""
        request = Request(scope, receive, send)
        try:
            response = await scope[_SERVES](request)
        except Exception as error:
            handler = next(
                (self._app.exception_handlers[kind] for kind in type(error).__mro__ if kind in self._app.exception_handlers), None
            )
            if handler is None:
                raise
            response = await cast("Awaitable[Response]", handler(request, error))
            # One that is raised again and again would keep the traces of all.
            error.__traceback__ = None
        await response(scope, receive, send)


def _first_segment(path: str) -> str:
    return path[1:].partition("/")[0]


def _handler(route: APIRoute) -> _Handler:
    """Calls the endpoint and makes its reply."""
    call = _filled_in(route.endpoint, set(route.param_convertors), set())
    status = route.status_code or 200

    async def handle(request: Request) -> Response:
        reply = await call(request)
        if isinstance(reply, Response):
            return reply
        assert isinstance(reply, BaseModel)  # noqa: S101 - for the type checker: every endpoint gives one or the other
        return Response(reply.model_dump_json(), status_code=status, media_type="application/json")

    return handle


def _filled_in(function: Any, in_path: set[str], known: set[Any]) -> _Value:
    """Calls a coroutine function, its parameters filled in from the request; those that are dependencies by calling them in turn."""
    if function in known:
        # FastAPI would call it once and use its value twice.
        msg = f"{function!r} is used twice"
        raise TypeError(msg)
    known.add(function)
    target = function if inspect.isroutine(function) else type(function).__call__
    if not inspect.iscoroutinefunction(target):
        msg = f"{function!r} is no coroutine function"
        raise TypeError(msg)
    hints = get_type_hints(target, include_extras=True)
    names = [name for name in inspect.signature(target).parameters if name != "self"]
    values = {name: _value(name, hints[name], in_path, known) for name in names}
    awaited = [(name, value) for name, value in values.items() if inspect.iscoroutinefunction(value)]
    at_hand = [(name, value) for name, value in values.items() if not inspect.iscoroutinefunction(value)]

    async def call(request: Request) -> Any:
        filled = {name: value(request) for name, value in at_hand}
        for name, value in awaited:
            filled[name] = await value(request)
        return await function(**filled)

    return call


def _value(name: str, hint: Any, in_path: set[str], known: set[Any]) -> _Value:
    if hint in (Request, HTTPConnection):
        return _request
    kind, extras = (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())
    dependencies = [extra for extra in extras if isinstance(extra, Depends)]
    headers = [extra for extra in extras if isinstance(extra, Header)]
    if len(dependencies) == 1 and dependencies[0].dependency is not None:
        scheme = dependencies[0].dependency
        if isinstance(scheme, APIKeyHeader | APIKeyCookie) and not scheme.auto_error:
            return _credential(scheme)
        return _filled_in(dependencies[0].dependency, in_path, known)
    if len(headers) == 1 and headers[0].alias and kind == str | None:
        return _header(headers[0].alias)
    if name in in_path and hint is str:
        return _path_part(name)
    msg = f"the parameter {name}: {hint!r} is for FastAPI to fill in"
    raise TypeError(msg)


def _request(request: Request) -> Request:
    return request


def _header(alias: str) -> _Value:
    def header(request: Request) -> str | None:
        return request.headers.get(alias)

    return header


def _credential(scheme: APIKeyHeader | APIKeyCookie) -> _Value:
    """As the scheme itself: an empty one counts as none."""
    name = scheme.model.name

    def header(request: Request) -> str | None:
        return request.headers.get(name) or None

    def cookie(request: Request) -> str | None:
        return request.cookies.get(name) or None

    return header if isinstance(scheme, APIKeyHeader) else cookie


def _path_part(name: str) -> _Value:
    def part(request: Request) -> Any:
        return request.path_params[name]

    return part
