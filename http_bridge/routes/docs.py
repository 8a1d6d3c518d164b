"""The interactive documentation and its schema, once for each prefix, so that trying a call uses the prefix that was opened.

Everything the page needs is served from here: no other host is asked, and its policy allows no script in the page's text.
"""

from __future__ import annotations

import html
import json
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response

from http_bridge.reply_headers import PAGE_POLICY

# Swagger UI as an installed package carries it. Only these are served, by these names.
_FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", "favicon.png": "image/png"}
_FOLDER = Path(str(files("fastapi_offline"))) / "static"

# They change with a release only.
_KEPT = {"Cache-Control": "public, max-age=3600"}


def docs_router(prefix: str) -> APIRouter:
    """`/docs` with its files and `/openapi.json` under a prefix; empty for the root."""
    router = APIRouter(prefix=prefix, include_in_schema=False)

    @router.get("/openapi.json")
    async def openapi(request: Request) -> JSONResponse:
        return JSONResponse({**request.app.openapi(), "servers": [{"url": prefix or "/"}]})

    @router.get("/docs")
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(_page(request.app.title, f"{prefix}/docs"), headers={"Content-Security-Policy": PAGE_POLICY})

    @router.get("/docs/start.js")
    async def start() -> Response:
        return Response(_start(f"{prefix}/openapi.json"), media_type="text/javascript", headers=_KEPT)

    for name, media_type in _FILES.items():
        router.add_api_route(f"/docs/{name}", _file(name, media_type), methods=["GET"])
    return router


def _file(name: str, media_type: str) -> Callable[[], Awaitable[FileResponse]]:
    async def file() -> FileResponse:
        return FileResponse(_FOLDER / name, media_type=media_type, headers=_KEPT)

    return file


def _page(title: str, base: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)} - docs</title>
<link rel="icon" href="{base}/favicon.png">
<link rel="stylesheet" href="{base}/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="{base}/swagger-ui-bundle.js"></script>
<script src="{base}/start.js"></script>
</body>
</html>
"""


def _start(openapi_url: str) -> str:
    options = {"url": openapi_url, "dom_id": "#swagger-ui", "deepLinking": True, "validatorUrl": None}
    return f"SwaggerUIBundle({json.dumps(options)});\n"
