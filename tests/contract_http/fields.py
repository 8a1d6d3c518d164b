"""The table of POST /generate as data: for each field the values at its limits, and those just beyond them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.harness.bridge import data_uri, png

PICTURE = data_uri(png())
MODELS = ("anisora", "phr00t")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One field.

    Attributes:
        name: of the field.
        good: values that are accepted.
        bad: values that get 422 naming the field.
        models: for which this holds.
        others: the rest of the body that the field needs.
        named: field that the refusal names, where it is not the field itself.
    """

    name: str
    good: tuple[Any, ...] = ()
    bad: tuple[Any, ...] = ()
    models: tuple[str, ...] = MODELS
    others: dict[str, Any] = field(default_factory=dict)
    named: str = ""


def _frames(*entries: dict[str, Any]) -> list[dict[str, Any]]:
    return list(entries)


def _frame(index: Any = 0, **fields: Any) -> dict[str, Any]:
    return {"frame_index": index, "image": PICTURE, **fields}


# Nothing of these is a number, a text or a list of the right kind; JSON true is no number, a number in quotes is a text.
_NO_INTEGERS = ("8", 8.5, True, [8], {"value": 8})
_NO_NUMBERS = ("1", True, [1], {"value": 1})
_NO_TEXTS = (5, True, ["a lake"], {"text": "a lake"})

