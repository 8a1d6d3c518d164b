"""Phr00t's samplers, step by step in double precision against what is written out here plainly, against diffusers' own, and in the lane."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lane_phr00t.params import Sampler
from lane_phr00t.schedule import beta_levels, beta_quantile
from tests.harness.prepared import write_manifest
from tests.unit.pipelines.jobs import inner, load, make_job, make_request, settings

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from runtime.lane.renderer import Pipeline

pytestmark = pytest.mark.torch

SHAPE = (1, 2, 3, 4, 5)


def scheduler(sampler: str, shift: float = 8.0) -> Any:
    from lane_phr00t.pipeline import make_scheduler

    return make_scheduler(shift, Sampler(sampler))


def network(sample: torch.Tensor, level: float) -> torch.Tensor:
    """A prediction that depends on both, and on neither evenly."""
    import torch

    return torch.sin(3.0 * sample) + level * sample - 0.3


def walked(of: Any, steps: int = 4, seed: int = 3) -> list[torch.Tensor]:
    """What the scheduler gives after each evaluation, in double precision."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    of.set_timesteps(steps)
    of.noise_source = generator
    sample = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    seen = []
    # The network is asked at the levels themselves: the timesteps say the same, rounded to single precision.
    for level, timestep in zip(of._levels, of.timesteps, strict=False):
        assert float(timestep) == pytest.approx(1000.0 * level, rel=1e-6)
        (sample,) = of.step(network(sample, level), timestep, sample, return_dict=False)
        seen.append(sample)
    return seen


def plain_levels(steps: int, shift: float) -> list[float]:
    """The beta schedule by its definition: a table, and the quantiles of a density that is summed up and looked into."""
    table = [shift * t / (1 + (shift - 1) * t) for t in np.arange(1, 1001) / 1000]
    # x = (1 - cos u) / 2 takes the infinities from both ends of x ** -0.4 * (1 - x) ** -0.4.
    u = np.linspace(0, np.pi, 400_001)
    density = (np.sin(u) / 2) ** 0.2
    grown = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    levels = []
    for step in range(steps):
        at = np.interp(1 - step / steps, grown / grown[-1], u)
        entry = int(np.rint((1 - np.cos(at)) / 2 * 999))
        if table[entry] not in levels:
            levels.append(table[entry])
    return levels


@pytest.mark.parametrize("shift", [8.0, 12.0])
@pytest.mark.parametrize("steps", [1, 4, 9])
def test_levels_are_those_of_the_definition_when_steps_are_spread(steps: int, shift: float) -> None:
    assert beta_levels(steps, shift) == pytest.approx(plain_levels(steps, shift), abs=1e-12)


def test_timesteps_are_the_known_ones_when_four_steps_are_asked() -> None:
    for sampler, shift, known in [
        ("euler_a", 8.0, [1000, 974, 889, 632]),
        ("euler_a", 12.0, [1000, 983, 923, 721]),
        ("dpmpp_sde", 8.0, [1000, 999, 974, 945, 889, 788, 632]),
    ]:
        made = scheduler(sampler, shift)
        made.set_timesteps(4)
        assert [round(one) for one in made.timesteps.tolist()] == known


def test_levels_differ_from_those_of_diffusers_as_documented_when_shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from diffusers.schedulers import scheduling_flow_match_euler_discrete as theirs

    # It takes the quantiles from scipy, which is not installed here.
    scipy = SimpleNamespace(stats=SimpleNamespace(beta=SimpleNamespace(ppf=lambda probability, _a, _b: beta_quantile(probability))))
    monkeypatch.setattr(theirs, "scipy", scipy, raising=False)
    monkeypatch.setattr(theirs, "is_scipy_available", lambda: True)
    made = theirs.FlowMatchEulerDiscreteScheduler(shift=8.0, use_beta_sigmas=True)
    made.set_timesteps(4)

    assert made.sigmas.tolist() == pytest.approx([1.0, 0.741, 0.319, 0.060, 0.0], abs=5e-4)
    assert beta_levels(4, 8.0) == pytest.approx([1.0, 0.974, 0.889, 0.632], abs=5e-4)


