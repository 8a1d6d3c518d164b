"""Step 2 of the design, Fit: which requests no lane can serve, what would do instead, and what a client may ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from admission.core.commands import Refusal, RefusalCode
from admission.core.fit import ANYHOW, SHAPES_KEPT, Fit, Group, ShapeKey, shape_of
from admission.core.learned import Place
from admission.core.tasks import Model
from runtime.fit.cost import Shape
from runtime.fit.predict import largest_frames, largest_size

if TYPE_CHECKING:
    from admission.core.state import State

_NO_MULTIPLE = 4
"""Clips have 4k + 1 frames unless the rules of the model say otherwise: the VAE makes one latent frame of four."""

COMMON_SIZES = ((480, 832), (832, 480), (720, 1280), (1280, 720), (640, 640), (512, 512))
"""Width and height of the sizes that people ask for, in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """The lanes that decide about a model.

    Attributes:
        groups: alike lanes with the largest budget among them, in bytes.
        is_open: the memory of some lane is not known, so anything may fit there.
    """

    groups: tuple[tuple[Group, int], ...]
    is_open: bool

    def fits(self, key: ShapeKey) -> Iterator[tuple[Place | None, Fit]]:
        """Where the request fits: the place and how; the place is None for a lane of which nothing is known."""
        for group, budget_bytes in self.groups:
            fit = group.fit(key, budget_bytes)
            if fit is not None:
                yield Place(group.gpu, group.model, fit.placement), fit
        if self.is_open:
            yield None, ANYHOW


@dataclass(slots=True, kw_only=True)
class Verdicts:
    """What was found out about shapes, until something is learned or a lane changes. Bounded. `versions` are those of fits and times."""

    versions: tuple[int, int] = (0, 0)
    bases: dict[Model, Basis] = field(default_factory=dict)
    of: dict[tuple[Model, ShapeKey], Refusal | None] = field(default_factory=dict)

    def renew(self, versions: tuple[int, int]) -> None:
        """Forgets what is out of date, or too much. The bases do not depend on times, which change with every render."""
        if self.versions != versions:
            if self.versions[0] != versions[0]:
                self.bases.clear()
            self.versions = versions
            self.of.clear()
        elif len(self.of) >= SHAPES_KEPT:
            self.of.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeLimit:
    """The longest clip of a size, in any mode; see `warmlane.admission.v1.SizeLimit`. `predicted_s` is None while nothing was measured."""

    width: int
    height: int
    max_num_frames: int
    placement: str
    predicted_peak_bytes: int
    predicted_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLimits:
    """What a client may ask for; `gpus` decided. `text_to_video_weights` are those of known lanes; see `warmlane.admission.v1.Model`."""

    gpus: tuple[str, ...]
    sizes: tuple[SizeLimit, ...]
    text_to_video_weights: tuple[str, ...] = ()


def refusal(state: State, model: Model, key: ShapeKey | None) -> Refusal | None:
    """Why no known lane can serve a request of this shape; None: one can. Lanes that are away count: they may come back."""
    if key is None:
        return None
    verdicts = state.verdicts
    verdicts.renew((state.fits.version, state.times.version))
    try:
        return verdicts.of[model, key]
    except KeyError:
        found = verdicts.of[model, key] = _refusal(state, model, key)
        return found


def limits(state: State, model: Model) -> ModelLimits:
    """The longest clips of common sizes."""
    basis = _basis(state, model)
    gpus = dict.fromkeys(group.gpu for group, _ in basis.groups)
    weights = dict.fromkeys(group.text_to_video_weights for lane in state.lanes.values() if (group := lane.groups.get(model)) is not None)
    return ModelLimits(
        gpus=tuple(gpus),
        sizes=tuple(_size_limit(state, basis, model, *size) for size in COMMON_SIZES),
        text_to_video_weights=tuple(sorted(weights.keys() - {""})),
    )


def _refusal(state: State, model: Model, key: ShapeKey) -> Refusal | None:
    basis = _basis(state, model)
    if next(basis.fits(key), None) is None:
        return _too_large(state, basis, model, key)
    limit_s = state.limits.render_deadline_max_s
    shape = shape_of(key)
    if not state.times.may_exceed(model, shape.tokens, limit_s):
        return None
    best_s = _best_s(state, basis, model, key)
    if best_s is None or best_s <= limit_s:
        return None
    frames, size = _what_does(state, model, shape, lambda one: _is_possible(state, basis, model, one))
    return Refusal(code=RefusalCode.DEADLINE_UNREACHABLE, predicted_s=best_s, limit_s=limit_s, max_num_frames=frames, max_size=size)


