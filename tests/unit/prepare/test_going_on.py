"""A preparation that was stopped goes on, whatever stopped it, and gives what an undisturbed one gives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness.published_layouts import Format
from tests.harness.small_disk import SmallDisk
from tests.unit.prepare.runs import contents, finished, notes, order_of, run
from tests.unit.prepare.test_broken_files import copied, left_to_open

if TYPE_CHECKING:
    from runtime.preparation import Order
    from tests.harness.published_models import PublishedModel
    from tests.unit.prepare.conftest import Publisher

pytestmark = pytest.mark.torch

ROOT = Path(__file__).resolve().parents[3]


class StoppedError(BaseException):
    """Not an Exception: like a Ctrl-C, nothing may catch it."""


@pytest.fixture
def source(published: Publisher) -> PublishedModel:
    """Phr00t's files as scaled fp8."""
    return published("phr00t", Format.SCALED)


@pytest.fixture
def undisturbed(source: PublishedModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one run gives."""
    models_dir = tmp_path_factory.mktemp("undisturbed")
    run(order_of(source, models_dir))
    return contents(models_dir / "phr00t")


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the bytes of every tensor that is written."""
    from runtime.lane.prepare import writer

    counted: list[int] = []
    write = writer._write_tensor

    def write_and_count(tensor: Any, *rest: Any) -> int:
        counted.append(tensor.size_bytes)
        return write(tensor, *rest)

    monkeypatch.setattr(writer, "_write_tensor", write_and_count)
    return counted


def stops(monkeypatch: pytest.MonkeyPatch, step: int = 1) -> Iterator[int]:
    """Numbers of waits for the disk; before each, the next run is set to stop there."""
    from runtime.lane.prepare import writer

    monkeypatch.setattr(writer, "_SYNC_BYTES", 0)
    waits = 0
    stop = 0

    def fsync(_descriptor: int) -> None:
        nonlocal waits
        waits += 1
        if waits == stop:
            raise StoppedError

    monkeypatch.setattr(os, "fsync", fsync)
    for number in range(1, 200, step):
        waits, stop = 0, number
        yield number


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.long)])
def test_the_folder_is_the_same_when_a_run_was_stopped_at_any_point(
    source: PublishedModel, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    went_on = 0
    for number in stops(monkeypatch, step):
        models_dir = tmp_path / str(number)
        try:
            run(order_of(source, models_dir))
            break
        except StoppedError:
            pass
        # Before the rename a lane finds nothing; after it, a whole folder.
        assert left_to_open(models_dir) in ([], ["phr00t"])
        if left_to_open(models_dir):
            assert contents(models_dir / "phr00t") == undisturbed
        with monkeypatch.context() as quiet:
            quiet.setattr(os, "fsync", lambda _descriptor: None)
            told = run(order_of(source, models_dir))
        went_on += any("going on:" in text for text in notes(told))
        assert contents(models_dir / "phr00t") == undisturbed
        assert [path.name for path in models_dir.iterdir() if "unfinished" in path.name] == []
    # Text encoder: three groups; VAE: one; transformer: six. Each waits for its file and for the journal.
    assert number > 2 * 10
    assert went_on >= 18 // step


def test_nothing_is_written_twice_when_a_stopped_run_is_run_again(
    source: PublishedModel, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two waits for the journal's beginning, then two for each group: stopped in the last group but one.
    with monkeypatch.context() as stopping:
        runs = stops(stopping)
        for _ in range(20):
            next(runs)
        with pytest.raises(StoppedError):
            run(order_of(source, tmp_path / "models"))
    _is_nearly_done(order_of(source, tmp_path / "models"), undisturbed, monkeypatch)


@pytest.mark.long
def test_nothing_is_written_twice_when_a_killed_run_is_run_again(
    source: PublishedModel, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = order_of(source, tmp_path / "models")
    command = [sys.executable, "-m", "tests.unit.prepare.killed", "20", "lane_phr00t.prepare", order.model_dump_json()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "protos" / "gen")])}
    killed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    _is_nearly_done(order, undisturbed, monkeypatch)


