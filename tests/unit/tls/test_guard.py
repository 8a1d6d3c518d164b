"""How a token is read from a call, and how refusals are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import structlog
from structlog.testing import capture_logs

from runtime.errors import ErrorCode, ServiceError
from runtime.guard import Guard, RefusalLog, is_credential_refusal
from runtime.roles import Role
from tests.harness.credentials import TOKENS

SUBMIT = "/warmlane.admission.v1.AdmissionService/SubmitTask"
OWN = f"Bearer {TOKENS[Role.CLIENT]}"

Metadata = tuple[tuple[str, str | bytes], ...]


def _code(metadata: Metadata, method: str = SUBMIT) -> str | None:
    error = Guard({role: (token,) for role, token in TOKENS.items()}).refusal(method, metadata)
    assert error is None or is_credential_refusal(error)
    return None if error is None else error.code


@pytest.mark.parametrize("value", [OWN, OWN.replace("Bearer", "bearer"), OWN.replace("Bearer", "BEARER")])
def test_call_is_let_in_when_the_token_is_right(value: str) -> None:
    assert _code((("user-agent", "x"), ("authorization", value))) is None


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer "),),
        (("authorization", TOKENS[Role.CLIENT]),),
        (("authorization", OWN.replace("Bearer", "Basic")),),
        (("authorization", OWN + " "),),
        (("authorization", OWN.upper()),),
        (("authorization", OWN.encode()),),
        (("authorization", OWN), ("authorization", OWN)),
        (("x-authorization", OWN),),
    ],
)
def test_call_is_unauthenticated_when_it_carries_no_right_token(metadata: Metadata) -> None:
    assert _code(metadata) == ErrorCode.UNAUTHENTICATED


@pytest.mark.parametrize("method", ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"])
def test_probe_is_let_in_when_it_has_no_token(method: str) -> None:
    assert _code((), method) is None


def test_nobody_is_let_in_when_the_table_does_not_know_the_method() -> None:
    for token in TOKENS.values():
        assert _code((("authorization", f"Bearer {token}"),), "/warmlane.new.v1.NewService/Do") == ErrorCode.FORBIDDEN


def test_user_s_refusal_is_no_refusal_of_the_process_when_its_code_is_the_same() -> None:
    assert not is_credential_refusal(ServiceError(code=ErrorCode.UNAUTHENTICATED, message="The session is over."))


@contextmanager
def _lines() -> Iterator[list[dict[str, object]]]:
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines  # type: ignore[misc]


def test_peer_is_told_of_once_in_ten_seconds_when_it_is_refused_again_and_again() -> None:
    now = [0.0]
    told, error = RefusalLog(lambda: now[0]), ServiceError(code=ErrorCode.UNAUTHENTICATED, message="No.")
    with _lines() as lines:
        for port in range(100):
            told.tell(f"ipv4:192.0.2.1:{port}", SUBMIT, error)
        told.tell("ipv6:%5B2001:db8::1%5D:1", SUBMIT, error)
        now[0] = 9.9
        told.tell("ipv4:192.0.2.1:7", SUBMIT, error)
        now[0] = 10.0
        told.tell("ipv4:192.0.2.1:8", SUBMIT, error)
    assert [(line["peer"], line["left_out_before"]) for line in lines] == [
        ("ipv4:192.0.2.1", 0),
        ("ipv6:%5B2001:db8::1%5D", 99),
        ("ipv4:192.0.2.1", 1),
    ]


def test_log_stays_small_when_every_call_comes_from_another_address() -> None:
    told, error = RefusalLog(lambda: 0.0), ServiceError(code=ErrorCode.UNAUTHENTICATED, message="No.")
    with _lines() as lines:
        for number in range(10_000):
            told.tell(f"ipv6:%5B2001:db8::{number:x}%5D:1", SUBMIT, error)
    assert len(lines) == 256
