"""Whatever is wrong with a published file is named, and nothing is left that a lane would open."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness.published_layouts import Format
from tests.unit.prepare import damage
from tests.unit.prepare.runs import order_of, run

if TYPE_CHECKING:
    from tests.harness.published_models import PublishedModel
    from tests.unit.prepare.conftest import Publisher

pytestmark = pytest.mark.torch

BOTH = ("anisora", "phr00t")

# By what is wrong: the damage, and what the sentence says.
OF_EVERY_FILE = [
    (damage.not_there, "is not there"),
    (damage.cut_off, r"is cut off: \d+ of \d+ bytes are missing"),
    (damage.empty, "is empty: 0 bytes"),
    (damage.of_four_bytes, "is cut off: it has 4 bytes"),
    (damage.of_absurd_header_length, "its header would have 1152921504606846976 bytes"),
    (damage.of_no_json, "its header cannot be read"),
    (damage.of_a_name_twice, "named twice: one"),
    (damage.overlapping, r"overlaps|nothing lies in"),
    (damage.of_unknown_type, "type 'F9_E1M7' is unknown"),
    (damage.of_integers, r"of a type that weights cannot have: \S*blocks.1.self_attn.q.weight is I16"),
    (damage.of_a_false_shape, r"for a tensor \[3, 3\]"),
    (damage.of_negative_places, "must be counts"),
    (damage.with_bytes_behind, "4 bytes follow its last tensor"),
    (damage.missing, r"\(missing: blocks.1.attn1.to_q.weight\)"),
    (damage.with_one_more, r"unexpected: \S*blocks.1.self_attn.gate.weight"),
    (damage.with_a_block_more, r"unexpected: \S*blocks.7.self_attn.q.weight"),
    (damage.misshaped, r"of another shape: \S*blocks.1.self_attn.q.weight is \[16, 32\], not \[32, 32\]"),
    (damage.of_nan, r"self_attn.q.weight in .* is damaged: 1 of its numbers are not finite \(NaN"),
    (damage.of_infinity, r"ffn.2.bias in .* is damaged: 1 of its numbers are not finite \(infinity"),
    (damage.of_numbers_beyond_fp8, "has a number of 449, and float8_e4m3fn holds none beyond 448.*--storage bf16"),
    (damage.of_numbers_beyond_bf16, "has a number of 3.4e\\+38, and bfloat16 holds none beyond"),
    (damage.of_clip_images, r"it is an image-to-video transformer of Wan 2.1.*\(AniSora V3 and older; Phr00t before Mega\)"),
    (damage.a_folder_of_two, r"must hold one .safetensors file.*it holds 2 and 0 indexes"),
    (damage.a_pickle, "a pickle in a zip, as torch.save writes it .*A .safetensors file is needed"),
    (damage.a_gguf_file, "a GGUF file"),
    (damage.another_vocabulary, "of another vocabulary than the text encoder: it has 238 tokens, and the text encoder 258 rows"),
    (damage.a_vocabulary_of_other_ends, "of another vocabulary than the text encoder: </s> is None and not 1"),
    (damage.no_tokenizer, "holds no fast tokenizer: tokenizer.json is missing"),
]
OF_SCALED_FILES = [
    (damage.scaled_without_a_scale, r"wrong scales: \S*self_attn.q.weight is F8_E4M3 and has none"),
    (damage.with_a_scale_without_a_matrix, r"scales without a matrix: \S*self_attn.gate.scale_weight"),
    (damage.with_a_scale_of_zero, r"the scale of \S*self_attn.q.weight is not a finite number above zero"),
    (damage.with_a_scale_of_another_shape, r"scale_weight is \[7\] for a matrix \[32, 32\]"),
]
OF_ANISORA = [
    (damage.with_another_prefix, "missing: blocks.0.attn1"),
    (damage.of_text_to_video, "it takes 16 channels: a text-to-video transformer"),
    (damage.swapped_experts, "named as low noise and is given as --high, the high-noise expert.*were they swapped"),
    (damage.one_expert_twice, "--high and --low are the same file"),
    (damage.index_of_a_missing_shard, "names files that are not there: model-00002-of-00002.safetensors"),
    (damage.index_that_disagrees, "does not agree with its files about"),
]
OF_PHR00T = [
    (damage.without_prefix, "nothing in it begins with model.diffusion_model."),
    (damage.with_another_prefix, "nothing in it begins with model.diffusion_model.; what is there begins with state_dict"),
    (damage.of_unequal_twins, "shared.weight and .*embed_tokens.weight are one tensor in the network, and they differ"),
    (damage.of_the_other_variant, "is named as mega-v11, and mega-v12 is prepared"),
]


def both(style: Format, cases: Sequence[tuple[damage.Damage, str]]) -> Iterator[Any]:
    """Each with both models in the long form, with the models in turn in the short one."""
    for number, (harm, sentence) in enumerate(cases):
        for model in BOTH:
            marks = () if BOTH[number % 2] == model else (pytest.mark.long,)
            yield pytest.param(model, style, harm, sentence, marks=marks, id=f"{model}-{harm.__qualname__}-{number}")


def one(model: str, cases: Sequence[tuple[damage.Damage, str]]) -> Iterator[Any]:
    """Each with one model."""
    return (pytest.param(model, Format.BF16, *case, id=f"{model}-{case[0].__qualname__}") for case in cases)


CASES = [
    *both(Format.BF16, OF_EVERY_FILE),
    *both(Format.SCALED, OF_SCALED_FILES),
    *one("anisora", OF_ANISORA),
    *one("phr00t", OF_PHR00T),
]


def copied(source: PublishedModel, folder: Path) -> PublishedModel:
    """A copy that a test may damage."""
    shutil.copytree(source.folder, folder)
    # The text-to-video pair has tests of its own.
    moved = {name: folder / path.relative_to(source.folder) for name, path in source.sources.items() if not name.startswith("t2v")}
    return replace(source, folder=folder, sources=moved, sizes=folder / "sizes.json")


def left_to_open(models_dir: Path) -> list[str]:
    """Names in the models' folder that a lane would look at."""
    return [path.name for path in models_dir.iterdir() if not path.name.startswith(".")]


