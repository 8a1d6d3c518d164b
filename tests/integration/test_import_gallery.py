"""`warmlane import-gallery` against real services of admission, and what the bridge shows of it afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from command_line.__main__ import app
from command_line.failures import CommandError
from tests.harness.admission_services import Stack, admission_stack
from tests.harness.bridge import WITH_KEY, bridge_before, png
from tests.harness.imports import MP4, WEBM, jpeg
from tests.harness.old_gallery import OldGallery

Run = Callable[..., Any]


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with admission_stack(tmp_path / "new") as stack:
        yield stack


@pytest.fixture
def old(tmp_path: Path) -> OldGallery:
    """A gallery with two videos, a failed and a cancelled task, and two pictures."""
    old = OldGallery(tmp_path / "old")
    old.done("video-1", created_at="2025-03-01T10:00:00+02:00")
    old.write("video-2", video=WEBM)
    old.add("video-2", model="phr00t", mode="i2v", created_at="2025-03-01 09:00:00", lane_mode="degraded_shared", fallback_reason="quota")
    old.add("failed-1", status="failed", error_msg="It broke.", result_path=None, preview_path=None)
    old.add("cancelled-1", status="cancelled", result_path=None, preview_path=None)
    old.add("picture-1", model="pony", type="image", result_path="outputs/p.png")
    old.add("picture-2", model="flux", type="image", status="processing")
    return old


async def run(stack: Stack, *words: str | Path) -> Result:
    """Runs the command; an error that ends it is raised as it would be before it becomes an exit code."""
    arguments = ["import-gallery", *map(str, words), "--address", f"127.0.0.1:{stack.port}"]
    result = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    if isinstance(result.exception, Exception):
        raise result.exception
    return result


async def report(stack: Stack, *words: str | Path) -> tuple[dict[str, Any], int]:
    """What `--json` says, and the exit code."""
    result = await run(stack, *words, "--json")
    content: dict[str, Any] = json.loads(result.stdout)
    return content, result.exit_code


def sums(content: dict[str, Any]) -> tuple[int, ...]:
    return tuple(content[name] for name in ("rows", "imported", "already_there", "image_models"))


async def test_bridge_shows_everything_when_a_gallery_was_taken_over(stack: Stack, old: OldGallery) -> None:
    content, code = await report(stack, old.file)
    assert (sums(content), content["not_taken_over"], code) == ((6, 4, 0, 2), [], 0)

    async with bridge_before(f"127.0.0.1:{stack.port}", stack.objects) as http:
        page = (await http.get("/gallery", headers=WITH_KEY)).json()
        # 10:00 in a zone two hours ahead is before 9:00 UTC.
        assert ([item["id"] for item in page["items"]], page["total"]) == (["video-2", "video-1"], 2)
        second, first = page["items"]
        assert (first["prompt"], first["width"], first["seed"], first["mode"]) == ("a lake, take video-1", 512, 7, "t2v")
        assert first["created_at"].startswith("2025-03-01T08:00:00")
        assert (second["model"], second["parameters"]["num_frames"]) == ("phr00t", 17)
        for item, video in ((first, MP4), (second, WEBM)):
            result = await http.get(item["result_url"], headers={**WITH_KEY, "Range": "bytes=4-11"})
            assert (result.status_code, result.content) == (206, video[4:12])
            assert (await http.get(item["result_url"], headers=WITH_KEY)).content == video
            assert (await http.get(item["preview_url"], headers=WITH_KEY)).content == jpeg()
        assert (await http.head(second["result_url"], headers=WITH_KEY)).headers["content-type"] == "video/webm"

        status = (await http.get("/status/video-2", headers=WITH_KEY)).json()
        assert (status["status"], status["progress"], status["stage"]) == ("done", 100, "completed")
        assert (status["lane_mode"], status["fallback_reason"]) == ("degraded_shared", "quota")
        failed = (await http.get("/status/failed-1", headers=WITH_KEY)).json()
        assert (failed["status"], failed["error"], failed["error_code"]) == ("failed", "It broke.", "render_failed")
        cancelled = (await http.get("/status/cancelled-1", headers=WITH_KEY)).json()
        assert (cancelled["status"], cancelled["error_code"]) == ("failed", "cancelled")
        assert (await http.get("/results/failed-1", headers=WITH_KEY)).status_code == 404

        assert (await http.delete("/gallery/video-1", headers=WITH_KEY)).status_code == 200
        assert (await http.get("/results/video-1", headers=WITH_KEY)).status_code == 404


async def test_second_run_changes_nothing_and_takes_what_is_new_when_it_is_repeated(stack: Stack, old: OldGallery) -> None:
    await report(stack, old.file)
    content, code = await report(stack, old.file)
    assert (sums(content), code) == ((6, 0, 4, 2), 0)
    old.done("video-3")
    content, code = await report(stack, old.file)
    assert (sums(content), code) == ((7, 1, 4, 2), 0)


async def test_every_row_that_stays_is_named_when_some_cannot_be_taken_over(stack: Stack, old: OldGallery) -> None:
    old.add("no-file")
    old.add("no-path", result_path=None)
    old.add("outside", result_path="../new/x.mp4")
    old.done("page")
    (old.folder / "outputs/page.mp4").write_bytes(b"<html>")
    old.done("old-future", created_at="2999-01-01T00:00:00")
    old.done("long", prompt="x" * 20_001)
    old.done("broken", parameters="{")
    old.add("waiting", status="pending")
    old.done("no-preview", preview_path=None)
    old.write("bad-preview", preview=png())
    old.add("bad-preview")
    # It begins as a JPEG: only admission, which decodes it, can tell.
    old.write("cut-preview", preview=jpeg()[:300])
    old.add("cut-preview", parameters='{"sampler": "euler", "fps": "many", "reference_image": "data:image/png;base64,AA"}')

    content, code = await report(stack, old.file)

    assert (sums(content), code) == ((17, 7, 0, 2), 1)
    reasons = {one["id"]: one["reason"] for one in content["not_taken_over"]}
    assert set(reasons) == {"no-file", "no-path", "outside", "page", "old-future", "long", "broken", "waiting"}
    for task_id, part in {
        "no-file": "outputs/no-file.mp4 is not there",
        "no-path": "no result_path",
        "outside": "leads out",
        "page": "neither MP4 nor WebM",
        "old-future": "created_at lies in the future",
        "long": "request.prompt must have at most 20000 characters",
        "broken": "no JSON",
        "waiting": "pending",
    }.items():
        assert part in reasons[task_id]
    assert [one["id"] for one in content["without_preview"]] == ["bad-preview", "cut-preview"]
    assert (content["unknown_parameters"], content["unusable_parameters"], content["without_input_images"]) == (
        {"sampler": 1}, {"fps": 1}, 1,
    )  # fmt: skip
    told = await run(stack, old.file)
    assert "not taken over: no-file: its result outputs/no-file.mp4 is not there" in told.stdout
    assert told.stdout.splitlines()[-1] == "17 rows: 0 taken over, 7 there already, 2 of image models, 8 not taken over"


async def test_unfinished_become_failed_tasks_when_that_is_asked(stack: Stack, old: OldGallery) -> None:
    old.add("waiting", status="processing")
    content, code = await report(stack, old.file, "--failed-unfinished")
    assert (sums(content), code) == ((7, 5, 0, 2), 0)


async def test_nothing_is_sent_when_the_run_is_dry(stack: Stack, old: OldGallery) -> None:
    content, code = await report(stack, old.file, "--dry-run")
    assert (content["dry_run"], sums(content), code) == (True, (6, 4, 0, 2), 0)
    assert (await stack.engine.task("video-1")) is None  # type: ignore[arg-type]


async def test_files_are_found_when_the_gallery_comes_from_another_machine(stack: Stack, tmp_path: Path) -> None:
    old = OldGallery(tmp_path / "old")
    old.done("a", result_path="/srv/app/outputs/a.mp4", preview_path="/srv/app/outputs/a.jpg")
    (old.folder / "outputs").rename(tmp_path / "moved")
    content, code = await report(stack, old.file)
    assert (content["imported"], code) == (0, 1)
    content, code = await report(stack, old.file, "--files", tmp_path / "moved")
    assert (content["imported"], content["without_preview"], code) == (1, [], 0)


async def test_exit_code_says_that_the_file_is_unusable_when_it_is_no_gallery(stack: Stack, tmp_path: Path) -> None:
    for words in ([tmp_path / "none.db"], [tmp_path], [tmp_path / "none.db", "--files", tmp_path / "nowhere"]):
        with pytest.raises(CommandError) as caught:
            await run(stack, *words)
        assert caught.value.exit_code == 2
