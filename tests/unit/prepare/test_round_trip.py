"""Weights written in each published layout, prepared and loaded by the lane render what the libraries' own networks render with them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness.published_layouts import Format, as_stored, is_block_matrix
from tests.harness.short import crossed
from tests.unit.pipelines.jobs import inner, load, make_job, settings
from tests.unit.pipelines.test_placements import REQUESTS, request_for
from tests.unit.prepare.runs import finished, order_of, run

if TYPE_CHECKING:
    import torch

    from runtime.lane.renderer import Catalog, Pipeline
    from tests.harness.published_models import PublishedModel
    from tests.unit.prepare.conftest import Publisher

pytestmark = pytest.mark.torch

BOTH = ("anisora", "phr00t")
STORAGES = ("fp8", "bf16")


_VARIANTS = {"anisora": "v3.2", "phr00t": "mega-v12"}
"""What `prepare` makes unless it is told otherwise."""


def catalog_of(model: str) -> Catalog:
    import lane_anisora.pipeline
    import lane_phr00t.pipeline

    return {"anisora": lane_anisora.pipeline.catalog, "phr00t": lane_phr00t.pipeline.catalog}[model]


@pytest.fixture(scope="module")
def prepared(published: Publisher, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A models' folder with one model, prepared from one format in one storage; and what it was made of."""

    @cache
    def prepare(model: str, style: Format, storage: str) -> tuple[Path, PublishedModel]:
        source = published(model, style)
        models_dir = tmp_path_factory.mktemp("prepared")
        finished(run(order_of(source, models_dir, storage=storage)))
        return models_dir, source

    return prepare


def stored_tensors(models_dir: Path, model: str, part: str) -> dict[str, torch.Tensor]:
    """By the library that everybody reads such files with; it checks the format."""
    from safetensors.torch import load_file

    (file,) = (models_dir / model / part).glob("*.safetensors")
    tensors: dict[str, torch.Tensor] = load_file(file)
    return tensors


def reference_pipeline(published: PublishedModel, storage: str, mode: str) -> tuple[Any, Any]:
    """The model's pipeline of the libraries' own networks, and its recipe. A text-to-video pair renders what has no picture."""
    from transformers import PreTrainedTokenizerFast

    from lane_anisora.pipeline import AnisoraModel
    from lane_phr00t.pipeline import Phr00tModel
    from tests.harness.published_models import reference_networks

    components: dict[str, Any] = dict(reference_networks(published, storage))
    pair = {name.removeprefix("t2v_"): components.pop(name) for name in tuple(components) if name.startswith("t2v_")}
    components["tokenizer"] = PreTrainedTokenizerFast.from_pretrained(published.folder / "base" / "tokenizer", local_files_only=True)
    wan_model = Phr00tModel() if published.model == "phr00t" else AnisoraModel()
    pipe: Any = wan_model.make_pipeline(components)
    if pair and mode == "t2v":
        pipe = wan_model.make_text_to_video(components | pair)
    pipe.set_progress_bar_config(disable=True)
    return pipe, wan_model.make_recipe(_VARIANTS[published.model])


