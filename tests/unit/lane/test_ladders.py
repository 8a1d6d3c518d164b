"""What a process reports of its models, also when the files of one are not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.fit.cost import ModelLadder
from runtime.lane.ladders import Ladders
from runtime.lane.renderer import HostWeights, LoadSettings, Pipeline
from tests.harness.lane_memory import FakeMemory, flat_ladder


class HalfPrepared:
    """A catalog whose second model's files may be missing."""

    def __init__(self) -> None:
        """They are."""
        self.missing = {"b"}
        self.asked: list[str] = []

    def models(self) -> tuple[str, ...]:
        """Two."""
        return ("a", "b")

    def ladder(self, model: str, settings: LoadSettings) -> ModelLadder:
        """Unless its files are missing."""
        self.asked.append(model)
        if model in self.missing:
            raise FileNotFoundError(model)
        return flat_ladder(model, host_bytes=7, pinned_bytes=5)

    def read(self, model: str, settings: LoadSettings, on_stage: Callable[[str], None]) -> HostWeights:
        """Not here."""
        raise NotImplementedError

    def assemble(self, model: str, weights: HostWeights, settings: LoadSettings, on_stage: Callable[[str], None]) -> Pipeline:
        """Not here."""
        raise NotImplementedError


def ladders_of(catalog: HalfPrepared) -> Ladders:
    """Of this catalog."""
    return Ladders(catalog, LoadSettings(profile="tiny", models_dir=Path("models"), memory=FakeMemory(total_bytes=9)))


def test_the_other_model_is_reported_when_the_files_of_one_are_missing() -> None:
    memory = ladders_of(HalfPrepared()).measure()
    assert memory.limits.total_bytes == 9
    assert [ladder.model for ladder in memory.ladders] == ["a"]


def test_a_ladder_is_read_when_the_files_came_later() -> None:
    catalog = HalfPrepared()
    ladders = ladders_of(catalog)
    ladders.measure()
    with pytest.raises(FileNotFoundError):
        ladders.of("b")
    catalog.missing.clear()
    assert ladders.of("b").model == "b"


def test_a_ladder_is_read_once_when_it_is_needed_often() -> None:
    catalog = HalfPrepared()
    ladders = ladders_of(catalog)
    weights = [ladders.weights_of("a") for _ in range(3)]
    assert (weights[0].host_bytes, weights[0].pinned_bytes) == (7, 5)
    assert catalog.asked == ["a"]
