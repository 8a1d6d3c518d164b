"""What befalls one history: a list of steps made from the seed alone, so that a step can be left out and the others stay as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from admission.core.tasks import LaneId, Model
from tests.simulation.lanes import Identity, Nature
from tests.simulation.loop import seeded

ANISORA, PHR00T = Model("anisora"), Model("phr00t")

_LANES = (
    Identity(lane_id=LaneId("lane-anisora"), models=(ANISORA,)),
    Identity(lane_id=LaneId("lane-phr00t"), models=(PHR00T,)),
    Identity(lane_id=LaneId("degraded-pool"), models=(ANISORA, PHR00T), is_pool=True),
    Identity(lane_id=LaneId("lane-anisora-2"), models=(ANISORA,)),
    Identity(lane_id=LaneId("degraded-pool-2"), models=(PHR00T, ANISORA), is_pool=True),
)

# MiB for weights and activations, boot by boot in turn; a lane without any never says what it has.
_BUDGETS = ((400,), (700,), (1000,), (3000,), (3000, 700), (400, 3000), ())

# How often each step comes, against the others. A profile leaves some out.
_CALLS = {"burst": 10, "repeat": 2, "misuse": 1, "hang_up": 3, "cancel": 3, "delete": 1, "watch": 3, "look": 2}
_LANE_FAULTS = {
    "lane_killed": 4,
    "lane_frozen": 4,
    "lane_cut": 3,
    "lane_partitioned": 5,
    "lane_replaced": 2,
    "lane_stopped": 2,
    "child_dies": 2,
    "unhealthy": 1,
}
_ADMISSION_FAULTS = {"crash": 3, "crash_at_write": 3, "crash_at_step": 3, "cancel_then_crash": 3, "overlap": 2, "restart": 1, "frozen": 1}
_DISK_FAULTS = {"disk_full": 2, "disk_locked": 1, "disk_slow": 1, "clock_jump": 1}
_OPERATORS = {"drain": 2, "fallback": 2, "quota": 2}
_NETWORK = {"network_slow": 1}


@dataclass(frozen=True, slots=True)
class Step:
    """At this time this happens; `dice` decides the rest of it."""

    at_s: float
    kind: str
    dice: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One history.

    Attributes:
        faults_until_s: then everything is mended and the rest is waiting.
        is_mended: the lanes come back at the end; otherwise admission is left alone with what it has.
        longest_write_s: of the disk, when it is well.
    """

    seed: int
    steps: tuple[Step, ...]
    lanes: tuple[Identity, ...]
    nature: Nature
    faults_until_s: float
    is_mended: bool
    report_interval_s: float
    longest_write_s: float
    longest_delay_s: float

    @classmethod
    def of(cls, seed: int) -> Plan:
        """The same seed is the same plan."""
        random = seeded(seed)
        faults_until_s = random.choice((20.0, 40.0, 70.0))
        kinds = _kinds(random)
        count = random.randint(8, 30)
        names, weights = list(kinds), list(kinds.values())
        steps = [Step(random.random() * faults_until_s, random.choices(names, weights)[0], random.random()) for _ in range(count)]
        lanes = [lane for lane in _LANES[:3] if random.random() < 0.85]
        lanes += [lane for lane in _LANES[3:] if random.random() < 0.25]
        lanes = _with_memory(lanes, random)
        slow = random.random() < 0.15
        nature = Nature(
            shortest_s=random.choice((0.3, 1.0, 4.0)),
            longest_s=random.choice((5.0, 12.0, 25.0, 45.0)),
            longest_finish_s=random.choice((0.2, 3.0, 12.0, 12.0, 60.0)),
            overlaps=random.choice((0.0, 0.9, 0.9, 1.0, 1.0)),
            stream_life_s=random.choice((6.0, 20.0, 600.0)),
            child_dies=random.choice((0.02, 0.05, 0.05, 0.4)),
            hangs=0.05 if random.random() < 0.03 else 0.0,
        )
        return cls(
            seed=seed,
            steps=tuple(sorted(steps, key=lambda step: step.at_s)),
            lanes=tuple(lanes),
            nature=nature,
            faults_until_s=faults_until_s,
            is_mended=random.random() > 0.03,
            report_interval_s=random.choice((2.0, 4.0, 4.0)),
            longest_write_s=0.3 if slow else 0.004,
            longest_delay_s=random.choice((0.001, 0.02, 0.4)),
        )


def _with_memory(lanes: list[Identity], random: Random) -> list[Identity]:
    """In half of the histories every lane has room for all that anyone asks but the largest; in the others they differ."""
    if random.random() < 0.5:
        return [replace(lane, budgets=(3000,)) for lane in lanes]
    return [replace(lane, budgets=random.choice(_BUDGETS)) for lane in lanes]


def _kinds(random: Random) -> dict[str, int]:
    """Calls always; of the faults some families, so that many histories are about one thing and a few about everything."""
    kinds = dict(_CALLS)
    for family in (_LANE_FAULTS, _ADMISSION_FAULTS, _DISK_FAULTS, _OPERATORS, _NETWORK):
        if random.random() < 0.6:
            kinds |= family
    return kinds
