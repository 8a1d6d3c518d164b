"""What the commands show to admission, and what they say when it does not let them in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result
from warmlane.admission.v1 import task_pb2

from command_line.__main__ import app
from command_line.client import admission_client
from command_line.credentials import credentials_of
from command_line.failures import CommandError, ExitCode
from runtime.credentials import ServerCredentials
from runtime.roles import Role
from tests.harness.credentials import TOKENS, Authority, server_of
from tests.unit.command_line.conftest import Served, served_beside
from tests.unit.command_line.doubles import TASK_ID, made_task

Run = Callable[..., Result]

CLIENT, OPERATOR = TOKENS[Role.CLIENT], TOKENS[Role.OPERATOR]
OF_CLIENTS = (("status", TASK_ID), ("cancel", TASK_ID), ("submit", "--model", "anisora", "--prompt", "a boat"))
OF_OPERATORS = (("lanes",), ("queue",), ("drain", "lane-anisora"), ("fallback", "anisora", "on"), ("events",))


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """The CA of the test."""
    return Authority(tmp_path)


@pytest.fixture
def tokens_only() -> Iterator[Served]:
    """An admission with tokens, in the clear on loopback."""
    with served_beside(ServerCredentials(tokens={role: (token,) for role, token in TOKENS.items()})) as served:
        yield served


@pytest.fixture
def secured(ca: Authority) -> Iterator[Served]:
    """An admission with tokens, TLS and client certificates."""
    with served_beside(server_of(ca.issue(), client_ca=ca, tokens=TOKENS)) as served:
        yield served


@pytest.fixture
def run(runner: CliRunner) -> Run:
    """Runs a command with these settings."""

    def invoke(address: str, *words: str, **settings: str) -> Result:
        environment = {f"WARMLANE_{name.upper()}": value for name, value in settings.items()}
        return runner.invoke(app, [*words, "--address", address], env=environment)

    return invoke


def _refusal(result: Result) -> CommandError:
    assert isinstance(result.exception, CommandError), result.output
    assert all(token not in f"{result.exception.message}{result.output}" for token in TOKENS.values())
    return result.exception


@pytest.mark.parametrize("words", OF_CLIENTS)
@pytest.mark.parametrize(
    "settings", [{"client_token": CLIENT}, {"operator_token": OPERATOR}, {"client_token": CLIENT, "operator_token": OPERATOR}]
)
def test_command_for_tasks_is_let_in_when_either_token_is_set(
    run: Run, tokens_only: Served, words: tuple[str, ...], settings: Mapping[str, str]
) -> None:
    assert run(tokens_only.address, *words, **settings).exit_code == 0


@pytest.mark.parametrize("words", OF_OPERATORS)
def test_command_for_operators_says_whose_token_it_needs_when_it_has_the_clients(
    run: Run, tokens_only: Served, words: tuple[str, ...]
) -> None:
    assert run(tokens_only.address, *words, client_token=CLIENT, operator_token=OPERATOR).exit_code == 0
    error = _refusal(run(tokens_only.address, *words, client_token=CLIENT))
    assert error.exit_code == ExitCode.USAGE
    assert "role client" in error.message
    assert error.message.endswith("Set WARMLANE_OPERATOR_TOKEN.")


@pytest.mark.parametrize("settings", [{}, {"client_token": "x" * 40}, {"client_token": f"{'x' * 40},{CLIENT}"}])
@pytest.mark.parametrize("words", [OF_CLIENTS[0], OF_CLIENTS[2], OF_OPERATORS[0]])
def test_command_says_what_to_set_when_its_token_is_missing_or_wrong(
    run: Run, tokens_only: Served, words: tuple[str, ...], settings: Mapping[str, str]
) -> None:
    # Of two tokens a caller sends the first.
    error = _refusal(run(tokens_only.address, *words, **settings))
    assert error.exit_code == ExitCode.USAGE
    assert tokens_only.address in error.message
    assert "WARMLANE_CLIENT_TOKEN" in error.message
    assert "WARMLANE_OPERATOR_TOKEN" in error.message


@pytest.mark.parametrize("words", [OF_CLIENTS[2], OF_OPERATORS[0]])
def test_command_is_let_in_when_it_shows_certificate_and_token(run: Run, secured: Served, ca: Authority, words: tuple[str, ...]) -> None:
    own = ca.issue("operator", file="operator")
    files = {"tls_ca_file": str(ca.cert), "tls_client_cert_file": str(own.cert), "tls_client_key_file": str(own.key)}
    assert run(secured.address, *words, operator_token=OPERATOR, **files).exit_code == 0
    assert "client certificate" in _refusal(run(secured.address, *words, operator_token=OPERATOR, tls_ca_file=str(ca.cert))).message


@pytest.mark.parametrize("words", [OF_CLIENTS[2], OF_OPERATORS[0]])
def test_command_says_what_is_wrong_when_one_side_alone_speaks_tls(
    run: Run, secured: Served, tokens_only: Served, ca: Authority, words: tuple[str, ...]
) -> None:
    error = _refusal(run(secured.address, *words, operator_token=OPERATOR))
    assert error.exit_code == ExitCode.USAGE
    assert "speaks TLS: set WARMLANE_TLS_CA_FILE" in error.message
    error = _refusal(run(tokens_only.address, *words, operator_token=OPERATOR, tls_ca_file=str(ca.cert)))
    assert error.exit_code == ExitCode.USAGE
    assert "does not speak TLS" in error.message


def test_command_says_whom_it_does_not_believe_when_the_certificate_is_of_another_ca(run: Run, secured: Served, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    error = _refusal(run(secured.address, "lanes", operator_token=OPERATOR, tls_ca_file=str(stranger.cert)))
    assert "is not good for 127.0.0.1" in error.message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"operator_token": "short"}, "WARMLANE_OPERATOR_TOKEN: a token has at least 32 characters"),
        ({"tls_ca_file": "/nowhere/ca.pem"}, "/nowhere/ca.pem cannot be read: No such file or directory"),
        ({"tls_client_cert_file": "/nowhere/own.pem"}, "are set together or not at all"),
    ],
)
def test_command_names_the_variable_when_a_setting_is_wrong(run: Run, settings: Mapping[str, str], said: str) -> None:
    error = _refusal(run("127.0.0.1:1", "lanes", **settings))
    assert error.exit_code == ExitCode.USAGE
    assert said in error.message
    assert "short" not in error.message


def test_token_stays_here_when_it_would_travel_in_the_clear(run: Run) -> None:
    error = _refusal(run("192.0.2.1:50051", "lanes", operator_token=OPERATOR))
    assert error.message.startswith("WARMLANE_TLS_CA_FILE must be set")


def test_settings_of_no_value_are_none_when_they_are_read() -> None:
    credentials = credentials_of({"WARMLANE_CLIENT_TOKEN": "", "WARMLANE_TLS_CA_FILE": ""}, Role.CLIENT, "127.0.0.1:1")
    assert (credentials.token, credentials.files) == ("", None)


async def test_token_is_shown_again_when_a_broken_stream_is_opened_anew(tokens_only: Served) -> None:
    tokens_only.script.watched = [made_task(), None, made_task(task_pb2.TASK_STATE_DONE)]
    credentials = credentials_of({"WARMLANE_OPERATOR_TOKEN": OPERATOR}, Role.OPERATOR, tokens_only.address)
    async with admission_client(tokens_only.address, credentials=credentials) as client:
        states = [task.state async for task in client.watch(TASK_ID)]
    assert states == [task_pb2.TASK_STATE_QUEUED, task_pb2.TASK_STATE_DONE]
