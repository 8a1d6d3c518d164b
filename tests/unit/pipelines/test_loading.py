"""Loading, counting and releasing: folders, profiles, stages, and weights that go away."""

from __future__ import annotations

import gc
import json
import multiprocessing
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runtime.lane.renderer import RenderCancelled
from tests.harness.prepared import write_manifest
from tests.harness.short import crossed
from tests.unit.pipelines.jobs import ignore_stage, inner, load, make_job, make_request, settings

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

    from runtime.lane.renderer import Catalog, HostWeights, Pipeline

pytestmark = pytest.mark.torch

BOTH = ("anisora", "phr00t")


def catalog_of(model: str) -> Catalog:
    import lane_anisora.pipeline
    import lane_phr00t.pipeline

    return {"anisora": lane_anisora.pipeline.catalog, "phr00t": lane_phr00t.pipeline.catalog}[model]


def loaded(model: str, models_dir: Path, profile: str = "tiny") -> Pipeline:
    return load(catalog_of(model), model, settings(models_dir, profile))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def write_part(folder: Path, text: str) -> None:
    (folder / "part").write_text(text)


def weights_of(pipeline: Pipeline) -> list[weakref.ref[Any]]:
    import torch

    modules = [part for part in inner(pipeline).components.values() if isinstance(part, torch.nn.Module)]
    return [weakref.ref(tensor) for module in modules for tensor in (*module.parameters(), *module.buffers())]


@pytest.mark.parametrize("model", BOTH)
def test_components_are_made_once_when_the_folder_is_missing(model: str, tmp_path: Path) -> None:
    first, second = list[str](), list[str]()

    load(catalog_of(model), model, settings(tmp_path), first.append)
    load(catalog_of(model), model, settings(tmp_path), second.append)

    assert first[0] == "making the tiny components"
    assert first[1:] == second
    assert any("loading" in stage for stage in second)
    assert [path.name for path in tmp_path.iterdir()] == [f"{model}-tiny-v1"]


@pytest.mark.parametrize("model", BOTH)
def test_saved_files_are_the_same_when_components_are_built_twice(model: str, models_dir: Path, tmp_path: Path) -> None:
    loaded(model, models_dir)
    loaded(model, tmp_path)

    name = f"{model}-tiny-v1"
    assert contents(tmp_path / name) == contents(models_dir / name)


def test_loaded_weights_are_those_built_when_saved_and_loaded(tmp_path: Path) -> None:
    import torch

    from lane_anisora.tiny import build_expert
    from runtime.lane.wan.tiny import build_text_encoder, build_vae, seeded

    with seeded(5):
        built = {"transformer": build_expert(), "text_encoder": build_text_encoder(), "vae": build_vae()}
    for name, part in built.items():
        part.save_pretrained(tmp_path / name)
        loaded = type(part).from_pretrained(tmp_path / name, local_files_only=True).state_dict()
        assert loaded.keys() == part.state_dict().keys()
        assert all(torch.equal(tensor, loaded[key]) for key, tensor in part.state_dict().items())


def test_texts_of_any_script_are_told_apart_when_tokenized(tmp_path: Path) -> None:
    from runtime.lane.wan.tiny import build_tokenizer

    build_tokenizer().save_pretrained(tmp_path)
    tokenizer = type(build_tokenizer()).from_pretrained(tmp_path)
    texts = ["狐狸", "狐狼", "лиса", "ثعلب", "🦊", "fox", "Fox"]

    assert len({tuple(tokenizer(text).input_ids) for text in texts}) == len(texts)
    assert [tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) for text in texts] == texts
    assert tokenizer("fox").input_ids[-1] == tokenizer.eos_token_id


def test_random_numbers_outside_are_untouched_when_seeded() -> None:
    import torch

    from runtime.lane.wan.tiny import seeded

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with seeded(99):
        torch.rand(100)

    assert torch.equal(torch.rand(3), expected)


def test_first_folder_stays_when_two_builds_overlap(tmp_path: Path) -> None:
    from runtime.lane.wan.components import build_once

    folder = tmp_path / "models" / "parts"

    def build_late(unfinished: Path) -> None:
        build_once(folder, lambda other: write_part(other, "first"))
        write_part(unfinished, "second")

    build_once(folder, build_late)

    assert (folder / "part").read_text() == "first"
    assert [path.name for path in folder.parent.iterdir()] == ["parts"]


