"""The attention kernel: chosen from what there is, refused where it cannot work, set for the lane's own transformers alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.unit.pipelines.jobs import ignore_stage, inner, make_job, make_request, settings
from tests.unit.pipelines.watching import catalog_of

pytestmark = pytest.mark.torch

A10G, H100, T4 = (8, 6), (9, 0), (7, 5)
ALL = frozenset({"flash_attn", "flash_attn_interface", "sageattention", "xformers"})


@pytest.mark.parametrize(
    ("capability", "is_half", "packages", "chosen"),
    [
        (None, False, ALL, "native"),
        (A10G, True, frozenset(), "native"),
        (A10G, True, {"flash_attn"}, "flash"),
        (A10G, True, {"flash_attn_interface"}, "native"),
        (H100, True, {"flash_attn", "flash_attn_interface"}, "_flash_3"),
        (H100, True, {"flash_attn"}, "flash"),
        (T4, True, ALL, "native"),
        (A10G, False, ALL, "native"),
        # It computes with 8-bit numbers.
        (A10G, True, {"sageattention", "xformers"}, "native"),
    ],
)
def test_the_fastest_of_the_same_picture_is_taken_when_the_choice_is_left(
    capability: tuple[int, int] | None, is_half: bool, packages: frozenset[str], chosen: str
) -> None:
    from runtime.lane.wan.attention import Offer, choose_backend

    assert choose_backend("auto", Offer(capability=capability, is_half=is_half, packages=frozenset(packages))) == chosen


@pytest.mark.parametrize(
    ("asked", "capability", "is_half", "packages", "reason"),
    [
        ("flash_hub", A10G, True, ALL, "there is no attention backend 'flash_hub': auto, native"),
        ("flash", None, True, ALL, "there is no GPU"),
        ("flash", T4, True, ALL, "needs a GPU of compute capability 8.0, this one has 7.5"),
        ("_flash_3", A10G, True, ALL, "capability 9.0"),
        ("sage", A10G, True, frozenset(), "the package sageattention is not installed"),
        ("_native_flash", A10G, False, ALL, "16 bits only"),
    ],
)
def test_a_backend_is_refused_with_the_reason_when_it_cannot_work(
    asked: str, capability: tuple[int, int] | None, is_half: bool, packages: frozenset[str], reason: str
) -> None:
    from runtime.lane.wan.attention import AttentionBackendError, Offer, choose_backend

    with pytest.raises(AttentionBackendError, match=reason):
        choose_backend(asked, Offer(capability=capability, is_half=is_half, packages=packages))


def test_every_backend_works_by_name_when_all_is_there() -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName

    from runtime.lane.wan.attention import BACKENDS, Offer, choose_backend

    for backend in BACKENDS:
        assert choose_backend(backend, Offer(capability=H100, is_half=True, packages=ALL)) == AttentionBackendName(backend).value


@pytest.mark.parametrize("placement", ["resident", "streamed_chunked"])
@pytest.mark.parametrize("model", ["anisora", "phr00t"])
def test_transformers_run_on_the_asked_kernel_and_no_others_do_when_it_is_set(models_dir: Path, model: str, placement: str) -> None:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    catalog, load_settings = catalog_of(model), settings(models_dir)
    weights = catalog.read(model, load_settings, ignore_stage)
    job = make_job(make_request(model, "i2v"), placement=placement)
    active = _AttentionBackendRegistry.get_active_backend()
    frames = {}
    for backend in ("auto", "native", "_native_math"):
        pipeline = catalog.assemble(model, weights, replace(load_settings, attention_backend=backend), ignore_stage)
        processors = {block.attn1.processor._attention_backend.value for block in inner(pipeline).transformer.blocks}
        assert processors == {"native" if backend == "auto" else backend}
        frames[backend] = pipeline.render(job)
        pipeline.release()

    assert np.array_equal(frames["auto"], frames["native"])
    # Another order of additions.
    assert np.abs(frames["auto"].astype(int) - frames["_native_math"]).max() <= 1
    assert _AttentionBackendRegistry.get_active_backend() == active


def test_load_fails_with_the_reason_when_the_asked_kernel_cannot_work(models_dir: Path) -> None:
    from runtime.lane.wan.attention import AttentionBackendError

    catalog, load_settings = catalog_of("phr00t"), settings(models_dir)
    weights = catalog.read("phr00t", load_settings, ignore_stage)

    with pytest.raises(AttentionBackendError, match="flash cannot work here: there is no GPU"):
        catalog.assemble("phr00t", weights, replace(load_settings, attention_backend="flash"), ignore_stage)
