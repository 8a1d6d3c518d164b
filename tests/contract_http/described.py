"""Runs schemathesis over the served OpenAPI description, with every check on, and sorts what it finds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from schemathesis.config import ChecksConfig, GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.config._checks import NegativeDataRejectionConfig, NotAServerErrorConfig
from schemathesis.engine import events, from_schema

from tests.harness.bridge import data_uri, png

# The only 5xx that the contract names, each with its codes. Anything else of that class is a failure.
NAMED_SERVER_ERRORS: Mapping[int, frozenset[str]] = {
    501: frozenset({"not_supported"}),
    503: frozenset({"service_unavailable", "queue_overloaded", "model_unavailable"}),
}
_EXPECTED = ["2xx", "3xx", "4xx", *map(str, NAMED_SERVER_ERRORS)]
# Of a body that does not fit the schema. 413: what is wrong with it may be beyond what is read of it.
_REJECTIONS = ["400", "401", "403", "404", "405", "406", "409", "413", "415", "422", "428", "429", "5xx"]
# A request that no lane can take at once is held for 30 s: what the cases do to the lanes comes before what they ask of them.
_REQUEST_TIMEOUT_S = 40.0

# A body that fits the schema may still be refused for what no JSON Schema can say:
UNSAYABLE = (
    # the earlier request of the same key: schemathesis sends few different keys, with many bodies;
    "was used before for another request",
    # a keyframe's position against another field, and against the other keyframes.
    "must be below num_frames",
    "must differ from the entries before it",
)

# A reply that does not end has nothing to be judged: tests/integration/test_console.py reads what it holds.
ENDLESS = "/console/events"

_PICTURE = data_uri(png())
_DATA_URIS = tuple(f"data:image/{kind};base64," for kind in ("png", "jpeg", "webp"))


@dataclass(slots=True)
class Findings:
    """What a run found.

    Attributes:
        cases: requests that were sent and judged, by operation.
        checks: how often each check judged one.
        failures: one text for each kind of failure, with the command that repeats it.
        errors: what the run itself could not do.
        named_errors: 5xx replies that the contract names, by status and code.
    """

    cases: dict[str, int] = field(default_factory=dict)
    checks: dict[str, int] = field(default_factory=dict)
    failures: dict[tuple[str, str, str], str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    named_errors: dict[tuple[int, str], int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All cases."""
        return sum(self.cases.values())


def explore(url: str, headers: Mapping[str, str], *, examples: int, without: str | None = None) -> Findings:
    """Sends what the description of the server at `url` makes, right and wrong, `examples` times for each operation and beyond.

    The same description gives the same requests. One path may be left out, and ENDLESS is.
    """
    project = ProjectConfig(
        headers=dict(headers),
        continue_on_failure=True,
        request_timeout=_REQUEST_TIMEOUT_S,
        generation=GenerationConfig(max_examples=examples, deterministic=True, database="none"),
        checks=ChecksConfig(
            not_a_server_error=NotAServerErrorConfig(expected_statuses=_EXPECTED),
            negative_data_rejection=NegativeDataRejectionConfig(expected_statuses=_REJECTIONS),
        ),
    )
    config = SchemathesisConfig(projects=ProjectsConfig(default=project), color=False)
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)
    for path in (ENDLESS, without):
        if path is not None:
            schema = schema.exclude(path=path)

    @schema.hook  # type: ignore[untyped-decorator]  # schemathesis is not followed by mypy
    def map_body(_context: object, body: Any) -> Any:
        return _with_pictures(body)

    findings = Findings()
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            _count(findings, event.recorder)
        elif isinstance(event, events.NonFatalError):
            findings.errors.append(f"{event.info.title} {event.label}: {event.value}")
        elif isinstance(event, events.FatalError):
            findings.errors.append(repr(event.exception))
    return findings


def _with_pictures(node: Any) -> Any:
    """With a real picture wherever a data URI of the right form stands: a schema cannot say what base64 decodes to."""
    if isinstance(node, str):
        return _PICTURE if node.startswith(_DATA_URIS) else node
    if isinstance(node, list):
        return [_with_pictures(item) for item in node]
    if isinstance(node, dict):
        return {name: _with_pictures(value) for name, value in node.items()}
    return node


def _count(findings: Findings, recorder: Any) -> None:
    for case_id, checks in recorder.checks.items():
        case, interaction = recorder.cases[case_id].value, recorder.interactions.get(case_id)
        response = interaction.response if interaction is not None else None
        operation = case.operation.label
        findings.cases[operation] = findings.cases.get(operation, 0) + 1
        _judge_server_error(findings, operation, response)
        for check in checks:
            findings.checks[check.name] = findings.checks.get(check.name, 0) + 1
            if check.failure_info is None or (check.name == "positive_data_acceptance" and _is_unsayable(response)):
                continue
            told = check.failure_info.failure
            key = (check.name, operation, told.title)
            body = b"" if response is None else response.content
            findings.failures.setdefault(key, f"{told.message}\n{check.failure_info.code_sample}\n{body[:1000]!r}")


def _judge_server_error(findings: Findings, operation: str, response: Any) -> None:
    if response is None or response.status_code < 500:
        return
    try:
        code = json.loads(response.content)["detail"]["code"]
    except (ValueError, KeyError, TypeError):
        code = "no envelope"
    if code in NAMED_SERVER_ERRORS.get(response.status_code, ()):
        named = (response.status_code, code)
        findings.named_errors[named] = findings.named_errors.get(named, 0) + 1
    else:
        findings.failures[("named_server_error", operation, str(code))] = f"{response.status_code} {response.content[:1000]!r}"


def _is_unsayable(response: Any) -> bool:
    """Whether every field of a 422 was refused for one of the reasons above."""
    try:
        fields = json.loads(response.content)["detail"]["metadata"]["fields"]
    except (AttributeError, ValueError, KeyError, TypeError):
        return False
    return bool(fields) and all(any(reason in one["message"] for reason in UNSAYABLE) for one in fields)
