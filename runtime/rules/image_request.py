"""What the contract says of a request for an image model: checked here, made elsewhere. Fields that both kinds share keep one rule."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from runtime.rules.catalogue import FIELDS, FieldRule, Kind, ModelRules
from runtime.rules.request import InvalidRequestError, Violation
from runtime.rules.schema import DATA_URI_PATTERN, DIALECT, field_schema
from runtime.rules.values import ValueRefusedError, check_value

IMAGE_MODELS: tuple[str, ...] = ("pony", "flux")
"""Models that make images; another server renders them."""

TXT2IMG = "txt2img"
IMG2IMG = "img2img"

_SHARED = (
    "prompt",
    "negative_prompt",
    "width",
    "height",
    "seed",
    "guidance_scale",
    "reference_strength",
    "denoising_strength",
)
_PICTURE = "reference_image"
_VIDEO_RULES: Mapping[str, FieldRule] = {rule.name: rule for rule in FIELDS}


def _shared(name: str) -> FieldRule:
    # The descriptions speak of how the video models use a field; the defaults are those of the other server.
    return replace(_VIDEO_RULES[name], default=None, used_by=None, description=_DESCRIPTIONS[name])


_DESCRIPTIONS: Mapping[str, str] = {
    "prompt": "What to show.",
    "negative_prompt": "What to avoid.",
    "width": "Pixels.",
    "height": "Pixels.",
    "seed": "-1 lets the server choose.",
    "guidance_scale": "How closely to follow the prompt.",
    "reference_strength": "How strongly reference_image binds.",
    "denoising_strength": "How far to go from reference_image.",
}

IMAGE_FIELDS: tuple[FieldRule, ...] = (
    FieldRule(name="model", kind=Kind.CHOICE, description="Which model renders.", options=IMAGE_MODELS, required=True),
    FieldRule(name="type", kind=Kind.CHOICE, description="What the model makes.", options=("image",)),
    FieldRule(name="mode", kind=Kind.CHOICE, description="What the image is made from.", options=(TXT2IMG, IMG2IMG)),
    *(_shared(name) for name in _SHARED),
    # Videos' formats too: a client that leaves its video setting as it is was never refused.
    FieldRule(name="output_format", kind=Kind.CHOICE, description="Format of the file.", options=("mp4", "webm", "png", "jpeg")),
    FieldRule(name="sampler", kind=Kind.TEXT, description="Name of the sampler.", minimum=0, maximum=100),
    FieldRule(name="clip_skip", kind=Kind.INTEGER, description="Layers of the text encoder to leave out.", minimum=1, maximum=4),
)

# Without a model's particulars: the shape of a field depends on its rule alone.
_ANY_MODEL = ModelRules(
    id="",
    name="Image model",
    type="image",
    category="image",
    description="",
    modes=(TXT2IMG, IMG2IMG),
    default_mode=TXT2IMG,
    fixed_parameters={},
    form_controls={},
    frame_multiple=1,
)
_DATA_URI = re.compile(DATA_URI_PATTERN)


def check_image_request(raw: Mapping[str, object]) -> None:
    """Returns when nothing is wrong with a request for an image model; fields without a rule are not looked at, None counts as absent.

    The picture's bytes are not looked at either: the server that renders it does that.

    Raises:
        InvalidRequestError: with every violation, in field order.
    """
    violations = [violation for rule in IMAGE_FIELDS if (violation := _violation(rule, raw.get(rule.name))) is not None]
    picture = raw.get(_PICTURE)
    if picture is None and raw.get("mode") == IMG2IMG:
        violations.append(Violation(field=_PICTURE, message=f"is required for the mode {IMG2IMG}"))
    elif picture is not None and not (isinstance(picture, str) and _DATA_URI.match(picture)):
        violations.append(Violation(field=_PICTURE, message="must be a data URI (data:image/png;base64,…)"))
    if violations:
        raise InvalidRequestError(tuple(violations))


def image_request_schema() -> dict[str, object]:
    """JSON Schema (2020-12) of a `/generate` body for an image model; it accepts what the check accepts: null counts as absent."""
    properties: dict[str, object] = {rule.name: _field_or_null(rule) for rule in IMAGE_FIELDS}
    picture = {"type": ["string", "null"], "pattern": DATA_URI_PATTERN}
    properties[_PICTURE] = {**picture, "description": "The picture to start from, at most 12 MiB."}
    with_picture = {"required": [_PICTURE], "properties": {_PICTURE: {"type": "string"}}}
    needs_picture = {"if": {"required": ["mode"], "properties": {"mode": {"const": IMG2IMG}}}, "then": with_picture}
    return {
        "$schema": DIALECT,
        "title": "Image models (passed on to their own server)",
        "type": "object",
        "required": [rule.name for rule in IMAGE_FIELDS if rule.required],
        "properties": properties,
        "allOf": [needs_picture],
    }


def _field_or_null(rule: FieldRule) -> dict[str, object]:
    schema: dict[str, object] = {name: value for name, value in field_schema(rule, _ANY_MODEL).items() if name != "default"}
    options = [*rule.options]
    if rule.required:
        return {**schema, "enum": options} if options else schema
    return {**schema, "type": [schema["type"], "null"], **({"enum": [*options, None]} if options else {})}


def _violation(rule: FieldRule, sent: object) -> Violation | None:
    if sent is None:
        return Violation(field=rule.name, message="is required") if rule.required else None
    try:
        check_value(rule, sent)
    except ValueRefusedError as error:
        return Violation(field=rule.name, message=str(error))
    return None
