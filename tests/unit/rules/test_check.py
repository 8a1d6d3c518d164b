"""What the check accepts, fills in, and says of what it refuses."""

from __future__ import annotations

import pytest

from runtime.rules.check import check_request
from runtime.rules.request import GenerationRequest, ImageReference, InvalidRequestError, Violation
from tests.unit.rules.bodies import IMAGE, body, check, refused, violations


def test_every_default_is_filled_in_when_only_model_and_prompt_are_sent() -> None:
    assert check("anisora") == GenerationRequest(
        model="anisora",
        mode="t2v",
        prompt="a fox in the snow",
        negative_prompt="",
        width=720,
        height=1280,
        seed=-1,
        output_format="mp4",
        num_frames=81,
        fps=16,
        steps=8,
        cfg_scale=1.0,
        guidance_scale=1.0,
        motion_score=3.0,
        lighting_variant="low_noise",
        reference_strength=0.85,
        denoising_strength=0.7,
        first_strength=1.0,
        last_strength=1.0,
    )


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("width", 256, 2048),
        ("height", 256, 2048),
        ("seed", -1, 2_147_483_647),
        ("num_frames", 1, 241),
        ("fps", 1, 60),
    ],
)
@pytest.mark.parametrize("model", ["anisora", "phr00t"])
def test_both_limits_are_inside_and_one_beyond_is_refused_when_the_field_is_an_integer(model: str, field: str, low: int, high: int) -> None:
    assert refused(body(model, **{field: low})) == []
    assert refused(body(model, **{field: high})) == []
    wrong = (Violation(field=field, message=f"must be between {low} and {high}"),)
    assert violations(body(model, **{field: low - 1})) == wrong
    assert violations(body(model, **{field: high + 1})) == wrong


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("guidance_scale", 0, 20),
        ("motion_score", 0, 5),
        ("reference_strength", 0, 1),
        ("denoising_strength", 0, 1),
        ("first_strength", 0.5, 1),
        ("last_strength", 0.5, 1),
    ],
)
def test_both_limits_are_inside_and_beyond_is_refused_when_the_field_is_a_number(field: str, low: float, high: float) -> None:
    assert refused(body(**{field: low})) == []
    assert refused(body(**{field: high})) == []
    wrong = (Violation(field=field, message=f"must be between {low:g} and {high:g}"),)
    assert violations(body(**{field: low - 0.001})) == wrong
    assert violations(body(**{field: high + 0.001})) == wrong


@pytest.mark.parametrize("value", [True, False, "8", 8.5, float("nan"), float("inf"), [], {}])
def test_an_integer_field_is_refused_when_its_value_is_no_integer(value: object) -> None:
    assert violations(body(fps=value)) == (Violation(field="fps", message="must be an integer"),)


def test_a_float_without_fraction_is_taken_as_an_integer_when_the_field_is_one() -> None:
    fps = check(fps=24.0).fps

    assert fps == 24
    assert isinstance(fps, int)


def test_an_integer_is_taken_as_a_number_when_the_field_is_one() -> None:
    assert isinstance(check(motion_score=4).motion_score, float)


@pytest.mark.parametrize("value", [True, "1.0", [1.0], {}])
def test_a_number_field_is_refused_when_its_value_is_no_number(value: object) -> None:
    assert violations(body(guidance_scale=value)) == (Violation(field="guidance_scale", message="must be a number"),)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 10**400])
def test_a_number_field_is_refused_when_its_value_is_not_finite(value: object) -> None:
    # cfg_scale has no limits of its own for anisora, so finiteness is all that stands between it and the store.
    assert violations(body(cfg_scale=value)) == (Violation(field="cfg_scale", message="must be a finite number"),)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model", "pony", "must be one of anisora, phr00t"),
        ("model", "flux", "must be one of anisora, phr00t"),
        ("model", ["anisora"], "must be one of anisora, phr00t"),
        ("type", "image", "must be video"),
        ("mode", "txt2img", "must be one of t2v, i2v, first_last_frame, arbitrary_frame"),
        ("output_format", "png", "must be one of mp4, webm"),
        ("lighting_variant", "dark", "must be one of high_noise, low_noise"),
    ],
)
def test_the_choices_are_named_when_a_value_is_none_of_them(field: str, value: object, message: str) -> None:
    assert violations(body(**{"model": "anisora", "prompt": "x", field: value})) == (Violation(field=field, message=message),)


