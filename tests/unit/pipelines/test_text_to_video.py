"""A text-to-video pair beside AniSora's experts: it renders `t2v` and nothing else, and everything about placements holds for it."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runtime.fit.cost import Shape
from runtime.fit.placement import PLACEMENTS, MemoryPhase
from runtime.fit.predict import explain
from tests.unit.pipelines.jobs import inner, make_job, make_request, settings
from tests.unit.pipelines.watching import WatchingMemory, catalog_of, place

if TYPE_CHECKING:
    import numpy.typing as npt

    from runtime.lane.renderer import Pipeline

pytestmark = pytest.mark.torch

FOLDER = "anisora-tiny-v1"


@pytest.fixture(scope="module")
def pair_dir(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models in which tiny AniSora has a pair."""
    from lane_anisora.tiny import build_text_to_video_pair

    catalog_of("anisora").ladder("anisora", settings(models_dir))  # makes the parts where they are missing
    folder = tmp_path_factory.mktemp("with-pair")
    shutil.copytree(models_dir / FOLDER, folder / FOLDER)
    build_text_to_video_pair(folder / FOLDER)
    return folder


@pytest.fixture(scope="module")
def paired(pair_dir: Path) -> tuple[Pipeline, WatchingMemory]:
    """Loaded from there, with a memory that tells what lies on it."""
    return place("anisora", pair_dir)


def plain_text_to_video(folder: Path, guidance_scale: float) -> npt.NDArray[np.uint8]:
    """The clip that diffusers' own pipeline makes of the pair's files."""
    import torch
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

    from runtime.lane.wan.latents import decode_frames

    local: dict[str, Any] = {"local_files_only": True}
    vae = AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=torch.float32, **local)
    pipe = WanPipeline(
        tokenizer=PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer", **local),
        text_encoder=UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32, **local),
        vae=vae,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=12.0),
        transformer=WanTransformer3DModel.from_pretrained(folder / "t2v_transformer", torch_dtype=torch.float32, **local),
        transformer_2=WanTransformer3DModel.from_pretrained(folder / "t2v_transformer_2", torch_dtype=torch.float32, **local),
        boundary_ratio=0.875,
    )
    pipe.set_progress_bar_config(disable=True)
    request = make_request("anisora")
    latents = pipe(
        prompt=f"{request.prompt} aesthetic score: 5.5. motion score: 3.0. There is no text in the video.",
        negative_prompt="rain",
        guidance_scale=guidance_scale,
        height=request.height,
        width=request.width,
        num_frames=request.num_frames,
        num_inference_steps=8,
        generator=torch.Generator().manual_seed(request.seed),
        max_sequence_length=512,
        output_type="latent",
        return_dict=False,
    )[0]
    with torch.no_grad():
        return decode_frames(vae, latents)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.5])
def test_clip_is_that_of_diffusers_when_a_text_is_rendered_with_the_pair(
    paired: tuple[Pipeline, WatchingMemory], pair_dir: Path, guidance_scale: float
) -> None:
    expected = plain_text_to_video(pair_dir / FOLDER, guidance_scale)

    for placement in ("resident_all", "resident", "streamed", "streamed_chunked"):
        request = make_request("anisora", guidance_scale=guidance_scale, negative_prompt="rain")
        frames = paired[0].render(make_job(request, placement=placement))
        # Tiles and chunks round; the whole clip is one tile here.
        assert np.abs(frames.astype(int) - expected).max() <= (placement != "resident_all")


def test_experts_render_what_has_pictures_when_there_is_a_pair(paired: tuple[Pipeline, WatchingMemory], anisora: Pipeline) -> None:
    for mode in ("i2v", "first_last_frame"):
        job = make_job(make_request("anisora", mode))
        assert np.array_equal(paired[0].render(job), anisora.render(job))
    text = make_job(make_request("anisora"))
    assert not np.array_equal(paired[0].render(text), anisora.render(text))


