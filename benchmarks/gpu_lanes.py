"""The product itself on a GPU: both models at their real sizes through `warmlane up --profile a10g` and its degraded pool.

    python -m benchmarks.gpu_lanes --folder /dev/shm/warmlane      an NVIDIA GPU; 50 GiB in the folder, 60 GiB of host memory beside it
    python -m benchmarks.gpu_lanes --tiny                          any machine: tiny lanes on the CPU, which proves the command only

Makes prepared folders with random weights, starts a stack whose only lane is the degraded pool, held to the memory of an A10G, and asks by
`warmlane submit`: a clip at 720x1280x81 of each model, then small clips of the two models in turn until the time is up. Writes
`gpu_lanes.json` and the logs of all processes to --out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
from PIL import Image

from runtime.fit.gpus import GPUS
from runtime.lane.wan.manifest import read_manifest

_MODELS = ("anisora", "phr00t")
_READY = "Ctrl-C stops everything"
_READY_S, _STOP_S, _SUBMIT_S, _PREPARE_S = 180.0, 60.0, 900.0, 600.0
_LARGE, _SMALL = (1280, 720, 81), (256, 256, 17)
_TINY_LARGE, _TINY_SMALL = (320, 256, 17), (256, 256, 9)
_ALTERNATIONS = 40


@dataclass(slots=True, kw_only=True)
class Stack:
    """A running `warmlane up`.

    Attributes:
        environment: of every command.
        data_dir: where it keeps everything.
    """

    environment: Mapping[str, str]
    data_dir: Path
    picture: Path
    report: dict[str, Any] = field(default_factory=dict)

    def warmlane(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Runs a command of the product."""
        ports = json.loads((self.data_dir / "run" / "ports.json").read_text(encoding="utf-8"))
        environment = {**self.environment, "WARMLANE_ADMISSION_ADDRESS": f"127.0.0.1:{ports['admission']}"}
        command = [sys.executable, "-m", "command_line", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)

    def clip(self, model: str, size: tuple[int, int, int], mode: str, output: Path) -> dict[str, Any]:
        """Asks for a clip, waits for it, and looks into the file."""
        width, height, frames = size
        started_s = time.monotonic()
        arguments = ["submit", "--model", model, "--prompt", f"waves on a beach, take {time.time_ns()}", "--mode", mode]
        arguments += ["--width", str(width), "--height", str(height), "--frames", str(frames), "--json", "--output", str(output)]
        arguments += ["--image", str(self.picture)] if mode == "i2v" else []
        done = self.warmlane(*arguments, timeout_s=_SUBMIT_S)
        row: dict[str, Any] = {"model": model, "mode": mode, "size": f"{width}x{height}x{frames}", "exit_code": done.returncode}
        row["seconds"] = round(time.monotonic() - started_s, 2)
        if done.returncode != 0:
            return row | {"error": (done.stdout + done.stderr)[-2_000:]}
        return row | {"task": json.loads(done.stdout)} | _file(output)


def _file(clip: Path) -> dict[str, Any]:
    with av.open(str(clip)) as content:
        stream = content.streams.video[0]
        frames = sum(1 for _ in content.decode(stream))
        found = {"file_bytes": clip.stat().st_size, "file_frames": frames, "file_size": f"{stream.width}x{stream.height}"}
    clip.unlink()
    return found


@contextlib.contextmanager
def running(environment: Mapping[str, str], profile: str, data_dir: Path, report: dict[str, Any]) -> Iterator[None]:
    """`warmlane up` with the degraded pool as its only lane; stopped by Ctrl-C at the end."""
    command = [sys.executable, "-m", "command_line", "up", "--profile", profile, "--data-dir", str(data_dir), "--grpc-port", "0"]
    command += ["--http-port", "0", "--without", "lane-anisora", "--without", "lane-phr00t"]
    report["command"] = "warmlane up " + " ".join(command[4:])
    said = data_dir.parent / "up.log"
    with said.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=dict(environment), stdout=log, stderr=log, start_new_session=True)
        try:
            started_s = time.monotonic()
            while _READY not in said.read_text(encoding="utf-8"):
                if process.poll() is not None or time.monotonic() - started_s > _READY_S:
                    msg = f"the stack did not get ready:\n{said.read_text(encoding='utf-8')[-3_000:]}"
                    raise RuntimeError(msg)
                time.sleep(0.2)
            report["ready_s"] = round(time.monotonic() - started_s, 2)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            try:
                report["up_exit_code"] = process.wait(timeout=_STOP_S)
            except subprocess.TimeoutExpired:
                report["up_exit_code"] = "it did not stop"
                os.killpg(process.pid, signal.SIGKILL)


