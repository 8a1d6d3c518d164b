"""`python -m benchmarks.lane_overlap`: clips back to back on one lane, each finished beside the next one's render, and one by one.

Two kinds of lane, each with `WARMLANE_OVERLAP` false and true, in turn in one run:

- `waiting`: a render that only waits, as a host does for its GPU, and gives frames of a real size, which are really encoded and stored.
  What it gains is what a GPU gains; how long a GPU renders is the option `--render-s`.
- `tiny`: the pipelines with tiny weights on the CPU. Render and encoder share the cores, so there is little to gain.

Prints a table and, with `--json FILE`, writes the figures. Compare the ratios: seconds depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1 import task_pb2
from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceStub
from warmlane.generation.v1.generation_pb2 import GenerationRequest

from tests.harness.light_stack import LightStack
from tests.harness.stack import Stack

_POLL_S = 0.02
_PATIENCE_S = 600.0
_ENDED = (task_pb2.TASK_STATE_DONE, task_pb2.TASK_STATE_FAILED, task_pb2.TASK_STATE_CANCELLED)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=6, help="back to back")
    parser.add_argument("--render-s", type=float, default=2.0, help="of the waiting lane")
    parser.add_argument("--size", default="832x480x49", help="width, height and frames of the waiting lane's clips")
    parser.add_argument("--only", choices=("waiting", "tiny"), help="one kind of lane")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    width, height, frames = (int(part) for part in arguments.size.split("x"))
    waiting = {"prompt": f"takes {arguments.render_s:g}", "width": width, "height": height, "num_frames": frames}
    tiny = {"prompt": "a paper boat on a quiet pond", "width": 512, "height": 512, "num_frames": 17}
    kinds = {"waiting": waiting, "tiny": tiny}
    rows = [
        _row(kind, clip, arguments.clips, arguments.render_s if kind == "waiting" else None)
        for kind, clip in kinds.items()
        if arguments.only in (None, kind)
    ]
    figures = {"machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}", "lanes": rows}
    _print(figures)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _row(kind: str, clip: dict[str, Any], count: int, render_s: float | None) -> dict[str, Any]:
    """The seconds of so many clips, one by one and overlapped."""
    seconds = {}
    for overlap in (False, True):
        with tempfile.TemporaryDirectory() as folder, _served(kind, Path(folder), overlap=overlap) as address:
            seconds[overlap] = _seconds(address, clip, count)
    row: dict[str, Any] = {"lane": kind, "clips": count, "one_by_one_s": round(seconds[False], 2), "overlapped_s": round(seconds[True], 2)}
    row["ratio"] = round(seconds[False] / seconds[True], 2)
    if render_s is not None:
        row |= {
            "gpu_busy_one_by_one": round(count * render_s / seconds[False], 2),
            "gpu_busy_overlapped": round(count * render_s / seconds[True], 2),
        }
    return row


@contextmanager
def _served(kind: str, folder: Path, *, overlap: bool) -> Iterator[str]:
    """Address of an admission with one lane of this kind, ready."""
    setting = {"WARMLANE_OVERLAP": "true" if overlap else "false"}
    if kind == "waiting":
        with LightStack(folder, processes=("admission", "lane-anisora"), environment=setting) as light:
            yield light.grpc_address
    else:
        with Stack(folder, without=("lane-phr00t", "degraded-pool", "http-bridge"), environment=setting) as stack:
            yield stack.grpc_address


def _seconds(address: str, clip: dict[str, Any], count: int) -> float:
    """From the first request to the last result, after one clip that warms everything up."""
    with grpc.insecure_channel(address) as channel:
        admission = AdmissionServiceStub(channel)
        _wait(admission, [_submit(admission, clip, seed=1)])
        started_s = time.monotonic()
        _wait(admission, [_submit(admission, clip, seed=2 + number) for number in range(count)])
        return time.monotonic() - started_s


def _submit(admission: AdmissionServiceStub, clip: dict[str, Any], *, seed: int) -> str:
    request = pb.SubmitTaskRequest(request=GenerationRequest(model="anisora", seed=seed, **clip))
    return admission.SubmitTask(request, timeout=_PATIENCE_S).task.task_id


def _wait(admission: AdmissionServiceStub, task_ids: list[str]) -> None:
    """Returns when all are done. Raises RuntimeError when one is not."""
    until_s = time.monotonic() + _PATIENCE_S
    while task_ids:
        task = admission.GetTask(pb.GetTaskRequest(task_id=task_ids[0]), timeout=_PATIENCE_S).task
        if task.state in _ENDED:
            if task.state != task_pb2.TASK_STATE_DONE:
                msg = f"a clip ended with {task.failure.code}: {task.failure.message}"
                raise RuntimeError(msg)
            task_ids = task_ids[1:]
        elif time.monotonic() > until_s:
            msg = "a clip is not done in time"
            raise RuntimeError(msg)
        else:
            time.sleep(_POLL_S)


def _print(figures: dict[str, Any]) -> None:
    print(f"machine: {figures['machine']}")
    print(
        "| lane | clips | one by one: seconds | overlapped: seconds | ratio | GPU busy: one by one, overlapped |\n|---|---|---|---|---|---|"
    )
    for row in figures["lanes"]:
        busy = f"{row['gpu_busy_one_by_one']:.0%}, {row['gpu_busy_overlapped']:.0%}" if "gpu_busy_overlapped" in row else "-"
        print(f"| {row['lane']} | {row['clips']} | {row['one_by_one_s']} | {row['overlapped_s']} | {row['ratio']} | {busy} |")


if __name__ == "__main__":
    main()