def _is_nearly_done(order: Order, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    assert left_to_open(Path(order.models_dir)) == []

    counted = counting(monkeypatch)
    told = run(order)

    total = sum(len(content) for name, content in undisturbed.items() if name.endswith(".safetensors"))
    assert any("going on:" in text for text in notes(told))
    assert 0 < sum(counted) < total / 4
    assert contents(Path(order.models_dir) / "phr00t") == undisturbed


def test_bytes_that_a_kill_left_behind_the_journal_are_written_over(
    source: PublishedModel, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = stops(monkeypatch)
    for _ in range(14):
        next(runs)
    with pytest.raises(StoppedError):
        run(order_of(source, tmp_path))
    unfinished = tmp_path / ".phr00t.unfinished"
    for file in (unfinished / "folder").rglob("*.safetensors"):
        file.write_bytes(file.read_bytes() + b"\xff" * 777)
    with (unfinished / "journal.jsonl").open("a") as journal:
        journal.write('{"path": "transformer/diff')

    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    told = run(order_of(source, tmp_path))

    assert any("going on:" in text for text in notes(told))
    assert contents(tmp_path / "phr00t") == undisturbed


def test_an_unfinished_folder_is_thrown_away_when_the_sources_changed(
    source: PublishedModel, published: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = stops(monkeypatch)
    for _ in range(14):
        next(runs)
    with pytest.raises(StoppedError):
        run(order_of(source, tmp_path))
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)
    other = published("phr00t", Format.FP32)

    told = run(order_of(other, tmp_path))

    assert notes(told) == ["an unfinished folder of other sources or options was thrown away"]
    run(order_of(other, tmp_path / "again"))
    assert contents(tmp_path / "phr00t") == contents(tmp_path / "again" / "phr00t")


def test_what_the_disk_gives_back_otherwise_is_found_and_written_anew(
    source: PublishedModel, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.lane.prepare import session
    from runtime.lane.prepare.failures import PrepareError
    from runtime.lane.prepare.writer import verify_weights

    def rot(plan: Any, folder: Path, journal: Any, on_bytes: Any) -> None:
        file = folder / plan.parts[-1].path
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        verify_weights(plan, folder, journal, on_bytes)

    monkeypatch.setattr(session, "verify_weights", rot)
    with pytest.raises(PrepareError, match="is not what was written to it"):
        run(order_of(source, tmp_path))
    assert left_to_open(tmp_path) == []
    monkeypatch.setattr(session, "verify_weights", verify_weights)

    run(order_of(source, tmp_path))

    assert contents(tmp_path / "phr00t") == undisturbed


def test_a_full_disk_is_named_and_what_is_done_is_kept(
    source: PublishedModel, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.lane.prepare import session, writer
    from runtime.lane.prepare.failures import Cause, PrepareError

    monkeypatch.setattr(writer, "_SYNC_BYTES", 0)
    with SmallDisk(tmp_path / "disk", size_mib=2) as disk:
        with pytest.raises(PrepareError, match=r"GB free, and .* GB are to be written") as raised:
            run(order_of(source, disk.folder))
        assert raised.value.cause is Cause.DISK
        # Room is looked at before anything is written; here others take it meanwhile.
        monkeypatch.setattr(session, "_check_room", lambda _folder, _needed: None)
        disk.fill()
        with (disk.folder / "filler").open("r+b") as filler:
            filler.truncate(2**21 - 450_000)
        with pytest.raises(PrepareError, match=r"is full. What was written is kept") as raised:
            run(order_of(source, disk.folder))
        assert raised.value.cause is Cause.DISK
        assert left_to_open(disk.folder) == ["filler"]
        disk.free()

        told = run(order_of(source, disk.folder))

        assert any("going on:" in text for text in notes(told))
        assert contents(disk.folder / "phr00t") == undisturbed


def test_the_second_of_two_at_once_says_so(source: PublishedModel, tmp_path: Path) -> None:
    from runtime.lane.prepare.failures import Cause, PrepareError
    from runtime.lane.prepare.journal import held

    with (
        held(tmp_path, "phr00t"),
        pytest.raises(PrepareError, match=f"another `warmlane prepare phr00t` .process {os.getpid()}.") as raised,
    ):
        run(order_of(source, tmp_path))

    assert raised.value.cause is Cause.BUSY
    finished(run(order_of(source, tmp_path)))


def test_a_source_that_changes_while_it_is_read_is_refused(source: PublishedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.lane.prepare import session
    from runtime.lane.prepare.failures import PrepareError
    from runtime.lane.prepare.writer import write_weights

    mine = copied(source, tmp_path / "published")

    def write_and_touch(*arguments: Any) -> None:
        write_weights(*arguments)
        os.utime(mine.sources["checkpoint"], ns=(1, 1))

    monkeypatch.setattr(session, "write_weights", write_and_touch)

    with pytest.raises(PrepareError, match="was changed while it was read"):
        run(order_of(mine, tmp_path / "models"))

    assert left_to_open(tmp_path / "models") == []


def test_a_folder_that_is_there_stays_unless_it_is_to_be_replaced(source: PublishedModel, published: Publisher, tmp_path: Path) -> None:
    from runtime.lane.prepare.failures import PrepareError

    run(order_of(source, tmp_path))
    first = contents(tmp_path / "phr00t")

    assert finished(run(order_of(source, tmp_path))).was_there
    with pytest.raises(PrepareError, match=r"is prepared otherwise: its storage is fp8, not bf16. `--replace`"):
        run(order_of(source, tmp_path, storage="bf16"))
    assert contents(tmp_path / "phr00t") == first
    replaced = finished(run(order_of(source, tmp_path, storage="bf16", replace=True)))

    assert not replaced.was_there
    assert replaced.manifest["storage"] == "bf16"
    run(order_of(source, tmp_path / "other", storage="bf16"))
    assert contents(tmp_path / "phr00t") == contents(tmp_path / "other" / "phr00t")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "other") == [".phr00t.lock", "phr00t"]
    (tmp_path / "phr00t" / "manifest.json").unlink()
    with pytest.raises(PrepareError, match=r"has no manifest.json. `--replace` makes"):
        run(order_of(source, tmp_path, storage="bf16"))
