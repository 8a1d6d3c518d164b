"""Settings of every lane, read from `WARMLANE_*` environment variables in its `__main__` only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from runtime.credentials import CallerCredentials
from runtime.metrics.settings import MetricsSettings
from runtime.rpc_settings import CallerTlsSettings, ChannelzSettings, ServerTlsSettings, Tokens
from runtime.traces.settings import TraceSettings

Seconds = Annotated[float, Field(gt=0)]


class LaneSettings(MetricsSettings, ServerTlsSettings, CallerTlsSettings, ChannelzSettings, TraceSettings):
    """Base of the three lanes' settings; each adds the defaults of its names.

    Attributes:
        lane_id: stable name of this lane; two lanes never share one.
        inspection_bind: address of the lane's own gRPC server (inspection, health, reflection); loopback only unless TLS and the
            operators' token are configured; port 0 picks a free one.
        admission_address: where admission listens.
        lane_token: what this lane shows to admission; of two, separated by a comma, the first.
        operator_token: what operators show to this lane's inspection service; two are taken.
        profile: `tiny` (random weights, made here) or `a10g` (prepared checkpoints).
        models_dir: folder of the model folders.
        device: `auto` (the first GPU, or the CPU), `cpu` or `cuda:N`.
        object_store_url: where inputs are read and results written; the same store as admission's.
        torch_threads: CPU threads of the pipeline; 0: one per core. Another number gives other last bits in the pictures.
        report_interval_s: reports to admission come at least so often. Recommended: 2.
        stream_life_s: streams to admission are replaced after this time. Recommended: 600.
        drain_grace_s: an attempt in work may go on so long after SIGTERM. Recommended: 20, and less than the supervisor's patience.
        cancel_grace_s: a pipeline's process that does not end a cancelled attempt in this time is killed. Recommended: 10.
        load_deadline_s: a pipeline's process that is not ready in this time is killed. Recommended: 1800.
        memory_budget_bytes: what the device has for this lane; 0: all that it has. On a CPU it is enforced tensor by tensor.
        memory_margin_bytes: of that, kept free of predictions; None: what suits the device.
        pinned_limit_bytes: host memory that may be pinned; None: three quarters of the machine's or container's.
        attention_backend: kernel of the transformers' attention; `auto`, or a name of `runtime.lane.wan.attention.BACKENDS`.
        compile_blocks: torch compiles transformer blocks, on a GPU: quicker steps, a slow first clip, other last bits in the pictures.
        overlap: a clip is encoded and stored beside the next one's render. Recommended: true.
    """

    lane_id: str = Field(pattern=r"^[a-z0-9-]{1,63}$", description="Stable name of this lane.")
    inspection_bind: str = Field(description="Address of the lane's own gRPC server.")
    admission_address: str = Field(default="127.0.0.1:50051", description="Where admission listens.")
    lane_token: Tokens = Field(default=None, description="What this lane shows to admission.")
    operator_token: Tokens = Field(default=None, description="What operators show to this lane's inspection service.")
    profile: Literal["tiny", "a10g"] = Field(default="tiny", description="tiny: random weights made here. a10g: prepared checkpoints.")
    models_dir: Path = Field(default=Path("warmlane-data/models"), description="Folder of the model folders.")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto (first GPU, or the CPU), cpu or cuda:N.")
    object_store_url: str = Field(
        default_factory=lambda: Path("warmlane-data/objects").absolute().as_uri(),
        description="Store of inputs and results, as admission's.",
    )
    torch_threads: int = Field(default=0, ge=0, le=1024, description="CPU threads of the pipeline; 0: one per core.")
    report_interval_s: Annotated[float, Field(gt=0, le=5)] = Field(default=2.0, description="Longest time between reports, in seconds.")
    stream_life_s: Seconds = Field(default=600.0, description="Streams to admission are replaced after this time, in seconds.")
    drain_grace_s: Annotated[float, Field(ge=0)] = Field(
        default=20.0, description="An attempt may go on so long after SIGTERM, in seconds."
    )
    cancel_grace_s: Seconds = Field(default=10.0, description="Then a process that ignores a cancel is killed, in seconds.")
    load_deadline_s: Seconds = Field(default=1800.0, description="Then a process that is not ready is killed, in seconds.")
    memory_budget_bytes: int = Field(default=0, ge=0, description="Memory of the device that this lane may use; 0: all of it.")
    memory_margin_bytes: int | None = Field(default=None, ge=0, description="Of that, kept free; unset: what suits the device.")
    pinned_limit_bytes: int | None = Field(default=None, ge=0, description="Host memory that may be pinned; unset: three quarters.")
    attention_backend: str = Field(
        default="auto", pattern=r"^[a-z0-9_]{1,40}$", description="Attention kernel of transformers; auto: what the GPU offers."
    )
    compile_blocks: bool = Field(default=False, description="Transformer blocks are compiled, on a GPU.")
    overlap: bool = Field(default=True, description="A clip is encoded and stored beside the next one's render.")

    @model_validator(mode="after")
    def _token_travels_safely(self) -> Self:
        self.admission_credentials().check_for(self.admission_address)
        return self

    def admission_credentials(self) -> CallerCredentials:
        """What the lane shows to admission."""
        return self.caller_credentials(self.lane_token)
