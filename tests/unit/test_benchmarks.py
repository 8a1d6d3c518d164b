"""What benchmarks start they end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import admission_speed, http_load, http_speed

_STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"


def test_server_is_killed_when_it_does_not_end_on_terminate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(admission_speed, "_STOP_S", 0.1)
    with subprocess.Popen([sys.executable, "-c", _STUBBORN], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            admission_speed.end_process(process)
            assert process.returncode == -signal.SIGKILL
        finally:
            process.kill()
    assert "is killed" in capsys.readouterr().err


async def _answer_in_pieces(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Three replies on a connection, the second in pieces, the third with another status."""
    replies = [(b"202 Accepted", b"{}"), (b"202 Accepted", b"x" * 100), (b"503 Service Unavailable", b"full")]
    for number, (status, body) in enumerate(replies):
        await reader.readuntil(b"\r\n\r\n{}")
        reply = b"HTTP/1.1 %s\r\ncontent-length: %d\r\nx: y\r\n\r\n%s" % (status, len(body), body)
        for piece in (reply[:7], reply[7:50], reply[50:]) if number == 1 else (reply,):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
    writer.close()


async def test_load_sends_the_next_request_when_a_reply_is_whole_and_fails_on_a_wrong_status() -> None:
    server = await asyncio.start_server(_answer_in_pieces, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        request = http_speed.request_text("POST", "/generate", {"X-API-Key": "k"}, {})
        assert request.endswith("Content-Length: 2\r\n\r\n{}")
        with pytest.raises(RuntimeError, match="503 Service Unavailable"):
            await http_load.Load().rate(port=port, requests=[request], callers=1, seconds=10, status=202)
        once = await http_load.Load().rate(port=port, requests=[request], callers=2, seconds=0, status=202)
    # With no time left each caller waits for one reply.
    assert len(once["took"]) == 2


@pytest.mark.long
def test_ratios_and_memory_are_measured_when_the_http_benchmark_runs(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "benchmarks.http_speed", "--rounds", "1", "--seconds", "0.3", "--json", str(tmp_path / "figures.json")]
    subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=180)
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["streams"] == 500
    assert figures["streams_mib"] < 150
    assert all(0 < figures[f"{name}_to_bare"] < 1 for name in ("generate_key", "generate_session", "status_key", "status_session"))


@pytest.mark.long
def test_spans_of_all_acceptances_arrive_when_the_cost_of_watching_is_measured(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.admission_speed", "--part", "watched", "--seconds", "0.8", "--json", str(figures)]
    subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=180)
    found = json.loads(figures.read_text(encoding="utf-8"))
    # 20 pairs of a tenth of a second each; what it cost says nothing here.
    assert found["watched_acceptances"] > 100
    # Those before the first pair come on top.
    assert found["watched_spans"] >= found["watched_acceptances"]
    assert {"watched_cost_percent", "watched_processor_percent"} <= set(found)


@pytest.mark.long
@pytest.mark.torch
def test_every_stage_of_a_cold_start_is_timed_when_its_benchmark_runs(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    figures = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.cold_start", "--heads", "1", "--repetitions", "1", "--folder", str(tmp_path)]
    subprocess.run([*command, "--json", str(figures)], cwd=root, check=True, capture_output=True, timeout=280)
    report = json.loads(figures.read_text(encoding="utf-8"))
    assert len(report["starts"]) == 5
    stages = ("interpreter", "imports", "device", "ladder", "room and headers", "read", "assemble")
    for row in report["starts"]:
        assert sum(row[stage] for stage in stages) == pytest.approx(row["all"], abs=0.1)
        # The weights are in memory once: the libraries take some 500 MiB beside them.
        assert row["rss_peak_bytes"] < 1.2 * row["bytes"] + 700 * 1024**2


@pytest.mark.long
@pytest.mark.torch
@pytest.mark.timeout(600)
def test_memory_holds_when_the_gpu_benchmark_runs_on_a_cpu(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "benchmarks.gpu_memory", "--tiny", "--out", str(tmp_path)]
    subprocess.run(command, cwd=root, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True, timeout=580)
    report = json.loads((tmp_path / "gpu_memory.json").read_text(encoding="utf-8"))
    assert report["alternating"]["requests"] == 40
    assert report["alternating"]["failures"] == []
    assert report["alternating"]["worst_residue_bytes"] == 0
    assert all(not row["failure"] and 0 < row["peak_bytes"] <= row["predicted_bytes"] for row in report["grid"])
    assert report["recovery"]
    assert all(row["recovered"] and row["next_request_ok"] for row in report["recovery"])
    assert report["live_at_end_bytes"] == 0


@pytest.mark.long
@pytest.mark.torch
def test_ratios_are_printed_and_written_when_the_speed_of_a_lane_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import lane_speed

    lane_speed.main(["--rounds", "1", "--size", "256", "256", "1", "--json", str(tmp_path / "speed.json")])

    rows = {row["what"]: row["ratio"] for row in json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["rows"]}
    assert len(rows) == 4
    # Half of the passes: a ratio of 1/2, and how noisy a machine may be.
    assert rows["no unconditional pass (guidance 1 instead of 3), denoising"] < 0.9
    printed = capsys.readouterr().out
    assert all(what in printed for what in rows)


@pytest.mark.torch
def test_a_folder_is_whole_and_can_be_read_when_it_was_made_with_random_weights(tmp_path: Path) -> None:
    from benchmarks.gpu.prepared import write_prepared
    from lane_phr00t.pipeline import catalog
    from runtime.lane.memory.open import open_device
    from runtime.lane.prepare.check import check_folder
    from runtime.lane.renderer import LoadSettings
    from runtime.lane.wan.manifest import open_folder

    manifest = write_prepared(tmp_path / "phr00t", "phr00t", "cpu", profile="tiny")

    assert open_folder(tmp_path / "phr00t", "phr00t") == manifest
    assert check_folder(tmp_path / "phr00t", manifest, lambda _path, _count: None) == []
    settings = LoadSettings(profile="a10g", models_dir=tmp_path, memory=open_device("cpu"))
    assert catalog.read("phr00t", settings, lambda _stage: None).host_bytes > 0


@pytest.mark.long
@pytest.mark.torch
def test_clips_of_both_models_are_made_when_the_product_is_measured_on_a_cpu(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "benchmarks.gpu_lanes", "--tiny", "--seconds", "1", "--out", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=280)
    report = json.loads((tmp_path / "gpu_lanes.json").read_text(encoding="utf-8"))
    assert [(clip["model"], clip["exit_code"], clip["file_frames"]) for clip in report["clips"][:2]] == [
        ("anisora", 0, 17),
        ("phr00t", 0, 17),
    ]
    assert report["up_exit_code"] == 0
    assert (tmp_path / "degraded-pool.log").stat().st_size > 0