@pytest.mark.parametrize(
    ("model", "style", "harm", "sentence"),
    CASES,
)
def test_the_cause_is_named_and_nothing_is_left_to_open_when_a_file_is_wrong(
    model: str, style: Format, harm: damage.Damage, sentence: str, published: Publisher, tmp_path: Path
) -> None:
    from runtime.lane.prepare.failures import PrepareError

    source = copied(published(model, style), tmp_path / "published")
    paths = harm(source)

    with pytest.raises(PrepareError, match=f"(?s){sentence}"):
        run(order_of(source, tmp_path / "models", paths=paths))

    assert left_to_open(tmp_path / "models") == []


@pytest.mark.parametrize("model", BOTH)
def test_the_other_model_s_file_is_named_for_what_it_is(model: str, published: Publisher, tmp_path: Path) -> None:
    from runtime.lane.prepare.failures import PrepareError

    source, other = published(model, Format.BF16), published({"anisora": "phr00t", "phr00t": "anisora"}[model], Format.BF16)
    paths = {"high": other.sources["checkpoint"]} if model == "anisora" else {"checkpoint": other.sources["high"]}
    sentence = {
        "anisora": "it is an all-in-one file of ComfyUI, as Phr00t's are",
        "phr00t": "nothing in it begins with model.diffusion_model.",
    }

    with pytest.raises(PrepareError, match=sentence[model]):
        run(order_of(source, tmp_path, paths=paths))

    assert left_to_open(tmp_path) == []


def test_every_tensor_is_named_when_many_are_wrong(published: Publisher, tmp_path: Path) -> None:
    from runtime.lane.prepare.failures import PrepareError

    source = copied(published("phr00t", Format.BF16), tmp_path / "published")
    damage.of_clip_images(source)

    with pytest.raises(PrepareError) as raised:
        run(order_of(source, tmp_path / "models"))

    assert "more" in raised.value.text
    missing = [text for text in raised.value.details if "missing: vace_blocks.1." in text]
    # 27 tensors of the second control block: an unshortened list has every one.
    assert len(missing) > 20
    assert any("unexpected: model.diffusion_model.img_emb.proj.0.weight" in text for text in raised.value.details)


def test_either_name_of_the_embedding_will_do_when_a_file_has_one_or_both(published: Publisher, tmp_path: Path) -> None:
    from tests.unit.prepare.runs import contents
    from tests.unit.wan.files import rewrite

    prefix = "text_encoders.umt5xxl.transformer."
    shared, tied = f"{prefix}shared.weight", f"{prefix}encoder.embed_tokens.weight"
    made = {}
    for kind in ("shared", "tied", "both"):
        source = copied(published("phr00t", Format.BF16), tmp_path / kind)
        if kind == "tied":
            rewrite(source.sources["checkpoint"], lambda tensors: {tied if name == shared else name: one for name, one in tensors.items()})
        if kind == "both":
            rewrite(source.sources["checkpoint"], lambda tensors: tensors | {tied: tensors[shared].clone()})
        run(order_of(source, tmp_path / f"{kind}-models"))
        made[kind] = contents(tmp_path / f"{kind}-models" / "phr00t" / "text_encoder")

    assert made["shared"] == made["tied"] == made["both"]


def test_the_text_to_video_pair_is_prepared_when_both_are_given_and_refused_when_one_is(published: Publisher, tmp_path: Path) -> None:
    from runtime.lane.prepare.failures import Cause, PrepareError
    from tests.unit.prepare.runs import finished

    source = published("anisora", Format.BF16)

    told = run(order_of(source, tmp_path))
    pair = ["t2v_transformer", "t2v_transformer_2"]
    assert finished(told).manifest["parts"] == ["text_encoder", "vae", "transformer", "transformer_2", *pair]

    one = replace(source, sources={name: path for name, path in source.sources.items() if name != "t2v-low"})
    with pytest.raises(PrepareError, match="--t2v-high, --t2v-low go together") as raised:
        run(order_of(one, tmp_path / "other"))
    assert raised.value.cause is Cause.ASKED
