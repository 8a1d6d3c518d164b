"""Checks of what was rendered: results whole and in ranges, previews, the gallery."""

from __future__ import annotations

from typing import Any

from command_line.smoke.deployment import Reply
from command_line.smoke.outcome import CheckFailedError, CheckSkippedError
from command_line.smoke.visit import PROMPT, Clip, Visit

_PROXY = "Look whether a proxy changes files or their headers, and at the object store."
_ITEM_MEMBERS = (
    "id",
    "model",
    "type",
    "mode",
    "prompt",
    "negative_prompt",
    "parameters",
    "width",
    "height",
    "seed",
    "created_at",
    "preview_url",
    "result_url",
)
_PAGES = 5
# Of an MP4 file: what kind of file, where everything is, the pictures.
_NEEDED_BOXES = {"ftyp", "moov", "mdat"}


def clips_of_each_model(visit: Visit) -> list[Clip]:
    """The first clip of each model. Raises CheckSkippedError when there is none."""
    first: dict[str, Clip] = {}
    for clip in visit.clips:
        first.setdefault(clip.model, clip)
    if not first:
        msg = "no clip was rendered"
        raise CheckSkippedError(msg)
    return list(first.values())


async def results(visit: Visit) -> str:
    """Whole files of the right type, with a tag, and not sent again to who has them."""
    sizes = []
    for clip in clips_of_each_model(visit):
        path = f"/results/{clip.task_id}"
        whole = await visit.call("GET", path)
        whole.expect_status(200)
        _require(whole.headers.get("content-type", "").partition(";")[0] == "video/mp4", whole, "is not video/mp4")
        _require(whole.headers.get("content-length") == str(len(whole.content)), whole, "has no Content-Length of its size")
        _require(whole.headers.get("accept-ranges") == "bytes", whole, "does not offer ranges (Accept-Ranges)")
        _require(bool(whole.headers.get("content-disposition")), whole, "has no Content-Disposition")
        _require(bool(_tag(whole)), whole, "has no ETag")
        _require(boxes(whole.content) >= _NEEDED_BOXES, whole, "is no whole MP4 file")
        head = await visit.call("HEAD", path)
        head.expect_status(200)
        for name in ("content-length", "content-type", "etag"):
            _require(head.headers.get(name) == whole.headers.get(name), head, f"tells another {name} than GET")
        _require(not head.content, head, "has a body")
        unchanged = await visit.call("GET", path, headers={"If-None-Match": _tag(whole)})
        unchanged.expect_status(304, _PROXY)
        _require(not unchanged.content, unchanged, "has a body with 304")
        sizes.append(f"{clip.model} {len(whole.content):,} bytes")
    return f"whole MP4 files with tags: {', '.join(sizes)}"


async def ranges(visit: Visit) -> str:
    """Parts of a file, as a video element asks for them."""
    clip = clips_of_each_model(visit)[0]
    path = f"/results/{clip.task_id}"
    content = (await visit.call("GET", path)).content
    size = len(content)
    for header, start, end in (("bytes=0-9", 0, 10), ("bytes=10-", 10, size), ("bytes=-7", size - 7, size)):
        part = await visit.call("GET", path, headers={"Range": header})
        part.expect_status(206, _PROXY)
        _require(part.content == content[start:end], part, f"with Range: {header} gives other bytes")
        expected = f"bytes {start}-{end - 1}/{size}"
        _require(part.headers.get("content-range") == expected, part, f"with Range: {header} does not say Content-Range: {expected}")
    beyond = await visit.call("GET", path, headers={"Range": f"bytes={size}-"})
    beyond.refusal(416, "range_not_satisfiable", _PROXY)
    _require(beyond.headers.get("content-range") == f"bytes */{size}", beyond, "with 416 does not say the size (Content-Range)")
    return "206 for parts, 416 beyond the end"


async def previews(visit: Visit) -> str:
    """JPEG previews."""
    for clip in clips_of_each_model(visit):
        reply = await visit.call("GET", f"/preview/{clip.task_id}")
        reply.expect_status(200)
        _require(reply.headers.get("content-type", "").partition(";")[0] == "image/jpeg", reply, "is not image/jpeg")
        _require(reply.content.startswith(b"\xff\xd8\xff") and reply.content.rstrip(b"\0").endswith(b"\xff\xd9"), reply, "is no whole JPEG")
    return "whole JPEG files"


async def gallery(visit: Visit) -> str:
    """The gallery lists what was rendered, newest first, and pages."""
    wanted = {clip.task_id: clip for clip in visit.clips}
    if not wanted:
        msg = "no clip was rendered"
        raise CheckSkippedError(msg)
    found: dict[str, dict[str, Any]] = {}
    for number in range(1, _PAGES + 1):
        page = (await visit.call("GET", f"/gallery?page={number}&per_page=100")).expect(200)
        items = page.get("items")
        if not isinstance(items, list) or {"total", "page", "per_page", "has_more"} - set(page):
            raise CheckFailedError("GET /gallery lacks items, total, page, per_page or has_more", "Compare the bridge's version.")
        found |= {item["id"]: item for item in items if isinstance(item, dict) and item.get("id") in wanted}
        if not page["has_more"]:
            break
    missing = set(wanted) - set(found)
    if missing:
        raise CheckFailedError(f"GET /gallery does not list {len(missing)} of {len(wanted)} clips", "Look at admission's log.")
    for task_id, item in found.items():
        lacking = [name for name in _ITEM_MEMBERS if name not in item]
        if lacking or item["model"] != wanted[task_id].model or item["prompt"] != PROMPT:
            raise CheckFailedError(f"an item of /gallery is not what was rendered ({', '.join(lacking) or 'model, prompt'})", _PROXY)
    times = [str(item["created_at"]) for item in found.values()]
    if times != sorted(times, reverse=True):
        raise CheckFailedError("GET /gallery is not sorted newest first", "Compare the bridge's version.")
    first = (await visit.call("GET", "/gallery?page=1&per_page=1")).expect(200)
    if len(first["items"]) != 1 or first["has_more"] is not (first["total"] > 1):
        raise CheckFailedError("GET /gallery does not page: per_page=1 gives other than one item", "Compare the bridge's version.")
    return f"{len(found)} clips listed, newest first"


def boxes(content: bytes) -> set[str]:
    """The kinds of the top-level boxes of an MP4 file; empty when their sizes do not make up the file: it is cut or is none."""
    kinds: set[str] = set()
    start = 0
    while start < len(content):
        size = int.from_bytes(content[start : start + 4], "big")
        header = 8
        if size == 1:
            size, header = int.from_bytes(content[start + 8 : start + 16], "big"), 16
        elif size == 0:
            size = len(content) - start
        if size < header or start + size > len(content):
            return set()
        kinds.add(content[start + 4 : start + 8].decode("latin-1"))
        start += size
    return kinds


def _tag(reply: Reply) -> str:
    tag: str = reply.headers.get("etag", "")
    return tag


def _require(is_right: bool, reply: Reply, problem: str) -> None:
    if not is_right:
        raise CheckFailedError(f"{reply.what} {problem}", _PROXY)
