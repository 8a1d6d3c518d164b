"""What happens to the body of POST /generate: rules first, images second, and only what is right is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog
from pydantic_core import from_json

from http_bridge.errors import HttpError, validation_error
from http_bridge.storage import put_file
from runtime.errors import ErrorCode
from runtime.image_process import ImageCheckUnavailableError
from runtime.images import CheckedImage, InvalidImageError, check_data_uri
from runtime.objects import input_key
from runtime.rules.catalogue import FIELDS, SINGLE_IMAGE_FIELDS, Kind
from runtime.rules.check import check_request
from runtime.rules.image_request import IMAGE_MODELS, check_image_request
from runtime.rules.request import GenerationRequest, InvalidRequestError, Violation

if TYPE_CHECKING:
    from http_bridge.context import Bridge

_LOG = structlog.get_logger()

_KEYFRAMES = "arbitrary_frames"
_MAX_KEYFRAMES = next(int(rule.maximum or 0) for rule in FIELDS if rule.kind is Kind.KEYFRAMES)
# An honest body has a few hundred, and at most a few thousand in its prompts; base64 has none. A hostile one is millions of empty lists or
# escaped letters, and the parser would hold up every request for the seconds that it takes to build them.
_MAX_STRUCTURE = 20_000
_STRUCTURE = (b",", b"[", b"{", b"\\u")
# Decoding one of the largest pictures takes up to a second, and a request may have 21: with others at work, some time more than that.
_PICTURES_S = 60.0
# Bodies without pictures: parsing and checking one takes less than a millisecond, and a thread for it would cost several times that.
_SMALL_BYTES = 32 * 1024
_NOT_A_DATA_URI = "must be a data URI (data:image/png;base64,…)"

_ImageFor = Callable[[str, object], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A body whose fields are right and whose images are still to be looked at.

    Attributes:
        request: with placeholders for its images; None for an image, whose body is passed on as it came.
        raw: the body; each image stands there as its placeholder reference.
        pictures: data URIs of the images that the request uses, by field name.
    """

    request: GenerationRequest | None
    raw: Mapping[str, object]
    pictures: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageAsked:
    """A body that asks another server for an image: its fields are right, and it goes there as it is."""


async def take_in(bridge: Bridge, body: bytearray, name: str = "") -> GenerationRequest | ImageAsked:
    """The request that a body makes, its images checked and stored by content.

    Args:
        bridge: for which it is taken in.
        body: what came.
        name: who sent it; those whose images are to be checked take turns.

    Raises:
        HttpError: 422 naming every wrong field, or every wrong image; 503 for an image where no server makes any, and when too many
            images are to be checked. Nothing is stored then.
    """
    # For the checks. The parser keeps the interpreter's lock in any thread: what bounds its work is the limit on the body's structure.
    has_images = bridge.images is not None
    is_small = len(body) <= _SMALL_BYTES
    draft = read_draft(body, has_images=has_images) if is_small else await asyncio.to_thread(read_draft, body, has_images=has_images)
    if draft.request is None:
        # Its body is what is passed on.
        return ImageAsked()
    # Whoever read it holds it still; the draft has what it said.
    body.clear()
    if not draft.pictures:
        return draft.request
    images = await _check_pictures(bridge, draft.pictures, name)
    keys = {field: input_key(image.content) for field, image in images.items()}
    contents = {keys[field]: image.content for field, image in images.items()}
    for key, content in contents.items():
        await put_file(bridge.objects, key, content)
    return check_request(_with_images(draft.raw, lambda field, value: {"key": keys[field]} if field in keys else value))


def read_draft(body: bytes | bytearray, *, has_images: bool = False) -> Draft:
    """Parses and checks a body without looking into its images. Blocks: call it in a thread, but for small ones. Raises as `take_in`.

    Args:
        body: what came.
        has_images: requests for image models are passed on to a server that makes them.
    """
    raw = _parse(body)
    model = raw.get("model")
    if isinstance(model, str) and model in IMAGE_MODELS:
        return _image_draft(raw, model, has_images=has_images)
    sent: dict[str, object] = {}
    refused: list[Violation] = []

    def placeholder(field: str, value: object) -> object:
        # References are for doors that checked the image themselves; a client of HTTP sends the picture.
        if not isinstance(value, str):
            refused.append(Violation(field=field, message=_NOT_A_DATA_URI))
        sent[field] = value
        return {"key": _placeholder_key(len(sent))}

    placed = _with_images(raw, placeholder)
    request = _checked(placed, refused)
    used = {image.key for image in request.images()}
    pictures = {field: value for number, (field, value) in enumerate(sent.items(), start=1) if _placeholder_key(number) in used}
    return Draft(request=request, raw=placed, pictures=pictures)