def prepare(models_dir: Path, profile: str) -> list[str]:
    """Makes the folders of both models, side by side, in processes of their own: nothing of them is left on the GPU."""
    commands = [
        [sys.executable, "-m", "benchmarks.gpu.prepared", str(models_dir / model), model, "--profile", profile] for model in _MODELS
    ]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for command in commands]
    told = [process.communicate(timeout=_PREPARE_S)[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("\n".join(told))
    _store_once([models_dir / model for model in _MODELS])
    return [text.strip().splitlines()[-1] for text in told]


def _store_once(folders: Sequence[Path]) -> None:
    """The models share text encoder and VAE: what is the same in both takes room once."""
    known: dict[str, Path] = {}
    for folder in folders:
        for entry in read_manifest(folder).files:
            file = folder / entry.path
            if entry.sha256 in known:
                file.unlink()
                file.hardlink_to(known[entry.sha256])
            known.setdefault(entry.sha256, file)


def measure(stack: Stack, ends_s: float, keep: Any, *, large: tuple[int, int, int], small: tuple[int, int, int]) -> None:
    """The large clips, then the small ones until the time is up."""
    clips: list[dict[str, Any]] = stack.report.setdefault("clips", [])
    output = stack.data_dir.parent / "clip.mp4"
    for model, mode in zip(_MODELS, ("i2v", "t2v"), strict=True):
        clips.append(stack.clip(model, large, mode, output))
        print(json.dumps(clips[-1])[:300], flush=True)
        keep()
    longest_s = 0.0
    for index in range(_ALTERNATIONS):
        if time.monotonic() + 1.5 * longest_s > ends_s:
            stack.report["left_out"] = f"{_ALTERNATIONS - index} of {_ALTERNATIONS} small clips, for time"
            break
        clips.append(stack.clip(_MODELS[index % 2], small, "t2v", output))
        longest_s = max(longest_s, clips[-1]["seconds"])
        keep()
    stack.report["lanes"] = _json(stack.warmlane("lanes", "--json"))
    stack.report["events"] = _json(stack.warmlane("events", "--json"))
    keep()


def _json(done: subprocess.CompletedProcess[str]) -> Any:
    try:
        return json.loads(done.stdout)
    except ValueError:
        lines = done.stdout.splitlines()
        with contextlib.suppress(ValueError):
            return [json.loads(line) for line in lines]
        return (done.stdout + done.stderr)[-2_000:]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny models on the CPU")
    parser.add_argument(
        "--folder", type=Path, help="the models' folders are made below it and removed at the end (default: a temporary one)"
    )
    parser.add_argument("--seconds", type=float, default=3_600.0, help="no small clip is begun after this long")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")), help="folder for the report and the logs")
    chosen = parser.parse_args(arguments)
    ends_s = time.monotonic() + chosen.seconds
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.folder is not None:
        chosen.folder.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"is_tiny": chosen.tiny, "budget_bytes": GPUS["A10G"].total_bytes}

    def keep() -> None:
        report["seconds"] = round(chosen.seconds - (ends_s - time.monotonic()), 1)
        (chosen.out / "gpu_lanes.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory(prefix="warmlane-lanes-", dir=chosen.folder) as name:
        data_dir, picture = Path(name) / "data", Path(name) / "picture.png"
        Image.new("RGB", (640, 480), (90, 120, 160)).save(picture)
        profile = "tiny" if chosen.tiny else "a10g"
        report["prepared"] = prepare(data_dir / "models", profile)
        keep()
        environment = {**os.environ, "WARMLANE_MEMORY_BUDGET_BYTES": str(report["budget_bytes"])}
        environment |= {"WARMLANE_DEVICE": "cpu"} if chosen.tiny else {}
        stack = Stack(environment=environment, data_dir=data_dir, picture=picture, report=report)
        sizes = {"large": _TINY_LARGE, "small": _TINY_SMALL} if chosen.tiny else {"large": _LARGE, "small": _SMALL}
        try:
            with running(environment, profile, data_dir, report):
                measure(stack, ends_s, keep, **sizes)
        finally:
            keep()
            for log in (data_dir.parent / "up.log", *sorted((data_dir / "logs").glob("*.log"))):
                if log.exists():
                    (chosen.out / log.name).write_bytes(log.read_bytes()[-4_000_000:])
    short = [{key: value for key, value in clip.items() if key != "task"} for clip in report.get("clips", ())]
    print(json.dumps({key: value for key, value in report.items() if key not in {"events", "lanes", "clips"}}, indent=1))
    print(*map(json.dumps, short), sep="\n")


if __name__ == "__main__":
    main()