def reference_latents(published: PublishedModel, storage: str, mode: str) -> torch.Tensor:
    """What the libraries' own networks denoise."""
    import torch

    pipe, recipe = reference_pipeline(published, storage, mode)
    request = request_for(published.model, mode)
    job = recipe.prepare(pipe, make_job(request))
    size = (request.num_frames, request.height, request.width)
    with torch.no_grad():
        condition = pipe.encode_keyframes(job.keyframes, *size) if pipe.needs_encoding(job.keyframes) else None
        latents: torch.Tensor = pipe(
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
    return latents


def lane_latents(pipeline: Pipeline, model: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """What the lane denoises, on its way to the decoder."""
    from runtime.lane.wan import loaded
    from runtime.lane.wan.latents import decode_frames

    seen: list[torch.Tensor] = []

    def record(vae: Any, latents: torch.Tensor) -> Any:
        seen.append(latents.clone())
        return decode_frames(vae, latents)

    monkeypatch.setattr(loaded, "decode_frames", record)
    pipeline.render(make_job(request_for(model, mode)))
    (latents,) = seen
    return latents


def in_turn(request_of: tuple[str, str], style: Format, storage: str) -> bool:
    """Short: every mode, every format and both storages come up, not all crossed."""
    model, mode = request_of
    formats = list(Format)
    number = REQUESTS[model].index(mode) + (4 if model == "phr00t" else 0)
    return formats[number % len(formats)] is style and STORAGES[number % 2] == storage


@pytest.mark.parametrize(
    ("request_of", "style", "storage"),
    crossed([(model, mode) for model in BOTH for mode in REQUESTS[model]], list(Format), STORAGES, short=in_turn),
)
def test_latents_are_those_of_the_libraries_own_networks_when_published_files_were_prepared(
    prepared: Any, request_of: tuple[str, str], style: Format, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    model, mode = request_of
    models_dir, source = prepared(model, style, storage)
    pipeline = load(catalog_of(model), model, settings(models_dir, "a10g"))

    latents = lane_latents(pipeline, model, mode, monkeypatch)

    expected = reference_latents(source, storage, mode)
    assert torch.equal(latents, expected)
    assert bool(latents.isfinite().all())
    assert float(latents.std()) > 0.1
    assert inner(pipeline).transformer.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("model", "style", "storage"),
    crossed(
        BOTH,
        list(Format),
        STORAGES,
        short=lambda model, style, storage: (BOTH.index(model) + STORAGES.index(storage) + list(Format).index(style)) % 2 == 0,
    ),
)
def test_every_tensor_is_the_published_one_rounded_once_when_it_is_stored(prepared: Any, model: str, style: Format, storage: str) -> None:
    import torch

    models_dir, source = prepared(model, style, storage)

    for part, meaning in source.meaning.items():
        stored = stored_tensors(models_dir, model, part)
        expected = as_stored(meaning, storage)
        assert stored.keys() == expected.keys()
        for name, tensor in stored.items():
            in_fp8 = storage == "fp8" and is_block_matrix(name, tensor) and part != "vae"
            assert tensor.dtype == (torch.float8_e4m3fn if in_fp8 else torch.bfloat16), name
            assert torch.equal(tensor.to(torch.bfloat16), expected[name]), name


def half_spacing(values: torch.Tensor) -> torch.Tensor:
    """Half the distance of float8_e4m3fn numbers around each value: 3 bits behind the leading one, and no smaller exponent than -6."""
    import torch

    exponent = values.abs().clamp(min=2.0**-6).log2().floor()
    return torch.exp2(exponent - 3) / 2


@pytest.mark.parametrize("style", [Format.BF16, Format.SCALED, Format.SCALED_ROWS])
def test_no_weight_is_further_off_than_half_a_step_of_the_type_when_stored_as_fp8(prepared: Any, style: Format) -> None:
    models_dir, source = prepared("phr00t", style, "fp8")

    meaning = source.meaning["transformer"]
    matrices = {name: tensor for name, tensor in stored_tensors(models_dir, "phr00t", "transformer").items() if tensor.element_size() == 1}
    assert len(matrices) > 50
    for name, tensor in matrices.items():
        assert bool(((tensor.float() - meaning[name]).abs() <= half_spacing(meaning[name])).all()), name
    # The bound is no wide one: some weight comes close to it.
    worst = max(float(((tensor.float() - meaning[name]).abs() / half_spacing(meaning[name])).max()) for name, tensor in matrices.items())
    assert worst > 0.9


def test_plain_fp8_is_copied_byte_by_byte_when_it_is_stored_as_fp8(published: Publisher, prepared: Any) -> None:
    import torch
    from safetensors.torch import load_file

    models_dir, source = prepared("phr00t", Format.FP8_WHOLE, "fp8")

    written = load_file(source.sources["checkpoint"])
    stored = stored_tensors(models_dir, "phr00t", "transformer")["blocks.0.attn1.to_q.weight"]
    bytes_of = written["model.diffusion_model.blocks.0.self_attn.q.weight"]
    assert torch.equal(stored.view(torch.uint8), bytes_of.view(torch.uint8))


@pytest.mark.parametrize("model", BOTH)
def test_weights_begin_with_a_page_and_leave_no_holes_when_written(prepared: Any, model: str) -> None:
    import json

    models_dir, _ = prepared(model, Format.BF16, "fp8")

    for file in (models_dir / model).rglob("*.safetensors"):
        content = file.read_bytes()
        length = int.from_bytes(content[:8], "little")
        assert (8 + length) % 4096 == 0
        header = json.loads(content[8 : 8 + length])
        offsets = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
        # In the order of the file, each begins where the one before ended, and the last one ends it.
        assert [begin for begin, _ in offsets] == [0, *(end for _, end in offsets[:-1])]
        assert 8 + length + offsets[-1][1] == len(content)


@pytest.mark.parametrize("model", BOTH)
def test_a_lane_reads_each_block_in_one_piece_when_its_tensors_fill_their_places(prepared: Any, model: str) -> None:
    from runtime.lane.wan.weights import _runs, _source

    models_dir, _ = prepared(model, Format.BF16, "bf16")
    folder = models_dir / model
    module = catalog_of(model)._skeletons(folder)["transformer"]  # type: ignore[attr-defined]

    source = _source(folder, "transformer", module)

    # Every tensor of these sizes has a multiple of 64 bytes, as those of the real networks nearly all have.
    assert [len(_runs(group, source)) for group in source.layout[1:]] == [1] * (len(source.layout) - 1)
