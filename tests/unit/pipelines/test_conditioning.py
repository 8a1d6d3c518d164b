"""The tensors that the transformers see, against plainly written references and against diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from runtime.rules.request import ArbitraryFrame
from tests.unit.pipelines.jobs import COLD, WARM, inner, make_job, make_pictures, make_request
from tests.unit.pipelines.plain_conditioning import anisora_condition, vace_control

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from runtime.lane.renderer import Pipeline

pytestmark = pytest.mark.torch

FRAMES, SIZE = 17, 64


def pixels_of(key: str) -> torch.Tensor:
    from runtime.lane.wan.keyframes import to_pixels

    return to_pixels(make_pictures()[key], height=SIZE, width=SIZE)


def placed(keyframes: Mapping[int, tuple[str, float]]) -> dict[int, tuple[Image.Image, float]]:
    """With pictures in the place of their keys."""
    pictures = make_pictures()
    return {index: (pictures[key], strength) for index, (key, strength) in keyframes.items()}


def components_of(pipeline: Pipeline) -> dict[str, Any]:
    """The parts inside, for another pipeline of diffusers."""
    parts = {name: part for name, part in inner(pipeline).components.items() if part is not None}
    return parts | {"scheduler": None}


def seen_by(pipeline: Pipeline, argument: str, request: Any) -> list[torch.Tensor]:
    """What the first transformer gets for this argument while the request renders."""
    seen: list[torch.Tensor] = []
    transformer = inner(pipeline).transformer
    hook = transformer.register_forward_pre_hook(lambda _module, _args, named: seen.append(named[argument].clone()), with_kwargs=True)
    try:
        pipeline.render(make_job(request))
    finally:
        hook.remove()
    return seen


@pytest.mark.parametrize(
    ("mode", "changes", "keyframes"),
    [
        ("t2v", {}, {}),
        ("i2v", {"reference_strength": 0.6}, {0: (WARM.key, 0.6)}),
        ("first_last_frame", {"first_strength": 0.9, "last_strength": 0.7}, {0: (WARM.key, 0.9), 16: (COLD.key, 0.7)}),
        (
            "arbitrary_frame",
            {"arbitrary_frames": (ArbitraryFrame(frame_index=8, image=COLD, strength=0.4),)},
            {8: (COLD.key, 0.4)},
        ),
        (
            "arbitrary_frame",
            {
                "arbitrary_frames": (
                    ArbitraryFrame(frame_index=0, image=COLD, strength=1.0),
                    ArbitraryFrame(frame_index=8, image=WARM, strength=0.5),
                    ArbitraryFrame(frame_index=16, image=COLD, strength=0.85),
                )
            },
            {0: (COLD.key, 1.0), 8: (WARM.key, 0.5), 16: (COLD.key, 0.85)},
        ),
    ],
)
def test_expert_sees_noise_mask_and_condition_when_anisora_renders(
    anisora: Pipeline, mode: str, changes: dict[str, Any], keyframes: dict[int, tuple[str, float]]
) -> None:
    import torch

    request = make_request("anisora", mode, num_frames=FRAMES, **changes)

    first, second, third = seen_by(anisora, "hidden_states", request)

    noise = torch.randn((1, 16, 5, 8, 8), generator=torch.Generator().manual_seed(request.seed))
    condition = anisora_condition(inner(anisora).vae, placed(keyframes), FRAMES, SIZE)
    assert first.shape == (1, 36, 5, 8, 8)
    assert torch.equal(first[:, :16], noise)
    for seen in (first, second, third):
        assert torch.allclose(seen[:, 16:], condition, atol=1e-5)


def test_mask_sets_one_channel_when_a_keyframe_is_not_the_first() -> None:
    from lane_anisora.conditioning import fold_mask

    mask = fold_mask([0, 8], 9, latent_height=1, latent_width=1)

    assert mask[0, :, :, 0, 0].tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 1]]


@pytest.mark.parametrize("with_last", [False, True])
def test_condition_is_that_of_diffusers_when_only_the_ends_are_keyframes(anisora: Pipeline, with_last: bool) -> None:
    import torch
    from diffusers import WanImageToVideoPipeline

    from lane_anisora.conditioning import encode_condition
    from runtime.lane.wan.keyframes import Keyframe

    parts = components_of(anisora)
    first, last = pixels_of(WARM.key)[None], pixels_of(COLD.key)[None] if with_last else None
    keyframes = [Keyframe(frame_index=0, pixels=first[0], strength=1.0)]
    if last is not None:
        keyframes.append(Keyframe(frame_index=FRAMES - 1, pixels=last[0], strength=1.0))

    with torch.no_grad():
        _, theirs = WanImageToVideoPipeline(**parts).prepare_latents(
            first, 1, 16, SIZE, SIZE, FRAMES, torch.float32, torch.device("cpu"), torch.Generator(), None, last
        )
        ours = encode_condition(inner(anisora).vae, keyframes, FRAMES, height=SIZE, width=SIZE, device=torch.device("cpu"))

    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "changes", "keyframes"),
    [
        ("i2v", {"reference_strength": 0.6}, {0: (WARM.key, 1.0)}),  # that strength is the control branch's
        ("first_last_frame", {"first_strength": 0.8, "last_strength": 0.5}, {0: (WARM.key, 0.8), 16: (COLD.key, 0.5)}),
        ("first_last_frame", {}, {0: (WARM.key, 1.0), 16: (COLD.key, 1.0)}),
    ],
)
def test_transformer_sees_noise_and_control_when_phr00t_renders(
    phr00t: Pipeline, mode: str, changes: dict[str, Any], keyframes: dict[int, tuple[str, float]]
) -> None:
    import torch

    request = make_request("phr00t", mode, num_frames=FRAMES, **changes)

    (first, *_) = seen_by(phr00t, "hidden_states", request)
    controls = seen_by(phr00t, "control_hidden_states", request)

    assert torch.equal(first, torch.randn((1, 16, 5, 8, 8), generator=torch.Generator().manual_seed(request.seed)))
    expected = vace_control(inner(phr00t).vae, placed(keyframes), FRAMES, SIZE)
    assert len(controls) == 4
    for control in controls:
        assert control.shape == (1, 96, 5, 8, 8)
        assert torch.allclose(control, expected, atol=1e-4)


def test_nothing_is_known_and_all_is_to_change_when_phr00t_has_a_text_alone(phr00t: Pipeline) -> None:
    import torch

    (control, *_) = seen_by(phr00t, "control_hidden_states", make_request("phr00t", num_frames=FRAMES))

    # Nothing is encoded then, so the control latents are 0 and not those of a grey video: with scale 0 they count nothing.
    assert torch.equal(control[:, :32], torch.zeros(1, 32, 5, 8, 8))
    assert torch.equal(control[:, 32:], vace_control(inner(phr00t).vae, {}, FRAMES, SIZE)[:, 32:])


@pytest.mark.parametrize("mode", ["i2v", "first_last_frame"])
def test_control_is_that_of_diffusers_when_phr00t_has_keyframes(phr00t: Pipeline, mode: str) -> None:
    import torch
    from diffusers import WanVACEPipeline

    request = make_request("phr00t", mode, num_frames=FRAMES, first_strength=0.8, last_strength=0.5)
    ours = seen_by(phr00t, "control_hidden_states", request)[0]

    known = {0: pixels_of(WARM.key)} if mode == "i2v" else {0: pixels_of(WARM.key) * 0.8, 16: pixels_of(COLD.key) * 0.5}
    video, mask = torch.full((1, FRAMES, 3, SIZE, SIZE), 0.5), torch.ones(1, FRAMES, 3, SIZE, SIZE)
    for index, pixels in known.items():
        video[0, index], mask[0, index] = pixels / 2 + 0.5, 0.0
    stock = WanVACEPipeline(**components_of(phr00t))
    # It takes the stride from the number of halvings, which the patches of the tiny VAE add one to.
    stock.vae_scale_factor_spatial = 8
    with torch.no_grad():
        video, mask, references = stock.preprocess_conditions(video, mask, None, 1, SIZE, SIZE, FRAMES, torch.float32, torch.device("cpu"))
        latents = stock.prepare_video_latents(video, mask, references, None, torch.device("cpu"))
        theirs = torch.cat([latents, stock.prepare_masks(mask, references)], dim=1)

    assert ours.shape == (1, 96, 5, 8, 8)
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("mode", "changes", "scale"),
    [("t2v", {}, 0.0), ("i2v", {"reference_strength": 0.6}, 0.6), ("first_last_frame", {"first_strength": 0.5}, 1.0)],
)
def test_control_scale_follows_the_mode_when_phr00t_renders(phr00t: Pipeline, mode: str, changes: dict[str, Any], scale: float) -> None:
    (seen, *_) = seen_by(phr00t, "control_hidden_states_scale", make_request("phr00t", mode, **changes))

    assert seen.tolist() == pytest.approx([scale, scale])


def test_later_keyframe_stays_when_two_share_a_frame() -> None:
    from runtime.lane.wan.keyframes import load_keyframes
    from runtime.lane.wan.plan import PlannedKeyframe

    plan = [PlannedKeyframe(frame_index=0, image=image, strength=1.0) for image in (WARM, COLD)]

    (keyframe,) = load_keyframes(plan, make_pictures(), height=16, width=32)

    assert keyframe.pixels.shape == (3, 16, 32)
    assert float(keyframe.pixels[2].mean()) > 0.5  # the cold picture is blue, the warm one has no blue


def test_empty_video_takes_no_memory_when_no_keyframe_is_given() -> None:
    import torch

    from runtime.lane.wan.keyframes import sparse_video

    video = sparse_video({}, 81, height=720, width=1280, device=torch.device("cpu"), dtype=torch.float32)

    assert video.shape == (1, 3, 81, 720, 1280)
    assert video.untyped_storage().nbytes() == 4


def test_latents_that_are_not_finite_are_refused_when_decoding(anisora: Pipeline) -> None:
    import torch

    from runtime.lane.wan.latents import decode_frames

    with pytest.raises(FloatingPointError):
        decode_frames(inner(anisora).vae, torch.full((1, 16, 1, 8, 8), float("nan")))
