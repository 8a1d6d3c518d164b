"""Weights come from their files into groups unchanged, or not at all."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.lane.memory.host import HostMemory
from tests.unit.wan.files import FILE, build_vace, change_header, copy, rewrite, save_part, shard, skeleton

pytestmark = pytest.mark.torch

PARTS = ("transformer",)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with one transformer."""
    return save_part(tmp_path_factory.mktemp("saved"), build_vace())


def read(folder: Path, name: str = "transformer", *, is_mapped: bool = False) -> Any:
    from runtime.lane.wan.weights import map_weights, read_weights

    modules = {name: skeleton(folder, name)}
    return map_weights(folder, modules) if is_mapped else read_weights(folder, modules, HostMemory(), lambda _name: None)


def tensors_of(weights: Any, name: str = "transformer") -> dict[str, Any]:
    return {key: tensor for group in weights.parts[name] for key, tensor in group.tensors().items()}


def same(tensors: dict[str, Any], others: dict[str, Any]) -> bool:
    """Bit for bit."""
    import torch

    return tensors.keys() == others.keys() and all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())


@pytest.mark.parametrize("is_mapped", [False, True])
@pytest.mark.parametrize("is_sharded", [False, True])
def test_every_tensor_is_that_of_the_file_when_read_or_mapped(saved: Path, tmp_path: Path, is_mapped: bool, is_sharded: bool) -> None:
    import torch

    folder = copy(saved, tmp_path / "model")
    if is_sharded:
        shard(folder / "transformer")
    model = build_vace()

    tensors = tensors_of(read(folder, is_mapped=is_mapped))

    expected = model.state_dict() | {f"rope.{name}": buffer for name, buffer in model.rope.named_buffers()}
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype for name, tensor in expected.items())


@pytest.mark.parametrize("is_mapped", [False, True])
def test_types_stay_as_stored_when_they_are_mixed(saved: Path, tmp_path: Path, is_mapped: bool) -> None:
    import torch

    def mix(tensors: dict[str, Any]) -> dict[str, Any]:
        small = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items() if "attn1.to_q.weight" in name}
        half = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items() if "norm" in name}
        return tensors | small | half

    folder = copy(saved, tmp_path / "model")
    rewrite(folder / "transformer" / FILE, mix)

    tensors = tensors_of(read(folder, is_mapped=is_mapped))

    assert tensors["blocks.3.attn1.to_q.weight"].dtype == torch.float8_e4m3fn
    assert tensors["blocks.3.attn1.norm_q.weight"].dtype == torch.bfloat16
    assert tensors["blocks.3.attn1.to_k.weight"].dtype == torch.float32
    assert torch.equal(tensors["vace_blocks.1.attn1.to_q.weight"], build_vace().vace_blocks[1].attn1.to_q.weight.to(torch.float8_e4m3fn))


def test_bytes_are_told_piece_by_piece_when_a_part_is_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.lane.wan import weights as module

    monkeypatch.setattr(module, "_PIECE_BYTES", 1000)
    told: list[tuple[int, int]] = []
    weights = module.read_weights(
        saved, {"transformer": skeleton(saved)}, HostMemory(), lambda _name: None, lambda *read: told.append(read)
    )

    # All of the file but its header, of 8 bytes and of the length that they tell.
    content = (saved / "transformer" / FILE).read_bytes()
    total_bytes = len(content) - 8 - int.from_bytes(content[:8], "little")
    sizes = [after - before for (before, _), (after, _) in zip([(0, 0), *told], told, strict=False)]
    assert told[-1] == (total_bytes, total_bytes)
    assert len(told) > total_bytes // 1000
    assert all(0 < size <= 1000 for size in sizes)
    assert same(tensors_of(weights), tensors_of(read(saved)))


def test_nothing_is_copied_to_host_memory_when_mapped(saved: Path) -> None:
    weights = read(saved, is_mapped=True)

    # What no file holds are the two position tables, 1024 positions of 16 channels in float32.
    assert weights.host_bytes == 2 * 1024 * 16 * 4
    assert weights.pinned_bytes == 0
    assert read(saved).host_bytes > 100_000


def test_each_block_is_one_piece_when_its_tensors_lie_side_by_side_in_the_file(saved: Path) -> None:
    weights = read(saved, is_mapped=True)

    assert [len(group.pieces) for group in weights.parts["transformer"][1:]] == [1] * 8


@pytest.mark.parametrize("names", [("shared.weight",), ("encoder.embed_tokens.weight",), ("shared.weight", "encoder.embed_tokens.weight")])
def test_the_tied_embedding_is_read_once_when_the_file_has_it_under_either_name(tmp_path: Path, names: tuple[str, ...]) -> None:
    import torch

    from runtime.lane.wan.tiny import build_text_encoder, seeded

    with seeded(6):
        encoder = build_text_encoder()
    folder = save_part(tmp_path, encoder)

    def rename(tensors: dict[str, Any]) -> dict[str, Any]:
        table = tensors.pop("shared.weight")
        return tensors | {name: table.clone() for name in names}

    rewrite(folder / "text_encoder" / "model.safetensors", rename)
    tensors = tensors_of(read(folder, "text_encoder"), "text_encoder")

    assert torch.equal(tensors["shared.weight"], encoder.shared.weight)
    assert "encoder.embed_tokens.weight" not in tensors


