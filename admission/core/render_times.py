"""How long renders take, learned from those that ended; with nothing measured yet it says nothing."""

from __future__ import annotations

from collections.abc import Iterable

from admission.core.learned import Learned, Place, Rate, everywhere
from admission.core.tasks import Model, Task
from runtime.fit.compute import growth, least_denoising_s

# Weight of the newest render in the running mean: follows a change of a lane within a few renders, and one odd render does not tip it.
_NEWEST = 0.3
# A clip of at least this part of the largest one measured counts as one of its size.
_SAME_SIZE = 0.5
# A prediction that refuses someone must not reach further than to clips of so many times the largest measured: what does not grow with a
# clip (weights that stream, the text encoder) is at most so much overrated then.
_REACH = 4
# Of a GPU's peak, what a render is taken to reach until one was measured. Too low a figure lets a render that hangs go on for longer; too
# high a one ends renders that would have come to their end.
_ASSUMED_SHARE_OF_PEAK = 0.35


# Made once: it is asked at every lease.
_NUMBER = int | float


class RenderTimes:
    """Seconds per latent token, by GPU, model and placement, and over all of a model. A denoising step grows with the tokens."""

    def __init__(self) -> None:
        """Nothing measured."""
        self.version = 0
        self._rates: dict[Place, Rate] = {}
        self._slowest: dict[Model, float] = {}

    def restore(self, learned: Iterable[Learned]) -> None:
        """Takes over what was learned before the restart."""
        for one in learned:
            if one.rate is not None:
                self._rates[one.place] = one.rate
                self._note(one.place.model, None, one.rate)

    def observe(self, task: Task, render_s: float, place: Place | None = None) -> tuple[Place, ...]:
        """Learns from a finished render, of the place and of the model; the places of which it learned."""
        if render_s <= 0 or task.tokens <= 0:
            return ()
        anywhere = everywhere(task.model)
        places = (anywhere,) if place is None or place == anywhere else (anywhere, place)
        for one in places:
            known = self._rates.get(one)
            rate = self._rates[one] = _observed(known, render_s / task.tokens, task.tokens)
            self._note(task.model, known, rate)
        return places

    def rate(self, place: Place) -> Rate | None:
        """What was measured there, and nowhere else."""
        return self._rates.get(place)

    def seconds_per_token(self, model: Model, place: Place | None = None) -> float | None:
        """Of a whole render there, or else anywhere; None when nothing of the model was measured."""
        rate = self._known(model, place)
        return None if rate is None else rate.seconds_per_token

    def predicted_s(self, task: Task, place: Place | None = None) -> float | None:
        """Seconds the whole render will take; None when nothing of the model was measured."""
        per_token = self.seconds_per_token(task.model, place)
        return None if per_token is None else per_token * task.tokens

    def generous_s(self, task: Task, place: Place | None = None, gpu: str = "") -> float | None:
        """Seconds that the whole render may well take, for a deadline that must not end a good one; None when nothing can be said.

        Of a clip that is larger than any measured, more than its share by tokens, as attention grows with their square. With nothing
        measured it is calculated for the GPU. A second pass in each step, for guidance, takes as long as the first.
        """
        rate = self._known(task.model, place)
        if rate is None:
            least_s = least_denoising_s(task.model, task.tokens, gpu)
            expected_s = None if least_s is None else least_s / _ASSUMED_SHARE_OF_PEAK
        else:
            per_token_s = max(rate.seconds_per_token, rate.largest_seconds_per_token)
            expected_s = per_token_s * task.tokens * growth(task.tokens, rate.largest_tokens)
        return None if expected_s is None else expected_s * (2 if _has_guidance(task) else 1)

    def remaining_s(self, task: Task, place: Place | None = None) -> float | None:
        """Seconds a running render still needs, by its progress."""
        whole = self.predicted_s(task, place)
        return None if whole is None else whole * (100 - task.progress) / 100

    def may_exceed(self, model: Model, tokens: int, limit_s: float) -> bool:
        """Whether `certain_s` can be over the limit anywhere: nearly always it cannot, and this is one multiplication."""
        return self._slowest.get(model, 0.0) * tokens > limit_s

    def certain_s(self, model: Model, tokens: int, place: Place | None = None) -> float | None:
        """Seconds that a render of so many tokens takes at least; None when nothing of the model was measured.

        A clip that is much larger than any measured takes at least as long as the largest that can be predicted.
        """
        rate = self._known(model, place)
        return None if rate is None else _least(rate) * min(tokens, _REACH * rate.largest_tokens)

    def _known(self, model: Model, place: Place | None) -> Rate | None:
        found = None if place is None else self._rates.get(place)
        return self._rates.get(everywhere(model)) if found is None else found

    def _note(self, model: Model, before: Rate | None, rate: Rate) -> None:
        """Keeps the slowest of the model's places; looks at all of them only when the one that was it is quicker now."""
        self.version += 1
        slowest, least = self._slowest.get(model, 0.0), _least(rate)
        if least >= slowest:
            self._slowest[model] = least
        elif before is not None and _least(before) >= slowest:
            self._slowest[model] = max([_least(one) for place, one in self._rates.items() if place.model == model])


def _has_guidance(task: Task) -> bool:
    scale = task.parameters.get("guidance_scale")
    return isinstance(scale, _NUMBER) and scale > 1


def _least(rate: Rate) -> float:
    return min(rate.seconds_per_token, rate.largest_seconds_per_token)


def _observed(known: Rate | None, seconds_per_token: float, tokens: int) -> Rate:
    if known is None:
        return Rate(seconds_per_token=seconds_per_token, largest_tokens=tokens, largest_seconds_per_token=seconds_per_token)
    largest = known.largest_seconds_per_token
    if known.largest_tokens < _SAME_SIZE * tokens:
        largest = seconds_per_token
    elif tokens >= _SAME_SIZE * known.largest_tokens:
        largest += _NEWEST * (seconds_per_token - largest)
    return Rate(
        seconds_per_token=known.seconds_per_token + _NEWEST * (seconds_per_token - known.seconds_per_token),
        largest_tokens=max(tokens, known.largest_tokens),
        largest_seconds_per_token=largest,
    )