def _image_draft(raw: Mapping[str, object], model: str, *, has_images: bool) -> Draft:
    if not has_images:
        raise HttpError("model_unavailable", f"The image model {model} is not served here.", metadata={"model": model})
    try:
        check_image_request(raw)
    except InvalidRequestError as error:
        raise validation_error(error.violations) from None
    return Draft(request=None, raw=raw, pictures={})


def _parse(body: bytes | bytearray) -> Mapping[str, object]:
    if sum(body.count(sign) for sign in _STRUCTURE) > _MAX_STRUCTURE:
        message = f"has more than {_MAX_STRUCTURE} commas, opening brackets and escaped letters"
        raise validation_error((Violation(field="body", message=message),))
    try:
        raw = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise validation_error((Violation(field="body", message=f"is not valid JSON: {error}"),)) from None
    if not isinstance(raw, dict):
        raise validation_error((Violation(field="body", message="must be a JSON object"),))
    return raw


def _placeholder_key(number: int) -> str:
    return f"inputs/{number:064x}"


def _checked(placed: Mapping[str, object], refused: list[Violation]) -> GenerationRequest:
    """The request with placeholders. Raises HttpError with what the rules refuse and what the door refuses."""
    try:
        request = check_request(placed)
    except InvalidRequestError as error:
        raise validation_error((*error.violations, *refused)) from None
    if refused:
        raise validation_error(tuple(refused))
    return request


def _with_images(raw: Mapping[str, object], image_for: _ImageFor) -> dict[str, object]:
    """The body with every image that was sent replaced; everything else as it is, keyframes beyond the limit too."""
    placed = dict(raw)
    for field in SINGLE_IMAGE_FIELDS:
        if placed.get(field) is not None:
            placed[field] = image_for(field, placed[field])
    frames = placed.get(_KEYFRAMES)
    if isinstance(frames, list):
        read = [_frame_with_image(f"{_KEYFRAMES}[{number}]", frame, image_for) for number, frame in enumerate(frames[:_MAX_KEYFRAMES])]
        # The check refuses a list with more, in one sentence, and reads no further.
        placed[_KEYFRAMES] = [*read, *frames[_MAX_KEYFRAMES:]]
    return placed


def _frame_with_image(path: str, frame: object, image_for: _ImageFor) -> object:
    if not isinstance(frame, dict) or frame.get("image") is None:
        return frame
    return {**frame, "image": image_for(f"{path}.image", frame["image"])}


async def _check_pictures(bridge: Bridge, pictures: Mapping[str, object], name: str) -> dict[str, CheckedImage]:
    """Every picture decoded, by field name. Raises HttpError naming all that are bad."""
    checks = [partial(_check_picture, bridge, field, value) for field, value in pictures.items()]
    try:
        async with asyncio.timeout(_PICTURES_S):
            outcomes = await bridge.image_checks.all(name, checks)
    except TimeoutError:
        raise HttpError(ErrorCode.SERVICE_UNAVAILABLE, "Too many images are being checked.", retry_after_s=_PICTURES_S) from None
    bad = tuple(outcome for outcome in outcomes if isinstance(outcome, Violation))
    if bad:
        raise validation_error(bad)
    return {field: outcome for field, outcome in zip(pictures, outcomes, strict=True) if isinstance(outcome, CheckedImage)}


def _check_picture(bridge: Bridge, field: str, value: object) -> CheckedImage | Violation:
    try:
        return check_data_uri(value, bridge.check_image)
    except InvalidImageError as error:
        return Violation(field=field, message=str(error))
    except ImageCheckUnavailableError as error:
        _LOG.error("image_not_checked", reason=str(error))
        raise HttpError(ErrorCode.SERVICE_UNAVAILABLE, "The server cannot look at images now.") from error
