"""The ladder of a model's folder: sizes from the headers, activations from what is shipped or from a trace that is kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from runtime.fit.cost import Activations
from runtime.fit.ladder import ACTIVATION_NAMES
from runtime.fit.placement import PLACEMENTS
from runtime.fit.traced import TRACED, TracedModel
from tests.unit.pipelines.jobs import make_job, make_request, settings
from tests.unit.pipelines.watching import BOTH, catalog_of, place

if TYPE_CHECKING:
    from runtime.fit.cost import ModelLadder

pytestmark = pytest.mark.torch


def ladder(model: str, models_dir: Path) -> ModelLadder:
    return catalog_of(model).ladder(model, settings(models_dir))


@pytest.mark.parametrize("model", BOTH)
def test_the_shipped_activations_are_used_when_the_networks_are_those_that_were_traced(
    models_dir: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.lane.wan.traces._trace", None)  # nothing is traced

    made = ladder(model, models_dir)

    assert made.model == model
    assert [rung.placement for rung in made.rungs] == [placement.name for placement in PLACEMENTS]
    assert made == TRACED[f"{model}-tiny"].ladder("float32")


@pytest.mark.parametrize("model", BOTH)
def test_weights_of_the_ladder_are_those_on_the_device_when_all_are_there(models_dir: Path, model: str) -> None:
    pipeline, memory = place(model, models_dir)
    pipeline.render(make_job(make_request(model), placement="resident_all"))

    rung = ladder(model, models_dir).rungs[0]

    assert {cost.weights_bytes for cost in rung.phases} == {memory.weight_bytes}
    assert rung.host_bytes == memory.weight_bytes


def one_more_block(folder: Path) -> None:
    """Gives the transformer a third block, with the weights of its second."""
    from safetensors.torch import load_file, save_file

    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_layers": 3}))
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    added = {name.replace("blocks.1.", "blocks.2."): tensor.clone() for name, tensor in tensors.items() if name.startswith("blocks.1.")}
    save_file(tensors | added, file)


def test_unknown_networks_are_traced_once_when_a_ladder_is_asked(models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from runtime.lane.wan import tracing

    place("anisora", models_dir)
    shutil.copytree(models_dir / "anisora-tiny-v1", tmp_path / "anisora-tiny-v1")
    for name in ("transformer", "transformer_2"):
        one_more_block(tmp_path / "anisora-tiny-v1" / name)
    traced: list[Any] = []
    figures = MappingProxyType({name: Activations(fixed=number + 1.0) for number, name in enumerate(ACTIVATION_NAMES)})

    def trace(subject: Any) -> TracedModel:
        parts = [subject.part(name) for name in subject.parts]
        assert all(tensor.is_meta for part in parts for tensor in part.parameters())
        traced.append((subject.model, subject.compute, len(subject.part("transformer", is_whole=True).blocks)))
        return TracedModel(model=subject.model, profile="tiny", fingerprint="here", activations=figures, parts={})

    monkeypatch.setattr(tracing, "traced_model", trace)

    first = ladder("anisora", tmp_path)
    assert first == ladder("anisora", tmp_path)

    assert traced == [("anisora", torch.float32, 3)]
    assert first.rungs[0].phases[0].activations == figures["text"]
    (kept,) = tmp_path.glob(".traced-anisora-*.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == [kept.name, "anisora-tiny-v1"]
    # A file that cannot be read is written again.
    kept.write_text("{")
    assert first == ladder("anisora", tmp_path)
    assert len(traced) == 2
    assert json.loads(kept.read_text())["version"] == 1


@pytest.mark.parametrize("model", BOTH)
def test_as_few_blocks_as_show_the_peak_are_traced_when_networks_are_unknown(models_dir: Path, model: str) -> None:
    from runtime.lane.wan.traces import _with_few_blocks

    pipeline, _ = place(model, models_dir)
    few: Any = _with_few_blocks(catalog_of(model)._skeletons(models_dir / f"{model}-tiny-v1")["transformer"])  # type: ignore[attr-defined]

    assert len(few.blocks) == (3 if model == "phr00t" else 2)
    assert len(getattr(few, "vace_blocks", ())) == (2 if model == "phr00t" else 0)
    assert all(tensor.is_meta for tensor in few.parameters())
    pipeline.release()


def test_networks_are_traced_again_when_the_libraries_are_others() -> None:
    from runtime.lane.wan import traces

    shipped = TRACED["phr00t"]
    current = replace(shipped, fingerprint=f"{traces._versions()} configs 0")

    assert traces._is_of(current, shipped.parts["fp8"], "a10g")
    assert not traces._is_of(replace(shipped, fingerprint="torch 1.0"), shipped.parts["fp8"], "a10g")
    assert not traces._is_of(current, TRACED["anisora"].parts["fp8"], "a10g")


def test_real_networks_are_found_among_the_shipped_when_their_configuration_is_loaded(tmp_path: Path) -> None:
    from diffusers import WanVACETransformer3DModel

    from runtime.lane.wan.networks import build_vace, stored_types
    from runtime.lane.wan.parts import layout_of, part_of
    from runtime.lane.wan.skeleton import make_diffusers_part

    build_vace().save_config(tmp_path)
    module = make_diffusers_part(WanVACETransformer3DModel, tmp_path)

    part = part_of("transformer", layout_of("transformer", module, stored_types("transformer", module, "fp8")))

    assert part in TRACED["phr00t"].parts["fp8"].parts


def test_unknown_models_and_damaged_files_are_refused_when_a_ladder_is_asked(models_dir: Path, tmp_path: Path) -> None:
    from degraded_pool.catalog import catalog
    from runtime.lane.wan.headers import WeightsError

    with pytest.raises(ValueError, match="anisora, phr00t"):
        catalog.ladder("other", settings(models_dir))
    place("phr00t", models_dir)
    shutil.copytree(models_dir / "phr00t-tiny-v1", tmp_path / "phr00t-tiny-v1")
    next((tmp_path / "phr00t-tiny-v1" / "vae").glob("*.safetensors")).unlink()
    with pytest.raises(WeightsError, match="holds 0"):
        catalog.ladder("phr00t", settings(tmp_path))
