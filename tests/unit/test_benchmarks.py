"""What benchmarks start they end."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from benchmarks import admission_speed

_STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); signal.pause()"


def test_server_is_killed_when_it_does_not_end_on_terminate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(admission_speed, "_STOP_S", 0.1)
    with subprocess.Popen([sys.executable, "-c", _STUBBORN], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            admission_speed._end(process)
            assert process.returncode == -signal.SIGKILL
        finally:
            process.kill()
    assert "is killed" in capsys.readouterr().err
