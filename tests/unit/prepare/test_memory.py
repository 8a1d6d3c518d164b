"""What a preparation holds in memory has nothing to do with how large the files are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runtime.preparation import Finished, Order, parse_event
from tests.harness.published_layouts import Format
from tests.unit.prepare.runs import order_of

if TYPE_CHECKING:
    from tests.unit.prepare.conftest import Publisher

pytestmark = pytest.mark.torch

ROOT = Path(__file__).resolve().parents[3]
_MIB = 1024**2


def peak_of(order: Order) -> int:
    """Prepares in a process of its own; the most that it held."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "protos" / "gen")]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"lane_{order.model}.prepare", order.model_dump_json()]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250, check=True)
    last = parse_event(done.stdout.splitlines()[-1])
    assert isinstance(last, Finished)
    assert last.peak_memory_bytes is not None
    return last.peak_memory_bytes


@pytest.mark.long
@pytest.mark.parametrize("style", [Format.FP32, Format.SCALED_ROWS])
def test_memory_stays_when_files_are_a_hundred_times_as_large(
    published: Publisher, tmp_path: Path, style: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.harness import published_models

    small = peak_of(order_of(published("phr00t", style), tmp_path / "small"))
    # Matrices of 67 million numbers: 268 MB each as float32, four of them in two blocks.
    wide = {"num_layers": 1, "vace_layers": [0], "num_attention_heads": 4, "attention_head_dim": 128, "ffn_dim": 131_072, "text_dim": 32}
    monkeypatch.setattr(published_models, "SIZES", {**published_models.SIZES, "phr00t": wide})
    source = published_models.write_published("phr00t", tmp_path / "published", style)
    total = source.sources["checkpoint"].stat().st_size
    assert total > {Format.FP32: 1_000, Format.SCALED_ROWS: 250}[style] * _MIB

    large = peak_of(order_of(source, tmp_path / "large"))

    # A slice of four million numbers, a few times over; not one whole matrix as float32.
    assert large - small < 160 * _MIB
    # Of the 3 GiB that are promised, the libraries take the most.
    assert large < 1024 * _MIB


def test_no_more_than_a_slice_is_read_at_once(published: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runtime.lane.prepare import values
    from tests.unit.prepare.runs import contents, run

    run(order_of(published("phr00t", Format.SCALED_ROWS), tmp_path / "whole"))
    seen: list[int] = []
    read = values.SourceReader.read

    def watch(self: Any, tensor: Any, first: int, count: int) -> Any:
        seen.append(count)
        return read(self, tensor, first, count)

    monkeypatch.setattr(values.SourceReader, "read", watch)
    # Not a multiple of anything: rows, with their scales, are kept whole all the same.
    monkeypatch.setattr(values, "SLICE_ELEMENTS", 1001)

    run(order_of(published("phr00t", Format.SCALED_ROWS), tmp_path / "sliced"))

    assert max(seen) <= 1001
    assert contents(tmp_path / "sliced" / "phr00t") == contents(tmp_path / "whole" / "phr00t")
