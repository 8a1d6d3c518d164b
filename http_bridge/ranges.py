"""Byte ranges and entity tags of RFC 9110, as pure functions over header values."""

from __future__ import annotations

import re
from dataclasses import dataclass

_RANGE = re.compile(r"(?:([0-9]+)-([0-9]*))|(?:-([0-9]+))")
_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
# No file is that long; longer runs of digits need not be turned into numbers.
_FAR = 10**18


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteRange:
    """Bytes `start` (first) to `end` (one past the last) of a file; never empty."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """How many bytes."""
        return self.end - self.start


class UnsatisfiableRangeError(Exception):
    """The header asks for bytes that the file does not have."""


def select_range(header: str | None, size: int) -> ByteRange | None:
    """What a Range header asks of a file of `size` bytes; None means the whole file.

    A header that is malformed, in another unit or asks for several ranges at once is ignored, as the RFC allows.

    Raises:
        UnsatisfiableRangeError: the range is well-formed and starts past the end, or is an empty suffix.
    """
    if header is None:
        return None
    unit, separator, text = header.partition("=")
    match = _RANGE.fullmatch(text.strip(" \t"))
    if not separator or unit.strip(" \t").lower() != "bytes" or match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, end = max(0, size - _number(suffix)), size
    else:
        start, end = _number(first), min(size, _number(last) + 1 if last else size)
        if last and _number(last) < start:
            return None
    if start >= size or start >= end:
        raise UnsatisfiableRangeError
    return ByteRange(start=start, end=end)


def _number(digits: str) -> int:
    significant = digits.lstrip("0")
    return _FAR if len(significant) > 18 else int(significant or "0")


def is_unchanged(if_none_match: str | None, etag: str) -> bool:
    """Whether an If-None-Match header names `etag` (weak comparison) or is `*`: then the client's copy is good."""
    if if_none_match is None:
        return False
    if if_none_match.strip() == "*":
        return True
    return any(tag == etag for _, tag in _TAG.findall(if_none_match))


def may_serve_range(if_range: str | None, etag: str) -> bool:
    """Whether a Range header counts beside this If-Range header: there is none, or it names `etag` (strong comparison).

    A date never matches, because no Last-Modified is sent.
    """
    return if_range is None or if_range.strip() == etag
