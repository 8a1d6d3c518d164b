"""The one setting of metrics, of every process."""

from __future__ import annotations

from pydantic import Field, field_validator

from runtime.addresses import BindError, check_address
from runtime.logs import LogSettings


class MetricsSettings(LogSettings):
    """Where `/metrics` is served. Base of every process's settings; each gives its default.

    Attributes:
        metrics_bind: `host:port`, port 0 picks a free one; empty: nothing is counted and nothing served. Whoever reaches it may read it:
            it names lanes and models, and says nothing of people, prompts, keys or tasks. Recommended: loopback, or a closed network.
    """

    metrics_bind: str = Field(description="host:port of /metrics; empty turns it off.")

    @field_validator("metrics_bind")
    @classmethod
    def _is_address(cls, bind: str) -> str:
        if bind:
            try:
                check_address(bind)
            except BindError as error:
                raise ValueError(str(error)) from error
        return bind
