"""The settings of admission, read from the environment in `__main__` only."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pydantic import Field, field_validator

from admission.retention import Keep
from runtime.fit.gpus import BASELINE, GPUS
from runtime.metrics.settings import MetricsSettings
from runtime.rpc_settings import ChannelzSettings, ServerTlsSettings, Tokens
from runtime.traces.settings import TraceSettings


class AdmissionSettings(MetricsSettings, ServerTlsSettings, ChannelzSettings, TraceSettings):
    """Settings of one admission process; each is WARMLANE_ and the name in upper case.

    Attributes:
        admission_bind: `host:port` to listen on; loopback only unless TLS and tokens are configured; port 0 picks a free one.
        bridge_token, client_token, lane_token, operator_token: the token of each role, or two separated by a comma. Unset, all of them:
            everyone on this machine may call everything. Some: the other roles cannot call.
        database_url: where task state lives, `sqlite:///path` (three slashes: below the working folder, four: an absolute path).
        keep_done_days: finished tasks and their videos are kept for so many days; 0: until someone deletes them.
        keep_failed_days: failed and cancelled tasks; 0: until someone deletes them.
        keep_events_days: events of lanes and models (a task's own events go with the task); 0: for ever.
        keep_audit_days: entries of the audit log; 0: for ever, but never more than the newest 100,000.
        baseline_gpu: short name of the GPU whose memory decides which requests are taken, until a lane of the model has said what it has.
        object_store_url: where input images and results live, `file:///folder` or `s3://bucket/prefix`; the same for every process.
    """

    metrics_bind: str = Field(default="127.0.0.1:9101", description="host:port of /metrics; empty turns it off.")
    admission_bind: str = Field(default="127.0.0.1:50051", description="host:port that admission listens on.")
    bridge_token: Tokens = Field(default=None, description="Token of bridges; two, separated by a comma, while one replaces the other.")
    client_token: Tokens = Field(default=None, description="Token of clients that call admission directly.")
    lane_token: Tokens = Field(default=None, description="Token of lanes.")
    operator_token: Tokens = Field(default=None, description="Token of operators.")
    database_url: str = Field(default="sqlite:///warmlane-data/admission.db", description="Where task state lives.")
    keep_done_days: float = Field(default=0, ge=0, description="Days for which finished tasks and their videos are kept; 0: until deleted.")
    keep_failed_days: float = Field(default=30, ge=0, description="Days for which failed and cancelled tasks are kept; 0: until deleted.")
    keep_events_days: float = Field(default=30, ge=0, description="Days for which events of lanes and models are kept; 0: for ever.")
    keep_audit_days: float = Field(default=90, ge=0, description="Days for which the audit log is kept; 0: for ever, within its size.")
    baseline_gpu: str = Field(
        default=BASELINE, description="GPU whose memory decides which requests are taken, until a lane of the model has said what it has."
    )
    object_store_url: str = Field(
        default_factory=lambda: Path("warmlane-data/objects").absolute().as_uri(),
        description="Where input images and results live: file:///folder or s3://bucket/prefix.",
    )

    @field_validator("baseline_gpu")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in GPUS:
            msg = f"must be one of {', '.join(GPUS)}"
            raise ValueError(msg)
        return name

    def keep(self) -> Keep:
        """How long things are kept."""
        return Keep(
            done=_days(self.keep_done_days),
            failed=_days(self.keep_failed_days),
            events=_days(self.keep_events_days),
            audit=_days(self.keep_audit_days),
        )


def _days(days: float) -> timedelta | None:
    return timedelta(days=days) if days else None
