"""A request as JSON values, for the store and for people, and back."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.rules.catalogue import FIELDS, Kind
from runtime.rules.check import check_request
from runtime.rules.request import GenerationRequest

_PLAIN = tuple(rule.name for rule in FIELDS if rule.kind not in (Kind.IMAGE, Kind.KEYFRAMES) and rule.name != "type")
_IMAGES = tuple(rule.name for rule in FIELDS if rule.kind is Kind.IMAGE)


def to_parameters(request: GenerationRequest) -> dict[str, object]:
    """Every value of the request as JSON; images as `{"key": …}`, absent images and an empty list of keyframes left out."""
    parameters: dict[str, object] = {name: getattr(request, name) for name in _PLAIN}
    for name in _IMAGES:
        image = getattr(request, name)
        if image is not None:
            parameters[name] = {"key": image.key}
    if request.arbitrary_frames:
        parameters["arbitrary_frames"] = [
            {"frame_index": frame.frame_index, "image": {"key": frame.image.key}, "strength": frame.strength}
            for frame in request.arbitrary_frames
        ]
    return parameters


def from_parameters(parameters: Mapping[str, object]) -> GenerationRequest:
    """The exact inverse of `to_parameters`, through the same check as any request.

    Raises:
        InvalidRequestError: the rules changed since the parameters were stored, or they were not made by `to_parameters`.
    """
    return check_request(parameters)
