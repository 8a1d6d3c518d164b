"""The settings of admission, from the environment; read in `__main__` only."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from runtime.logs import LogSettings


class AdmissionSettings(LogSettings):
    """Settings of one admission process; each is WARMLANE_ and the name in upper case.

    Attributes:
        admission_bind: `host:port` to listen on; loopback only; port 0 picks a free one.
        database_url: where task state lives, `sqlite:///path` (three slashes: below the working folder, four: an absolute path).
        object_store_url: where input images and results live, `file:///folder` or `s3://bucket/prefix`; the same for every process.
    """

    admission_bind: str = Field(default="127.0.0.1:50051", description="host:port that admission listens on; loopback only.")
    database_url: str = Field(default="sqlite:///warmlane-data/admission.db", description="Where task state lives.")
    object_store_url: str = Field(
        default_factory=lambda: Path("warmlane-data/objects").absolute().as_uri(),
        description="Where input images and results live: file:///folder or s3://bucket/prefix.",
    )
