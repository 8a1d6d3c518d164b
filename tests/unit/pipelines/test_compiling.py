"""Compiled blocks: one compiled form serves all of them, whatever tensors lie there, and none is left after a release."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.unit.pipelines.jobs import ignore_stage, inner, make_job, make_request, settings

if TYPE_CHECKING:
    from runtime.lane.renderer import Pipeline

pytestmark = pytest.mark.torch

BOTH = (pytest.param("anisora", marks=pytest.mark.long), "phr00t")


@pytest.fixture
def counters(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What torch counts while it compiles, from nothing on. The account of memory is off, as it is on a GPU: it sees every operation."""
    import torch

    from runtime.lane.memory.host import HostMemory

    monkeypatch.setattr(HostMemory, "counting", lambda _self: nullcontext())
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters
    torch._dynamo.reset()


def assembled(model: str, models_dir: Path, monkeypatch: pytest.MonkeyPatch, *, backend: str) -> Pipeline:
    """A pipeline whose blocks are compiled, as on a GPU, but by another backend of torch."""
    import degraded_pool.catalog
    from runtime.lane.wan import catalog as wan_catalog
    from runtime.lane.wan.compiling import compile_blocks

    monkeypatch.setattr(wan_catalog, "can_compile", lambda _device: True)
    monkeypatch.setattr(wan_catalog, "compile_blocks", lambda transformers: compile_blocks(transformers, backend=backend))
    load_settings = replace(settings(models_dir), is_compiled=True)
    catalog = degraded_pool.catalog.catalog
    return catalog.assemble(model, catalog.read(model, load_settings, ignore_stage), load_settings, ignore_stage)


def plain(model: str, models_dir: Path) -> Pipeline:
    import degraded_pool.catalog

    catalog = degraded_pool.catalog.catalog
    return catalog.assemble(model, catalog.read(model, settings(models_dir), ignore_stage), settings(models_dir), ignore_stage)


@pytest.mark.parametrize("model", BOTH)
def test_blocks_share_one_compiled_form_in_every_placement_when_they_are_compiled(
    models_dir: Path, model: str, counters: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This backend compiles nothing: what is tried is what torch can see through, and that nothing is made anew for other weights.
    compiled, expected = assembled(model, models_dir, monkeypatch, backend="eager"), plain(model, models_dir)
    request = make_request(model, "i2v")
    for placement in ("resident_all", "resident_tiled", "streamed"):
        job = make_job(request, placement=placement)
        assert np.array_equal(compiled.render(job), expected.render(job))
    kinds = {type(block) for block in inner(compiled).transformer.blocks} | {
        type(block) for block in getattr(inner(compiled).transformer, "vace_blocks", ())
    }
    frames, breaks = dict(counters["frames"]), dict(counters["graph_break"])
    compiled.release()
    expected.release()
    assert not breaks
    # One form of each kind of block; a control block at the begin of the chain and one within it differ.
    assert 0 < frames["ok"] == frames["total"] <= len(kinds) + 1


def test_nothing_compiled_is_left_after_a_release(models_dir: Path, counters: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    reset = torch._dynamo.reset
    calls: list[int] = []

    def counting() -> None:
        calls.append(1)
        reset()

    compiled = assembled("phr00t", models_dir, monkeypatch, backend="eager")
    compiled.render(make_job(make_request("phr00t")))
    monkeypatch.setattr(torch._dynamo, "reset", counting)
    compiled.release()
    compiled.release()
    assert calls == [1]


@pytest.mark.long
# torch's own compiler uses what torch warns of.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_picture_differs_by_rounding_when_blocks_are_really_compiled(
    models_dir: Path, counters: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, expected = assembled("anisora", models_dir, monkeypatch, backend="inductor"), plain("anisora", models_dir)
    job = make_job(make_request("anisora", "i2v"), placement="streamed")
    first = compiled.render(job)
    assert np.abs(first.astype(int) - expected.render(job)).max() <= 2
    assert np.array_equal(first, compiled.render(job))


def test_nothing_is_compiled_on_a_cpu(models_dir: Path) -> None:
    import torch

    import degraded_pool.catalog
    from runtime.lane.wan.compiling import can_compile

    catalog = degraded_pool.catalog.catalog
    load_settings = replace(settings(models_dir), is_compiled=True)
    pipeline = catalog.assemble("phr00t", catalog.read("phr00t", load_settings, ignore_stage), load_settings, ignore_stage)
    assert not any("forward" in vars(block) for block in inner(pipeline).transformer.blocks)
    assert can_compile(torch.device("cuda:0"))
