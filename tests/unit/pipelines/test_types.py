"""What weights are stored in, and what is computed in, are two things."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from runtime.fit.ladder import ALL_TRANSFORMERS
from runtime.fit.placement import PLACEMENTS
from runtime.lane.memory.host import HostMemory
from tests.harness.prepared import write_manifest
from tests.unit.pipelines.jobs import inner, make_job, make_request
from tests.unit.pipelines.watching import BOTH, place, placed_parts

pytestmark = pytest.mark.torch

NAMES = tuple(placement.name for placement in PLACEMENTS)


def to_8_bits(folder: Path) -> None:
    """Stores the matrices of the blocks of both transformers and of the text encoder in 8 bits."""
    import torch
    from safetensors.torch import load_file, save_file

    for part in ("text_encoder", "transformer", "transformer_2"):
        for file in (folder / part).glob("*.safetensors"):
            tensors = load_file(file)
            for name, tensor in tensors.items():
                is_matrix = name.endswith(".weight") and tensor.ndim == 2
                if is_matrix and ".relative_attention_bias" not in name and "block" in name:
                    tensors[name] = tensor.to(torch.float8_e4m3fn)
            save_file(tensors, file)


@pytest.mark.parametrize("model", BOTH)
def test_no_activation_is_in_8_bits_when_weights_are(models_dir: Path, tmp_path: Path, model: str) -> None:
    import torch

    place(model, models_dir)
    shutil.copytree(models_dir / f"{model}-tiny-v1", tmp_path / model)
    to_8_bits(tmp_path / model)
    write_manifest(tmp_path / model, model)
    pipeline, memory = place(model, tmp_path, profile="a10g")
    small = [tensor for part in placed_parts(pipeline).values() for tensor in part.module.parameters() if tensor.dtype.itemsize == 1]
    assert len(small) > 30
    pipe = inner(pipeline)
    types = set()
    blocks = (*pipe.transformer.blocks, *pipe.text_encoder.encoder.block, *pipe.vae.decoder.up_blocks)
    hooks = [block.register_forward_pre_hook(lambda _, inputs: types.add(inputs[0].dtype)) for block in blocks]
    try:
        first, *others = (pipeline.render(make_job(make_request(model, "i2v"), placement=name)).astype(int) for name in NAMES)
    finally:
        for hook in hooks:
            hook.remove()

    assert types == {torch.bfloat16}
    assert all(np.abs(first - other).mean() < 1 for other in others)
    assert (pipe.transformer.dtype, pipe.text_encoder.dtype, pipe.vae.dtype) == (torch.bfloat16,) * 3
    assert pipe._execution_device == torch.device("cpu")
    pipeline.release()
    assert memory.live_bytes() == 0


class OldGpu(HostMemory):
    """A GPU as far as its name goes."""

    device = "cuda:0"


@pytest.mark.parametrize(("has_bfloat16", "others", "text"), [(True, "bfloat16", "bfloat16"), (False, "float16", "float32")])
def test_float16_is_computed_in_when_the_gpu_has_no_bfloat16(
    monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool, others: str, text: str
) -> None:
    import torch

    from runtime.lane.wan.components import compute_types

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16 or including_emulation)

    types = compute_types("a10g", OldGpu())

    assert types == {name: getattr(torch, others) for name in ("vae", *ALL_TRANSFORMERS)} | {"text_encoder": getattr(torch, text)}
    assert set(compute_types("tiny", OldGpu()).values()) == {torch.float32}


@pytest.mark.parametrize("model", BOTH)
def test_weights_stored_in_bfloat16_serve_when_float16_is_computed_in(
    models_dir: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from runtime.lane.wan import catalog

    plain, _ = place(model, models_dir)
    shutil.copytree(models_dir / f"{model}-tiny-v1", tmp_path / model)
    for file in (tmp_path / model).rglob("*.safetensors"):
        save_file({name: tensor.to(torch.bfloat16) for name, tensor in load_file(file).items()}, file)
    # Sampled as tiny parts are, which have no version.
    write_manifest(tmp_path / model, model, variant="mega-v11" if model == "phr00t" else "")
    types = dict.fromkeys(("vae", "transformer", "transformer_2"), torch.float16) | {"text_encoder": torch.float32}
    monkeypatch.setattr(catalog, "compute_types", lambda _profile, _memory: types)
    pipeline, memory = place(model, tmp_path, profile="a10g")
    seen = set()
    blocks = (*inner(pipeline).transformer.blocks, *inner(pipeline).vae.decoder.up_blocks)
    hooks = [block.register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].dtype)) for block in blocks]
    try:
        frames = pipeline.render(make_job(make_request(model, "i2v"), placement="streamed"))
    finally:
        for hook in hooks:
            hook.remove()

    assert seen == {torch.float16}
    expected = plain.render(make_job(make_request(model, "i2v"), placement="streamed"))
    assert np.abs(frames.astype(int) - expected).mean() < 2
    assert memory.live_bytes() == 0
