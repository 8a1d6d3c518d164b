"""Errors and what they hold."""

from __future__ import annotations

import weakref

import pytest

from runtime.lane.raised import chain, drop_frames, has_run_out


class Held:
    """Something that a frame holds."""


def fail(watch: list[weakref.ref[Held]]) -> None:
    """Fails twice, with something in each frame."""
    held = Held()
    watch.append(weakref.ref(held))
    if len(watch) == 1:
        try:
            fail(watch)
        except ValueError as error:
            msg = "outer"
            raise RuntimeError(msg) from error
    msg = "CUDA error: out of memory"
    raise ValueError(msg) from RuntimeError(msg)


def test_everything_that_a_chain_of_errors_holds_is_freed_when_its_frames_are_dropped() -> None:
    watch: list[weakref.ref[Held]] = []
    with pytest.raises(RuntimeError) as caught:
        fail(watch)
    error: BaseException = caught.value
    assert all(ref() is not None for ref in watch)
    del caught
    drop_frames(error)
    assert [ref() for ref in watch] == [None, None]
    # The error itself stays, for whoever has to tell of it.
    assert str(error) == "outer"


def test_running_out_is_seen_when_it_lies_deep_in_the_chain() -> None:
    with pytest.raises(RuntimeError) as caught:
        fail([])
    assert has_run_out(caught.value)
    assert not has_run_out(RuntimeError("no"))


def test_the_chain_ends_when_errors_refer_to_each_other() -> None:
    first, second = ValueError(1), ValueError(2)
    first.__context__, second.__context__ = second, first
    assert list(chain(first)) == [first, second]