def remove(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor for name, tensor in tensors.items() if name != "blocks.1.ffn.net.2.bias"}


def add(tensors: dict[str, Any]) -> dict[str, Any]:
    return tensors | {"blocks.1.scale_weight": tensors["proj_out.bias"].clone()}


def cut(tensors: dict[str, Any]) -> dict[str, Any]:
    return tensors | {"proj_out.bias": tensors["proj_out.bias"][:-1].clone()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove, r"missing: blocks\.1\.ffn\.net\.2\.bias$"),
        (add, r"unexpected: blocks\.1\.scale_weight$"),
        (cut, r"of another shape: proj_out\.bias is \[63\], not \[64\]$"),
        (lambda tensors: add(cut(remove(tensors))), r"missing: .* unexpected: .* of another shape: "),
    ],
)
def test_tensors_are_named_when_they_are_not_those_of_the_network(
    saved: Path, tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    from runtime.lane.wan.headers import WeightsError

    folder = copy(saved, tmp_path / "model")
    rewrite(folder / "transformer" / FILE, change)

    for is_mapped in (False, True):
        with pytest.raises(WeightsError, match=message):
            read(folder, is_mapped=is_mapped)


def test_few_names_are_told_when_all_are_wrong(saved: Path, tmp_path: Path) -> None:
    from runtime.lane.wan.headers import WeightsError

    folder = copy(saved, tmp_path / "model")
    rewrite(folder / "transformer" / FILE, lambda tensors: {f"model.{name}": tensor for name, tensor in tensors.items()})

    with pytest.raises(WeightsError, match=r"and \d+ more; unexpected: .* and \d+ more$") as raised:
        read(folder)
    assert len(str(raised.value)) < 2000


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def no_header(file: Path) -> None:
    file.write_bytes(b"\xff" * 200)


def no_json(file: Path) -> None:
    file.write_bytes((4).to_bytes(8, "little") + b"{{{{")


def odd_type(file: Path) -> None:
    change_header(file, lambda header: header["proj_out.bias"].update(dtype="I4"))


def odd_offsets(file: Path) -> None:
    change_header(file, lambda header: header["proj_out.bias"].update(data_offsets=[0, 8]))


@pytest.mark.parametrize("damage", [cut_off, empty, no_header, no_json, odd_type, odd_offsets])
def test_the_file_is_named_when_it_is_damaged(saved: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    from runtime.lane.wan.headers import WeightsError

    folder = copy(saved, tmp_path / "model")
    damage(folder / "transformer" / FILE)

    with pytest.raises(WeightsError, match=FILE):
        read(folder)


def test_the_index_is_named_when_it_does_not_agree_with_its_files(saved: Path, tmp_path: Path) -> None:
    from runtime.lane.wan.headers import WeightsError

    for number, change in enumerate(
        ({"nowhere": "../other.safetensors"}, {"absent": "diffusion_pytorch_model-00001-of-00003.safetensors"})
    ):
        folder = copy(saved, tmp_path / f"model-{number}")
        shard(folder / "transformer")
        index = folder / "transformer" / f"{FILE}.index.json"
        content = json.loads(index.read_text())
        content["weight_map"] |= change
        index.write_text(json.dumps(content))
        with pytest.raises(WeightsError, match=r"outside its folder|about absent"):
            read(folder)


def test_two_files_without_an_index_are_refused_when_read(saved: Path, tmp_path: Path) -> None:
    from runtime.lane.wan.headers import WeightsError

    folder = copy(saved, tmp_path / "model")
    copy_of = folder / "transformer" / "other.safetensors"
    copy_of.write_bytes((folder / "transformer" / FILE).read_bytes())

    with pytest.raises(WeightsError, match="holds 2 and 0 indexes"):
        read(folder)


def test_no_buffer_is_left_when_a_file_ends_too_early(saved: Path, tmp_path: Path) -> None:
    from runtime.lane.wan.headers import WeightsError
    from runtime.lane.wan.weights import read_weights

    folder = copy(saved, tmp_path / "model")
    given: list[weakref.ref[Any]] = []

    class Watching(HostMemory):
        def host_buffers(self, sizes_bytes: Any) -> Any:
            buffers = super().host_buffers(sizes_bytes)
            given.extend(weakref.ref(buffer.untyped_storage()) for buffer in buffers)
            # From here on the file is shorter than its header was found to say.
            cut_off(folder / "transformer" / FILE)
            return buffers

    with pytest.raises(WeightsError, match="ended before"):
        read_weights(folder, {"transformer": skeleton(folder)}, Watching(), lambda _name: None)
    gc.collect()

    assert given
    assert [buffer for buffer in given if buffer() is not None] == []


def test_the_file_is_named_when_it_cannot_be_read_any_more(saved: Path, tmp_path: Path) -> None:
    from runtime.lane.wan.headers import WeightsError
    from runtime.lane.wan.weights import read_weights

    folder = copy(saved, tmp_path / "model")

    class Removing(HostMemory):
        def host_buffers(self, sizes_bytes: Any) -> Any:
            (folder / "transformer" / FILE).unlink()
            return super().host_buffers(sizes_bytes)

    with pytest.raises(WeightsError, match=rf"{FILE} cannot be read: .*No such file"):
        read_weights(folder, {"transformer": skeleton(folder)}, Removing(), lambda _name: None)
