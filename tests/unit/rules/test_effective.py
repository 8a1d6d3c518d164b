"""What a request becomes when it is rendered."""

from __future__ import annotations

import pytest

from runtime.rules.effective import effective, latent_tokens
from tests.unit.rules.bodies import IMAGE, OTHER_IMAGE, check


@pytest.mark.parametrize(("asked", "used"), [(256, 256), (257, 256), (271, 256), (272, 272), (719, 704), (720, 720), (2048, 2048)])
def test_the_size_goes_down_to_a_multiple_of_16_when_it_is_none(asked: int, used: int) -> None:
    request = effective(check(width=asked, height=asked), seed=0)
    assert (request.width, request.height) == (used, used)


@pytest.mark.parametrize(
    ("model", "asked", "used"),
    [
        ("anisora", 1, 1),
        ("anisora", 8, 1),
        ("anisora", 9, 9),
        ("anisora", 85, 81),
        ("anisora", 241, 241),
        ("phr00t", 1, 1),
        ("phr00t", 4, 1),
        ("phr00t", 8, 5),
        ("phr00t", 84, 81),
        ("phr00t", 85, 85),
        ("phr00t", 241, 241),
    ],
)
def test_the_frame_count_goes_down_to_what_the_model_makes(model: str, asked: int, used: int) -> None:
    assert effective(check(model, num_frames=asked), seed=0).num_frames == used


@pytest.mark.parametrize(("asked", "used"), [(-1, 77), (0, 0), (5, 5), (2_147_483_647, 2_147_483_647)])
def test_the_seed_is_chosen_only_when_it_is_minus_one(asked: int, used: int) -> None:
    assert effective(check(seed=asked), seed=77).seed == used


@pytest.mark.parametrize("seed", [-1, 2_147_483_648])
def test_a_chosen_seed_is_refused_when_it_is_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match="seed must be between 0 and 2147483647"):
        effective(check(), seed=seed)


# Halves go to the even multiple, as the authors' `round(x / 8) * 8` does: 4/8 -> 0, 12/8 -> 2, 20/8 -> 2.
@pytest.mark.parametrize(("asked", "used"), [(0, 0), (3, 0), (4, 0), (5, 8), (11, 8), (12, 16), (20, 16), (80, 80)])
def test_a_keyframe_goes_to_the_nearest_multiple_of_8(asked: int, used: int) -> None:
    request = check(mode="arbitrary_frame", arbitrary_frames=[{"frame_index": asked, "image": IMAGE}])
    assert [frame.frame_index for frame in effective(request, seed=0).arbitrary_frames] == [used]


def test_a_keyframe_stays_inside_when_the_frame_count_goes_down() -> None:
    # 88 frames become 81, whose last position is 80; 86 would snap to 88.
    request = check(mode="arbitrary_frame", num_frames=88, arbitrary_frames=[{"frame_index": 86, "image": IMAGE}])
    assert [frame.frame_index for frame in effective(request, seed=0).arbitrary_frames] == [80]


def test_the_later_entry_wins_when_two_keyframes_meet() -> None:
    entries = [{"frame_index": 9, "image": IMAGE, "strength": 0.2}, {"frame_index": 7, "image": OTHER_IMAGE, "strength": 0.9}]
    (frame,) = effective(check(mode="arbitrary_frame", arbitrary_frames=entries), seed=0).arbitrary_frames
    assert (frame.frame_index, frame.image.key, frame.strength) == (8, OTHER_IMAGE["key"], 0.9)


def test_keyframes_come_out_in_order_of_time_when_they_were_sent_in_another() -> None:
    entries = [{"frame_index": index, "image": IMAGE} for index in (40, 0, 80)]
    request = effective(check(mode="arbitrary_frame", arbitrary_frames=entries), seed=0)
    assert [frame.frame_index for frame in request.arbitrary_frames] == [0, 40, 80]


# facts/models.md, section 4, "Tokens and activations".
@pytest.mark.parametrize(
    ("width", "height", "num_frames", "tokens"),
    [(480, 832, 49, 20_280), (480, 832, 81, 32_760), (640, 640, 81, 33_600), (720, 1280, 81, 75_600), (256, 256, 1, 256)],
)
def test_the_tokens_are_those_of_the_facts(width: int, height: int, num_frames: int, tokens: int) -> None:
    assert latent_tokens(effective(check(width=width, height=height, num_frames=num_frames), seed=0)) == tokens
