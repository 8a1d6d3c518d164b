"""The files of the pages: read once, with their types and entity tags."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType

_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "html": "text/html; charset=utf-8",
        "css": "text/css; charset=utf-8",
        "js": "text/javascript; charset=utf-8",
        "svg": "image/svg+xml",
    }
)
"""By the end of the name; whatever ends otherwise is not served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFile:
    """One file: what is sent, as what, and the tag by which a browser knows whether its copy is good.

    Attributes:
        packed: the content under gzip, for who takes it; a third of the size.
        etag: of the content as it is; that of the packed one has an end of its own, as RFC 9110 wants it.
    """

    content: bytes
    packed: bytes
    media_type: str
    etag: str


def read_page_files() -> Mapping[str, PageFile]:
    """Every file of the pages, by its name. They change with a release only, and fit into memory many times."""
    found = {}
    for file in files("http_bridge.pages").iterdir():
        media_type = _TYPES.get(file.name.rpartition(".")[2])
        if media_type is not None and file.is_file():
            content = file.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
            packed = gzip.compress(content, mtime=0)
            found[file.name] = PageFile(content=content, packed=packed, media_type=media_type, etag=etag)
    return MappingProxyType(found)
