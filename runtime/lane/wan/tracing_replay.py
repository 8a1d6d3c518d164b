"""Traces a VAE in a fraction of the time: it works chunk by chunk and tile by tile, and after the first few all are alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from runtime.lane.wan.forwards import replaced_forwards

if TYPE_CHECKING:
    from runtime.lane.memory.account import TensorAccount

_SETTLED = 3
"""Chunks of a clip after which each does what the one before it did: the caches hold the frames that they will hold (tests compare)."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a chunk did: its most beside what was alive, what it left in the caches, and what it gave."""

    extra_bytes: int
    cached_bytes: int
    output: tuple[int, ...]


class Replay:
    """Stands for the halves of a VAE: runs each kind of chunk once and repeats what it did to the account."""

    def __init__(self, vae: Any, account: TensorAccount) -> None:
        """For one VAE whose tensors the account counts."""
        self._vae = vae
        self._account = account
        self._highest_bytes = 0

    @property
    def peak_bytes(self) -> int:
        """The account's, over everything so far."""
        return max(self._highest_bytes, self._account.peak_bytes)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Within it, encoder and decoder are replayed."""
        halves = (self._vae.encoder, self._vae.decoder)
        with replaced_forwards([(half, _Half(self, half.forward).run) for half in halves]):
            yield

    def measure(self, forward: Any, chunk: torch.Tensor, cache: list[Any], named: dict[str, Any]) -> tuple[torch.Tensor, _Seen]:
        """Runs a chunk."""
        self._highest_bytes = self.peak_bytes
        self._account.reset_peak()
        before_bytes = self._account.live_bytes
        output: torch.Tensor = forward(chunk, feat_cache=cache, **named)
        extra_bytes = self._account.peak_bytes - before_bytes
        storages = {entry.untyped_storage()._cdata: entry.untyped_storage().nbytes() for entry in cache if isinstance(entry, torch.Tensor)}
        return output, _Seen(extra_bytes, sum(storages.values()), tuple(output.shape))


class _Half:
    """The encoder or the decoder."""

    def __init__(self, replay: Replay, forward: Any) -> None:
        self._replay = replay
        self._forward = forward
        self._seen: dict[tuple[Any, ...], _Seen] = {}
        self._cache: list[Any] = []
        self._count = 0

    def run(self, chunk: torch.Tensor, feat_cache: list[Any], **named: Any) -> torch.Tensor:
        if feat_cache is not self._cache:  # a new clip, or a new tile
            self._cache, self._count = feat_cache, 0
        key = (tuple(chunk.shape), min(self._count, _SETTLED))
        self._count += 1
        seen = self._seen.get(key)
        if seen is None:
            output, self._seen[key] = self._replay.measure(self._forward, chunk, feat_cache, named)
            return output
        chunk.new_empty(max(0, seen.extra_bytes), dtype=torch.uint8)
        feat_cache[:] = [None] * len(feat_cache)
        output = chunk.new_empty(seen.output)
        feat_cache[0] = chunk.new_empty(seen.cached_bytes, dtype=torch.uint8)
        return output
