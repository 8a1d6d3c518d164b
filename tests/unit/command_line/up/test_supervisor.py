"""The supervisor with real, small processes: restart, back-off, order of stopping, nothing left behind."""

from __future__ import annotations

import os
import signal

import pytest

from command_line.up.folder import DataFolder
from command_line.up.processes import StopStage
from command_line.up.supervisor import BackOff, Supervisor
from tests.unit.command_line.up.conftest import DOOMED, PARENT, POLITE, STUBBORN, Recorder, is_alive, stand_in, until

QUICK = BackOff(first_s=0.02, max_s=0.1)


def _is_up(folder: DataFolder, name: str) -> bool:
    return "up" in folder.log_tail(name, since=0, lines=50)


async def test_pid_file_names_the_process_when_it_runs(folder: DataFolder, recorder: Recorder) -> None:
    async with Supervisor([stand_in("one", POLITE)], folder=folder, reporter=recorder) as supervisor:
        await until(lambda: _is_up(folder, "one"))
        written = int(folder.pid_path("one").read_text(encoding="ascii"))
        assert written == supervisor.pid("one")
        assert os.getpgid(written) == written


async def test_process_is_started_again_when_it_is_killed(folder: DataFolder, recorder: Recorder) -> None:
    async with Supervisor([stand_in("one", POLITE)], folder=folder, reporter=recorder, back_off=QUICK) as supervisor:
        await until(lambda: supervisor.pid("one") is not None)
        first = supervisor.pid("one")
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: len(recorder.started) == 2)
        assert supervisor.pid("one") != first
        assert recorder.ended == [("one", "killed by SIGKILL", 0.02)]


async def test_pause_doubles_up_to_its_limit_when_a_process_keeps_ending(folder: DataFolder, recorder: Recorder) -> None:
    async with Supervisor([stand_in("one", DOOMED)], folder=folder, reporter=recorder, back_off=QUICK):
        await until(lambda: len(recorder.ended) >= 5)
    assert [pause_s for _name, _how, pause_s in recorder.ended[:5]] == [0.02, 0.04, 0.08, 0.1, 0.1]


async def test_end_of_log_is_shown_when_a_process_keeps_ending(folder: DataFolder, recorder: Recorder) -> None:
    folder.log_path("one").write_text("of an earlier run\n", encoding="utf-8")
    async with Supervisor([stand_in("one", DOOMED)], folder=folder, reporter=recorder, back_off=QUICK):
        await until(lambda: len(recorder.tails) >= 2)
    assert recorder.tails[:2] == [(2, ["the reason why"]), (4, ["the reason why"])]


async def test_deaths_are_counted_anew_when_the_life_before_was_long(folder: DataFolder, recorder: Recorder) -> None:
    # Any life counts as long here.
    async with Supervisor([stand_in("one", DOOMED)], folder=folder, reporter=recorder, back_off=BackOff(first_s=0.02, reset_after_s=0)):
        await until(lambda: len(recorder.ended) >= 3)
    assert [pause_s for _name, _how, pause_s in recorder.ended[:3]] == [0.02, 0.02, 0.02]


async def test_group_is_ended_when_its_leader_dies(folder: DataFolder, recorder: Recorder) -> None:
    async with Supervisor([stand_in("one", PARENT)], folder=folder, reporter=recorder):
        await until(lambda: len(recorder.ended) == 1)
        grandchild = int(folder.log_tail("one", since=0, lines=1)[0])
        await until(lambda: not is_alive(grandchild))


async def test_stages_are_stopped_one_after_the_other_when_the_stack_stops(folder: DataFolder, recorder: Recorder) -> None:
    processes = [
        stand_in("admission", POLITE, stage=StopStage.RECORD),
        stand_in("lane", POLITE, stage=StopStage.WORKER),
        stand_in("bridge", POLITE, stage=StopStage.DOOR),
    ]
    async with Supervisor(processes, folder=folder, reporter=recorder):
        await until(lambda: all(_is_up(folder, one.name) for one in processes))
    assert recorder.stopped == [("bridge", False), ("lane", False), ("admission", False)]
    assert list(folder.run.glob("*.pid")) == []


async def test_process_is_killed_when_it_ignores_the_request_to_stop(folder: DataFolder, recorder: Recorder) -> None:
    async with Supervisor([stand_in("one", STUBBORN, grace_s=0.1)], folder=folder, reporter=recorder):
        await until(lambda: _is_up(folder, "one"))
    assert recorder.stopped == [("one", True)]


async def test_stop_ends_at_once_when_everything_is_killed_meanwhile(folder: DataFolder, recorder: Recorder) -> None:
    async with Supervisor([stand_in("one", STUBBORN, grace_s=60)], folder=folder, reporter=recorder) as supervisor:
        await until(lambda: _is_up(folder, "one"))
        supervisor.kill()
        await supervisor.stop()
    assert recorder.stopped == [("one", True)]


async def test_stop_does_not_wait_for_the_back_off_when_a_process_is_between_lives(folder: DataFolder, recorder: Recorder) -> None:
    async with Supervisor([stand_in("one", DOOMED)], folder=folder, reporter=recorder, back_off=BackOff(first_s=600, max_s=600)):
        await until(lambda: len(recorder.ended) == 1)
    assert len(recorder.started) == 1


async def test_death_is_reported_when_a_process_cannot_be_started(folder: DataFolder, recorder: Recorder) -> None:
    folder.log_path("one").mkdir()
    async with Supervisor([stand_in("one", POLITE)], folder=folder, reporter=recorder):
        await until(lambda: len(recorder.ended) == 1)
    assert recorder.ended[0][1].startswith("could not be started")


@pytest.mark.parametrize(("deaths", "pause_s"), [(1, 0.5), (2, 1.0), (5, 8.0), (6, 10.0), (10_000, 10.0)])
def test_pause_is_bounded_when_deaths_pile_up(deaths: int, pause_s: float) -> None:
    assert BackOff().pause_s(deaths) == pause_s


async def test_output_is_appended_when_a_process_starts_again(folder: DataFolder, recorder: Recorder) -> None:
    async with Supervisor([stand_in("one", DOOMED)], folder=folder, reporter=recorder, back_off=QUICK):
        await until(lambda: len(recorder.ended) >= 2)
    assert folder.log_tail("one", since=0, lines=50)[:2] == ["the reason why", "the reason why"]
