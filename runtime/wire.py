"""Between a request and its message on the wire; both directions keep every value."""

from __future__ import annotations

from warmlane.generation.v1 import generation_pb2

from runtime.rules.parameters import to_parameters
from runtime.rules.request import GenerationRequest


def request_to_message(request: GenerationRequest) -> generation_pb2.GenerationRequest:
    """The request with every field set."""
    # The names and shapes of the parameters are those of the message, images and keyframes included.
    return generation_pb2.GenerationRequest(**to_parameters(request))  # type: ignore[arg-type]


def message_to_raw(message: generation_pb2.GenerationRequest) -> dict[str, object]:
    """What the message says, for `check_request`; fields that were not set are absent."""
    raw: dict[str, object] = {}
    for field, value in message.ListFields():
        if isinstance(value, generation_pb2.InputImage):
            raw[field.name] = {"key": value.key}
        elif field.name != "arbitrary_frames":
            raw[field.name] = value
    if message.arbitrary_frames:
        raw["arbitrary_frames"] = [_frame_to_raw(frame) for frame in message.arbitrary_frames]
    return raw


def _frame_to_raw(frame: generation_pb2.ArbitraryFrame) -> dict[str, object]:
    # Position 0 is a real position and has no presence of its own, so it is always told.
    raw: dict[str, object] = {"frame_index": frame.frame_index}
    if frame.HasField("image"):
        raw["image"] = {"key": frame.image.key}
    if frame.HasField("strength"):
        raw["strength"] = frame.strength
    return raw
