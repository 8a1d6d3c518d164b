"""Every placement renders the same, with no more of the weights on the device than it says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runtime.fit.cost import Activations
from runtime.fit.ladder import ACTIVATION_NAMES, ModelParts, build_ladder
from runtime.fit.placement import PLACEMENTS, MemoryPhase
from runtime.rules.request import ArbitraryFrame, GenerationRequest
from tests.harness.short import crossed
from tests.unit.pipelines.jobs import COLD, WARM, inner, make_job, make_request, settings
from tests.unit.pipelines.watching import BOTH, WatchingMemory, catalog_of, place, placed_parts

if TYPE_CHECKING:
    import numpy.typing as npt

    from runtime.lane.renderer import Pipeline

pytestmark = pytest.mark.torch

NAMES = tuple(placement.name for placement in PLACEMENTS)
REQUESTS = {
    "anisora": ("t2v", "i2v", "first_last_frame", "arbitrary_frame", "guided"),
    "phr00t": ("t2v", "i2v", "first_last_frame"),
}


def one_model_each(model: str, name: str) -> bool:
    """The models in turn."""
    return (BOTH.index(model) + NAMES.index(name)) % 2 == 0


def request_for(model: str, mode: str, **changes: Any) -> GenerationRequest:
    """One of `REQUESTS`."""
    if mode == "guided":
        return make_request(model, "i2v", guidance_scale=3.0, negative_prompt="rain", **changes)
    if mode == "arbitrary_frame":
        frames = tuple(ArbitraryFrame(frame_index=index, image=image, strength=1.0) for index, image in ((0, WARM), (8, COLD)))
        return make_request(model, mode, num_frames=17, arbitrary_frames=frames, **changes)
    return make_request(model, mode, **changes)


@pytest.fixture(scope="module")
def placed(models_dir: Path) -> dict[str, tuple[Pipeline, WatchingMemory]]:
    """Both models with a memory each."""
    return {model: place(model, models_dir) for model in BOTH}


def plain_pipeline(folder: Path, model: str) -> Any:
    """What the lanes had before weights were placed: the libraries' own networks, loaded whole, and the model's pipeline."""
    import torch
    from diffusers import AutoencoderKLWan, WanTransformer3DModel, WanVACETransformer3DModel
    from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

    from lane_anisora.pipeline import AnisoraModel
    from lane_phr00t.pipeline import Phr00tModel

    transformer = WanVACETransformer3DModel if model == "phr00t" else WanTransformer3DModel
    components = {
        name: transformer.from_pretrained(folder / name, torch_dtype=torch.float32, local_files_only=True)
        for name in ("transformer", "transformer_2")
        if (folder / name).is_dir()
    }
    components |= {
        "tokenizer": PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer", local_files_only=True),
        "text_encoder": UMT5EncoderModel.from_pretrained(folder / "text_encoder", dtype=torch.float32, local_files_only=True),
        "vae": AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=torch.float32, local_files_only=True),
    }
    wan_model = Phr00tModel() if model == "phr00t" else AnisoraModel()
    pipe: Any = wan_model.make_pipeline(components)
    pipe.set_progress_bar_config(disable=True)
    return pipe, wan_model.make_recipe("")


@pytest.fixture(scope="module")
def expected(models_dir: Path) -> Any:
    """The frames that the libraries' own networks give, by model and mode."""
    import torch

    from runtime.lane.wan.latents import decode_frames

    pipelines = {model: plain_pipeline(models_dir / f"{model}-tiny-v1", model) for model in BOTH}

    @cache
    def render(model: str, mode: str) -> npt.NDArray[np.uint8]:
        pipe, recipe = pipelines[model]
        request = request_for(model, mode)
        job = recipe.prepare(pipe, make_job(request))
        size = (request.num_frames, request.height, request.width)
        with torch.no_grad():
            condition = pipe.encode_keyframes(job.keyframes, *size) if pipe.needs_encoding(job.keyframes) else None
            latents = pipe(
                prompt=job.prompt,
                negative_prompt=job.negative_prompt,
                condition=condition,
                guidance_scale=job.guidance_scale,
                num_frames=size[0],
                height=size[1],
                width=size[2],
                num_inference_steps=request.steps,
                generator=torch.Generator("cpu").manual_seed(request.seed),
                max_sequence_length=512,
                output_type="latent",
                return_dict=False,
                **job.arguments,
            )[0]
            return decode_frames(pipe.vae, latents)

    return render


@pytest.mark.parametrize(
    ("request_of", "name"),
    crossed(
        [(model, mode) for model in BOTH for mode in REQUESTS[model]],
        NAMES,
        short=lambda request_of, name: request_of[1] == "t2v" or name == "streamed_chunked",
    ),
)
def test_frames_are_those_of_the_libraries_own_networks_when_placed(
    placed: dict[str, tuple[Pipeline, WatchingMemory]], expected: Any, request_of: tuple[str, str], name: str
) -> None:
    model, mode = request_of
    pipeline, memory = placed[model]

    frames = pipeline.render(make_job(request_for(model, mode), placement=name))

    difference = np.abs(frames.astype(int) - expected(model, mode)).max()
    assert difference == 0 if name == "resident_all" else difference <= 1
    # What stays is the weights of the placement that keeps them, and not a byte beside them.
    assert memory.live_bytes() == memory.weight_bytes
    assert (memory.weight_bytes > 0) == (name == "resident_all")