def test_nothing_is_encoded_and_the_pair_switches_once_when_a_text_is_rendered(paired: tuple[Pipeline, WatchingMemory]) -> None:
    pipeline, phases, calls = paired[0], list[MemoryPhase](), list[tuple[str, int]]()
    pair = vars(pipeline)["_text_to_video"]
    hooks = [
        network.register_forward_pre_hook(
            lambda _module, _args, named, name=name: calls.append((name, named["hidden_states"].shape[1])), with_kwargs=True
        )
        for name, network in (("high", pair.transformer), ("low", pair.transformer_2), ("other", inner(pipeline).transformer))
    ]
    try:
        pipeline.render(make_job(make_request("anisora"), placement="resident", on_phase=phases.append))
    finally:
        for hook in hooks:
            hook.remove()

    # UniPC with shift 12: 999, 988, 973, 952, 923, 878 are at least 875; 800 and 633 are below. Noise goes in alone: 16 channels.
    assert calls == [("high", 16)] * 6 + [("low", 16)] * 2
    assert phases == [MemoryPhase.TEXT, MemoryPhase.DENOISE, MemoryPhase.DECODE]


@pytest.mark.parametrize("placement", [placement.name for placement in PLACEMENTS])
@pytest.mark.parametrize("mode", ["t2v", "i2v"])
def test_no_more_is_on_the_device_than_the_ladder_says_when_there_is_a_pair(
    paired: tuple[Pipeline, WatchingMemory], pair_dir: Path, mode: str, placement: str
) -> None:
    pipeline, memory = paired
    request = make_request("anisora", mode)
    shape = Shape(width=request.width, height=request.height, num_frames=request.num_frames, mode=mode)
    ladder = catalog_of("anisora").ladder("anisora", settings(pair_dir))
    (rung,) = (rung for rung in ladder.rungs if rung.placement == placement)
    most: dict[str, int] = {}
    phases = [MemoryPhase.LOAD]

    def look() -> None:
        most[phases[-1]] = max(most.get(phases[-1], 0), memory.weight_bytes)

    pipeline.render(make_job(request, placement=placement, check=look, on_phase=phases.append))

    said = {one.phase: one.weights_bytes for one in explain(rung, shape)}
    most.pop(MemoryPhase.LOAD, None)
    assert most == {phase: said[phase] for phase in most}
    assert set(said) == set(phases) - {MemoryPhase.LOAD}
    assert memory.live_bytes() == memory.weight_bytes == (rung.host_bytes if placement == "resident_all" else 0)


def test_ladder_tells_the_weights_of_text_to_video_when_it_is_asked(
    models_dir: Path, pair_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.lane.wan.traces._trace", None)  # nothing is traced for the pair's sake
    anisora, phr00t = catalog_of("anisora"), catalog_of("phr00t")

    told = [
        catalog.ladder(model, settings(folder)).text_to_video_weights
        for catalog, model, folder in ((anisora, "anisora", models_dir), (anisora, "anisora", pair_dir), (phr00t, "phr00t", models_dir))
    ]

    assert told == ["image_to_video_experts", "text_to_video_pair", ""]


def test_folder_is_refused_when_its_pair_is_half_or_of_another_kind(pair_dir: Path, tmp_path: Path) -> None:
    from runtime.lane.wan.headers import WeightsError

    catalog = catalog_of("anisora")
    shutil.copytree(pair_dir / FOLDER, tmp_path / FOLDER)
    folder = tmp_path / FOLDER
    config = folder / "t2v_transformer_2" / "config.json"
    content = json.loads(config.read_text())
    for change, named in (({"ffn_dim": 128}, "ffn_dim"), ({"in_channels": 36}, "in_channels")):
        config.write_text(json.dumps(content | change))
        with pytest.raises(WeightsError, match=f"t2v_transformer_2 is not the text-to-video form of transformer_2: see {named}"):
            catalog.ladder("anisora", settings(tmp_path))
    shutil.rmtree(folder / "t2v_transformer_2")
    with pytest.raises(WeightsError, match="t2v_transformer alone"):
        catalog.ladder("anisora", settings(tmp_path))


def test_all_weights_go_when_a_pipeline_with_a_pair_is_released(pair_dir: Path) -> None:
    pipeline, memory = place("anisora", pair_dir)
    pipeline.render(make_job(make_request("anisora")))
    networks = [vars(pipeline)["_text_to_video"].transformer, vars(pipeline)["_text_to_video"].transformer_2, inner(pipeline).transformer]
    tensors = [weakref.ref(tensor) for network in networks for tensor in network.parameters()]
    del networks

    pipeline.release()
    gc.collect()

    assert [one for one in tensors if one() is not None] == []
    assert memory.live_bytes() == 0