def test_arbitrary_frame_is_refused_when_the_model_is_phr00t() -> None:
    expected = Violation(field="mode", message="must be one of t2v, i2v, first_last_frame")
    assert expected in violations(body("phr00t", mode="arbitrary_frame", arbitrary_frames=[{"frame_index": 0, "image": IMAGE}]))


@pytest.mark.parametrize(
    ("model", "steps"),
    [("anisora", 8), ("phr00t", 4)],
)
def test_steps_are_refused_when_they_differ_from_the_fixed_value(model: str, steps: int) -> None:
    assert check(model).steps == steps
    assert check(model, steps=steps).steps == steps
    assert check(model, steps=float(steps)).steps == steps
    (violation,) = violations(body(model, steps=steps + 1))
    assert violation.field == "steps"
    assert violation.message == f"must be {steps}: {model} renders with steps {steps} only; leave the field out or send that value"


@pytest.mark.parametrize("name", ["cfg_scale", "cfg", "guidance_scale"])
def test_phr00t_refuses_another_cfg_when_it_comes_under_any_of_its_names(name: str) -> None:
    assert check("phr00t", **{name: 1}).cfg_scale == 1.0
    (violation,) = violations(body("phr00t", **{name: 1.5}))
    assert violation.field == name
    assert violation.message.startswith("must be 1.0: phr00t renders with cfg_scale 1.0 only")


@pytest.mark.parametrize("name", ["cfg_scale", "cfg"])
def test_guidance_scale_stands_for_itself_when_phr00t_gets_a_cfg_too(name: str) -> None:
    assert refused(body("phr00t", **{name: 1.0, "guidance_scale": 7.5})) == []
    assert refused(body("phr00t", **{name: 1.0, "guidance_scale": 21})) == ["guidance_scale"]


def test_each_name_is_judged_when_cfg_comes_under_both() -> None:
    assert refused(body("phr00t", cfg_scale=1.0, cfg=3.0)) == ["cfg"]


def test_one_violation_is_told_when_a_guidance_that_stands_for_cfg_is_wrong_twice() -> None:
    assert refused(body("phr00t", guidance_scale=30)) == ["guidance_scale"]


def test_any_cfg_is_accepted_when_the_model_is_anisora() -> None:
    assert check("anisora", cfg=7).cfg_scale == 1.0


@pytest.mark.parametrize(
    ("model", "field", "sent", "held"),
    [
        ("phr00t", "motion_score", 5.0, 3.0),
        ("anisora", "lighting_variant", "high_noise", "low_noise"),
        ("anisora", "denoising_strength", 0.1, 0.7),
    ],
)
def test_a_field_is_held_at_its_default_when_the_model_does_not_use_it(model: str, field: str, sent: object, held: object) -> None:
    assert getattr(check(model, **{field: sent}), field) == held


def test_a_field_is_checked_when_the_model_does_not_use_it() -> None:
    assert refused(body("phr00t", motion_score=6)) == ["motion_score"]


def test_unknown_fields_are_ignored_when_they_are_sent() -> None:
    assert check(sampler="euler", clip_skip=99, anything={"at": "all"}) == check()


def test_none_counts_as_absent_when_it_is_sent_for_any_field() -> None:
    assert check(width=None, mode=None, cfg=None, reference_image=None, arbitrary_frames=None) == check()


