"""Ways in which published files are wrong. Each takes a copy of a model's files and says which sources to use instead."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.harness.published_layouts import native_transformer, renamed, save
from tests.harness.published_models import FILE, HIGH, LOW, PublishedModel, tensors_of
from tests.unit.wan.files import change_header, rewrite

if TYPE_CHECKING:
    import torch

Paths = dict[str, Path]
Damage = Callable[[PublishedModel], Paths]

PREFIX = "model.diffusion_model."
Q_NATIVE = "blocks.1.self_attn.q"


def high(published: PublishedModel) -> Path:
    """AniSora's high-noise file."""
    return published.folder / HIGH


def main_file(published: PublishedModel) -> Path:
    """The file that a damage that fits both models is done to."""
    return published.sources["checkpoint"] if published.model == "phr00t" else high(published)


def name_of(published: PublishedModel, native: str) -> str:
    """A transformer's tensor in the main file."""
    return (PREFIX if published.model == "phr00t" else "") + native


def cut_off(published: PublishedModel) -> Paths:
    file = main_file(published)
    file.write_bytes(file.read_bytes()[:-1000])
    return {}


def empty(published: PublishedModel) -> Paths:
    main_file(published).write_bytes(b"")
    return {}


def of_four_bytes(published: PublishedModel) -> Paths:
    main_file(published).write_bytes(b"\1\0\0\0")
    return {}


def of_absurd_header_length(published: PublishedModel) -> Paths:
    file = main_file(published)
    file.write_bytes((1 << 60).to_bytes(8, "little") + file.read_bytes()[8:])
    return {}


def of_no_json(published: PublishedModel) -> Paths:
    file = main_file(published)
    content = bytearray(file.read_bytes())
    content[10] = 0xFF
    file.write_bytes(content)
    return {}


def of_a_name_twice(published: PublishedModel) -> Paths:
    file = main_file(published)
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + length].rstrip()
    entry = b'"one":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    made = text[:-1] + b"," + entry + b"," + entry + b"}"
    file.write_bytes(len(made).to_bytes(8, "little") + made + content[8 + length :])
    return {}


def _in_header(native: str, change: Callable[[dict[str, Any]], None]) -> Damage:
    def damage(published: PublishedModel) -> Paths:
        change_header(main_file(published), lambda header: change(header[name_of(published, native)]))
        return {}

    return damage


def _overlapping(entry: dict[str, Any]) -> None:
    begin, end = entry["data_offsets"]
    entry["data_offsets"] = [begin - 64, end - 64]


overlapping = _in_header(f"{Q_NATIVE}.weight", _overlapping)
of_unknown_type = _in_header(f"{Q_NATIVE}.weight", lambda entry: entry.update(dtype="F9_E1M7"))
of_integers = _in_header(f"{Q_NATIVE}.weight", lambda entry: entry.update(dtype="I16"))
of_a_false_shape = _in_header(f"{Q_NATIVE}.weight", lambda entry: entry.update(shape=[3, 3]))
of_negative_places = _in_header(f"{Q_NATIVE}.weight", lambda entry: entry.update(data_offsets=[-64, 0]))


def with_bytes_behind(published: PublishedModel) -> Paths:
    with main_file(published).open("ab") as file:
        file.write(b"more")
    return {}


