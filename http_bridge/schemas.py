"""The shapes of the replies, as the HTTP contract names them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

TaskStatus = Literal["pending", "processing", "done", "failed"]
StageName = Literal["queued", "dispatch", "loading_pipeline", "inference", "encoding", "completed", "failed"]


class ErrorBody(BaseModel):
    """What went wrong and what to do about it."""

    code: str = Field(description="Stable name of the error, for programs.")
    detail: str = Field(description="What went wrong, for people.")
    user_action: str = Field(description="What the user can do now.")
    metadata: dict[str, Any] | None = Field(default=None, description="Facts for programs; `fields` for `validation_error`.")


class ErrorReply(BaseModel):
    """The body of every error."""

    detail: ErrorBody


class HealthReply(BaseModel):
    """GET /health."""

    status: Literal["ok"]
    version: str
    app: str


class SessionOpened(BaseModel):
    """POST /auth/session; the token itself is in the cookie `gg_session`."""

    session_status: Literal["active"]
    expires_at: datetime


class SessionReply(BaseModel):
    """GET /auth/session."""

    active: Literal[True]
    expires_at: datetime


class FixedParameter(BaseModel):
    """A parameter that the model has one value for; `locked` tells a form not to offer it."""

    value: int | float
    locked: bool


class SizeLimit(BaseModel):
    """The longest clip of one size, in any mode."""

    width: int
    height: int
    max_num_frames: int = Field(description="0: the size does not fit at all.")
    placement: str = Field(description="How the weights lie for that clip; empty when it is not known.")
    predicted_peak_bytes: int
    predicted_seconds: float | None = Field(description="To render that clip; null while nothing was measured.")


class ModelLimits(BaseModel):
    """What fits on the GPUs that serve the model, by prediction. Only a submitted request is certain."""

    gpus: list[str]
    sizes: list[SizeLimit]


class ModelItem(BaseModel):
    """One model and its rules."""

    id: str
    name: str
    type: str
    category: str
    description: str
    modes: list[str]
    default_mode: str
    fixed_parameters: dict[str, FixedParameter]
    parameters_schema: dict[str, Any]
    limits: ModelLimits | None = Field(description="null while admission does not answer.")
    text_to_video_weights: list[str] = Field(
        description="What lanes render t2v with, of a model with image-to-video weights: image_to_video_experts, text_to_video_pair."
    )


class ModelsReply(BaseModel):
    """GET /models."""

    models: list[ModelItem]


class AcceptedReply(BaseModel):
    """POST /generate: the task is on disk and will reach a terminal state."""

    task_id: str
    status: Literal["pending"]


class DiagnosticEvent(BaseModel):
    """Something that happened to the task."""

    event_type: str
    value: str
    reason: str
    created_at: datetime


class Diagnostics(BaseModel):
    """What happened to the task, oldest first."""

    events: list[DiagnosticEvent]


class StatusReply(BaseModel):
    """GET /status/{task_id}."""

    task_id: str
    status: TaskStatus
    progress: int = Field(ge=0, le=100, description="Per cent; never falls within an attempt.")
    stage: StageName
    stage_detail: str | None
    lane_mode: Literal["dedicated", "degraded_shared"] | None
    fallback_reason: Literal["capacity", "quota", "manual"] | None
    diagnostics: Diagnostics | None
    result_url: str | None
    preview_url: str | None
    error: str | None
    error_msg: str | None = Field(description="The same text as `error`.")
    error_code: str | None
    created_at: datetime
    updated_at: datetime
    queue_position: int | None = Field(description="Tasks ahead of it in its queue; only while it is queued.")
    eta_seconds: float | None
    attempt: int = Field(description="Number of the current attempt; 0 before the first.")
    text_to_video_weights: str | None = Field(
        description="What rendered a t2v where a model's own weights are for image-to-video; see /models. null for others, and before that."
    )


EndReason = Literal["done", "failed", "deleted"]


class StreamEnd(BaseModel):
    """Data of the event `end` of GET /events/{task_id}."""

    task_id: str
    reason: EndReason = Field(description="How the task ended; a cancelled one has failed, with the error_code `cancelled`.")


class GalleryItem(BaseModel):
    """One finished task."""

    id: str
    model: str
    type: str
    mode: str
    prompt: str
    negative_prompt: str
    parameters: dict[str, Any] = Field(description="Every value that was used.")
    width: int
    height: int
    seed: int
    created_at: datetime
    preview_url: str | None
    result_url: str | None


class GalleryReply(BaseModel):
    """GET /gallery."""

    items: list[GalleryItem]
    total: int
    page: int
    per_page: int
    has_more: bool


class DeletedReply(BaseModel):
    """DELETE /gallery/{task_id}."""

    deleted: Literal[True]
    id: str


class CancelReply(BaseModel):
    """POST /cancel/{task_id}."""

    task_id: str
    status: TaskStatus
