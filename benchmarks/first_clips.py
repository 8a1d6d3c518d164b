"""`python -m benchmarks.first_clips`: from `warmlane up` (tiny profile) to a clip of each model in each mode.

Prints a table and, with `--json FILE`, writes the figures. Times are wall-clock seconds on this machine; the ratio beside each clip is
its time to the time of plain AniSora t2v in the same run, so that runs on different machines can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from tests.harness.http import Frontend
from tests.harness.stack import Stack
from tests.harness.video import data_uri, decode, picture

_CLIP = {"prompt": "a paper boat on a quiet pond", "width": 512, "height": 512, "num_frames": 17, "seed": 1}
_MODES: list[tuple[str, str]] = [
    ("anisora", "t2v"),
    ("anisora", "i2v"),
    ("anisora", "first_last_frame"),
    ("anisora", "arbitrary_frame"),
    ("phr00t", "t2v"),
    ("phr00t", "i2v"),
    ("phr00t", "first_last_frame"),
]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = _measure(Path(folder))
    _print(figures)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _measure(folder: Path) -> dict[str, Any]:
    started_s = time.monotonic()
    with Stack(folder) as stack, Frontend(stack.http_url, stack.api_key) as frontend:
        ready_s = time.monotonic() - started_s
        clips = [_clip(frontend, model, mode) for model, mode in _MODES]
        resident = _resident_bytes(stack)
    whole_s = clips[0]["seconds"]
    for clip in clips:
        clip["ratio"] = round(clip["seconds"] / whole_s, 2)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    return {"machine": machine, "ready_s": round(ready_s, 1), "clips": clips, "resident_mib": round(resident / 1024**2)}


def _clip(frontend: Frontend, model: str, mode: str) -> dict[str, Any]:
    red, blue = (data_uri(picture(colour, 512)) for colour in ((200, 60, 40), (40, 60, 200)))
    of_mode: dict[str, dict[str, Any]] = {
        "i2v": {"reference_image": red},
        "first_last_frame": {"first_frame_image": red, "last_frame_image": blue},
        "arbitrary_frame": {"arbitrary_frames": [{"frame_index": 0, "image": red}, {"frame_index": 8, "image": blue}]},
    }
    started_s = time.monotonic()
    _, content = frontend.render(model=model, mode=mode, **_CLIP, **of_mode.get(mode, {}))
    seconds = time.monotonic() - started_s
    seen = decode(content)
    assert (seen.width, seen.height, seen.frames) == (512, 512, 17)
    return {"model": model, "mode": mode, "seconds": round(seconds, 2), "bytes": len(content)}


def _resident_bytes(stack: Stack) -> int:
    """Resident sets of all processes added up; shared pages count in each, so it is an upper bound."""
    up = psutil.Process(stack.up_pid)
    return sum(process.memory_info().rss for process in [up, *up.children(recursive=True)])


def _print(figures: dict[str, Any]) -> None:
    print(f"machine: {figures['machine']}")
    print(f"`warmlane up` to ready: {figures['ready_s']} s (tiny models made in it)")
    print(f"resident memory of all processes after the clips: {figures['resident_mib']} MiB")
    print("| model | mode | 512x512, 17 frames: seconds | ratio |\n|---|---|---|---|")
    for clip in figures["clips"]:
        print(f"| {clip['model']} | {clip['mode']} | {clip['seconds']} | {clip['ratio']} |")


if __name__ == "__main__":
    main()