def _with_tensors(change: Callable[[PublishedModel, dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Damage:
    def damage(published: PublishedModel) -> Paths:
        rewrite(main_file(published), lambda tensors: change(published, tensors))
        return {}

    return damage


def _less(native: str) -> Damage:
    return _with_tensors(lambda published, tensors: {name: one for name, one in tensors.items() if name != name_of(published, native)})


def _more(name: str) -> Damage:
    def change(published: PublishedModel, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        import torch

        return tensors | {name_of(published, name): torch.zeros(3)}

    return _with_tensors(change)


def _put(native: str, number: float) -> Damage:
    def change(published: PublishedModel, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        import torch

        made = tensors[name_of(published, native)].to(torch.float32)
        made.view(-1)[5] = number
        return tensors | {name_of(published, native): made}

    return _with_tensors(change)


missing = _less(f"{Q_NATIVE}.weight")
with_one_more = _more("blocks.1.self_attn.gate.weight")
with_a_block_more = _more("blocks.7.self_attn.q.weight")
of_nan = _put(f"{Q_NATIVE}.weight", float("nan"))
of_infinity = _put("blocks.0.ffn.2.bias", float("-inf"))
of_numbers_beyond_fp8 = _put(f"{Q_NATIVE}.weight", 449.0)
of_numbers_beyond_bf16 = _put("blocks.0.ffn.2.bias", 3.4e38)


def misshaped(published: PublishedModel) -> Paths:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        name = name_of(published, f"{Q_NATIVE}.weight")
        return tensors | {name: tensors[name][:16].contiguous()}

    rewrite(main_file(published), change)
    return {}


def scaled_without_a_scale(published: PublishedModel) -> Paths:
    name = name_of(published, f"{Q_NATIVE}.scale_weight")
    rewrite(main_file(published), lambda tensors: {key: one for key, one in tensors.items() if key != name})
    return {}


def with_a_scale_without_a_matrix(published: PublishedModel) -> Paths:
    return _more("blocks.1.self_attn.gate.scale_weight")(published)


def with_a_scale_of_zero(published: PublishedModel) -> Paths:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        name = name_of(published, f"{Q_NATIVE}.scale_weight")
        return tensors | {name: tensors[name] * 0}

    rewrite(main_file(published), change)
    return {}


def with_a_scale_of_another_shape(published: PublishedModel) -> Paths:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        import torch

        return tensors | {name_of(published, f"{Q_NATIVE}.scale_weight"): torch.ones(7)}

    rewrite(main_file(published), change)
    return {}


def of_unequal_twins(published: PublishedModel) -> Paths:
    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        prefix = "text_encoders.umt5xxl.transformer."
        other = tensors[f"{prefix}shared.weight"].clone()
        other[200, 3] += 1
        return tensors | {f"{prefix}encoder.embed_tokens.weight": other}

    rewrite(main_file(published), change)
    return {}


def without_prefix(published: PublishedModel) -> Paths:
    rewrite(main_file(published), lambda tensors: {name.removeprefix(PREFIX): one for name, one in tensors.items()})
    return {}


def with_another_prefix(published: PublishedModel) -> Paths:
    prefix = "state_dict." if published.model == "phr00t" else "model."
    rewrite(main_file(published), lambda tensors: {prefix + name: one for name, one in tensors.items()})
    return {}


def of_clip_images(published: PublishedModel) -> Paths:
    """A Wan2.1 image-to-video transformer: AniSora V3, and Phr00t before Mega."""
    from diffusers import WanTransformer3DModel

    from runtime.lane.wan.tiny import seeded
    from tests.harness.published_models import SIZES

    sizes = {key: one for key, one in SIZES[published.model].items() if key != "vace_layers"}
    with seeded(3):
        network = WanTransformer3DModel(in_channels=36, out_channels=16, image_dim=4, added_kv_proj_dim=32, **sizes)
    native = renamed(tensors_of(network), _native_of_clip)

    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if published.model == "anisora":
            return native
        rest = {name: one for name, one in tensors.items() if not name.startswith(PREFIX)}
        return rest | {PREFIX + name: one for name, one in native.items()}

    rewrite(main_file(published), change)
    return {}


def _native_of_clip(name: str) -> str:
    for here, there in (
        ("condition_embedder.image_embedder.norm1", "img_emb.proj.0"),
        ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
        ("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
        ("condition_embedder.image_embedder.norm2", "img_emb.proj.4"),
        ("attn2.add_k_proj", "cross_attn.k_img"),
        ("attn2.add_v_proj", "cross_attn.v_img"),
        ("attn2.norm_added_k", "cross_attn.norm_k_img"),
    ):
        name = name.replace(here, there)
    return native_transformer(name)


def of_text_to_video(published: PublishedModel) -> Paths:
    shutil.copyfile(published.folder / "t2v" / "transformer_2" / FILE, high(published))
    return {}


def swapped_experts(published: PublishedModel) -> Paths:
    return {"high": published.folder / LOW, "low": high(published)}


def one_expert_twice(published: PublishedModel) -> Paths:
    copy = published.folder / "copy" / FILE
    copy.parent.mkdir()
    shutil.copyfile(high(published), copy)
    return {"low": copy}


def of_the_other_variant(published: PublishedModel) -> Paths:
    there = published.sources["checkpoint"].with_name("wan2.2-rapid-mega-aio-v11.safetensors")
    published.sources["checkpoint"].rename(there)
    return {"checkpoint": there}


def a_folder_of_two(published: PublishedModel) -> Paths:
    folder = main_file(published).parent
    save({}, folder / "other.safetensors")
    return {"checkpoint" if published.model == "phr00t" else "high": folder}


def a_pickle(published: PublishedModel) -> Paths:
    import torch

    file = main_file(published).with_suffix(".pth")
    torch.save({"weight": torch.zeros(3)}, file)
    return {"checkpoint" if published.model == "phr00t" else "high": file}


def a_gguf_file(published: PublishedModel) -> Paths:
    main_file(published).write_bytes(b"GGUF" + bytes(100))
    return {}


def not_there(published: PublishedModel) -> Paths:
    main_file(published).unlink()
    return {}


def index_of_a_missing_shard(published: PublishedModel) -> Paths:
    next((published.folder / "base" / "text_encoder").glob("*-00002-*")).unlink()
    return {}


def index_that_disagrees(published: PublishedModel) -> Paths:
    index = next((published.folder / "base" / "text_encoder").glob("*.index.json"))
    document = json.loads(index.read_text())
    names = list(document["weight_map"])
    document["weight_map"] = {names[0]: document["weight_map"][names[1]], **{name: document["weight_map"][name] for name in names[1:]}}
    index.write_text(json.dumps(document))
    return {}


def another_vocabulary(published: PublishedModel) -> Paths:
    file = published.folder / "base" / "tokenizer" / "tokenizer.json"
    document = json.loads(file.read_text())
    for number in range(150, 170):
        document["model"]["vocab"].pop(next(token for token, one in document["model"]["vocab"].items() if one == number))
    file.write_text(json.dumps(document))
    return {}


def a_vocabulary_of_other_ends(published: PublishedModel) -> Paths:
    file = published.folder / "base" / "tokenizer" / "tokenizer.json"
    text = file.read_text().replace("</s>", "<end>")
    file.write_text(text)
    return {}


def no_tokenizer(published: PublishedModel) -> Paths:
    (published.folder / "base" / "tokenizer" / "tokenizer.json").unlink()
    return {}
