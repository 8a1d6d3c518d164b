"""The leaner forward passes give what diffusers' own give, and leave nothing behind."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.torch

SIZE: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 16,
    "out_channels": 16,
    "ffn_dim": 48,
    "text_dim": 24,
    "rope_max_seq_len": 64,
}
NAMES = ("plain", "vace")


def build(name: str, seed: int = 3) -> Any:
    """A small transformer with random weights; the control layers do not lie evenly."""
    import torch
    from diffusers import WanTransformer3DModel, WanVACETransformer3DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "plain":
            return WanTransformer3DModel(num_layers=3, **SIZE).eval()
        return WanVACETransformer3DModel(num_layers=5, vace_layers=[0, 2, 3], vace_in_channels=24, **SIZE).eval()


def inputs_for(name: str, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """What a pipeline gives it: 3 latent frames of 10x12, so 90 tokens."""
    import torch

    generator = torch.Generator().manual_seed(11)
    inputs = {
        "hidden_states": torch.randn(1, 16, 3, 10, 12, generator=generator),
        "encoder_hidden_states": torch.randn(1, 7, 24, generator=generator),
    }
    if name == "vace":
        inputs["control_hidden_states"] = torch.randn(1, 24, 3, 10, 12, generator=generator)
        inputs["control_hidden_states_scale"] = torch.tensor([0.7, 1.0, 0.3])
    casted = {key: value.to(dtype or torch.float32) for key, value in inputs.items()}
    return casted | {"timestep": torch.tensor([700]), "return_dict": False}


def run(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    import torch

    with torch.inference_mode():
        out: torch.Tensor = model(**{key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in inputs.items()})[0]
    return out


def replaced(model: torch.nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_output_is_exactly_that_of_diffusers_when_hints_are_lazy(dtype: str) -> None:
    import torch

    from runtime.lane.wan.lean import leaner

    model, inputs = build("vace").to(getattr(torch, dtype)), inputs_for("vace", getattr(torch, dtype))
    expected = run(model, inputs)

    with leaner(model, lazy_hints=True, chunked=False):
        assert torch.equal(run(model, inputs), expected)
        assert torch.equal(model(**inputs | {"return_dict": True}).sample, expected)


def test_hints_are_computed_one_by_one_when_lazy() -> None:
    from runtime.lane.wan.lean import leaner

    model, order = build("vace"), list[str]()
    names = {module: name for name, module in model.named_modules()}
    for block in (*model.blocks, *model.vace_blocks):
        block.register_forward_pre_hook(lambda module, _: order.append(names[module]))

    with leaner(model, lazy_hints=True, chunked=False):
        run(model, inputs_for("vace"))

    assert order == [
        "vace_blocks.0", "blocks.0", "blocks.1", "blocks.2", "vace_blocks.1", "blocks.3", "vace_blocks.2", "blocks.4",
    ]  # fmt: skip


@pytest.mark.parametrize("is_padded", [False, True])
def test_scale_is_one_and_missing_control_is_padded_when_lazy(is_padded: bool) -> None:
    import torch

    from runtime.lane.wan.lean import leaner

    model, inputs = build("vace"), inputs_for("vace")
    del inputs["control_hidden_states_scale"]
    if is_padded:
        inputs["control_hidden_states"] = inputs["control_hidden_states"][:, :, :2]
    expected = run(model, inputs)

    with leaner(model, lazy_hints=True, chunked=False):
        assert torch.equal(run(model, inputs), expected)


def test_wrong_number_of_scales_is_refused_when_lazy() -> None:
    import torch

    from runtime.lane.wan.lean import leaner

    model = build("vace")
    with leaner(model, lazy_hints=True, chunked=False), pytest.raises(ValueError, match="2 control scales"):
        run(model, inputs_for("vace") | {"control_hidden_states_scale": torch.ones(2)})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 4e-2)])
@pytest.mark.parametrize("chunk", [7, 90, 1000])
def test_output_is_that_of_diffusers_when_chunked(
    name: str, dtype: str, tolerance: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from runtime.lane.wan import chunks, lean

    monkeypatch.setattr(chunks, "CHUNK_TOKENS", chunk)
    monkeypatch.setattr(lean, "CHUNK_TOKENS", chunk)
    model, inputs = build(name).to(getattr(torch, dtype)), inputs_for(name, getattr(torch, dtype))
    expected = run(model, inputs)

    with lean.leaner(model, lazy_hints=True, chunked=True):
        result = run(model, inputs)

    assert result.dtype == expected.dtype
    assert torch.allclose(result, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_cast_at_use_is_exactly_layerwise_casting_when_weights_are_in_8_bits(name: str, compute: str) -> None:
    import torch

    from runtime.lane.wan.lean import cast_at_use

    dtype = getattr(torch, compute)
    theirs, ours = build(name).to(dtype), build(name).to(dtype)
    theirs.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
    for module, stored in zip(ours.modules(), theirs.modules(), strict=True):
        for key, tensor in stored._parameters.items():
            if tensor is not None:
                module._parameters[key] = torch.nn.Parameter(tensor.detach().clone(), requires_grad=False)
    small = [tensor for tensor in ours.parameters() if tensor.dtype == torch.float8_e4m3fn]
    assert len(small) > 40

    cast_at_use(ours, dtype)
    result = run(ours, inputs_for(name, dtype))

    assert torch.equal(result, run(theirs, inputs_for(name, dtype)))
    assert result.dtype == dtype
    assert [tensor for tensor in ours.parameters() if tensor.dtype == torch.float8_e4m3fn] == small


def test_output_is_the_same_when_weights_need_no_cast() -> None:
    import torch

    from runtime.lane.wan.lean import cast_at_use

    model, inputs = build("vace"), inputs_for("vace")
    expected = run(model, inputs)
    cast_at_use(model, torch.float32)
    cast_at_use(model, torch.float32)

    assert torch.equal(run(model, inputs), expected)
    assert isinstance(model.blocks[0].attn1.to_q, torch.nn.Linear)


def test_text_encoder_computes_in_the_wanted_type_when_its_weights_are_in_8_bits() -> None:
    import torch

    from runtime.lane.wan.lean import cast_at_use
    from runtime.lane.wan.tiny import build_text_encoder, seeded

    with seeded(4):
        encoder = build_text_encoder()
    plain = build_text_encoder().to(torch.bfloat16)
    for name, owner in encoder.named_modules():
        if isinstance(owner, torch.nn.Linear):
            owner.weight.data = owner.weight.data.to(torch.float8_e4m3fn)
        elif name == "shared":
            owner.weight.data = owner.weight.data.to(torch.bfloat16)
    plain.load_state_dict(encoder.state_dict())
    cast_at_use(encoder, torch.bfloat16)

    with torch.inference_mode():
        ids = torch.tensor([[5, 9, 7, 1, 0]])
        result = encoder(ids, (ids > 0).long()).last_hidden_state
        expected = plain(ids, (ids > 0).long()).last_hidden_state

    assert result.dtype == torch.bfloat16
    assert torch.allclose(result, expected, atol=0.05, rtol=0.05)


def test_tensors_are_named_when_8_bits_would_set_the_type_of_the_computation() -> None:
    import torch

    from runtime.lane.wan.lean import cast_at_use

    model = build("plain")
    model.scale_shift_table.data = model.scale_shift_table.data.to(torch.float8_e4m3fn)
    model.condition_embedder.time_embedder.linear_1.weight.data = model.condition_embedder.time_embedder.linear_1.weight.data.to(
        torch.float8_e4m3fn
    )

    with pytest.raises(ValueError, match=r"condition_embedder\.time_embedder\.linear_1\.weight, scale_shift_table"):
        cast_at_use(model)


def test_image_attention_is_refused_when_made_leaner() -> None:
    from diffusers import WanTransformer3DModel

    from runtime.lane.wan.lean import leaner

    model = WanTransformer3DModel(num_layers=1, image_dim=8, added_kv_proj_dim=32, **SIZE)
    with pytest.raises(ValueError, match="image attention"), leaner(model, lazy_hints=True, chunked=True):
        pass


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_left_when_a_block_raises(name: str) -> None:
    import torch

    from runtime.lane.wan.lean import leaner

    model, inputs = build(name), inputs_for(name)
    seen: list[weakref.ref[Any]] = []

    def fail(_module: Any, arguments: tuple[Any, ...]) -> None:
        seen.extend(weakref.ref(tensor) for tensor in arguments if isinstance(tensor, torch.Tensor))
        raise ZeroDivisionError

    def run_leaner(model: Any) -> None:
        with leaner(model, lazy_hints=True, chunked=True):
            assert replaced(model)
            run(model, inputs)

    hook = model.blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        run_leaner(model)
    hook.remove()

    assert replaced(model) == []
    assert seen
    assert [tensor for tensor in seen if tensor() is not None] == []
    expected = run(model, inputs)
    watch = weakref.ref(model)
    del model, hook
    gc.collect()
    assert watch() is None
    assert expected.shape == (1, 16, 3, 10, 12)


def test_the_outer_replacement_is_back_when_an_inner_one_ends() -> None:
    from runtime.lane.wan.forwards import replaced_forwards

    model = build("plain")
    with replaced_forwards([(model, lambda: "outer")]):
        with replaced_forwards([(model, lambda: "inner")]):
            assert model() == "inner"
        assert model() == "outer"
    assert replaced(model) == []