def test_nothing_is_left_when_a_build_fails(tmp_path: Path) -> None:
    from runtime.lane.wan.components import build_once

    def fail(unfinished: Path) -> None:
        write_part(unfinished, "half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        build_once(tmp_path / "parts", fail)

    assert list(tmp_path.iterdir()) == []


def _load_in_step(models_dir: Path, barrier: Barrier) -> None:
    from lane_phr00t.pipeline import catalog

    barrier.wait(timeout=120)
    load(catalog, "phr00t", settings(models_dir)).release()


# In the short form a starting stack shows it: all its lanes share one folder.
@pytest.mark.long
def test_both_load_when_two_processes_make_the_components_at_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    processes = [spawn.Process(target=_load_in_step, args=(tmp_path, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(timeout=180)
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
            process.join()

    assert [path.name for path in tmp_path.iterdir()] == ["phr00t-tiny-v1"]


@pytest.mark.parametrize("model", BOTH)
def test_folder_and_command_are_named_when_the_checkpoint_is_missing(model: str, tmp_path: Path) -> None:
    from runtime.lane.wan.components import ModelFolderMissingError

    with pytest.raises(ModelFolderMissingError, match="warmlane prepare") as raised:
        loaded(model, tmp_path, "a10g")

    assert str(tmp_path / model) in str(raised.value)


def _of_the_other_model(folder: Path, model: str) -> None:
    write_manifest(folder, {"anisora": "phr00t", "phr00t": "anisora"}[model])


def _cut_off(folder: Path, _model: str) -> None:
    file = next((folder / "vae").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1])


def _without_manifest(folder: Path, _model: str) -> None:
    (folder / "manifest.json").unlink()


def _of_a_newer_format(folder: Path, _model: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))


@pytest.mark.parametrize("model", BOTH)
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_of_the_other_model, "has the weights of"),
        (_cut_off, "is not whole: vae/"),
        (_without_manifest, "or not to its end: it has no manifest.json"),
        (_of_a_newer_format, "is of format 2, which a newer version of this program made"),
    ],
)
def test_a_prepared_folder_is_refused_when_its_manifest_does_not_vouch_for_it(
    model: str, damage: Callable[[Path, str], None], sentence: str, models_dir: Path, tmp_path: Path
) -> None:
    from runtime.lane.wan.components import ModelFolderError

    loaded(model, models_dir)
    folder = write_manifest(shutil.copytree(models_dir / f"{model}-tiny-v1", tmp_path / model), model)
    damage(folder, model)

    with pytest.raises(ModelFolderError, match=sentence):
        loaded(model, tmp_path, "a10g")


@pytest.mark.parametrize("model", BOTH)
def test_bfloat16_is_computed_in_when_a_prepared_checkpoint_is_loaded(model: str, models_dir: Path, tmp_path: Path) -> None:
    import torch

    loaded(model, models_dir)
    write_manifest(shutil.copytree(models_dir / f"{model}-tiny-v1", tmp_path / model), model)

    pipeline = loaded(model, tmp_path, "a10g")

    assert {part.dtype for part in (inner(pipeline).transformer, inner(pipeline).text_encoder, inner(pipeline).vae)} == {torch.bfloat16}
    assert pipeline.render(make_job(make_request(model, "i2v"))).shape == (9, 64, 64, 3)


def test_unknown_names_are_refused_when_loading(models_dir: Path) -> None:
    with pytest.raises(ValueError, match="profile"):
        loaded("anisora", models_dir, "b200")
    for model in BOTH:
        with pytest.raises(ValueError, match=f"has {model}"):
            catalog_of(model).read("other", settings(models_dir), ignore_stage)


def test_degraded_pool_renders_like_the_lanes_when_it_loads_either_model(models_dir: Path, anisora: Pipeline, phr00t: Pipeline) -> None:
    from degraded_pool.catalog import catalog

    assert catalog.models() == BOTH
    for model, lane in zip(BOTH, (anisora, phr00t), strict=True):
        job = make_job(make_request(model))
        pooled = load(catalog, model, settings(models_dir))
        assert np.array_equal(pooled.render(job), lane.render(job))
        assert pooled.weight_bytes() == lane.weight_bytes()
    with pytest.raises(ValueError, match="anisora, phr00t"):
        catalog.read("other", settings(models_dir), ignore_stage)


@pytest.mark.parametrize("model", BOTH)
def test_weight_bytes_count_every_part_when_loaded(model: str, models_dir: Path) -> None:
    pipeline = loaded(model, models_dir)
    tensors = {id(tensor): tensor for reference in weights_of(pipeline) if (tensor := reference()) is not None}

    assert pipeline.weight_bytes() == sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert pipeline.weight_bytes() > 500_000


