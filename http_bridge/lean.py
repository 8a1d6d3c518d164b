"""A short way to the endpoints that are called all the time: the same functions and dependencies, without FastAPI's machinery around them.

FastAPI matches every route in turn, twice, and solves dependencies from a description of them at each request; that takes longer than all
that such a request does here. What FastAPI knows of these routes, it knows for the documentation, and for methods that they do not take.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

from fastapi.params import Depends, Header
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, NoMatchFound, request_response

if TYPE_CHECKING:
    import re

    from fastapi import APIRouter
    from starlette.datastructures import URLPath
    from starlette.types import ASGIApp, Receive, Scope, Send

_APP = "warmlane.lean"

_Value = Callable[[Request], Awaitable[Any]]
"""Gives the value of one parameter for a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Short:
    """One route: which paths are its, and what serves them."""

    route: APIRoute
    path: re.Pattern[str]
    app: ASGIApp


class LeanRoutes(BaseRoute):
    """The routes of these routers at these paths, under every prefix; anything else is left to those that come after it."""

    def __init__(self, routers: Iterable[APIRouter], paths: Sequence[str], prefixes: Sequence[str], *, leaves: str | None = None) -> None:
        """Paths that have `leaves` in them are left to the routes behind.

        Raises TypeError when one of the endpoints has a parameter that only FastAPI can fill in, ValueError when a path has none.
        """
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
                short = _Short(route=route, path=route.path_regex, app=request_response(_handler(route)))
                for method in route.methods or ():
                    self._shorts[method, _first_segment(path)] = short

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """By the first segment of the path; then the whole of it."""
        if scope["type"] != "http" or scope.get("root_path"):
            return Match.NONE, {}
        path: str = scope["path"]
        if self._leaves is not None and self._leaves in path:
            return Match.NONE, {}
        for prefix in self._prefixes:
            if path.startswith(f"{prefix}/"):
                path = path[len(prefix) :]
                break
        short = self._shorts.get((scope["method"], _first_segment(path)))
        match = short.path.match(path) if short is not None else None
        if short is None or match is None:
            return Match.NONE, {}
        return Match.FULL, {"endpoint": short.route.endpoint, "path_params": match.groupdict(), "route": short.route, _APP: short.app}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request that matched."""
        await scope[_APP](scope, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """Routes are named by FastAPI."""
        raise NoMatchFound(name, path_params)


def _first_segment(path: str) -> str:
    return path[1:].partition("/")[0]


def _handler(route: APIRoute) -> Callable[[Request], Awaitable[Response]]:
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
    values = [_value(name, hints[name], in_path, known) for name in names]

    async def call(request: Request) -> Any:
        return await function(**{name: await value(request) for name, value in zip(names, values, strict=True)})

    return call


def _value(name: str, hint: Any, in_path: set[str], known: set[Any]) -> _Value:
    if hint in (Request, HTTPConnection):
        return _request
    kind, extras = (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())
    dependencies = [extra for extra in extras if isinstance(extra, Depends)]
    headers = [extra for extra in extras if isinstance(extra, Header)]
    if len(dependencies) == 1 and dependencies[0].dependency is not None:
        return _filled_in(dependencies[0].dependency, in_path, known)
    if len(headers) == 1 and headers[0].alias and kind == str | None:
        return _header(headers[0].alias)
    if name in in_path and hint is str:
        return _path_part(name)
    msg = f"the parameter {name}: {hint!r} is for FastAPI to fill in"
    raise TypeError(msg)


async def _request(request: Request) -> Request:
    return request


def _header(alias: str) -> _Value:
    async def header(request: Request) -> str | None:
        return request.headers.get(alias)

    return header


def _path_part(name: str) -> _Value:
    async def part(request: Request) -> Any:
        return request.path_params[name]

    return part
