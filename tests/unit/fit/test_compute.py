"""The arithmetic of a pass is that of the facts, and times follow from it."""

from __future__ import annotations

import pytest

from runtime.fit.compute import DENOISING, PEAK_FLOPS, growth, least_denoising_s, pass_flops
from runtime.fit.gpus import GPUS
from runtime.rules.catalogue import MODELS


@pytest.mark.parametrize(
    ("model", "tokens", "peta"),
    [("anisora", 20_280, 0.83), ("anisora", 32_760, 1.68), ("anisora", 75_600, 6.52), ("phr00t", 32_760, 2.03), ("phr00t", 75_600, 7.86)],
)
def test_a_pass_has_the_operations_of_the_facts(model: str, tokens: int, peta: float) -> None:
    assert pass_flops(model, tokens) == pytest.approx(peta * 1e15, rel=0.01)


def test_least_time_is_that_of_the_facts_on_an_a10g() -> None:
    assert least_denoising_s("anisora", 32_760, "NVIDIA A10G") == pytest.approx(192, rel=0.01)
    assert least_denoising_s("phr00t", 32_760, "NVIDIA A10G", passes=4) == pytest.approx(116, rel=0.01)


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert least_denoising_s("anisora", 32_760, "CPU") is None
    assert least_denoising_s("another", 32_760, "NVIDIA A10G") is None


def test_a_token_takes_longer_in_a_larger_clip_and_no_less_in_a_smaller_one() -> None:
    assert growth(75_600, 32_760) == pytest.approx((6.52 / 75_600) / (1.68 / 32_760), rel=0.01)
    assert growth(32_760, 32_760) == growth(1, 32_760) == 1.0


def test_every_model_and_every_known_gpu_has_its_figures() -> None:
    assert DENOISING.keys() == MODELS.keys()
    assert PEAK_FLOPS.keys() == {limits.gpu for limits in GPUS.values()}