ROWS: tuple[Row, ...] = (
    # Models and what they make.
    Row(name="model", good=MODELS, bad=("wan", "AniSora", "", 1, ["anisora"])),
    Row(name="type", good=("video", None), bad=("image", "audio", "Video", 1)),
    Row(name="mode", good=("t2v", None), bad=("txt2img", "img2img", "T2V", "", 3)),
    Row(name="mode", bad=("arbitrary_frame",), models=("phr00t",), others={"arbitrary_frames": _frames(_frame())}),
    Row(name="mode", good=("i2v",), others={"reference_image": PICTURE}),
    Row(name="mode", good=("first_last_frame",), others={"first_frame_image": PICTURE, "last_frame_image": PICTURE}),
    Row(name="mode", good=("arbitrary_frame",), models=("anisora",), others={"arbitrary_frames": _frames(_frame())}),
    # Texts: any script, 1 to 2000 characters, not blank; no control characters but tab and line ends.
    Row(name="prompt", good=("x", "x" * 2000, "湖の上の紙の船", "зима ❄️ 👩‍👩‍👧", "two\nlines\tand a tab", "\U0001f30a" * 2000)),
    Row(name="prompt", bad=("", " ", "\t\n", "x" * 2001, "bell\x07", "\x00", None, *_NO_TEXTS)),
    Row(name="negative_prompt", good=("", "x" * 1000, None), bad=("x" * 1001, "\x1b[0m", *_NO_TEXTS)),
    # Sizes, frames, seed.
    Row(name="width", good=(256, 257, 2048, 512.0, None), bad=(255, 2049, 0, -256, *_NO_INTEGERS)),
    Row(name="height", good=(256, 257, 2048, 512.0, None), bad=(255, 2049, 0, -256, *_NO_INTEGERS)),
    Row(name="seed", good=(-1, 0, 2_147_483_647, None), bad=(-2, 2_147_483_648, 10**30, *_NO_INTEGERS)),
    Row(name="num_frames", good=(1, 2, 241, None), bad=(0, 242, -1, *_NO_INTEGERS)),
    Row(name="fps", good=(1, 8, 16, 24, 60, None), bad=(0, 61, *_NO_INTEGERS)),
    Row(name="output_format", good=("mp4", "webm", None), bad=("png", "jpeg", "gif", "MP4", "", 1)),
    # Fixed parameters, under every name.
    Row(name="steps", good=(8, 8.0, None), bad=(7, 9, 4, 0, *_NO_INTEGERS[1:], "8"), models=("anisora",)),
    Row(name="steps", good=(4, 4.0, None), bad=(3, 5, 8, 0, "4", True), models=("phr00t",)),
    Row(name="cfg_scale", good=(1, 1.0, None), bad=(0, 0.99, 1.01, 2, 7.5, *_NO_NUMBERS), models=("phr00t",)),
    Row(name="cfg", good=(1, 1.0, None), bad=(0, 0.99, 1.01, 7.5, *_NO_NUMBERS), models=("phr00t",)),
    Row(name="guidance_scale", good=(1, 1.0, None), bad=(0.5, 7.5, 20), models=("phr00t",)),
    Row(name="guidance_scale", good=(0, 7.5, 20), models=("phr00t",), others={"cfg_scale": 1.0}),
    Row(name="guidance_scale", good=(0, 20), models=("phr00t",), others={"cfg": 1}),
    Row(name="cfg", bad=(2,), models=("phr00t",), others={"cfg_scale": 1.0}),
    # What a model does with its guidance, motion and light.
    Row(name="guidance_scale", good=(0, 1.0, 20, None), bad=(-0.01, 20.01, *_NO_NUMBERS), models=("anisora",)),
    Row(name="motion_score", good=(0, 3.0, 5, None), bad=(-0.01, 5.01, *_NO_NUMBERS)),
    Row(name="lighting_variant", good=("high_noise", "low_noise", None), bad=("noise", "LOW_NOISE", "", 1)),
    # Strengths.
    Row(name="reference_strength", good=(0, 0.85, 1, None), bad=(-0.01, 1.01, *_NO_NUMBERS)),
    Row(name="denoising_strength", good=(0, 0.7, 1, None), bad=(-0.01, 1.01, *_NO_NUMBERS)),
    Row(name="first_strength", good=(0.5, 1, None), bad=(0.49, 1.01, *_NO_NUMBERS)),
    Row(name="last_strength", good=(0.5, 1, None), bad=(0.49, 1.01, *_NO_NUMBERS)),
    # Pictures that a mode needs.
    Row(name="reference_image", bad=(None,), others={"mode": "i2v"}),
    Row(name="first_frame_image", bad=(None,), others={"mode": "first_last_frame", "last_frame_image": PICTURE}),
    Row(name="last_frame_image", bad=(None,), others={"mode": "first_last_frame", "first_frame_image": PICTURE}),
    Row(name="arbitrary_frames", bad=(None, [], {}, "x", 1), models=("anisora",), others={"mode": "arbitrary_frame"}),
    # Keyframes: position 0 to 160 and below num_frames, strength 0.1 to 1.
    Row(
        name="arbitrary_frames",
        good=(
            _frames(_frame(0)),
            _frames(_frame(160)),
            _frames(_frame(0, strength=0.1), _frame(80, strength=1)),
            _frames(_frame(8, strength=None)),
        ),
        models=("anisora",),
        others={"mode": "arbitrary_frame", "num_frames": 161},
    ),
    *(
        Row(name="arbitrary_frames", bad=(_frames(entry),), named=f"arbitrary_frames[0].{part}", models=("anisora",), others=others)
        for others in ({"mode": "arbitrary_frame", "num_frames": 241},)
        for part, entry in (
            ("frame_index", _frame(-1)),
            ("frame_index", _frame(161)),
            ("frame_index", _frame(1.5)),
            ("frame_index", _frame("0")),
            ("frame_index", {"image": PICTURE}),
            ("image", {"frame_index": 0}),
            ("image", _frame(0, image="a picture")),
            ("strength", _frame(0, strength=0.09)),
            ("strength", _frame(0, strength=1.01)),
            ("strength", _frame(0, strength="1")),
        )
    ),
    Row(
        name="arbitrary_frames",
        bad=(_frames(_frame(81)),),
        named="arbitrary_frames[0].frame_index",
        models=("anisora",),
        others={"mode": "arbitrary_frame", "num_frames": 81},
    ),
    Row(name="arbitrary_frames", good=(_frames(_frame(80)),), models=("anisora",), others={"mode": "arbitrary_frame", "num_frames": 81}),
    # Of the image models only, and unknown to video: ignored, whatever they are.
    Row(name="sampler", good=("euler", 5)),
    Row(name="clip_skip", good=(1, 4, 99)),
    Row(name="a_field_of_tomorrow", good=("x", {"y": [1]}, None)),
)

DEFAULTS: dict[str, Any] = {
    "width": 720,
    "height": 1280,
    "output_format": "mp4",
    "num_frames": 81,
    "fps": 16,
    "cfg_scale": 1.0,
    "guidance_scale": 1.0,
    "motion_score": 3.0,
    "lighting_variant": "low_noise",
    "reference_strength": 0.85,
    "denoising_strength": 0.7,
    "first_strength": 1.0,
    "last_strength": 1.0,
}
"""What holds for a field that was not sent; `steps` is the model's, the seed is chosen."""