class TestPrompts:
    """Text is kept as given or refused; never changed."""

    @pytest.mark.parametrize(
        "prompt",
        [
            "x",
            "x" * 2000,
            "\U0001f98a" * 2000,  # Length is counted in characters, not in UTF-16 units or bytes.
            "雪の中の狐、ゆっくり歩く",
            "الثعلب في الثلج",
            "👩🏽‍🚀 waves 🇯🇵",
            "first line\n\tsecond\r\nthird",
            "  spaces around  ",
        ],
    )
    def test_the_prompt_is_kept_as_given_when_it_is_of_any_script(self, prompt: str) -> None:
        assert check_request({"model": "anisora", "prompt": prompt}).prompt == prompt

    @pytest.mark.parametrize(
        ("prompt", "message"),
        [
            ("", "must not be blank"),
            (" \n\t\u3000", "must not be blank"),
            ("x" * 2001, "must have at most 2000 characters, it has 2001"),
            (7, "must be text"),
            (b"bytes", "must be text"),
            ("a\x00b", "must not contain control characters other than tab, newline and carriage return"),
            ("a\x7fb", "must not contain control characters other than tab, newline and carriage return"),
            ("a\x9bb", "must not contain control characters other than tab, newline and carriage return"),
            ("a\ud83d", "must be valid Unicode text; it contains half of a surrogate pair"),
        ],
    )
    def test_the_message_says_why_when_the_prompt_is_refused(self, prompt: object, message: str) -> None:
        assert violations({"model": "anisora", "prompt": prompt}) == (Violation(field="prompt", message=message),)

    def test_a_negative_prompt_may_be_empty_or_blank_when_it_is_sent(self) -> None:
        assert check(negative_prompt="").negative_prompt == ""
        assert check(negative_prompt=" ").negative_prompt == " "

    def test_a_negative_prompt_is_refused_when_it_is_over_1000_characters(self) -> None:
        assert refused(body(negative_prompt="x" * 1000)) == []
        assert refused(body(negative_prompt="x" * 1001)) == ["negative_prompt"]


class TestImages:
    """Each mode has its images, and no other."""

    @pytest.mark.parametrize(
        ("mode", "missing"),
        [
            ("i2v", ["reference_image"]),
            ("first_last_frame", ["first_frame_image", "last_frame_image"]),
            ("arbitrary_frame", ["arbitrary_frames"]),
        ],
    )
    def test_each_image_is_named_when_the_mode_lacks_it(self, mode: str, missing: list[str]) -> None:
        found = violations(body(mode=mode))
        assert [violation.field for violation in found] == missing
        assert {violation.message for violation in found} == {f"is required for the mode {mode}"}

    def test_an_empty_list_of_keyframes_is_refused_when_the_mode_needs_them(self) -> None:
        assert refused(body(mode="arbitrary_frame", arbitrary_frames=[])) == ["arbitrary_frames"]

    def test_images_are_left_out_when_the_mode_does_not_use_them(self) -> None:
        request = check(mode="t2v", reference_image=IMAGE, arbitrary_frames=[{"frame_index": 0, "image": IMAGE}])
        assert request.images() == ()

    def test_a_reference_object_is_accepted_when_it_comes_in_place_of_json(self) -> None:
        reference = ImageReference(key=IMAGE["key"])
        assert check(mode="i2v", reference_image=reference).reference_image == reference

    @pytest.mark.parametrize(
        "value",
        [
            "data:image/png;base64,AAAA",
            {},
            {"key": 1},
            {"key": "inputs/../secret"},
            {"key": "inputs/" + "0A" * 32},
            {"key": "results/" + "0a" * 32},
            {"key": "inputs/" + "0a" * 32 + "\n"},
            ImageReference(key="elsewhere"),
            [],
            True,
        ],
    )
    def test_a_value_is_refused_once_when_it_is_no_reference(self, value: object) -> None:
        assert refused(body(mode="i2v", reference_image=value)) == ["reference_image"]


