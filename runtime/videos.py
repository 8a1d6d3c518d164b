"""Tells what kind of video a file is by how it begins; the rest of it is not looked at."""

from __future__ import annotations

HEAD_BYTES = 64
"""So much of a file says what it is."""

MAX_VIDEO_BYTES = 4 * 1024**3
"""Largest video that is taken over; those that are rendered here have some tens of MiB."""

VIDEO_TYPES = ("video/mp4", "video/webm")
"""What a result can be; it is told to browsers as it is."""

_EBML = b"\x1a\x45\xdf\xa3"
# Kinds of the ISO container that are no MP4: pictures, and QuickTime, which browsers take for something else.
_OTHER_BRANDS = frozenset({b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"qt  "})


def video_type(head: bytes) -> str | None:
    """`video/mp4` or `video/webm`; None: neither. `head` is the first HEAD_BYTES of the file, or all of it if it is shorter."""
    if head[4:8] == b"ftyp" and len(head) >= 12 and head[8:12] not in _OTHER_BRANDS:
        return "video/mp4"
    # Matroska begins in the same way; the kind of document is told among the first elements.
    if head.startswith(_EBML) and b"webm" in head[:HEAD_BYTES]:
        return "video/webm"
    return None
