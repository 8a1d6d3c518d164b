"""What attempts showed about a placement of a model on a kind of GPU; kept across restarts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from admission.core.excess import Excess
from admission.core.tasks import Model
from runtime.values import quickly_made


class Place(NamedTuple):
    """Where something was learned. With empty `gpu` and `placement` it is about the model wherever it runs."""

    gpu: str
    model: Model
    placement: str


@cache
def everywhere(model: Model) -> Place:
    """The model, wherever it runs."""
    return Place("", model, "")


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How long renders took.

    Attributes:
        seconds_per_token: of a latent token, as a running mean over renders of any size.
        largest_tokens: of the largest clip that was measured.
        largest_seconds_per_token: of such clips, as a running mean. A small clip takes longer a token: what does not grow weighs more.
    """

    seconds_per_token: float
    largest_tokens: int
    largest_seconds_per_token: float


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """All that was learned about one place.

    Attributes:
        excesses: by phase, what was measured beyond what was predicted of the activations.
        rate: None while no render ended there.
    """

    place: Place
    excesses: Mapping[str, Excess] = field(default_factory=dict)
    rate: Rate | None = None
