"""Networks made without weights are those that the libraries make, once they have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.wan.files import build_vace, save_part, skeleton

pytestmark = pytest.mark.torch


def test_nothing_is_allocated_and_nothing_patched_when_a_skeleton_is_made(tmp_path: Path) -> None:
    # accelerate's way of making empty networks replaces this method of all networks of the process meanwhile, also of those that another
    # thread is moving (facts/models.md, hazard 8).
    import threading

    import torch

    from runtime.lane.wan.skeleton import make_diffusers_part

    folder = save_part(tmp_path, build_vace())
    register = torch.nn.Module.register_parameter
    seen: list[object] = []

    class Watching(torch.nn.Linear):
        """Made while a skeleton is being made; asks another thread what it would see."""

        @staticmethod
        def from_config(_config: object) -> torch.nn.Module:
            thread = threading.Thread(target=lambda: seen.extend((torch.nn.Module.register_parameter, torch.nn.Linear(2, 2).weight.device)))
            thread.start()
            thread.join(timeout=60)
            return torch.nn.Linear(4, 4)

        @staticmethod
        def load_config(_folder: object, **_: object) -> dict[str, object]:
            return {}

    made = make_diffusers_part(Watching, folder)

    assert next(made.parameters()).is_meta
    assert seen == [register, torch.device("cpu")]
    assert all(tensor.is_meta and not tensor.requires_grad for tensor in skeleton(folder).parameters())


def test_position_tables_are_those_of_the_network_when_computed(tmp_path: Path) -> None:
    import torch

    from runtime.lane.wan.skeleton import computed_buffers

    model = build_vace()

    tables = computed_buffers(skeleton(save_part(tmp_path, model)))

    assert tables.keys() == {"rope.freqs_cos", "rope.freqs_sin"}
    assert torch.equal(tables["rope.freqs_cos"], model.rope.freqs_cos)
    assert torch.equal(tables["rope.freqs_sin"], model.rope.freqs_sin)


def test_unknown_buffers_are_named_when_no_file_holds_them() -> None:
    import torch

    from runtime.lane.wan.skeleton import computed_buffers

    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.ones(2), persistent=False)

    with pytest.raises(ValueError, match=r"inner has buffers that no file holds: table"):
        computed_buffers(torch.nn.ModuleDict({"inner": Odd()}))


def test_a_tied_tensor_has_several_places_when_pointed_at(tmp_path: Path) -> None:
    import torch

    from runtime.lane.wan.skeleton import as_parameters, point_at, sites_of
    from runtime.lane.wan.tiny import build_text_encoder, seeded

    with seeded(6):
        encoder = build_text_encoder()
    module = skeleton(save_part(tmp_path, encoder), "text_encoder")

    point_at(sites_of(module), as_parameters({"shared.weight": encoder.shared.weight.detach()}))

    assert module.get_parameter("encoder.embed_tokens.weight") is module.get_parameter("shared.weight")
    assert torch.equal(module.get_parameter("shared.weight"), encoder.shared.weight)


def test_device_and_type_are_those_of_the_computation_when_set() -> None:
    import torch
    from diffusers import WanVACETransformer3DModel

    from runtime.lane.wan.skeleton import set_compute

    model = build_vace()
    model.to(torch.float16)
    set_compute(model, torch.device("cuda:0"), torch.bfloat16)
    set_compute(model, torch.device("cuda:1"), torch.bfloat16)

    assert (model.device, model.dtype) == (torch.device("cuda:1"), torch.bfloat16)
    assert type(model).__name__ == "WanVACETransformer3DModel"
    assert isinstance(model, WanVACETransformer3DModel)