@pytest.mark.parametrize("model", BOTH)
def test_frames_are_the_same_when_chunks_are_small(
    placed: dict[str, tuple[Pipeline, WatchingMemory]], expected: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.lane.wan import chunks, lean

    # A clip this small is one chunk otherwise: it has 48 tokens.
    monkeypatch.setattr(chunks, "CHUNK_TOKENS", 20)
    monkeypatch.setattr(lean, "CHUNK_TOKENS", 20)

    frames = placed[model][0].render(make_job(request_for(model, "i2v"), placement="streamed_chunked"))

    assert np.abs(frames.astype(int) - expected(model, "i2v")).max() <= 1


@pytest.mark.parametrize("model", BOTH)
def test_frames_differ_little_when_the_vae_works_in_tiles(placed: dict[str, tuple[Pipeline, WatchingMemory]], model: str) -> None:
    # Tiles of 256 pixels overlap by 64 and are blended there, so this is no matter of rounding.
    request = make_request(model, "i2v", width=448, height=64, num_frames=5)
    pipeline, memory = placed[model]
    memory.reset_peaks()
    whole = pipeline.render(make_job(request, placement="resident"))
    tiled = pipeline.render(make_job(request, placement="resident_tiled"))

    assert tiled.shape == whole.shape
    assert 0 < np.abs(tiled.astype(int) - whole).mean() < 16
    assert not inner(pipeline).vae.use_tiling


@pytest.mark.parametrize("model", BOTH)
def test_frames_are_the_same_when_weights_are_mapped_from_disk(models_dir: Path, expected: Any, model: str) -> None:
    pipeline, memory = place(model, models_dir, is_host_poor=True)

    for name in ("resident", "streamed", "resident_all"):
        assert np.array_equal(pipeline.render(make_job(request_for(model, "i2v"), placement=name)), expected(model, "i2v"))
    pipeline.release()

    assert memory.live_bytes() == 0


@pytest.mark.parametrize(("model", "name"), crossed(BOTH, NAMES, short=one_model_each))
def test_weights_on_the_device_are_those_of_the_ladder_when_each_phase_works(
    placed: dict[str, tuple[Pipeline, WatchingMemory]], models_dir: Path, model: str, name: str
) -> None:
    from runtime.lane.wan.parts import part_of
    from runtime.lane.wan.weights import stored_layouts

    pipeline, memory = placed[model]
    pipeline.render(make_job(request_for(model, "t2v"), placement="resident"))
    modules = {part.name: part.module for part in placed_parts(pipeline).values()}
    layouts = stored_layouts(models_dir / f"{model}-tiny-v1", modules)
    parts = ModelParts(model=model, parts=tuple(part_of(part, layout) for part, layout in layouts.items()))
    ladder = build_ladder(parts, dict.fromkeys(ACTIVATION_NAMES, Activations()))
    (rung,) = (rung for rung in ladder.rungs if rung.placement == name)
    most: dict[MemoryPhase, int] = {}
    phases = [MemoryPhase.LOAD]

    def look() -> None:
        most[phases[-1]] = max(most.get(phases[-1], 0), memory.weight_bytes)

    pipeline.render(make_job(request_for(model, "i2v"), check=look, placement=name, on_phase=phases.append))

    assert {cost.phase: cost.weights_bytes for cost in rung.phases} == most
    expected_phases = [MemoryPhase.TEXT, MemoryPhase.ENCODE, MemoryPhase.DENOISE, MemoryPhase.DECODE]
    assert phases[1:] == ([MemoryPhase.LOAD] if name == "resident_all" else []) + expected_phases


def test_nothing_is_encoded_when_phr00t_has_no_keyframes(placed: dict[str, tuple[Pipeline, WatchingMemory]]) -> None:
    phases = list[MemoryPhase]()

    placed["phr00t"][0].render(make_job(request_for("phr00t", "t2v"), placement="resident", on_phase=phases.append))

    assert phases == [MemoryPhase.TEXT, MemoryPhase.DENOISE, MemoryPhase.DECODE]


@pytest.mark.parametrize("model", BOTH)
def test_weights_stay_until_another_placement_is_asked_when_all_are_on_the_device(models_dir: Path, model: str) -> None:
    pipeline, memory = place(model, models_dir)
    request = request_for(model, "t2v")
    pipeline.render(make_job(request, placement="resident_all"))
    stayed, copied = memory.weight_bytes, len(memory.copied)
    assert stayed >= pipeline.weight_bytes()

    pipeline.render(make_job(request, placement="resident_all"))
    assert (memory.weight_bytes, len(memory.copied)) == (stayed, copied)

    pipeline.render(make_job(request, placement="streamed"))
    assert memory.live_bytes() == 0

    pipeline.render(make_job(request, placement="resident_all"))
    pipeline.release()
    assert memory.live_bytes() == 0


@contextmanager
def every_layer(look: Any) -> Iterator[None]:
    """Within it, `look` is called with each module that has weights of its own, when it has just worked."""
    import torch

    def after(module: Any, *_: object) -> None:
        if module._parameters:
            look(module)

    hook = torch.nn.modules.module.register_module_forward_hook(after)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize(("model", "name"), crossed(BOTH, NAMES, short=one_model_each))
def test_every_layer_works_with_weights_on_the_device_when_placed(
    placed: dict[str, tuple[Pipeline, WatchingMemory]], model: str, name: str
) -> None:
    # On a CPU, weights in host memory would serve as well; on a GPU they would raise.
    pipeline, memory = placed[model]
    looked = list[str]()

    def look(module: Any) -> None:
        there = {storage.data_ptr() for storage in memory.buffers}
        for key, tensor in module._parameters.items():
            if tensor is not None:
                assert tensor.untyped_storage().data_ptr() in there, f"{type(module).__name__}.{key}"
        looked.append(type(module).__name__)

    with every_layer(look):
        pipeline.render(make_job(request_for(model, "i2v"), placement=name))

    assert len(looked) > 200


@pytest.mark.parametrize(("model", "mode"), [("anisora", "i2v"), ("anisora", "guided"), ("phr00t", "i2v")])
def test_each_block_is_sent_for_while_the_one_before_works_when_streamed(
    placed: dict[str, tuple[Pipeline, WatchingMemory]], model: str, mode: str
) -> None:
    pipeline, memory = placed[model]
    events, names = list[str](), dict[int, str]()
    hooks = []
    for part in placed_parts(pipeline).values():
        for group, block in zip(part.blocks, part.block_modules, strict=True):
            names[group._weights.pieces[0][1].data_ptr()] = f"{part.name}.{group.path}"
            hooks.append(block.register_forward_hook(lambda *_, name=f"{part.name}.{group.path}": events.append(name)))
    # Each block stands here once when its copy began, with what had run until then.
    begun: list[tuple[str, int]] = []
    begin = memory.begin_copy

    def note(source: Any, target: Any) -> object:
        if source.data_ptr() in names:
            begun.append((names[source.data_ptr()], len(events)))
        return begin(source, target)

    memory.begin_copy = note  # type: ignore[method-assign]
    try:
        pipeline.render(make_job(request_for(model, mode), placement="streamed"))
    finally:
        del memory.begin_copy
        for hook in hooks:
            hook.remove()

    assert [name for name, _ in begun] == events  # none twice, none in vain
    texts = sum(name.startswith("text_encoder") for name in events)
    # Each is sent for when the block before it begins, which is when one fewer has ended; the first of a phase when it begins itself.
    assert [ran for _, ran in begun] == [0, *range(texts - 1), texts, *range(texts, len(events) - 1)]
    assert len(events) > 2 * texts


def test_blocks_come_all_the_same_when_other_passes_run_than_were_told(models_dir: Path) -> None:
    import torch

    from runtime.fit.placement import Weights

    pipeline, memory = place("anisora", models_dir)
    placer, pipe = vars(pipeline)["_placer"], inner(pipeline)
    placer.set_weights(Weights.STREAMED, lambda: None)
    inputs = {
        "hidden_states": torch.randn(1, 36, 1, 4, 4),
        "timestep": torch.tensor([5]),
        "encoder_hidden_states": torch.randn(1, 3, 32),
        "return_dict": False,
    }
    with torch.no_grad():
        first, second = pipe.transformer(**inputs)[0], pipe.transformer_2(**inputs)[0]
        with placer.passing(("transformer", "transformer")):
            assert torch.equal(pipe.transformer(**inputs)[0], first)
            assert torch.equal(pipe.transformer(**inputs)[0], first)
            assert torch.equal(pipe.transformer(**inputs)[0], first)
        with placer.passing(("transformer", "transformer_2", "transformer")):
            assert torch.equal(pipe.transformer_2(**inputs)[0], second)
            assert torch.equal(pipe.transformer(**inputs)[0], first)

    assert memory.live_bytes() == 0


def test_a_second_part_is_refused_when_one_works(models_dir: Path) -> None:
    pipeline, _ = place("phr00t", models_dir)
    placer = vars(pipeline)["_placer"]

    with placer.working("vae"), pytest.raises(RuntimeError, match="one part"), placer.working("text_encoder"):
        pass
    with placer.working("text_encoder"):
        pass


def test_other_weights_are_refused_when_assembled(models_dir: Path) -> None:
    class Odd:
        host_bytes = pinned_bytes = 0

        def forget_networks(self) -> None:
            """There are none."""

    with pytest.raises(TypeError, match="Odd"):
        catalog_of("phr00t").assemble("phr00t", Odd(), settings(models_dir), lambda _stage: None)
