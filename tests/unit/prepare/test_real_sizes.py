"""Files of the real sizes, with headers and no weights: plans fit them, and what is written has the sizes that predictions count with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runtime.fit.ladder import ModelParts
from runtime.fit.traced import TRACED
from tests.harness.published_layouts import native_transformer, native_vae

if TYPE_CHECKING:
    from runtime.lane.prepare.plan import Plan

pytestmark = pytest.mark.torch

MEGA_V11_BYTES = 24_334_498_767
"""From the hub's page (facts/models.md, section 2)."""

ITEM_BYTES = {"F8_E4M3": 1, "BF16": 2, "F32": 4}


def hollow(file: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> Path:
    """A safetensors file of these types and shapes whose weights are a hole: it takes no room on the disk."""
    import math

    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + math.prod(shape) * ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as content:
        content.write(len(text).to_bytes(8, "little") + text)
        content.truncate(8 + len(text) + end)
    return file


def named(
    module: Any, rename: Callable[[str], str], dtype: Callable[[str, tuple[int, ...]], str], prefix: str = ""
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors that a publisher's file of a network has."""
    from runtime.lane.wan.parts import state_of
    from runtime.lane.wan.skeleton import computed_buffers

    computed = computed_buffers(module)
    shapes = {name: tuple(tensor.shape) for name, tensor in state_of(module).items() if name not in computed}
    return {prefix + rename(name): (dtype(name, shape), shape) for name, shape in shapes.items()}


def bf16(_name: str, _shape: tuple[int, ...]) -> str:
    """Everything."""
    return "BF16"


def plan_of(model: str, published: dict[tuple[str, str], Path], storage: str, parts: tuple[str, ...]) -> Plan:
    """The plan for files of a model."""
    import importlib

    from runtime.lane.prepare.plan import make_plan
    from runtime.lane.prepare.published import read_published

    checkpoint = importlib.import_module(f"lane_{model}.checkpoint").CHECKPOINT
    wanted = tuple(part for part in checkpoint.parts if part.folder in parts)
    tensors = {place: read_published(path) for place, path in published.items()}
    return make_plan(checkpoint, wanted, tensors, storage=storage, sizes={})


def stored_parts(model: str, plan: Plan) -> ModelParts:
    """The parts as a lane would count them."""
    from runtime.lane.wan.networks import stored_types
    from runtime.lane.wan.parts import layout_of, part_of

    types = {part.part.folder: {tensor.name: tensor.stored for tensor in part.tensors} for part in plan.parts}
    for part in plan.parts:
        expected = stored_types(part.part.network, part.module, "fp8")
        assert {name: dtype for name, dtype in expected.items() if name in types[part.part.folder]} == types[part.part.folder]
    made = (part_of(part.part.network, layout_of(part.part.network, part.module, types[part.part.folder])) for part in plan.parts)
    return ModelParts(model=model, parts=tuple(made))


def test_a_mega_file_of_the_published_size_becomes_the_parts_that_predictions_count_with(tmp_path: Path) -> None:
    from runtime.lane.wan import networks

    vace, text_encoder, vae = networks.build_vace(), networks.build_text_encoder(), networks.build_vae()

    def text_type(name: str, shape: tuple[int, ...]) -> str:
        return "F8_E4M3" if len(shape) > 1 and "block" in name else "BF16"

    tensors = {
        **named(vace, native_transformer, lambda _name, _shape: "F8_E4M3", "model.diffusion_model."),
        **named(text_encoder, str, text_type, "text_encoders.umt5xxl.transformer."),
        **named(vae, native_vae, bf16, "vae."),
    }
    file = hollow(tmp_path / "mega.safetensors", tensors)
    # The layout of the facts explains the size that the hub states to 0.2 %: the rest is the tokenizer's bytes and some types.
    assert file.stat().st_size == pytest.approx(MEGA_V11_BYTES, rel=0.002)

    plan = plan_of("phr00t", {("checkpoint", ""): file}, "fp8", ("text_encoder", "vae", "transformer"))

    assert stored_parts("phr00t", plan) == TRACED["phr00t"].parts["fp8"]
    matrices = [tensor for tensor in plan.parts[2].tensors if tensor.stored.itemsize == 1]
    assert {tensor.making.value for tensor in matrices} == {"copy"}


@pytest.mark.long
def test_experts_of_the_published_size_become_the_parts_that_predictions_count_with(tmp_path: Path) -> None:
    from runtime.lane.wan import networks

    expert = named(networks.build_expert(), native_transformer, bf16)
    published = {(name, ""): hollow(tmp_path / f"{name}.safetensors", expert) for name in ("high", "low")}
    # 14,288,901,184 parameters of two bytes (facts/models.md, section 1), and the header.
    assert (tmp_path / "high.safetensors").stat().st_size == pytest.approx(28_577_802_368, rel=1e-4)
    published["base", "text_encoder"] = hollow(tmp_path / "text.safetensors", named(networks.build_text_encoder(), str, bf16))
    published["base", "vae"] = hollow(tmp_path / "vae.safetensors", named(networks.build_vae(), str, lambda _name, _shape: "F32"))

    plan = plan_of("anisora", published, "fp8", ("text_encoder", "vae", "transformer", "transformer_2"))

    assert stored_parts("anisora", plan) == TRACED["anisora"].parts["fp8"]
    # 34 GB, as the docs say.
    assert plan.size_bytes == pytest.approx(35.7e9, rel=0.05)


@pytest.mark.long
def test_the_pair_for_text_to_video_fits_by_either_publisher_s_names(tmp_path: Path) -> None:
    from runtime.lane.wan import networks

    module = networks.build_text_to_video_expert()
    published = {
        ("t2v-high", ""): hollow(tmp_path / "high.safetensors", named(module, str, lambda _name, _shape: "F32")),
        ("t2v-low", ""): hollow(tmp_path / "low.safetensors", named(module, native_transformer, bf16)),
    }

    plan = plan_of("anisora", published, "bf16", ("t2v_transformer", "t2v_transformer_2"))

    assert [len(part.tensors) for part in plan.parts] == [1095, 1095]
    assert {str(tensor.stored) for part in plan.parts for tensor in part.tensors} == {"torch.bfloat16"}
