"""What each placement keeps on the GPU, phase by phase."""

from __future__ import annotations

import pytest

from runtime.fit.cost import Activations, PhaseCost, Rung
from runtime.fit.ladder import ACTIVATION_NAMES, ModelParts, Part, build_ladder
from runtime.fit.placement import PLACEMENTS, MemoryPhase
from runtime.rules.catalogue import MODELS, MODES

# Bytes small enough to add in the head: text 10 + 2*5 = 20; VAE 7; experts 3 + 4 + 6 + 5 = 18 and 2 + 6 + 9 = 17.
_PARTS = ModelParts(
    model="anisora",
    parts=(
        Part(name="text_encoder", rest_bytes=10, block_bytes=(5, 5)),
        Part(name="vae", rest_bytes=7),
        Part(name="transformer", rest_bytes=3, block_bytes=(4, 6, 5)),
        Part(name="transformer_2", rest_bytes=2, block_bytes=(6, 9)),
    ),
)
_TRACED = {name: Activations(fixed=number) for number, name in enumerate(ACTIVATION_NAMES)}
_LADDER = {rung.placement: rung for rung in build_ladder(_PARTS, _TRACED).rungs}


def _weights(rung: Rung) -> dict[str, int]:
    return {cost.phase.value: cost.weights_bytes for cost in rung.phases}


def _activations(rung: Rung) -> dict[str, Activations]:
    return {cost.phase.value: cost.activations for cost in rung.phases}


def test_ladder_has_every_placement_in_order_when_it_is_made() -> None:
    assert [rung.placement for rung in build_ladder(_PARTS, _TRACED).rungs] == [placement.name for placement in PLACEMENTS]


def test_every_part_counts_in_every_phase_when_all_are_resident() -> None:
    # 20 + 7 + 18 + 17 = 62.
    assert _weights(_LADDER["resident_all"]) == {"text": 62, "encode": 62, "denoise": 62, "decode": 62}


def test_the_working_part_counts_and_the_larger_expert_when_only_that_is_resident() -> None:
    assert _weights(_LADDER["resident"]) == {"text": 20, "encode": 7, "denoise": 18, "decode": 7}
    assert _weights(_LADDER["resident_tiled"]) == _weights(_LADDER["resident"])


def test_the_rest_and_two_of_the_largest_block_count_when_blocks_are_streamed() -> None:
    # Text 10 + 2*5 = 20; the experts 3 + 2*6 = 15 and 2 + 2*9 = 20, of which the larger counts; the VAE is whole.
    assert _weights(_LADDER["streamed"]) == {"text": 20, "encode": 7, "denoise": 20, "decode": 7}
    assert _weights(_LADDER["streamed_chunked"]) == _weights(_LADDER["streamed"])


@pytest.mark.parametrize(
    ("placement", "names"),
    [
        ("resident_all", ("text", "encode", "denoise", "decode")),
        ("resident", ("text", "encode", "denoise", "decode")),
        ("resident_tiled", ("text", "encode_tiled", "denoise_lazy", "decode_tiled")),
        ("streamed", ("text", "encode_tiled", "denoise_lazy", "decode_tiled")),
        ("streamed_chunked", ("text", "encode_tiled", "denoise_chunked", "decode_tiled")),
    ],
)
def test_activations_are_those_of_the_way_the_work_is_cut_when_a_rung_is_made(placement: str, names: tuple[str, ...]) -> None:
    expected = dict(zip(("text", "encode", "denoise", "decode"), (_TRACED[name] for name in names), strict=True))
    assert _activations(_LADDER[placement]) == expected


def test_host_memory_holds_all_parts_and_pins_them_unless_they_stay_on_the_gpu() -> None:
    assert {name: (rung.host_bytes, rung.pinned_bytes) for name, rung in _LADDER.items()} == {
        "resident_all": (62, 0),
        "resident": (62, 62),
        "resident_tiled": (62, 62),
        "streamed": (62, 62),
        "streamed_chunked": (62, 62),
    }


def _encoding(model: str) -> PhaseCost:
    ladder = build_ladder(ModelParts(model=model, parts=_PARTS.parts), _TRACED)
    (encode,) = [cost for cost in ladder.rungs[0].phases if cost.phase is MemoryPhase.ENCODE]
    return encode


@pytest.mark.parametrize("model", sorted(MODELS))
def test_encoding_happens_in_every_mode_with_images_when_the_catalogue_names_them(model: str) -> None:
    modes = _encoding(model).modes or MODELS[model].modes
    assert {mode for mode in MODELS[model].modes if MODES[mode].images} <= set(modes)


def test_encoding_is_left_out_when_phr00t_has_no_images() -> None:
    assert "t2v" not in _encoding("phr00t").modes


def test_encoding_happens_without_images_when_anisora_encodes_an_empty_clip() -> None:
    assert _encoding("anisora").modes == ()


_PAIR = (
    Part(name="t2v_transformer", rest_bytes=1, block_bytes=(4, 6, 5)),
    Part(name="t2v_transformer_2", rest_bytes=1, block_bytes=(6, 10)),
)


def test_each_mode_has_its_own_transformers_when_there_is_a_text_to_video_pair() -> None:
    ladder = build_ladder(ModelParts(model="anisora", parts=_PARTS.parts + _PAIR), _TRACED)
    rungs = {rung.placement: rung for rung in ladder.rungs}

    def denoising(placement: str) -> dict[tuple[str, ...], int]:
        return {cost.modes: cost.weights_bytes for cost in rungs[placement].phases if cost.phase is MemoryPhase.DENOISE}

    pictures = ("i2v", "first_last_frame", "arbitrary_frame")
    # The pair: 1 + 15 = 16 and 1 + 16 = 17 whole; 1 + 2*6 = 13 and 1 + 2*10 = 21 streamed. The experts as without it. All: 62 + 33 = 95.
    assert denoising("resident") == {pictures: 18, ("t2v",): 17}
    assert denoising("streamed") == {pictures: 20, ("t2v",): 21}
    assert denoising("resident_all") == {pictures: 95, ("t2v",): 95}
    assert {cost.modes for rung in ladder.rungs for cost in rung.phases if cost.phase is MemoryPhase.ENCODE} == {pictures}
    assert {rung.host_bytes for rung in ladder.rungs} == {95}
    assert set(pictures) | {"t2v"} == set(MODELS["anisora"].modes)


@pytest.mark.parametrize(
    ("model", "more", "weights"),
    [("anisora", (), "image_to_video_experts"), ("anisora", _PAIR, "text_to_video_pair"), ("phr00t", (), "")],
)
def test_ladder_tells_what_renders_a_text_when_it_is_made(model: str, more: tuple[Part, ...], weights: str) -> None:
    assert build_ladder(ModelParts(model=model, parts=_PARTS.parts + more), _TRACED).text_to_video_weights == weights


def test_ladder_is_refused_when_a_pair_is_half() -> None:
    with pytest.raises(ValueError, match="not one of them"):
        build_ladder(ModelParts(model="anisora", parts=_PARTS.parts + _PAIR[:1]), _TRACED)


def test_ladder_is_refused_when_activations_are_missing() -> None:
    with pytest.raises(ValueError, match="anisora: no traced activations for denoise_lazy, denoise_chunked"):
        build_ladder(_PARTS, {name: one for name, one in _TRACED.items() if name not in ("denoise_lazy", "denoise_chunked")})


def test_ladder_is_refused_when_a_part_is_missing() -> None:
    with pytest.raises(ValueError, match="not only text_encoder, vae"):
        build_ladder(ModelParts(model="anisora", parts=_PARTS.parts[:2]), _TRACED)
