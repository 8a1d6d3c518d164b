"""On which lanes a request fits: the predicted peaks of its shape, remembered for lanes that are alike. Step 2 of the design.

Lanes are alike when GPU, ladder and retired placements are the same; they differ in their budgets only, which is one comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from weakref import WeakValueDictionary

from admission.core.excess import Excess, expected_bytes
from admission.core.learned import Learned, Place
from admission.core.tasks import Model, Task
from runtime.fit.cost import ModelLadder, Rung, Shape, WorkerMemory

ShapeKey: TypeAlias = tuple[int, int, int, str]
"""Width, height, frames and mode of an effective request: all that its memory depends on."""

# Shapes remembered for a group of lanes, and verdicts about them: more than honest callers ask for, and some hundred KiB.
SHAPES_KEPT = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """That a request fits: the placement and its predicted peak in bytes, corrected."""

    placement: str
    peak_bytes: int


ANYHOW = Fit(placement="", peak_bytes=0)
"""On a lane of which nothing is known everything fits, and the lane chooses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRules:
    """What is known before any lane was seen.

    Attributes:
        baseline: the GPU that decides until then; None: nothing is refused.
        frame_multiples: clips of a model have so many times k, plus 1, frames.
        modes: of each model.
        max_frames: no clip has more.
    """

    baseline: WorkerMemory | None = None
    frame_multiples: Mapping[Model, int] = field(default_factory=dict)
    modes: Mapping[Model, tuple[str, ...]] = field(default_factory=dict)
    max_frames: int = 241


def shape_key(task: Task) -> ShapeKey | None:
    """Of a task's parameters; None when they do not say."""
    parameters = task.parameters
    width, height, frames = parameters.get("width"), parameters.get("height"), parameters.get("num_frames")
    if not (isinstance(width, int) and isinstance(height, int) and isinstance(frames, int)):
        return None
    return (width, height, frames, task.mode)


def shape_of(key: ShapeKey) -> Shape:
    """The same, for the arithmetic."""
    width, height, frames, mode = key
    return Shape(width=width, height=height, num_frames=frames, mode=mode)


class Group:
    """Lanes that are alike for one model."""

    def __init__(self, gpu: str, ladder: ModelLadder, retired: frozenset[str]) -> None:
        """Without corrections yet. A ladder always keeps a rung, whatever is retired."""
        self.gpu = gpu
        self.model = Model(ladder.model)
        self.text_to_video_weights = ladder.text_to_video_weights
        left = tuple(rung for rung in ladder.rungs if rung.placement not in retired)
        self._rungs = left or ladder.rungs[-1:]
        self._excesses: Mapping[str, Mapping[str, Excess]] = {}
        self._fits: dict[ShapeKey, tuple[Fit, ...]] = {}

    def fit(self, key: ShapeKey | None, budget_bytes: int) -> Fit | None:
        """The fastest placement whose peak is within the budget, as `runtime.fit.predict.choose` chooses; None: none is."""
        if key is None:
            return ANYHOW
        for fit in self.predicted(key):
            if fit.peak_bytes <= budget_bytes:
                return fit
        return None

    def predicted(self, key: ShapeKey) -> tuple[Fit, ...]:
        """Every placement with its peak, fastest first."""
        fits = self._fits.get(key)
        if fits is None:
            if len(self._fits) >= SHAPES_KEPT:
                self._fits.clear()
            shape = shape_of(key)
            fits = tuple(Fit(placement=rung.placement, peak_bytes=self._peak_bytes(rung, shape)) for rung in self._rungs)
            self._fits[key] = fits
        return fits

    def rung(self, placement: str) -> Rung | None:
        """As the lanes report it, uncorrected; None when it is not there or out of use."""
        return next((rung for rung in self._rungs if rung.placement == placement), None)

    @property
    def placements(self) -> tuple[str, ...]:
        """In use, fastest first."""
        return tuple(rung.placement for rung in self._rungs)

    def correct(self, excesses: Mapping[Place, Mapping[str, Excess]]) -> None:
        """Takes over what was learned."""
        self._excesses = {rung.placement: excesses.get(Place(self.gpu, self.model, rung.placement), {}) for rung in self._rungs}
        self._fits.clear()

    def _peak_bytes(self, rung: Rung, shape: Shape) -> int:
        """The highest phase. Each has an excess of its own: a large step is not raised for what a small text encoder took."""
        known, peaks = self._excesses.get(rung.placement, {}), [0]
        for cost in rung.phases:
            if not cost.modes or shape.mode in cost.modes:
                activation_bytes = cost.activations.bytes_at(shape)
                peaks.append(cost.weights_bytes + activation_bytes + expected_bytes(known.get(cost.phase, {}), activation_bytes))
        return max(peaks)


class Fits:
    """The groups of all lanes and what was learned about their placements. `version` rises whenever an answer may have changed."""

    def __init__(self, rules: FitRules) -> None:
        """Nothing learned."""
        self.rules = rules
        self.version = 0
        self._excesses: dict[Place, Mapping[str, Excess]] = {}
        self._groups: WeakValueDictionary[tuple[str, ModelLadder, frozenset[str]], Group] = WeakValueDictionary()
        self._baseline = {} if rules.baseline is None else self.groups(rules.baseline, ())

    def groups(self, memory: WorkerMemory | None, retired: Iterable[tuple[Model, str]]) -> dict[Model, Group]:
        """The group that a lane with this memory belongs to, by model; models without a ladder are left out."""
        if memory is None:
            return {}
        without = frozenset(retired)
        found: dict[Model, Group] = {}
        for ladder in memory.ladders:
            model = Model(ladder.model)
            key = (memory.limits.gpu, ladder, frozenset(placement for of, placement in without if of == model))
            group = self._groups.get(key)
            if group is None:
                group = self._groups[key] = Group(*key)
                group.correct(self._excesses)
            found[model] = group
        return found

    def baseline(self, model: Model) -> tuple[Group, int] | None:
        """What decides while no lane of the model has said what it has, and its budget."""
        group, memory = self._baseline.get(model), self.rules.baseline
        return None if group is None or memory is None else (group, memory.limits.budget_bytes)

    def excesses(self, place: Place) -> Mapping[str, Excess]:
        """By phase; empty when predictions held so far."""
        return self._excesses.get(place, {})

    def correct(self, place: Place, excesses: Mapping[str, Excess]) -> None:
        """What was learned about a placement, from now on."""
        self._excesses[place] = dict(excesses)
        for group in list(self._groups.values()):
            if (group.gpu, group.model) == place[:2]:
                group.correct(self._excesses)
        self.changed()

    def restore(self, learned: Iterable[Learned]) -> None:
        """Takes over what was learned before the restart."""
        for one in learned:
            if one.excesses:
                self.correct(one.place, one.excesses)

    def changed(self) -> None:
        """A lane came, went or has another memory."""
        self.version += 1
