"""All hostile images through a real bridge over HTTP: what each costs it and the process that looks at images."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.harness.bridge import data_uri
from tests.harness.bridge_process import BridgeProcess, bridge_process
from tests.harness.hostile import Hostile
from tests.harness.hostile_images import hostile_images

pytestmark = pytest.mark.long

_MOST_BYTES = 300 * 1024 * 1024
_MOST_S = 1.0


class _Costs:
    """What the bridge and its workers take, in all."""

    def __init__(self, bridge: BridgeProcess) -> None:
        self._bridge = psutil.Process(bridge.pid)
        self._cpu_s: dict[int, float] = {}

    def processes(self) -> list[psutil.Process]:
        return [self._bridge, *self._bridge.children()]

    def cpu_s(self) -> float:
        """Of the processor; of processes that ended, what was seen of them last."""
        for process in self.processes():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            self._cpu_s[process.pid] = times.user + times.system
        return sum(self._cpu_s.values())

    def forget_peak(self) -> None:
        for process in self.processes():
            Path(f"/proc/{process.pid}/clear_refs").write_text("5", encoding="ascii")

    def bytes(self, name: str) -> int:
        """`VmRSS` now, or `VmHWM`, the peak."""
        lines = [
            line for process in self.processes() for line in Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
        ]
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


async def _sent(bridge: BridgeProcess, image: Hostile) -> bool:
    """Whether it was taken."""
    body = {"model": "anisora", "prompt": "a boat", "mode": "i2v", "reference_image": data_uri(image.content, image.media_type)}
    reply = await bridge.http.post("/generate", json=body)
    assert reply.status_code in (202, 422), (image.name, reply.text)
    if reply.status_code == 422:
        (field,) = reply.json()["detail"]["metadata"]["fields"]
        assert field["field"] == "reference_image", (image.name, field)
    return reply.status_code == 202


@pytest.mark.timeout(900)
async def test_no_image_takes_a_second_or_300_mib_or_ends_the_bridge_when_it_is_hostile(tmp_path: Path) -> None:
    wrong: list[str] = []
    costly: list[str] = []
    most_s, most_bytes, count = 0.0, 0, 0
    async with bridge_process(tmp_path.as_uri()) as bridge:
        first = Hostile("ordinary", "image/png", next(hostile_images(costly=False)).content, None)
        await _sent(bridge, first)
        costs = _Costs(bridge)
        idle_bytes = costs.bytes("VmRSS")
        for image in hostile_images():
            costs.forget_peak()
            began_s, before_bytes = costs.cpu_s(), costs.bytes("VmRSS")
            taken = await _sent(bridge, image)
            took_s, grown = costs.cpu_s() - began_s, costs.bytes("VmHWM") - before_bytes
            most_s, most_bytes, count = max(most_s, took_s), max(most_bytes, grown), count + 1
            if image.is_good is not None and taken is not image.is_good:
                wrong.append(image.name)
            if took_s > _MOST_S or grown > _MOST_BYTES:
                costly.append(f"{image.name}: {took_s:.2f} s, {grown / 2**20:.0f} MiB")
        assert (await bridge.http.get("/health")).status_code == 200
        # What the images leave behind must not hide what the next one takes.
        left_bytes = costs.bytes("VmRSS") - idle_bytes
    # The figures are what one runs it for.
    print(f"{count} images: at most {most_s:.2f} s of processor, {most_bytes / 2**20:.0f} MiB; {left_bytes / 2**20:.0f} MiB left behind")  # noqa: T201
    assert (wrong, costly) == ([], [])
    # Heaps of three processes, each as large as its largest body made it.
    assert left_bytes < 150 * 1024 * 1024
