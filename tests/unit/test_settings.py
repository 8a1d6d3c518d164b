"""What the processes say of wrong settings."""

from __future__ import annotations

import pytest

from lane_phr00t.__main__ import main


def test_lane_names_the_variable_and_ends_when_a_setting_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # It ended with a traceback that named a field of a class and showed the value.
    monkeypatch.setenv("WARMLANE_REPORT_INTERVAL_S", "99.75")
    assert main() == 2
    said = capsys.readouterr().err
    assert said.startswith("lane: WARMLANE_REPORT_INTERVAL_S: ")
    assert "99.75" not in said