class TestKeyframes:
    """The list of keyframes of AniSora."""

    @staticmethod
    def _refused(*frames: object, **fields: object) -> list[str]:
        return refused(body(mode="arbitrary_frame", arbitrary_frames=list(frames), **fields))

    def test_the_strength_is_085_when_it_is_not_sent(self) -> None:
        (frame,) = check(mode="arbitrary_frame", arbitrary_frames=[{"frame_index": 3, "image": IMAGE}]).arbitrary_frames
        assert (frame.frame_index, frame.image.key, frame.strength) == (3, IMAGE["key"], 0.85)

    def test_each_part_is_named_when_an_entry_is_wrong(self) -> None:
        wrong = self._refused({"frame_index": "1", "strength": 0.05, "image": 5}, 3, {})
        assert wrong == [
            "arbitrary_frames[0].frame_index",
            "arbitrary_frames[0].image",
            "arbitrary_frames[0].strength",
            "arbitrary_frames[1]",
            "arbitrary_frames[2].frame_index",
            "arbitrary_frames[2].image",
        ]

    @pytest.mark.parametrize(("index", "accepted"), [(-1, False), (0, True), (160, True), (161, False)])
    def test_positions_run_from_0_to_160_when_the_clip_is_long_enough(self, index: int, accepted: bool) -> None:
        assert self._refused({"frame_index": index, "image": IMAGE}, num_frames=241) == (
            [] if accepted else ["arbitrary_frames[0].frame_index"]
        )

    def test_a_position_is_refused_when_it_is_not_below_the_frame_count(self) -> None:
        assert self._refused({"frame_index": 16, "image": IMAGE}, num_frames=17) == []
        assert self._refused({"frame_index": 17, "image": IMAGE}, num_frames=17) == ["arbitrary_frames[0].frame_index"]

    def test_only_the_frame_count_is_refused_when_it_is_wrong_itself(self) -> None:
        assert self._refused({"frame_index": 100, "image": IMAGE}, num_frames=0) == ["num_frames"]

    def test_the_second_is_refused_when_two_entries_share_a_position(self) -> None:
        entry = {"frame_index": 8, "image": IMAGE}
        assert self._refused(entry, entry) == ["arbitrary_frames[1].frame_index"]

    def test_the_list_is_refused_when_it_has_over_21_entries(self) -> None:
        entries = [{"frame_index": index, "image": IMAGE} for index in range(22)]
        assert self._refused(*entries[:21]) == []
        assert self._refused(*entries) == ["arbitrary_frames"]

    def test_no_more_than_the_allowed_entries_are_judged_when_the_list_is_endless(self) -> None:
        assert len(self._refused(*[None] * 100_000)) == 22

    @pytest.mark.parametrize("value", ["frames", {"0": IMAGE}, 5, True])
    def test_the_field_is_refused_once_when_it_is_no_list(self, value: object) -> None:
        assert refused(body(mode="arbitrary_frame", arbitrary_frames=value)) == ["arbitrary_frames"]


def test_everything_is_told_in_field_order_when_many_fields_are_wrong() -> None:
    raw = body("phr00t", mode="x", prompt=" ", width=1, height=9999, fps=0, steps=8, cfg=2, last_strength=0, first_strength=2)
    assert refused(raw) == ["mode", "prompt", "width", "height", "fps", "steps", "cfg", "first_strength", "last_strength"]


def test_other_fields_are_judged_too_when_the_model_is_unknown() -> None:
    assert refused({"model": "pony", "mode": "img2img", "fps": 0, "steps": "x"}) == ["model", "mode", "prompt", "fps", "steps"]


def test_both_required_fields_are_named_when_the_body_is_empty() -> None:
    assert violations({}) == (Violation(field="model", message="is required"), Violation(field="prompt", message="is required"))


def test_the_error_reads_as_a_sentence_when_it_is_printed() -> None:
    with pytest.raises(InvalidRequestError, match=r"^width: must be between 256 and 2048; fps: must be an integer$"):
        check(width=1, fps="x")


def test_no_message_repeats_the_text_when_a_prompt_is_refused() -> None:
    secret = "a very private wish\x00"
    assert all("private" not in violation.message for violation in violations({"model": "anisora", "prompt": secret}))


@pytest.mark.parametrize(
    ("images", "mode"),
    [
        ({"reference_image": IMAGE}, "i2v"),
        ({"first_frame_image": IMAGE, "last_frame_image": IMAGE}, "first_last_frame"),
        ({"arbitrary_frames": [{"frame_index": 0, "image": IMAGE}]}, "arbitrary_frame"),
        ({"arbitrary_frames": []}, "t2v"),
    ],
)
def test_mode_is_what_the_images_mean_when_none_is_sent(images: dict[str, object], mode: str) -> None:
    # A picture without a mode gave a text-to-video clip, without a word.
    assert check("anisora", **images).mode == mode


def test_missing_image_is_named_when_only_one_of_two_was_sent_without_a_mode() -> None:
    assert refused(body("phr00t", first_frame_image=IMAGE)) == ["last_frame_image"]
