"""Settings of the lane that serves AniSora."""

from __future__ import annotations

from pydantic import Field

from runtime.lane.config import LaneSettings


class Settings(LaneSettings):
    """As every lane's, with this lane's own names."""

    lane_id: str = Field(default="lane-anisora", pattern=r"^[a-z0-9-]{1,63}$", description="Stable name of this lane.")
    inspection_bind: str = Field(default="127.0.0.1:50061", description="Address of the lane's own gRPC server.")
    metrics_bind: str = Field(default="127.0.0.1:9102", description="host:port of /metrics; empty turns it off.")
