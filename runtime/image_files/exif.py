"""The one thing that matters of an EXIF block: how the picture lies.

Not by Pillow's reader: each of the block's entries may claim all of its bytes as a value, and that reader copies them for every entry.
"""

from __future__ import annotations

from typing import Literal

_ORIENTATION = 0x0112
_MARK = 42
_ENTRY_BYTES = 12
# Writers put this tag among the first; a block of the largest size in a JPEG has room for five times as many.
_MOST_ENTRIES = 1_000
# Bytes of a value by its type: BYTE, SHORT, LONG.
_SIZES = {1: 1, 3: 2, 4: 4}


def orientation(block: bytes) -> int | None:
    """EXIF orientation, 1 to 8 where the block is right; None when it does not say."""
    block = block.removeprefix(b"Exif\0\0")
    order: Literal["little", "big"] = "little" if block[:2] == b"II" else "big"
    if block[:2] not in (b"II", b"MM") or int.from_bytes(block[2:4], order) != _MARK:
        return None
    start = int.from_bytes(block[4:8], order)
    count = int.from_bytes(block[start : start + 2], order)
    for number in range(min(count, _MOST_ENTRIES)):
        at = start + 2 + number * _ENTRY_BYTES
        entry = block[at : at + _ENTRY_BYTES]
        if len(entry) < _ENTRY_BYTES:
            return None
        if int.from_bytes(entry[:2], order) == _ORIENTATION:
            size = _SIZES.get(int.from_bytes(entry[2:4], order))
            return None if size is None else int.from_bytes(entry[8 : 8 + size], order)
    return None
