"""`python -m benchmarks.cold_start`: from the start of a pipeline's process to a warm model, by stage, and its read beside a plain one.

Uses the tiny models, and folders of both models' layout with narrower networks (`--heads`; 40 would be the published sizes). Files are put
out of the page cache before every read (`posix_fadvise`), and the two kinds of read take turns. The ratio is that of the medians; beside it
stands that of the fastest, which other users of the disk disturb less. A virtual machine's disk may have a cache of its own, which nothing
here can empty: the ratios compare like with like, the rate is that machine's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cold.folders import write_folder
from runtime.lane.child_process import ChildProcess, child_environment
from runtime.lane.child_protocol import LoadFailed, Loading, ResidentChanged, Shutdown, Start

_MIB = 1024**2
_PLAIN_BYTES = 8 * _MIB
_STAGES = {
    "importing the libraries": "interpreter",
    "opening the device": "imports",
    "measuring what the placements need": "device",
    "making room in host memory": "ladder",
    "loading the text encoder": "room and headers",
    "assembling the pipeline": "read",
    "warm": "assemble",
}
"""What has ended when a stage begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model to start. `weights` are its files; none for the tiny ones, which are too small to time."""

    title: str
    model: str
    catalog: str
    models_dir: Path
    weights: tuple[Path, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Of all files."""
        return sum(file.stat().st_size for file in self.weights)


async def start_once(case: Case) -> dict[str, float]:
    """Seconds of each stage of one start, and the process's peak resident set in bytes."""
    started_s = last_s = time.monotonic()
    environment = child_environment({**os.environ, "WARMLANE_LOG_LEVEL": "error"}, device="cpu", torch_threads=0)
    child = await ChildProcess.start(name="bench", environment=environment)
    stages: dict[str, float] = {}
    try:
        objects_url = (case.models_dir / "objects").as_uri()
        child.send(
            Start(
                catalog=case.catalog,
                profile="tiny",
                models_dir=case.models_dir,
                device="cpu",
                object_store_url=objects_url,
                warm_model=case.model,
            )
        )
        async for event in child.events():
            now_s = time.monotonic()
            match event:
                case LoadFailed():
                    raise RuntimeError(event.reason)
                case Loading() if event.progress.stage in _STAGES:
                    ended = _STAGES[event.progress.stage]
                    if ended not in stages:
                        stages[ended], last_s = now_s - last_s, now_s
                case ResidentChanged():
                    stages[_STAGES["warm"]] = now_s - last_s
                    stages["all"] = now_s - started_s
                    break
        stages["rss_peak_bytes"] = _peak_bytes(child.pid)
        child.send(Shutdown())
    finally:
        await child.end()
    return stages


def read_plainly(case: Case) -> float:
    """Seconds that it takes to read the same files one after the other into one buffer."""
    buffer = bytearray(_PLAIN_BYTES)
    started_s = time.monotonic()
    for file in case.weights:
        with file.open("rb", buffering=0) as content:
            while content.readinto(buffer):
                pass
    return time.monotonic() - started_s


def drop_from_cache(case: Case) -> None:
    """Puts the files out of the page cache."""
    for file in case.weights:
        with file.open("rb") as content:
            os.fdatasync(content.fileno())
            os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(case: Case, repetitions: int, *, is_cached: bool = False) -> dict[str, Any]:
    """Medians of the stages, and the rate of the read as a ratio to the plain one's."""
    starts, plain = [], []
    for _ in range(repetitions):
        for kind in ("start", "plain"):
            if not is_cached:
                drop_from_cache(case)
            if kind == "start":
                starts.append(asyncio.run(start_once(case)))
            elif case.weights:
                plain.append(read_plainly(case))
    figures: dict[str, Any] = {name: round(statistics.median(start[name] for start in starts), 3) for name in starts[0]}
    figures |= {"title": case.title + (", in the page cache" if is_cached else ""), "bytes": case.size_bytes}
    if plain:
        figures["plain_s"] = round(statistics.median(plain), 3)
        figures["best_ratio"] = round(min(plain) / min(start["read"] for start in starts), 2)
        figures["ratio"] = round(figures["plain_s"] / figures["read"], 2)
        figures["rate_mb_s"] = round(case.size_bytes / figures["read"] / 1e6)
        figures["spread_s"] = {"read": [round(start["read"], 2) for start in starts], "plain": [round(one, 2) for one in plain]}
    return figures


def time_headers(folder: Path, model: str) -> float:
    """Seconds for the ladder of the published sizes: networks without weights, headers, arithmetic. No weights are needed."""
    import importlib

    from runtime.lane.memory.host import HostMemory
    from runtime.lane.renderer import LoadSettings

    write_folder(folder / model, model, is_sparse=True)
    catalog = importlib.import_module("benchmarks.cold.catalog")
    settings = LoadSettings(profile="a10g", models_dir=folder, memory=HostMemory())
    started_s = time.monotonic()
    getattr(catalog, model).ladder(model, settings)
    return time.monotonic() - started_s


def time_agent() -> float:
    """Seconds until a lane's agent, which starts the pipeline's process, is imported."""
    started_s = time.monotonic()
    subprocess.run([sys.executable, "-c", "import lane_anisora.__main__"], check=True)
    return time.monotonic() - started_s


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--heads", type=int, default=8, help="width of the synthetic models in attention heads (default 8: 1.7 and 1.2 GB)")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="write the models below this folder: on the disk to be measured")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        figures = _measured(Path(name), chosen.heads, chosen.repetitions)
    _print(figures)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _measured(folder: Path, heads: int, repetitions: int) -> dict[str, Any]:
    tiny = Case(title="anisora, tiny", model="anisora", catalog="lane_anisora.pipeline:catalog", models_dir=folder)
    asyncio.run(start_once(tiny))  # makes the tiny parts
    rows = [measure(tiny, repetitions, is_cached=True)]
    for model in ("anisora", "phr00t"):
        write_folder(folder / model, model, heads=heads)
        weights = tuple(sorted((folder / model).rglob("*.safetensors")))
        title = f"{model}, {heads} of 40 heads"
        case = Case(title=title, model=model, catalog=f"benchmarks.cold.catalog:{model}", models_dir=folder, weights=weights)
        rows += [measure(case, repetitions), measure(case, repetitions, is_cached=True)]
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "agent_s": round(statistics.median(time_agent() for _ in range(repetitions)), 2),
        "headers_s": {model: round(time_headers(folder / "sparse", model), 2) for model in ("anisora", "phr00t")},
        "starts": rows,
    }


def _print(figures: dict[str, Any]) -> None:
    print(f"machine: {figures['machine']}")
    print(f"agent's process, imports: {figures['agent_s']} s; ladders of the published sizes, from headers: {figures['headers_s']} s")
    columns = [*_STAGES.values(), "all"]
    print("| seconds | " + " | ".join(columns) + " | GB | MB/s | plain read | ratio | of the fastest | peak RSS, MiB |")
    print("|---" * (len(columns) + 7) + "|")
    for row in figures["starts"]:
        cells = [f"{row[name]:.2f}" for name in columns]
        cells += [f"{row['bytes'] / 1e9:.2f}", *(str(row.get(name, "")) for name in ("rate_mb_s", "plain_s", "ratio", "best_ratio"))]
        print(f"| {row['title']} | " + " | ".join(cells) + f" | {row['rss_peak_bytes'] / _MIB:.0f} |")


def _peak_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