def _basis(state: State, model: Model) -> Basis:
    """Known lanes decide; the baseline GPU does while none of them has said what it has."""
    verdicts = state.verdicts
    verdicts.renew((state.fits.version, state.times.version))
    found = verdicts.bases.get(model)
    if found is None:
        found = verdicts.bases[model] = _known_basis(state, model)
    return found


def _known_basis(state: State, model: Model) -> Basis:
    budgets: dict[Group, int] = {}
    is_open = False
    for lane in state.lanes.values():
        if model not in lane.spec.models:
            continue
        group = lane.groups.get(model)
        if group is None:
            is_open = True
        else:
            budgets[group] = max(budgets.get(group, 0), lane.budget_bytes)
    if not budgets:
        baseline = state.fits.baseline(model)
        return Basis(groups=(), is_open=True) if baseline is None else Basis(groups=(baseline,), is_open=False)
    return Basis(groups=tuple(budgets.items()), is_open=is_open)


def _too_large(state: State, basis: Basis, model: Model, key: ShapeKey) -> Refusal:
    """Told by the placement that comes nearest."""
    nearest = ((budget_bytes - fit.peak_bytes, fit, budget_bytes) for group, budget_bytes in basis.groups for fit in group.predicted(key))
    _, fit, budget_bytes = max(nearest, key=lambda one: one[0])
    frames, size = _what_does(state, model, shape_of(key), lambda one: _is_possible(state, basis, model, one))
    return Refusal(
        code=RefusalCode.VRAM_EXCEEDED,
        placement=fit.placement,
        predicted_bytes=fit.peak_bytes,
        limit_bytes=budget_bytes,
        max_num_frames=frames,
        max_size=size,
    )


def _what_does(state: State, model: Model, shape: Shape, is_good: Callable[[Shape], bool]) -> tuple[int, tuple[int, int] | None]:
    """The most frames at this size, and the largest size at this frame count."""
    rules = state.fits.rules
    frames = largest_frames(is_good, shape, rules.frame_multiples.get(model, _NO_MULTIPLE), rules.max_frames)
    return frames, largest_size(is_good, shape)


def _is_possible(state: State, basis: Basis, model: Model, shape: Shape) -> bool:
    """Whether a request of this shape would not be refused."""
    key = (shape.width, shape.height, shape.num_frames, shape.mode)
    if next(basis.fits(key), None) is None:
        return False
    best_s = _best_s(state, basis, model, key)
    return best_s is None or best_s <= state.limits.render_deadline_max_s


def _best_s(state: State, basis: Basis, model: Model, key: ShapeKey) -> float | None:
    """Seconds on the quickest lane where it fits; None when that was measured too little to refuse anyone."""
    tokens = shape_of(key).tokens
    times = [state.times.certain_s(model, tokens, place) for place, _ in basis.fits(key)]
    known = [one for one in times if one is not None]
    return min(known) if known and len(known) == len(times) else None


def _size_limit(state: State, basis: Basis, model: Model, width: int, height: int) -> SizeLimit:
    rules = state.fits.rules
    modes = rules.modes.get(model, ("t2v",))

    def is_good(shape: Shape) -> bool:
        return all(_is_possible(state, basis, model, replace(shape, mode=mode)) for mode in modes)

    shape = Shape(width=width, height=height, num_frames=1)
    frames = largest_frames(is_good, shape, rules.frame_multiples.get(model, _NO_MULTIPLE), rules.max_frames)
    found = None if frames == 0 else _costliest(basis, [(width, height, frames, mode) for mode in modes])
    place, fit = found or (None, ANYHOW)
    per_token_s = state.times.seconds_per_token(model, place)
    tokens = replace(shape, num_frames=frames).tokens
    return SizeLimit(
        width=width,
        height=height,
        max_num_frames=frames,
        placement=fit.placement,
        predicted_peak_bytes=fit.peak_bytes,
        predicted_s=None if per_token_s is None or frames == 0 else per_token_s * tokens,
    )


def _costliest(basis: Basis, keys: Iterable[ShapeKey]) -> tuple[Place | None, Fit]:
    """Of the modes the one that takes most, on the first lanes where it fits."""
    return max((next(basis.fits(key)) for key in keys), key=lambda found: found[1].peak_bytes)
