"""`warmlane settings check` and `show` as people and scripts run them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from command_line.__main__ import app
from command_line.failures import CommandError, ExitCode
from runtime.rules.catalogue import MODELS
from runtime.rules.settings_file import SHIPPED, settings_text


def _run(*words: str) -> Result:
    result = CliRunner().invoke(app, ["settings", *words])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result


def _check(path: Path) -> tuple[int, Any]:
    result = _run("check", str(path), "--json")
    return result.exit_code, json.loads(result.stdout)


def test_shipped_file_is_what_the_rules_make() -> None:
    assert SHIPPED.read_text(encoding="utf-8") == settings_text(), "run: python -m runtime.rules.settings_file"


def test_shipped_file_has_what_the_contract_names() -> None:
    models = json.loads(SHIPPED.read_text(encoding="utf-8"))["models"]
    assert set(models) == set(MODELS)
    frames, fps = {"default": 81, "min": 49, "max": 161, "step": 4}, {"default": 16, "options": [8, 16, 24]}
    for model in models.values():
        assert (model["parameters"]["num_frames"], model["parameters"]["fps"]) == (frames, fps)
    motion = models["anisora"]["parameters"]["motion_score"]
    assert (motion["default"], motion["min"], motion["max"]) == (3.0, 0, 5)
    assert models["phr00t"]["parameters"]["lighting_variant"] == {"default": "low_noise", "options": ["high_noise", "low_noise"]}
    assert models["anisora"]["fixed_parameters"] == {"steps": {"value": 8, "locked": True}}
    assert models["phr00t"]["fixed_parameters"] == {"steps": {"value": 4, "locked": True}, "cfg_scale": {"value": 1.0, "locked": True}}


def test_shown_file_agrees_when_it_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text("\ufeff" + _run("show").stdout, encoding="utf-8")
    code, document = _check(path)
    assert (code, document["agrees"], document["errors"], document["notes"], document["differences"]) == (0, True, 0, 0, [])
    assert "agrees with the server's rules (no difference)" in _run("check", str(path)).stdout


def test_exit_code_is_one_and_each_difference_is_told_when_the_file_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(settings_text().replace('"value": 8', '"value": 20'), encoding="utf-8")
    code, document = _check(path)
    assert (code, document["errors"]) == (ExitCode.FAILED, 1)
    (one,) = document["differences"]
    assert (one["path"], one["severity"], one["found"], one["expected"]) == ("models.anisora.fixed_parameters.steps.value", "error", 20, 8)
    told = _run("check", str(path)).stdout
    assert "fixed_parameters.steps.value" in "".join(told.split())
    assert "1 errors" in told


def test_exit_code_is_zero_when_there_are_notes_only(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(settings_text().replace('"max": 161', '"max": 97'), encoding="utf-8")
    code, document = _check(path)
    assert (code, document["agrees"], document["errors"], document["notes"]) == (0, True, 0, 2)


def test_key_that_stands_twice_is_told(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(settings_text().replace('"value": 8,', '"value": 9, "value": 8,'), encoding="utf-8")
    code, document = _check(path)
    assert (code, [one["kind"] for one in document["differences"]]) == (ExitCode.FAILED, ["key_twice"])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 10_000, "not JSON"),
        (b" " * (4 * 1024 * 1024 + 1), "over 4 MiB"),
    ],
)
def test_exit_code_is_two_when_the_file_is_no_json(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "settings.json"
    path.write_bytes(content)
    with pytest.raises(CommandError, match=why) as raised:
        _run("check", str(path))
    assert raised.value.exit_code == 2


def test_exit_code_is_two_when_there_is_no_such_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(CommandError) as raised:
            _run("check", str(path))
        assert raised.value.exit_code == 2


_LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(), max_size=8)
)
_TREES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8
)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(_TREES)
def test_command_never_breaks_when_the_file_is_any_json(tmp_path: Path, document: Any) -> None:
    path = tmp_path / "any.json"
    path.write_text(json.dumps({"anisora": {"parameters": document, "fixed_parameters": document}, "x": document}), encoding="utf-8")
    assert _check(path)[0] == ExitCode.FAILED
    assert _run("check", str(path)).exit_code == ExitCode.FAILED