@pytest.mark.parametrize(
    ("model", "end"),
    crossed(
        BOTH,
        ("never rendered", "rendered", "cancelled", "cancelled in a block", "failed"),
        short=lambda model, end: (model == "anisora") == (end in {"rendered", "failed"}),
    ),
)
def test_all_weights_go_when_released(model: str, end: str, models_dir: Path) -> None:
    pipeline = loaded(model, models_dir)
    weights = weights_of(pipeline)

    def stop(step: int, _steps: int) -> None:
        if step == 2 and end == "cancelled":
            raise RenderCancelled
        if step == 2 and end == "failed":
            raise ZeroDivisionError

    def stop_block() -> None:
        if end == "cancelled in a block":
            raise RenderCancelled

    held: BaseException | None = None  # whoever logs an exception may keep it for long
    if end != "never rendered":
        try:
            pipeline.render(make_job(make_request(model, "i2v"), stop, stop_block))
        except (RenderCancelled, ZeroDivisionError) as error:
            held = error
    assert (held is not None) == (end in {"cancelled", "cancelled in a block", "failed"})
    pipeline.release()
    gc.collect()

    assert [reference for reference in weights if reference() is not None] == []
    assert pipeline.weight_bytes() == 0


def test_vae_keeps_no_frames_when_the_decode_fails(anisora: Pipeline) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    vae = inner(anisora).vae
    hook = vae.decoder.conv_out.register_forward_hook(fail)
    try:
        with pytest.raises(ZeroDivisionError):
            anisora.render(make_job(make_request("anisora")))
    finally:
        hook.remove()

    assert [frames for frames in vae._feat_map if frames is not None] == []


def test_rendering_is_refused_when_released(models_dir: Path) -> None:
    pipeline = loaded("phr00t", models_dir)
    pipeline.release()
    pipeline.release()

    with pytest.raises(RuntimeError, match="released"):
        pipeline.render(make_job(make_request("phr00t")))


def test_ending_stays_when_the_prompt_is_too_long() -> None:
    from runtime.lane.wan.prompts import join_prompt
    from runtime.lane.wan.tiny import build_tokenizer

    tokenizer = build_tokenizer()
    for prompt in ("fox " * 500, "狐" * 700, "a" + "🦊" * 300):
        joined = join_prompt(prompt, "The end.", tokenizer, max_tokens=512)
        assert joined.endswith(" The end.")
        assert prompt.startswith(joined.removesuffix(" The end."))
        assert 505 <= len(tokenizer(joined).input_ids) <= 512
    assert join_prompt("a fox", "The end.", tokenizer, max_tokens=512) == "a fox The end."


def test_the_same_networks_work_again_when_the_weights_get_another_pipeline(models_dir: Path) -> None:
    weights, first = read_and_assembled("anisora", models_dir)
    job = make_job(make_request("anisora", "i2v"))
    frames, networks = first.render(job), dict(inner(first).components)
    first.release()

    second = catalog_of("anisora").assemble("anisora", weights, settings(models_dir), ignore_stage)

    assert inner(second).transformer is networks["transformer"]
    assert inner(second).vae is networks["vae"]
    assert np.array_equal(second.render(job), frames)


def test_pipelines_have_networks_of_their_own_when_both_live(models_dir: Path) -> None:
    weights, first = read_and_assembled("phr00t", models_dir)
    second = catalog_of("phr00t").assemble("phr00t", weights, settings(models_dir), ignore_stage)

    assert inner(first).transformer is not inner(second).transformer


def test_networks_are_made_anew_when_those_that_were_kept_are_forgotten(models_dir: Path) -> None:
    weights, first = read_and_assembled("phr00t", models_dir)
    job = make_job(make_request("phr00t"))
    frames, kept = first.render(job), weakref.ref(inner(first).transformer)
    first.release()
    gc.collect()
    assert kept() is not None

    weights.forget_networks()
    gc.collect()

    assert kept() is None
    assert np.array_equal(catalog_of("phr00t").assemble("phr00t", weights, settings(models_dir), ignore_stage).render(job), frames)


def read_and_assembled(model: str, models_dir: Path) -> tuple[HostWeights, Pipeline]:
    """The weights, and a pipeline of them."""
    catalog = catalog_of(model)
    weights = catalog.read(model, settings(models_dir), ignore_stage)
    return weights, catalog.assemble(model, weights, settings(models_dir), ignore_stage)