def plain_euler_ancestral(levels: list[float], draw: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
    """Euler-ancestral for rectified flow, its amount of fresh noise (eta) left in as a number."""
    eta, sample, seen = 1.0, draw(), []
    for level, target in zip(levels, [*levels[1:], 0.0], strict=True):
        data = sample - level * network(sample, level)
        if target == 0.0:
            sample = data
        else:
            below = target * (1 + (target / level - 1) * eta)
            slope = (sample - data) / level
            sample = sample + slope * (below - level)
            shrunk = (1 - target) / (1 - below)
            sample = shrunk * sample + draw() * (target**2 - below**2 * shrunk**2) ** 0.5
        seen.append(sample)
    return seen


def plain_dpmpp_sde(levels: list[float], draw: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
    """DPM-Solver++ (SDE) by half log-SNR, with the noise of a Brownian motion over the levels."""
    sample, seen = draw(), []
    levels = [8 * 0.9999 / (1 + 7 * 0.9999), *levels[1:]]

    def move(sample: torch.Tensor, data: torch.Tensor, start: float, end: float, increment: torch.Tensor) -> torch.Tensor:
        begin, finish = (math.log((1 - one) / one) for one in (start, end))
        up = math.exp(-finish) * math.sqrt(1 - math.exp(2 * (begin - finish)))
        down = math.sqrt(math.exp(-2 * finish) - up**2)
        h = -math.log(down) - begin
        alpha_start, alpha_end = 1 - start, 1 - end
        noise = increment / math.sqrt(start - end)
        kept = sample * (alpha_end / alpha_start * math.exp(-h))
        return kept - data * (alpha_end * math.expm1(-h)) + noise * (alpha_end * up)

    for level, target in zip(levels, [*levels[1:], 0.0], strict=True):
        data = sample - level * network(sample, level)
        if target == 0.0:
            seen.append(data)
            continue
        middle = 1 / (1 + math.exp((math.log((1 - level) / level) + math.log((1 - target) / target)) / 2))
        to_middle = draw() * (level - middle) ** 0.5
        between = move(sample, data, level, middle, to_middle)
        seen.append(between)
        data = between - middle * network(between, middle)
        from_middle = draw() * (middle - target) ** 0.5
        sample = move(sample, data, level, target, to_middle + from_middle)
        seen.append(sample)
    return seen


@pytest.mark.parametrize(
    ("sampler", "plain", "evaluations"),
    [("euler_a", plain_euler_ancestral, 4), ("dpmpp_sde", plain_dpmpp_sde, 7)],
    ids=["euler_a", "dpmpp_sde"],
)
def test_every_step_is_that_of_the_reference_when_sampled(sampler: str, plain: Any, evaluations: int) -> None:
    import torch

    generator = torch.Generator().manual_seed(3)

    expected = plain(plain_levels(4, 8.0), lambda: torch.randn(SHAPE, generator=generator, dtype=torch.float64))
    seen = walked(scheduler(sampler))

    assert len(seen) == len(expected) == evaluations
    for ours, theirs in zip(seen, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers 0.42.1 with numpy 2
def test_dpmpp_sde_is_that_of_diffusers_when_it_is_given_the_levels_and_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from diffusers import DPMSolverSinglestepScheduler
    from diffusers.schedulers import scheduling_dpmsolver_singlestep as module

    ours = walked(scheduler("dpmpp_sde"))
    levels = scheduler("dpmpp_sde")
    levels.set_timesteps(4)
    sigmas = levels._levels
    generator = torch.Generator().manual_seed(3)
    sample = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    noises = []
    for first in (0, 2, 4):
        one, two = (torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
        level, middle, target = sigmas[first : first + 3]
        noises += [one, (one * (level - middle) ** 0.5 + two * (middle - target) ** 0.5) / (level - target) ** 0.5]
    drawn = iter([*noises, torch.zeros(SHAPE, dtype=torch.float64)])
    monkeypatch.setattr(module, "randn_tensor", lambda *_args, **_named: next(drawn))
    theirs = DPMSolverSinglestepScheduler(
        solver_order=2, algorithm_type="sde-dpmsolver++", prediction_type="flow_prediction", use_flow_sigmas=True, lower_order_final=True
    )
    theirs.set_timesteps(7)
    theirs.sigmas = torch.tensor(sigmas, dtype=torch.float64)
    theirs.set_begin_index(0)

    for level, expected in zip(sigmas[:-1], ours, strict=True):
        (sample,) = theirs.step(network(sample, level), torch.tensor(0), sample, return_dict=False)
        assert torch.allclose(sample, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", ["euler_a", "dpmpp_sde"])
def test_samples_keep_the_mean_and_variance_of_their_level_when_the_data_is_known(sampler: str) -> None:
    import torch

    data, count = 2.0, 200_000
    made, generator = scheduler(sampler), torch.Generator().manual_seed(1)
    made.set_timesteps(4)
    sample = torch.randn(count, generator=generator, dtype=torch.float64)
    if sampler == "dpmpp_sde":  # its first level is just below 1
        sample = made._levels[0] * sample + (1 - made._levels[0]) * data

    for index, (level, target) in enumerate(zip(made._levels, made._levels[1:], strict=False)):
        (sample,) = made.step((sample - data) / level, made.timesteps[index], sample, generator=generator, return_dict=False)
        assert float(sample.mean()) == pytest.approx((1 - target) * data, abs=0.01)
        assert float(sample.std()) == pytest.approx(target, abs=0.01)


@pytest.mark.parametrize("sampler", ["euler_a", "dpmpp_sde"])
def test_nothing_is_kept_and_all_is_repeatable_when_calls_follow_each_other(sampler: str) -> None:
    import torch

    made = scheduler(sampler)
    first = walked(made)

    with pytest.raises(IndexError, match="have been given"):
        made.step(first[0], 0.0, first[0])
    assert [value for value in vars(made).values() if isinstance(value, torch.Tensor) and value.shape == SHAPE] == []
    # Also in the middle of a step: a call that was cut off leaves nothing to the next one.
    made.set_timesteps(4)
    made.step(first[0], made.timesteps[0], first[0])
    assert all(torch.equal(one, other) for one, other in zip(walked(made), first, strict=True))
    assert not torch.equal(walked(made, seed=4)[0], first[0])


@pytest.mark.parametrize("sampler", ["euler_a", "dpmpp_sde"])
def test_samples_stay_in_single_precision_when_the_network_predicts_in_half(sampler: str) -> None:
    import torch

    made = scheduler(sampler)
    made.set_timesteps(4)
    sample = torch.zeros(SHAPE)
    for timestep in made.timesteps:
        sample = made.step(torch.zeros(SHAPE, dtype=torch.bfloat16), timestep, sample).prev_sample
        assert sample.dtype == torch.float32
    assert type(made).from_config(made.config).config.shift == 8.0


def versioned(models_dir: Path, tmp_path: Path, variant: str) -> Path:
    """A folder of models in which tiny Phr00t says that it is of this variant."""
    from lane_phr00t.pipeline import catalog

    catalog.ladder("phr00t", settings(models_dir))  # makes the parts where they are missing
    shutil.copytree(models_dir / "phr00t-tiny-v1", tmp_path / "phr00t-tiny-v1")
    write_manifest(tmp_path / "phr00t-tiny-v1", "phr00t", variant=variant)
    return tmp_path


def asked(pipeline: Pipeline, steps: list[tuple[int, int]]) -> list[int]:
    """The timesteps at which the transformer is asked in a render; notes what is told of the steps."""
    seen: list[int] = []
    hook = inner(pipeline).transformer.register_forward_pre_hook(
        lambda _module, _args, named: seen.append(round(float(named["timestep"]))), with_kwargs=True
    )
    try:
        pipeline.render(make_job(make_request("phr00t"), lambda step, of: steps.append((step, of)), placement="streamed"))
    finally:
        hook.remove()
    return seen


@pytest.mark.parametrize(("variant", "evaluations"), [("mega-v11", 4), ("mega-v12", 7)])
def test_sampler_is_the_advised_one_when_the_checkpoint_tells_its_version(
    models_dir: Path, tmp_path: Path, variant: str, evaluations: int
) -> None:
    from lane_phr00t.pipeline import catalog

    steps: list[tuple[int, int]] = []
    pipeline = load(catalog, "phr00t", settings(versioned(models_dir, tmp_path, variant)))

    timesteps = asked(pipeline, steps)

    assert len(timesteps) == evaluations
    assert timesteps == sorted(timesteps, reverse=True)
    # However many evaluations a step has, it is told once.
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    job = make_job(make_request("phr00t", "i2v"))
    assert np.array_equal(pipeline.render(job), pipeline.render(job))


def test_load_fails_when_the_version_has_no_sampler(models_dir: Path, tmp_path: Path) -> None:
    from lane_phr00t.pipeline import catalog
    from runtime.lane.wan.manifest import ManifestError

    with pytest.raises(ValueError, match="mega-v2"):
        load(catalog, "phr00t", settings(versioned(models_dir, tmp_path, "mega-v2")))
    (tmp_path / "phr00t-tiny-v1" / "manifest.json").write_text("{")
    with pytest.raises(ManifestError, match="damaged"):
        load(catalog, "phr00t", settings(tmp_path))
