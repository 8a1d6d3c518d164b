"""The interactive documentation and its schema, once for each prefix, so that trying a call uses the prefix that was opened."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse


def docs_router(prefix: str) -> APIRouter:
    """`/docs` and `/openapi.json` under a prefix; empty for the root."""
    router = APIRouter(prefix=prefix, include_in_schema=False)

    @router.get("/openapi.json")
    async def openapi(request: Request) -> JSONResponse:
        return JSONResponse({**request.app.openapi(), "servers": [{"url": prefix or "/"}]})

    @router.get("/docs")
    async def docs(request: Request) -> HTMLResponse:
        return get_swagger_ui_html(openapi_url=f"{prefix}/openapi.json", title=f"{request.app.title} - docs")

    return router
