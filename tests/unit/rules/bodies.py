"""Raw requests for the tests of the rule set."""

from __future__ import annotations

from runtime.rules.check import check_request
from runtime.rules.request import GenerationRequest, InvalidRequestError, Violation

IMAGE = {"key": "inputs/" + "0a" * 32}
OTHER_IMAGE = {"key": "inputs/" + "1b" * 32}


def body(model: str = "anisora", /, **fields: object) -> dict[str, object]:
    """The least valid body, with the fields given."""
    return {"model": model, "prompt": "a fox in the snow", **fields}


def check(model: str = "anisora", /, **fields: object) -> GenerationRequest:
    """The checked body."""
    return check_request(body(model, **fields))


def violations(raw: dict[str, object]) -> tuple[Violation, ...]:
    """What is wrong with the body; empty when nothing is."""
    try:
        check_request(raw)
    except InvalidRequestError as error:
        return error.violations
    return ()


def refused(raw: dict[str, object]) -> list[str]:
    """Names of the fields that are wrong."""
    return [violation.field for violation in violations(raw)]
