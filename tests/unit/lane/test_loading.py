"""What is told of a load, and how often."""

from __future__ import annotations

from runtime.lane.loading import LoadProgress, LoadTeller

GIB = 1024**3


class Bench:
    """A teller, what it told, and a clock that the test sets."""

    def __init__(self) -> None:
        """At 100 s."""
        self.now_s = 100.0
        self.told: list[LoadProgress] = []
        self.teller = LoadTeller("anisora", self.told.append, lambda: self.now_s)

    def reads(self, read_bytes: int, total_bytes: int, after_s: float) -> None:
        """So much is read by then."""
        self.now_s += after_s
        self.teller.read(read_bytes, total_bytes)


def test_bytes_are_told_at_most_twice_a_second_when_pieces_come_fast() -> None:
    bench = Bench()
    bench.teller.stage("loading the VAE")
    # 30 GiB at 1 GiB/s in pieces of 8 MiB: 3840 pieces in 30 s.
    for piece in range(1, 3841):
        bench.reads(piece * 8 * 1024**2, 30 * GIB, after_s=30 / 3840)
    assert 40 <= len(bench.told) <= 61
    assert str(bench.told[-1]).startswith("loading the VAE, ")


def test_nothing_is_told_again_when_it_is_not_another_percent() -> None:
    bench = Bench()
    bench.teller.stage("loading the VAE")
    for percent in (41, 41, 41, 42):
        bench.reads(percent * GIB, 100 * GIB, after_s=5.0)
    assert [str(told) for told in bench.told] == ["loading the VAE", "loading the VAE, 41 %", "loading the VAE, 42 %"]


def test_a_stage_is_told_at_once_and_with_the_bytes_so_far_when_another_begins() -> None:
    bench = Bench()
    bench.teller.stage("loading the text encoder")
    bench.reads(25, 100, after_s=0.1)
    bench.teller.stage("loading the VAE")
    assert bench.told[-1] == LoadProgress(model="anisora", stage="loading the VAE", read_bytes=25, total_bytes=100)


def test_no_percent_is_told_when_nothing_is_to_be_read() -> None:
    assert str(LoadProgress(model="", stage="importing the libraries")) == "importing the libraries"
    assert str(LoadProgress(model="m", stage="done", read_bytes=3, total_bytes=3)) == "done, 100 %"
