"""Values of rows as JSON text: whatever JSON has comes back as it was, and nothing else is taken."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

import pytest

from admission.store import rows
from admission.store.rows import json_of, value_of
from runtime.rules.check import check_request
from runtime.rules.parameters import to_parameters


@dataclass
class _Dataclass:
    value: int = 1


@pytest.mark.parametrize(
    "value",
    [
        "a null in words",
        "a boat on 水",
        '\0 \u2028 \U0001f6f6 "quoted" \\',
        "half of a pair \ud83d",
        None,
        [True, False, None, 1, -1, 0.1, 1e300, -0.0],
        [2**63, -(2**63), 2**64, 10**30],
        {"nested": {"list": [{"key": "inputs/0"}]}},
    ],
)
def test_value_comes_back_as_it_was(value: object) -> None:
    assert value_of(json_of({"value": value})) == {"value": value}


@pytest.mark.parametrize("value", ["plain", "水 \U0001f6f6 é"])
def test_text_is_ascii_as_a_database_may_have_any_encoding(value: str) -> None:
    assert json_of({"prompt": value}).isascii()


def test_text_of_an_earlier_release_is_read() -> None:
    assert value_of('{"prompt":"caf\\u00e9 \\ud83d\\udef6","steps":8}') == {"prompt": "café \U0001f6f6", "steps": 8}


def test_mapping_is_as_good_as_a_dict_when_it_can_only_be_read() -> None:
    assert json_of(MappingProxyType({"inner": MappingProxyType({"a": 1})})) == '{"inner":{"a":1}}'


@pytest.mark.parametrize("text", ["", "null"])
@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), -float("inf"), b"bytes", {1, 2}, datetime(2026, 1, 1, tzinfo=UTC), _Dataclass()],
    ids=["nan", "infinite", "minus-infinite", "bytes", "set", "time", "dataclass"],
)
def test_value_is_refused_when_json_does_not_have_it(value: object, text: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        json_of({"text": text, "value": [value]})


def test_parameters_of_a_request_go_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(rows, "_JSON")
    parameters = to_parameters(check_request({"model": "phr00t", "prompt": "a paper boat"}))

    assert value_of(json_of(parameters)) == parameters
