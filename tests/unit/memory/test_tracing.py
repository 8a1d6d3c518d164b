"""The traced figures are those of the networks that run, and of all of their parts that matter."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel, WanVACETransformer3DModel
from torch._subclasses.fake_tensor import FakeTensorMode

from runtime.fit.cost import Shape
from runtime.fit.traced import TRACED
from runtime.lane.memory.account import TensorAccount
from runtime.lane.wan.latents import decode_frames
from runtime.lane.wan.tiny import build_vae
from runtime.lane.wan.tracing import differences
from runtime.lane.wan.tracing_networks import Kernels, Subject, subjects
from runtime.lane.wan.tracing_phases import peak_bytes

pytestmark = pytest.mark.torch

_SUBJECTS = {subject.key: subject for subject in subjects()}
_SMALL = Shape(width=256, height=256, num_frames=5)
_GIB = 2**30
_VARIANTS = ("denoise", "denoise_lazy", "denoise_chunked")


@pytest.fixture(scope="module", params=list(_SUBJECTS))
def subject(request: pytest.FixtureRequest) -> Subject:
    """Each model in each profile."""
    return _SUBJECTS[str(request.param)]


# AniSora's real network has no part that Phr00t's has not.
@pytest.mark.parametrize("key", [pytest.param(key, marks=[pytest.mark.long] if key == "anisora" else []) for key in _SUBJECTS])
def test_the_shipped_figures_hold_when_one_size_is_traced_again(key: str) -> None:
    assert list(differences(_SUBJECTS[key], TRACED[key], is_quick=True)) == []


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_shipped_figures_hold_when_other_sizes_are_traced(subject: Subject) -> None:
    assert list(differences(subject, TRACED[subject.key], is_quick=False)) == []


@pytest.mark.parametrize("variant", _VARIANTS)
def test_the_peak_stays_when_an_expert_has_more_blocks(variant: str) -> None:
    two, six = (peak_bytes(_expert(layers), variant, _SMALL) for layers in (2, 6))
    assert two == six


@pytest.mark.parametrize("variant", _VARIANTS)
def test_the_peak_stays_when_a_control_network_has_more_main_blocks(variant: str) -> None:
    some, more = (peak_bytes(_control(2, layers), variant, _SMALL) for layers in (3, 7))
    assert some == more


@pytest.mark.long
@pytest.mark.parametrize("variant", _VARIANTS)
@pytest.mark.parametrize("model", ["anisora", "phr00t"])
def test_the_peak_is_that_of_all_blocks_when_few_are_traced(model: str, variant: str) -> None:
    few, whole = (peak_bytes(_SUBJECTS[model], variant, _SMALL, is_whole=is_whole) for is_whole in (False, True))
    assert few == whole


@pytest.mark.parametrize("name", ["encode", "encode_tiled", "decode", "decode_tiled"])
def test_the_peak_stays_when_chunks_and_tiles_of_a_tiny_vae_are_replayed(name: str) -> None:
    _check_replay("phr00t-tiny", name)


@pytest.mark.long
@pytest.mark.parametrize("name", ["encode", "encode_tiled", "decode", "decode_tiled"])
def test_the_peak_stays_when_chunks_and_tiles_of_a_real_vae_are_replayed(name: str) -> None:
    _check_replay("anisora", name)


def _check_replay(key: str, name: str) -> None:
    # Two by two tiles of three sizes, five chunks: beyond those after which all are alike.
    shape = Shape(width=272, height=320, num_frames=17)
    replayed, run = (peak_bytes(_SUBJECTS[key], name, shape, is_whole=is_whole) for is_whole in (False, True))
    assert run <= replayed <= run * 1.005


def _expert(layers: int) -> Subject:
    def build(_name: str, _is_whole: bool) -> Any:
        with torch.device("meta"):
            return WanTransformer3DModel(in_channels=36, out_channels=16, num_layers=layers)

    return replace(_SUBJECTS["anisora"], build=build)


def _control(control_layers: int, layers: int = 9) -> Subject:
    def build(_name: str, _is_whole: bool) -> Any:
        with torch.device("meta"):
            return WanVACETransformer3DModel(in_channels=16, out_channels=16, num_layers=layers, vace_layers=list(range(control_layers)))

    return replace(_SUBJECTS["phr00t"], build=build)


def test_every_control_layer_counts_when_hints_are_computed_at_once() -> None:
    shape = Shape(width=832, height=480, num_frames=81)
    peaks = {(count, name): peak_bytes(_control(count), name, shape) for count in (4, 8) for name in ("denoise", "denoise_lazy")}
    hint_bytes = shape.tokens * 5120 * 2
    # One float32 of a layer's scale more or less is all the rest.
    assert peaks[8, "denoise"] - peaks[4, "denoise"] == pytest.approx(4 * hint_bytes, rel=1e-3)
    assert peaks[8, "denoise_lazy"] == pytest.approx(peaks[4, "denoise_lazy"], rel=1e-6)


def test_the_meta_device_gives_the_figures_of_fake_tensors() -> None:
    def forward(account: TensorAccount, expert: Any, device: str) -> int:
        make = partial(torch.empty, device=device)
        latents, embeds, step = make(1, 36, 2, 32, 32), make(1, 512, 4096), torch.zeros(1, dtype=torch.int64, device=device)
        expert(latents, step, embeds, return_dict=False)
        return account.peak_bytes

    build = partial(WanTransformer3DModel, in_channels=36, out_channels=16, num_layers=1)
    with torch.no_grad(), Kernels(has_fused_norm=True):
        with torch.device("meta"):
            expert = build()
        with TensorAccount(counts_meta=True) as meta:
            on_meta = forward(meta, expert, "meta")
        with FakeTensorMode():
            expert = build()
            with TensorAccount() as fake:
                on_fake = forward(fake, expert, "cpu")
    assert on_meta == pytest.approx(on_fake, rel=0.001)


def test_the_trace_is_what_the_budget_sees_when_a_real_tiny_clip_is_decoded() -> None:
    shape = Shape(width=256, height=256, num_frames=9)
    traced = peak_bytes(_SUBJECTS["anisora-tiny"], "decode", shape)
    vae, latents = build_vae(), torch.zeros(1, 16, 3, 32, 32)
    account = TensorAccount()
    with torch.inference_mode(), account:
        decode_frames(vae, latents.clone())
    assert account.peak_bytes <= traced <= account.peak_bytes * 1.02


@pytest.mark.parametrize(
    ("model", "name", "size", "gib"),
    [
        ("anisora", "denoise", (832, 480, 49), 2.17),
        ("anisora", "denoise", (832, 480, 81), 3.49),
        ("anisora", "denoise", (1280, 720, 81), 8.02),
        ("phr00t", "denoise", (832, 480, 49), 3.92),
        ("phr00t", "denoise", (832, 480, 81), 6.32),
        ("phr00t", "denoise", (1280, 720, 81), 14.56),
        ("anisora", "encode", (832, 480, 81), 2.95),
        ("anisora", "encode", (1280, 720, 81), 6.81),
        ("anisora", "decode", (832, 480, 81), 3.95),
        ("anisora", "decode", (1280, 720, 81), 9.11),
    ],
)
def test_a_real_prediction_is_near_the_known_floor(model: str, name: str, size: tuple[int, int, int], gib: float) -> None:
    """Against facts/models.md, section 4 ([fake] tables), where the pipeline's own tensors beside the forward pass are not counted."""
    width, height, frames = size
    predicted = TRACED[model].activations[name].bytes_at(Shape(width=width, height=height, num_frames=frames))
    assert gib * 0.995 <= predicted / _GIB <= gib * 1.07


def test_real_weights_have_the_known_sizes_when_stored_in_8_bits() -> None:
    """Against facts/models.md, section 4: component sizes."""
    sizes = {part.name: part.total_bytes / _GIB for part in TRACED["anisora"].parts["fp8"].parts}
    assert sizes["transformer"] == sizes["transformer_2"] == pytest.approx(13.53, abs=0.01)
    assert sizes["vae"] == pytest.approx(0.24, abs=0.01)
    vace = {part.name: part.total_bytes / _GIB for part in TRACED["phr00t"].parts["fp8"].parts}
    assert vace["transformer"] == pytest.approx(16.37, abs=0.01)
    assert {part.name: part.total_bytes / _GIB for part in TRACED["phr00t"].parts["bf16"].parts}["transformer"] == pytest.approx(
        32.29, abs=0.01
    )
