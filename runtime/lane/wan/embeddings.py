"""The text encoder's output for texts that were seen lately, in host memory: the same text again needs no text encoder."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import torch

LIMIT_BYTES = 64 * 1024 * 1024
"""For one model: 16 texts of the real size (512 tokens of 4096 channels as bf16, 4 MiB each)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    content: bytearray
    dtype: torch.dtype
    shape: torch.Size


class EmbeddingCache:
    """Embeddings by text, the one used longest ago first to go. One thread uses it.

    It belongs to the weights that made them and goes with them. Texts are known by their hash: nobody's words are kept.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        """Empty. A limit of 0 keeps nothing."""
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._host_bytes = 0

    @property
    def host_bytes(self) -> int:
        """Of all embeddings; never above the limit."""
        return self._host_bytes

    def get(self, text: str) -> torch.Tensor | None:
        """The embedding in host memory, to be read only; None when it is not known. Not within `DeviceMemory.counting`."""
        kept = self._kept.get(_key(text))
        if kept is None:
            return None
        self._kept.move_to_end(_key(text))
        return torch.frombuffer(kept.content, dtype=kept.dtype).view(kept.shape)

    def put(self, text: str, embedding: torch.Tensor) -> None:
        """Keeps a copy, whatever device it is on. One that is larger than the limit is not kept."""
        size_bytes = embedding.numel() * embedding.element_size()
        if size_bytes == 0 or size_bytes > self._limit_bytes:
            return
        # Not as a tensor: one that is made while a render is counted would count as the device's.
        content = bytearray(embedding.contiguous().cpu().view(torch.uint8).numpy())
        self._drop(_key(text))
        while self._host_bytes + size_bytes > self._limit_bytes:
            self._drop(next(iter(self._kept)))
        self._kept[_key(text)] = _Kept(content=content, dtype=embedding.dtype, shape=embedding.shape)
        self._host_bytes += size_bytes

    def clear(self) -> None:
        """Forgets all."""
        self._kept.clear()
        self._host_bytes = 0

    def _drop(self, key: bytes) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._host_bytes -= len(kept.content)


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
