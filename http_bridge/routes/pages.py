"""The pages for people and their files. A page names its files by relative URLs, so that a proxy may put a prefix before all."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from http_bridge.errors import HttpError
from http_bridge.page_files import PageFile, read_page_files
from http_bridge.ranges import is_unchanged
from http_bridge.reply_headers import APPLICATION_POLICY

PAGES: Mapping[str, str] = {"/": "try.html", "/console": "console.html"}
"""Path of each page, and its file. Paths have one segment, so that `pages/NAME` means the same on all of them."""

_METHODS = ("GET", "HEAD")
_NO = re.compile(r"q=0(\.0*)?", re.IGNORECASE)


def pages_router() -> APIRouter:
    """The pages at their paths, and `/pages/NAME`."""
    router = APIRouter(include_in_schema=False)
    files = read_page_files()
    for path, name in PAGES.items():
        router.add_api_route(path, _page(files[name]), methods=list(_METHODS))

    @router.api_route("/pages/{name}", methods=list(_METHODS))
    async def file(request: Request, name: str) -> Response:
        # A table of names: no path leads out of it.
        found = files.get(name)
        if found is None:
            raise HttpError("not_found", "There is nothing at this path.")
        return _reply(request, found)

    return router


def _page(file: PageFile) -> Callable[[Request], Awaitable[Response]]:
    async def page(request: Request) -> Response:
        return _reply(request, file)

    return page


def _reply(request: Request, file: PageFile) -> Response:
    is_packed = _takes_gzip(request.headers.get("accept-encoding", ""))
    content, etag = (file.packed, f'{file.etag[:-1]}-gzip"') if is_packed else (file.content, file.etag)
    # A copy may be kept but not used unasked: a new release must not meet the scripts of an old one.
    headers = {
        "ETag": etag,
        "Cache-Control": "no-cache",
        "Content-Security-Policy": APPLICATION_POLICY,
        "Vary": "Accept-Encoding",
    }
    if is_unchanged(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    if is_packed:
        headers["Content-Encoding"] = "gzip"
    if request.method == "HEAD":
        return Response(headers=headers | {"Content-Length": str(len(content))}, media_type=file.media_type)
    return Response(content, headers=headers, media_type=file.media_type)


def _takes_gzip(accepted: str) -> bool:
    """Whether the client names it, and not with the weight 0, which means no."""
    for entry in accepted.split(","):
        name, _, weight = entry.partition(";")
        if name.strip().lower() == "gzip":
            return not _NO.fullmatch(weight.strip())
    return False
