"""The rule set as data: every field, its limits and default, every mode and every model. Check, schema, defaults and `/models` read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from runtime.rules.forms import EVERY_MODEL, GUIDANCE_SCALE, LIGHTING_VARIANT, MOTION_SCORE, FormControl

ANISORA = "anisora"
PHR00T = "phr00t"

SIZE_MULTIPLE = 16
"""Pixels: width and height are multiples of it. 8 from the VAE's spatial stride, 2 from the transformer's patch."""

KEYFRAME_MULTIPLE = 8
"""Frames: AniSora was trained with keyframes at multiples of 8 pixel frames (facts/models.md, section 1)."""

IMAGE_KEY_PATTERN = r"inputs/[0-9a-f]{64}"
"""Key of a stored input image, as `runtime.objects.input_key` makes it."""


class Kind(StrEnum):
    """What a field holds."""

    TEXT = "text"
    CHOICE = "choice"
    INTEGER = "integer"
    NUMBER = "number"
    IMAGE = "image"
    KEYFRAMES = "keyframes"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRule:
    """One field of a request.

    Attributes:
        name: name in HTTP, proto and parameters alike.
        kind: what it holds.
        description: for people, in the schema.
        default: value of an absent field; None where there is none (a required field, an image, a fixed parameter).
        minimum: least value of a number, least length of a text or list.
        maximum: largest value of a number, longest text in characters, longest list.
        options: the values of a choice; empty for `mode`, whose choices are the model's.
        aliases: other names that mean the same; the field's own name wins.
        required: absent is a violation.
        used_by: models that use the value; for any other model it is checked, then held at its default. None means every model.
    """

    name: str
    kind: Kind
    description: str
    default: str | int | float | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None
    options: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    required: bool = False
    used_by: tuple[str, ...] | None = None

    def is_used_by(self, model: str) -> bool:
        """Whether the value makes a difference for the model."""
        return self.used_by is None or model in self.used_by


@dataclass(frozen=True, slots=True, kw_only=True)
class ModeRules:
    """One mode.

    Attributes:
        id: its name.
        images: image fields that it requires; it uses no other.
    """

    id: str
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedParameter:
    """A parameter that the model has one value for; any other value is refused. `locked` tells a form not to offer it."""

    value: int | float
    locked: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRules:
    """One model.

    Attributes:
        id: name in requests.
        name: for people.
        type: `video`.
        category: what it is for, one word; the frontend groups by it.
        description: what it is good for, one sentence or two.
        modes: in the order to show them.
        default_mode: mode of a request that names none and brings no images.
        fixed_parameters: by field name.
        form_controls: by field name: what the frontend's settings file lists.
        stand_ins: field to another field that means the same when the first is absent under all its names.
        frame_multiple: clips have this times k, plus 1, frames: 4 for the VAE, 8 for AniSora's keyframes (facts/models.md, 1 and 3).
    """

    id: str
    name: str
    type: str
    category: str
    description: str
    modes: tuple[str, ...]
    default_mode: str
    fixed_parameters: Mapping[str, FixedParameter]
    form_controls: Mapping[str, FormControl]
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    frame_multiple: int

    def modes_by_images(self) -> tuple[str, ...]:
        """Its modes that take images, the one with the most to say first: without a mode, the first whose images were sent is meant."""
        return tuple(mode for mode in reversed(tuple(MODES)) if mode in self.modes and MODES[mode].images)


MODES: Mapping[str, ModeRules] = MappingProxyType(
    {
        rules.id: rules
        for rules in (
            ModeRules(id="t2v", images=()),
            ModeRules(id="i2v", images=("reference_image",)),
            ModeRules(id="first_last_frame", images=("first_frame_image", "last_frame_image")),
            ModeRules(id="arbitrary_frame", images=("arbitrary_frames",)),
        )
    }
)

FIELDS: tuple[FieldRule, ...] = (
    FieldRule(name="model", kind=Kind.CHOICE, description="Which model renders.", options=(ANISORA, PHR00T), required=True),
    FieldRule(name="type", kind=Kind.CHOICE, description="What the model makes.", options=("video",)),
    FieldRule(name="mode", kind=Kind.CHOICE, description="What the clip is made from."),
    FieldRule(name="prompt", kind=Kind.TEXT, description="What to show.", minimum=1, maximum=2000, required=True),
    FieldRule(
        name="negative_prompt",
        kind=Kind.TEXT,
        description="What to avoid. It counts only where the guidance is over 1.",
        default="",
        minimum=0,
        maximum=1000,
    ),
    FieldRule(
        name="width",
        kind=Kind.INTEGER,
        description="Pixels. The nearest multiple of 16 not above it is used.",
        default=720,
        minimum=256,
        maximum=2048,
    ),
    FieldRule(
        name="height",
        kind=Kind.INTEGER,
        description="Pixels. The nearest multiple of 16 not above it is used.",
        default=1280,
        minimum=256,
        maximum=2048,
    ),
    FieldRule(
        name="seed",
        kind=Kind.INTEGER,
        description="-1 lets the server choose; the seed used is recorded.",
        default=-1,
        minimum=-1,
        maximum=2_147_483_647,
    ),
    FieldRule(name="output_format", kind=Kind.CHOICE, description="Format of the file.", default="mp4", options=("mp4", "webm")),
    FieldRule(
        name="num_frames",
        kind=Kind.INTEGER,
        description="Frames of the clip. The nearest count that the model can make, not above it, is used.",
        default=81,
        minimum=1,
        maximum=241,
    ),
    FieldRule(name="fps", kind=Kind.INTEGER, description="Frames a second.", default=16, minimum=1, maximum=60),
    FieldRule(name="steps", kind=Kind.INTEGER, description="Denoising steps; fixed."),
    FieldRule(
        name="cfg_scale",
        kind=Kind.NUMBER,
        description="Guidance of the distilled model; fixed.",
        default=1.0,
        aliases=("cfg",),
        used_by=(PHR00T,),
    ),
    FieldRule(
        name="guidance_scale",
        kind=Kind.NUMBER,
        description="1.0 is recommended; over 1 every step takes twice the time.",
        default=1.0,
        minimum=0,
        maximum=20,
        used_by=(ANISORA,),
    ),
    FieldRule(
        name="motion_score",
        kind=Kind.NUMBER,
        description="How much moves; 2 to 4 is what the model was trained with.",
        default=3.0,
        minimum=0,
        maximum=5,
        used_by=(ANISORA,),
    ),
    FieldRule(
        name="lighting_variant",
        kind=Kind.CHOICE,
        description="Which noise the picture is lit from.",
        default="low_noise",
        options=("high_noise", "low_noise"),
        used_by=(PHR00T,),
    ),
    FieldRule(
        name="reference_strength",
        kind=Kind.NUMBER,
        description="How strongly reference_image binds.",
        default=0.85,
        minimum=0,
        maximum=1,
    ),
    FieldRule(
        name="denoising_strength",
        kind=Kind.NUMBER,
        description="Kept for clients of the image models.",
        default=0.7,
        minimum=0,
        maximum=1,
        used_by=(),
    ),
    FieldRule(
        name="first_strength",
        kind=Kind.NUMBER,
        description="How strongly first_frame_image binds.",
        default=1.0,
        minimum=0.5,
        maximum=1,
    ),
    FieldRule(
        name="last_strength",
        kind=Kind.NUMBER,
        description="How strongly last_frame_image binds.",
        default=1.0,
        minimum=0.5,
        maximum=1,
    ),
    FieldRule(name="reference_image", kind=Kind.IMAGE, description="The picture that the clip starts from."),
    FieldRule(name="first_frame_image", kind=Kind.IMAGE, description="The first picture of the clip."),
    FieldRule(name="last_frame_image", kind=Kind.IMAGE, description="The last picture of the clip."),
    # 21 is the number of multiples of 8 from 0 to 160: there are no more keyframe positions.
    FieldRule(name="arbitrary_frames", kind=Kind.KEYFRAMES, description="Pictures at positions of the clip.", minimum=0, maximum=21),
)

KEYFRAME_FIELDS: tuple[FieldRule, ...] = (
    FieldRule(
        name="frame_index",
        kind=Kind.INTEGER,
        description="Position, 0-based and below num_frames. The nearest multiple of 8 is used.",
        minimum=0,
        maximum=160,
        required=True,
    ),
    FieldRule(name="image", kind=Kind.IMAGE, description="The picture at that position.", required=True),
    FieldRule(name="strength", kind=Kind.NUMBER, description="How strongly it binds.", default=0.85, minimum=0.1, maximum=1),
)

SINGLE_IMAGE_FIELDS: tuple[str, ...] = tuple(rule.name for rule in FIELDS if rule.kind is Kind.IMAGE)
"""Fields that hold one image; `arbitrary_frames[n].image` are the others."""

MODELS: Mapping[str, ModelRules] = MappingProxyType(
    {
        rules.id: rules
        for rules in (
            ModelRules(
                id=ANISORA,
                name="AniSora V3.2",
                type="video",
                category="anime",
                description="Anime video from text, from a picture, between two pictures or through keyframes at any position.",
                modes=("t2v", "i2v", "first_last_frame", "arbitrary_frame"),
                default_mode="t2v",
                fixed_parameters={"steps": FixedParameter(value=8)},
                form_controls={**EVERY_MODEL, "guidance_scale": GUIDANCE_SCALE, "motion_score": MOTION_SCORE},
                frame_multiple=8,
            ),
            ModelRules(
                id=PHR00T,
                name="Phr00t Rapid Mega",
                type="video",
                category="general",
                description="Fast general video in four steps, from text, from a picture or between two pictures.",
                modes=("t2v", "i2v", "first_last_frame"),
                default_mode="t2v",
                fixed_parameters={"steps": FixedParameter(value=4), "cfg_scale": FixedParameter(value=1.0)},
                form_controls={**EVERY_MODEL, "lighting_variant": LIGHTING_VARIANT},
                stand_ins={"cfg_scale": "guidance_scale"},
                frame_multiple=4,
            ),
        )
    }
)
