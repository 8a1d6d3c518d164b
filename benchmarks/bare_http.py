"""`python -m benchmarks.bare_http PORT`: a bare FastAPI application that takes the body of POST /generate and does nothing with it.

It has the server settings and the event loop of the bridge. What the bridge is measured against.
"""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Wanted(BaseModel):
    """The body, its types and nothing else."""

    model: str
    type: str
    mode: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    num_frames: int
    fps: int
    seed: int
    guidance_scale: float
    motion_score: float
    output_format: str


class Accepted(BaseModel):
    """The reply."""

    task_id: str
    status: str


def bare_app() -> FastAPI:
    """The application."""
    app = FastAPI()

    @app.post("/generate", status_code=202)
    async def generate(body: Wanted) -> Accepted:
        return Accepted(task_id="0" * 32, status="pending")

    return app


if __name__ == "__main__":
    uvicorn.run(
        bare_app(),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
