"""A render is cancelled in the middle of a step, not at its end, and leaves nothing behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runtime.lane.renderer import Pipeline, RenderCancelled
from tests.unit.pipelines.jobs import inner, make_job, make_request

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

pytestmark = pytest.mark.torch

BOTH = ("anisora", "phr00t")
PARTS = ("text_encoder.encoder.block.1", "vae.encoder.mid_block", "transformer.blocks.1", "vae.decoder.up_blocks.1")


@pytest.fixture(params=BOTH)
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    """Each model in turn."""
    loaded: Pipeline = request.getfixturevalue(request.param)
    return loaded


def model_of(pipeline: Pipeline) -> str:
    """Which model it is."""
    return "phr00t" if hasattr(inner(pipeline).transformer, "vace_blocks") else "anisora"


def module_of(pipeline: Pipeline, path: str) -> Any:
    """A part by its dotted name."""
    name, _, rest = path.partition(".")
    return getattr(inner(pipeline), name).get_submodule(rest)


def checks_of(pipeline: Pipeline) -> int:
    """Modules whose forward pass is not their class's."""
    import torch

    parts = [part for part in inner(pipeline).components.values() if isinstance(part, torch.nn.Module)]
    return sum("forward" in vars(module) for part in parts for module in part.modules())


class Cancel:
    """Notes which parts run, and wants the render to end from the moment that one of them begins."""

    def __init__(self, pipeline: Pipeline, at: str) -> None:
        """Watches every block and the part."""
        from runtime.lane.wan.loaded import blocks_of

        self.is_wanted = False
        self.later_blocks = 0
        blocks = list(blocks_of(inner(pipeline)))
        self._hooks: list[RemovableHandle] = [block.register_forward_hook(self._ran) for block in blocks]
        # Last, so that the part that wishes it does not count itself.
        self._hooks.append(module_of(pipeline, at).register_forward_hook(self._wish))

    def check(self) -> None:
        """As the port wants it."""
        if self.is_wanted:
            raise RenderCancelled

    def end(self) -> None:
        """Watches no longer."""
        for hook in self._hooks:
            hook.remove()

    def _wish(self, *_: object) -> None:
        self.is_wanted = True

    def _ran(self, *_: object) -> None:
        self.later_blocks += self.is_wanted


@pytest.mark.parametrize("at", PARTS)
def test_the_render_ends_before_the_next_block_when_cancelled_in_the_middle_of_a_step(pipeline: Pipeline, at: str) -> None:
    # A cancel was seen at the end of a step only. One takes up to two minutes on a real GPU, so the process was killed, and its warm model
    # with it, at every cancel.
    request = make_request(model_of(pipeline), "i2v")
    before = pipeline.render(make_job(request))
    cancel = Cancel(pipeline, at)
    try:
        with pytest.raises(RenderCancelled):
            pipeline.render(make_job(request, check=cancel.check))
    finally:
        cancel.end()
    assert cancel.later_blocks == 0
    assert checks_of(pipeline) == 0
    assert np.array_equal(before, pipeline.render(make_job(request)))


def test_no_check_is_left_when_a_render_ends(pipeline: Pipeline) -> None:
    checks: list[None] = []
    pipeline.render(make_job(make_request(model_of(pipeline)), check=lambda: checks.append(None)))
    told = len(checks)
    assert told > 0
    assert checks_of(pipeline) == 0
    pipeline.render(make_job(make_request(model_of(pipeline))))
    assert len(checks) == told


@pytest.mark.parametrize("name", BOTH)
def test_every_block_is_checked_when_a_model_has_several_networks(name: str, request: pytest.FixtureRequest) -> None:
    import torch

    from runtime.lane.wan.loaded import blocks_of

    pipe = inner(request.getfixturevalue(name))
    blocks = list(blocks_of(pipe))
    assert len({id(block) for block in blocks}) == len(blocks)
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert len(networks) == (4 if name == "anisora" else 3)
    for network in networks:
        assert any(block in set(network.modules()) for block in blocks)
