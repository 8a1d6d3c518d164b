"""Byte ranges and entity tags of RFC 9110, as pure functions over header values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_RANGE = re.compile(r"(?:([0-9]+)-([0-9]*))|(?:-([0-9]+))")
_TAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')
# No file is that long; longer runs of digits need not be turned into numbers.
_FAR = 10**18

MAX_PARTS = 16
"""Parts of one reply. Who asks for more gets the whole file."""

# Ranges that are looked at, overlapping ones included; no player and no download names so many.
_MAX_ASKED = 100
# What stands before each part of a reply with several: between ranges that are closer, the bytes themselves are cheaper.
_PART_HEAD_BYTES = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteRange:
    """Bytes `start` (first) to `end` (one past the last) of a file; never empty."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """How many bytes."""
        return self.end - self.start

    def content_range(self, size: int) -> str:
        """As the header Content-Range says it of a file of `size` bytes."""
        return f"bytes {self.start}-{self.end - 1}/{size}"


class UnsatisfiableRangeError(Exception):
    """The header asks for bytes that the file does not have."""


def select_ranges(header: str | None, size: int) -> tuple[ByteRange, ...]:
    """What a Range header asks of a file of `size` bytes; none means the whole file.

    Ranges are apart from each other: those that overlap or nearly touch are one. A header that is malformed, in another unit or asks
    for more than MAX_PARTS parts is ignored, as the RFC allows. Ranges outside the file are left out if others are inside.

    Raises:
        UnsatisfiableRangeError: the header is well-formed and no range of it has a byte in the file.
    """
    if header is None or header.count(",") > _MAX_ASKED:
        return ()
    unit, separator, text = header.partition("=")
    if not separator or unit.strip(" \t").lower() != "bytes":
        return ()
    # Empty members of a list are allowed; a list of nothing else is not.
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    matches = [_RANGE.fullmatch(member) for member in members]
    asked = [_asked(match, size) for match in matches if match is not None]
    if len(asked) != len(members) or not members or any(one is None for one in asked):
        return ()
    inside = [ByteRange(start=start, end=min(end, size)) for start, end in filter(None, asked) if start < min(end, size)]
    if not inside:
        raise UnsatisfiableRangeError
    parts = _joined(inside)
    return parts if len(parts) <= MAX_PARTS else ()


def _asked(match: re.Match[str], size: int) -> tuple[int, int] | None:
    """First and one past the last byte, inside the file or not; None when the first is after the last."""
    first, last, suffix = match.groups()
    if suffix is not None:
        # Of an empty file, or zero bytes of any, a suffix has no byte.
        return max(0, size - _number(suffix)), size
    start, end = _number(first), _number(last) + 1 if last else _FAR
    return (start, end) if start < end or not last else None


def _joined(ranges: list[ByteRange]) -> tuple[ByteRange, ...]:
    """In the order that was asked for when they are apart; sorted and joined when some are not."""
    joined: list[ByteRange] = []
    for part in sorted(ranges, key=lambda one: one.start):
        if joined and part.start <= joined[-1].end + _PART_HEAD_BYTES:
            joined[-1] = ByteRange(start=joined[-1].start, end=max(joined[-1].end, part.end))
        else:
            joined.append(part)
    return tuple(ranges if len(joined) == len(ranges) else joined)


def _number(digits: str) -> int:
    significant = digits.lstrip("0")
    return _FAR if len(significant) > 18 else int(significant or "0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Multipart:
    """The form of a reply with several parts (multipart/byteranges): what stands before each part and at the end."""

    boundary: str
    heads: tuple[bytes, ...]
    tail: bytes
    length: int

    @property
    def media_type(self) -> str:
        """Value of the header Content-Type."""
        return f"multipart/byteranges; boundary={self.boundary}"


def multipart(parts: Iterable[ByteRange], *, size: int, media_type: str, boundary: str) -> Multipart:
    """For these parts of a file; the boundary must not occur in it (a long random one does not)."""
    parts = tuple(parts)
    heads = tuple(
        f"--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: {part.content_range(size)}\r\n\r\n".encode() for part in parts
    )
    # The line break before a boundary belongs to the boundary.
    heads = (heads[0], *(b"\r\n" + head for head in heads[1:]))
    tail = f"\r\n--{boundary}--\r\n".encode()
    length = sum(part.length for part in parts) + sum(len(head) for head in heads) + len(tail)
    return Multipart(boundary=boundary, heads=heads, tail=tail, length=length)


def is_unchanged(if_none_match: str | None, etag: str) -> bool:
    """Whether an If-None-Match header names `etag` (weak comparison) or is `*`: then the client's copy is good."""
    if if_none_match is None:
        return False
    if if_none_match.strip() == "*":
        return True
    return any(tag == etag for _, tag in _TAG.findall(if_none_match))


def is_another(if_match: str | None, etag: str) -> bool:
    """Whether an If-Match header is there and names other files only (strong comparison): then the client wants none of this one."""
    if if_match is None or if_match.strip() == "*":
        return False
    return not any(tag == etag for weak, tag in _TAG.findall(if_match) if not weak)


def may_serve_range(if_range: str | None, etag: str) -> bool:
    """Whether a Range header counts beside this If-Range header: there is none, or it names `etag` (strong comparison).

    A date never matches, because no Last-Modified is sent.
    """
    return if_range is None or if_range.strip() == etag
