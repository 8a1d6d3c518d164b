"""A text that was rendered before needs no text encoder, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from runtime.fit.placement import MemoryPhase
from runtime.lane.renderer import RenderCancelled
from tests.unit.pipelines.jobs import ignore_stage, inner, make_job, make_request, settings
from tests.unit.pipelines.watching import BOTH, ROOM, WatchingMemory, catalog_of, place, placed_parts

if TYPE_CHECKING:
    import torch

    from runtime.lane.renderer import Pipeline

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _texts_are_forgotten() -> None:
    """Here they are not."""


class Seen:
    """What one pipeline does in a render: phases, and texts that the text encoder reads."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Watches the pipeline."""
        self._pipeline = pipeline
        self.phases: list[MemoryPhase] = []
        self.texts = 0
        inner(pipeline).text_encoder.register_forward_pre_hook(self._read)

    def render(self, placement: str = "streamed", **changes: Any) -> Any:
        """Renders, and begins to note anew."""
        self.phases, self.texts = [], 0
        request = make_request(**({"model": "anisora"} | changes))
        return self._pipeline.render(make_job(request, placement=placement, on_phase=self.phases.append))

    def _read(self, *_: object) -> None:
        self.texts += 1


def weights_of_text_encoder(pipeline: Pipeline) -> set[int]:
    """Addresses in host memory."""
    groups = placed_parts(pipeline)["text_encoder"].groups
    return {piece.data_ptr() for group in groups for _, piece in group._weights.pieces}


@pytest.mark.parametrize("placement", ["resident_all", "resident", "streamed"])
@pytest.mark.parametrize("model", BOTH)
def test_clip_is_the_same_and_the_text_encoder_stays_away_when_the_text_is_known(models_dir: Path, model: str, placement: str) -> None:
    pipeline, memory = place(model, models_dir)
    seen = Seen(pipeline)
    first = seen.render(placement, model=model, mode="i2v")
    assert (seen.texts, MemoryPhase.TEXT in seen.phases) == (1, True)
    memory.copied.clear()

    second = seen.render(placement, model=model, mode="i2v")

    assert np.array_equal(first, second)
    assert seen.texts == 0
    assert seen.phases == [MemoryPhase.ENCODE, MemoryPhase.DENOISE, MemoryPhase.DECODE]
    assert weights_of_text_encoder(pipeline).isdisjoint(memory.copied)
    # What is remembered is in host memory, not on the device.
    assert memory.live_bytes() == memory.weight_bytes


def test_only_what_is_missing_is_read_when_one_of_two_texts_is_known(models_dir: Path) -> None:
    seen = Seen(place("anisora", models_dir)[0])

    seen.render(negative_prompt="rain")
    assert seen.texts == 1  # at guidance 1 nobody asks for the negative one
    guided = seen.render(negative_prompt="rain", guidance_scale=3.0)
    assert (seen.texts, MemoryPhase.TEXT in seen.phases) == (1, True)
    again = seen.render(negative_prompt="rain", guidance_scale=3.0)
    assert (seen.texts, MemoryPhase.TEXT in seen.phases) == (0, False)
    assert np.array_equal(guided, again)
    # The ending is part of the text.
    seen.render(motion_score=3.5)
    assert seen.texts == 1


def test_text_is_read_once_when_it_is_its_own_negative(models_dir: Path) -> None:
    seen = Seen(place("anisora", models_dir)[0])
    text = "a fox aesthetic score: 5.5. motion score: 3.0. There is no text in the video."

    seen.render(prompt="a fox", negative_prompt=text, guidance_scale=3.0)

    assert seen.texts == 1


def test_texts_stay_with_the_weights_when_a_pipeline_is_made_anew(models_dir: Path) -> None:
    catalog, memory = catalog_of("phr00t"), WatchingMemory(ROOM)
    load_settings = settings(models_dir, memory=memory)
    weights = catalog.read("phr00t", load_settings, ignore_stage)
    empty_bytes = weights.host_bytes
    first = Seen(catalog.assemble("phr00t", weights, load_settings, ignore_stage))
    frames = first.render(model="phr00t")
    first._pipeline.release()

    second = Seen(catalog.assemble("phr00t", weights, load_settings, ignore_stage))
    assert np.array_equal(second.render(model="phr00t"), frames)
    assert second.texts == 0
    assert weights.host_bytes == empty_bytes + 512 * 32 * 4  # tokens of the tiny width, in float32

    fresh = Seen(catalog.assemble("phr00t", catalog.read("phr00t", load_settings, ignore_stage), load_settings, ignore_stage))
    fresh.render(model="phr00t")
    assert fresh.texts == 1


def test_nothing_is_remembered_when_the_text_encoder_was_cut_off(models_dir: Path) -> None:
    pipeline, _ = place("phr00t", models_dir)
    seen = Seen(pipeline)

    def stop() -> None:
        if seen.texts:
            raise RenderCancelled

    with pytest.raises(RenderCancelled):
        pipeline.render(make_job(make_request("phr00t"), check=stop))
    seen.render(model="phr00t")

    assert seen.texts == 1


def embedding(number: float, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Of 64 bytes."""
    import torch

    size = 64 // (dtype or torch.float32).itemsize
    return torch.full((1, 2, size // 2), number, dtype=dtype or torch.float32)


def test_the_longest_unused_goes_first_when_there_is_no_room() -> None:
    import torch

    from runtime.lane.wan.embeddings import EmbeddingCache

    cache = EmbeddingCache(limit_bytes=64 * 3 + 10)
    for number, text in enumerate(("a", "b", "c")):
        cache.put(text, embedding(number))
    cache.get("a")
    cache.put("d", embedding(3, torch.bfloat16))

    assert cache.get("b") is None
    for number, text in ((0, "a"), (2, "c"), (3, "d")):
        found = cache.get(text)
        assert found is not None
        assert torch.equal(found, embedding(number, found.dtype))
    assert cache.host_bytes == 64 * 3
    # The same text again takes the place of what was there.
    cache.put("a", embedding(9))
    assert cache.host_bytes == 64 * 3
    assert float(cache.get("a").sum()) == 9 * 16  # type: ignore[union-attr]
    cache.clear()
    assert (cache.get("a"), cache.host_bytes) == (None, 0)


def test_nothing_is_kept_when_it_is_larger_than_the_limit() -> None:
    from runtime.lane.wan.embeddings import EmbeddingCache

    cache = EmbeddingCache(limit_bytes=63)
    cache.put("a", embedding(1))

    assert (cache.get("a"), cache.host_bytes) == (None, 0)


def test_no_text_is_kept_when_it_is_remembered() -> None:
    from runtime.lane.wan.embeddings import EmbeddingCache

    cache = EmbeddingCache()
    cache.put("a secret \ud800", embedding(1))

    assert cache.get("a secret \ud800") is not None
    assert b"secret" not in b"".join(cache._kept)


def test_what_is_remembered_does_not_change_when_its_source_does() -> None:
    import torch

    from runtime.lane.wan.embeddings import EmbeddingCache

    cache, source = EmbeddingCache(), embedding(1)
    cache.put("a", source)
    source.zero_()

    assert torch.equal(cache.get("a"), embedding(1))  # type: ignore[arg-type]
