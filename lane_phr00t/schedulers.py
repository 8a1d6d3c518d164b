"""The samplers that Phr00t's author advises, for a flow model over the "beta" schedule, as schedulers of diffusers' kind.

diffusers 0.42.1 has neither. Its Euler-ancestral scheduler knows no flow models; its FlowMatchEuler draws all noise anew at each step where
it is stochastic at all; its DPMSolverSDE knows no flow models and needs torchsde; its DPMSolverSinglestep has this solver's arithmetic, but
takes the middle of a step from its own evenly spaced levels, and draws the noise of a step's two halves independently.

In what follows a sample at noise level s, 0 to 1, is x = (1 - s) * data + s * noise, and the network predicts noise - data. So the data
that a prediction stands for is x - s * prediction. Factors are computed in double precision; tensors stay in the sample's type.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor

from lane_phr00t.schedule import TABLE_SIZE, beta_levels, finite_snr


class BetaFlowScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # diffusers is not followed by mypy
    """What both samplers share: the levels, and whose turn it is. The steps of a call come in order, once each.

    Attributes:
        order: evaluations of the network that make a step, but for the last step, which is always one.
        timesteps: of each evaluation, float32, as the network is told: 1000 times the noise level.
        sigmas: the noise level of each evaluation, float32 in host memory, and a 0.
        noise_source: noise is drawn from it, on its own device, when `step` is given no generator; pipelines give none.
    """

    order = 1

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, num_train_timesteps: int = TABLE_SIZE, shift: float = 8.0) -> None:
        """Keeps the configuration; `set_timesteps` comes before the first step."""
        self.noise_source: torch.Generator | None = None
        self.timesteps = torch.empty(0)
        self.sigmas = torch.zeros(1)
        self._levels: tuple[float, ...] = (0.0,)
        self._next = 0

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Begins a new call of so many steps."""
        levels = self._evaluated(beta_levels(num_inference_steps, self.config.shift))
        self.timesteps = torch.tensor([level * self.config.num_train_timesteps for level in levels], dtype=torch.float32, device=device)
        self.sigmas = torch.tensor([*levels, 0.0], dtype=torch.float32)
        self._levels = (*levels, 0.0)
        self._next = 0

    def scale_model_input(self, sample: torch.Tensor, *_: object) -> torch.Tensor:
        """The sample as it is: flow models want no other."""
        return sample

    def step(
        self,
        model_output: torch.Tensor,
        timestep: float | torch.Tensor,  # known from the order
        sample: torch.Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> Any:
        """The sample for the next evaluation, or the data after the last one, from a prediction for this sample.

        Raises:
            IndexError: there are no more evaluations in this call.
        """
        if self._next >= len(self.timesteps):
            msg = f"all {len(self.timesteps)} evaluations of the call have been given"
            raise IndexError(msg)
        data = sample - self._levels[self._next] * model_output.to(sample.dtype)
        is_last = self._next == len(self.timesteps) - 1
        moved = data if is_last else self._moved(sample, data, generator or self.noise_source)
        self._next += 1
        return SchedulerOutput(prev_sample=moved) if return_dict else (moved,)

    def _evaluated(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        """The noise level of each evaluation, from those of the steps."""
        return levels

    def _moved(self, sample: torch.Tensor, data: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """The sample for the next evaluation."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Training timesteps, as of every scheduler of diffusers."""
        return int(self.config.num_train_timesteps)


class FlowEulerAncestralScheduler(BetaFlowScheduler):
    """Euler-ancestral for flow models (`euler_a`): a step goes below its target level, and fresh noise takes the sample up to it.

    From level s to t it goes down to d = t * t / s by Euler's rule, which for straight paths is (d / s) * x + (1 - d / s) * data. There the
    data counts 1 - d and the noise d. A sample at t has 1 - t of data, so all of it is scaled by k = (1 - t) / (1 - d), which leaves k * d
    of noise; fresh noise is independent, so variances add up, and it must have t * t - (k * d) ** 2 of it. So every sample has the mean and
    the variance that the network was trained for at its level.
    """

    def _moved(self, sample: torch.Tensor, data: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        level, target = self._levels[self._next], self._levels[self._next + 1]
        below = target * target / level
        scale = (1.0 - target) / (1.0 - below)
        fresh = math.sqrt(target * target - (scale * below) ** 2)
        return sample * (scale * below / level) + data * (scale * (1.0 - below / level)) + _noise_like(sample, generator) * fresh


class FlowDpmSolverSdeScheduler(BetaFlowScheduler):
    """DPM-Solver++ (SDE) of second order for flow models (`dpmpp_sde`): two evaluations a step and one in the last, so 7 for 4 steps.

    Divided by its share of data, a sample is y = data + r * noise with the ratio r = s / (1 - s). In y the solver's first-order step from r
    to q, with this data, is

        y' = (q / r) ** 2 * y + (1 - (q / r) ** 2) * data + q * sqrt(1 - (q / r) ** 2) * noise

    A step goes that way to the middle of the logarithms, sqrt(r * q), asks the network for the data there, and takes the whole way from the
    beginning again, with that data. The noise of both is one Brownian motion, whose time is the noise level, at two moments: that of the
    whole step is that of its first half, and as much that is new as its second half lasts.
    """

    order = 2
    _whole_way: torch.Tensor | None = None
    """Within a step: what is known of its end before the middle is evaluated. One tensor, so that is all that waits on the device."""

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Begins a new call of so many steps."""
        super().set_timesteps(num_inference_steps, device)
        self._whole_way = None

    def _evaluated(self, levels: tuple[float, ...]) -> tuple[float, ...]:
        begun = finite_snr(levels, self.config.shift)
        pairs = ((level, _middle(level, target)) for level, target in pairwise(begun))
        return (*(level for pair in pairs for level in pair), begun[-1])

    def _moved(self, sample: torch.Tensor, data: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        if self._whole_way is None:
            level, middle, target = self._levels[self._next : self._next + 3]
            first_half = _noise_like(sample, generator)
            share = math.sqrt((level - middle) / (level - target))
            kept, _, fresh = _factors(level, target)
            self._whole_way = sample * kept + first_half * (fresh * share)
            kept, known, fresh = _factors(level, middle)
            return sample * kept + data * known + first_half * fresh
        level, middle, target = self._levels[self._next - 1 : self._next + 2]
        _, known, fresh = _factors(level, target)
        share = math.sqrt((middle - target) / (level - target))
        whole_way, self._whole_way = self._whole_way, None
        return whole_way + data * known + _noise_like(sample, generator) * (fresh * share)


def _middle(level: float, target: float) -> float:
    """The level whose log-SNR is the mean of both."""
    ratio = math.sqrt(_ratio(level) * _ratio(target))
    return ratio / (1.0 + ratio)


def _ratio(level: float) -> float:
    """Noise to data."""
    return level / (1.0 - level)


def _factors(level: float, target: float) -> tuple[float, float, float]:
    """Of the sample, of the data and of the noise in a first-order step between levels."""
    decay = (_ratio(target) / _ratio(level)) ** 2
    data = 1.0 - target
    return data / (1.0 - level) * decay, data * (1.0 - decay), target * math.sqrt(1.0 - decay)


def _noise_like(sample: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    # Drawn where the generator is: from one on the CPU, noise is the same on every device.
    noise: torch.Tensor = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
    return noise
