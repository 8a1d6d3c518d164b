"""The groups of a part: order, offsets and sizes, alike for files, fake networks and real ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.wan.files import build_vace, save_part, skeleton

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.torch


def test_control_blocks_stand_between_the_others_when_ordered() -> None:
    from runtime.lane.wan.parts import layout_of

    paths = [group.path for group in layout_of("transformer", build_vace())]

    assert paths == [
        "", "vace_blocks.0", "blocks.0", "blocks.1", "blocks.2", "vace_blocks.1", "blocks.3", "vace_blocks.2", "blocks.4",
    ]  # fmt: skip


def test_the_order_is_that_of_the_forward_pass_when_hints_are_lazy() -> None:
    import torch

    from runtime.lane.wan.lean import leaner
    from runtime.lane.wan.parts import blocks_of_part

    model, ran = build_vace(), list[torch.nn.Module]()
    for block in (*model.blocks, *model.vace_blocks):
        block.register_forward_pre_hook(lambda module, _: ran.append(module))
    inputs = {"hidden_states": torch.randn(1, 16, 1, 4, 4), "control_hidden_states": torch.randn(1, 24, 1, 4, 4)}

    with leaner(model, lazy_hints=True, chunked=False), torch.no_grad():
        model(**inputs, timestep=torch.tensor([5]), encoder_hidden_states=torch.randn(1, 3, 32))

    assert tuple(ran) == blocks_of_part("transformer", model)


def test_a_vae_has_no_blocks_when_laid_out() -> None:
    from runtime.lane.wan.parts import layout_of
    from runtime.lane.wan.tiny import build_vae, seeded

    with seeded(1):
        vae = build_vae()
    (rest,) = layout_of("vae", vae)

    assert {tensor.name for tensor in rest.tensors} == vae.state_dict().keys()


def test_no_tensors_overlap_and_all_are_aligned_when_laid_out() -> None:
    import torch

    from runtime.lane.wan.parts import layout_of

    dtypes = {"blocks.1.attn1.to_q.bias": torch.float8_e4m3fn, "blocks.1.ffn.net.2.bias": torch.bfloat16}
    for group in layout_of("transformer", odd_transformer(), dtypes):
        end = 0
        for tensor in group.tensors:
            assert tensor.offset >= end
            assert tensor.offset % 64 == 0
            end = tensor.offset + tensor.size_bytes
        assert group.size_bytes >= end
        assert group.size_bytes % 64 == 0


def odd_transformer() -> torch.nn.Module:
    """A transformer whose tensors are of odd sizes."""
    built: torch.nn.Module = build_vace(ffn_dim=37)
    return built


def test_parts_are_counted_alike_when_from_networks_and_from_files(tmp_path: Path) -> None:
    from runtime.lane.wan.parts import model_parts, part_of
    from runtime.lane.wan.weights import stored_layouts

    model = build_vace()
    folder = save_part(tmp_path, model)

    (counted,) = model_parts("phr00t", {"transformer": model}).parts
    stored = part_of("transformer", stored_layouts(folder, {"transformer": skeleton(folder)})["transformer"])

    assert counted == stored
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    exact = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert exact <= counted.total_bytes < exact * 1.02
    assert len(counted.block_bytes) == 8
