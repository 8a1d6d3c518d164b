"""TLS and mutual TLS between real servers and channels: who is believed, who is not, and renewed files."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import grpc.aio
import pytest
import structlog
from structlog.testing import capture_logs
from warmlane.lane.v1.dispatch_service_pb2 import LaneReport
from warmlane.lane.v1.dispatch_service_pb2_grpc import DispatchServiceStub

from runtime.addresses import BindError
from runtime.credentials import CallerCredentials, CredentialError, ServerCredentials
from runtime.errors import ErrorCode, ServiceError
from runtime.handshakes import handshake_problem, told_handshakes
from runtime.lane.attachment import Attachment, StreamEndedError, Talk
from runtime.roles import Role
from runtime.rpc import GrpcServer, create_channel
from runtime.rpc_errors import service_error
from tests.harness.credentials import TOKENS, Authority, Issued, caller_of, server_of
from tests.harness.echo import call, echo, methods

(SNAPSHOT,) = [method for method in methods() if method.name == "GetSnapshot"]
PATIENCE_S = 5.0


@pytest.fixture
def ca(tmp_path: Path) -> Authority:
    """The CA of the test."""
    return Authority(tmp_path)


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """A CA that nobody trusts."""
    return Authority(tmp_path, "stranger")


@pytest.fixture(autouse=True)
def _plain_log() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


async def _asked(port: int, credentials: CallerCredentials, host: str = "127.0.0.1") -> ServiceError | None:
    """One call; the error that it ends with, which must come soon."""
    begun_s = time.monotonic()
    async with create_channel(f"{host}:{port}", credentials) as channel:
        try:
            await call(channel, SNAPSHOT, timeout_s=PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            assert time.monotonic() - begun_s < PATIENCE_S
            return service_error(error)
    return None


def _bare(channel: grpc.aio.Channel, path: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
    """A method whose messages are bytes as they are."""
    return cast("grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]", channel.unary_unary(path))


def _problem(port: int, credentials: CallerCredentials) -> str:
    return handshake_problem(f"127.0.0.1:{port}", credentials) or ""


async def test_call_is_answered_when_both_speak_tls(ca: Authority) -> None:
    async with echo(server_of(ca.issue())) as server:
        assert await _asked(server.port, caller_of(ca)) is None
        assert await _asked(server.port, caller_of(ca), "localhost") is None
        assert _problem(server.port, caller_of(ca)) == ""


async def test_token_opens_the_method_when_it_comes_over_tls(ca: Authority) -> None:
    async with echo(server_of(ca.issue(), tokens=TOKENS)) as server:
        assert await _asked(server.port, caller_of(ca, token=TOKENS[Role.OPERATOR])) is None
        refused = await _asked(server.port, caller_of(ca, token=TOKENS[Role.LANE]))
        nobody = await _asked(server.port, caller_of(ca))
    assert refused is not None
    assert nobody is not None
    assert (refused.code, nobody.code) == (ErrorCode.FORBIDDEN, ErrorCode.UNAUTHENTICATED)


async def test_server_is_not_believed_when_its_certificate_is_of_another_ca(ca: Authority, stranger: Authority) -> None:
    async with echo(server_of(stranger.issue())) as server:
        error = await _asked(server.port, caller_of(ca))
        problem = _problem(server.port, caller_of(ca))
    assert error is not None
    assert error.code == ErrorCode.SERVICE_UNAVAILABLE
    assert "is not good for 127.0.0.1: unable to get local issuer certificate" in problem


async def test_server_is_not_believed_when_its_certificate_has_expired(ca: Authority) -> None:
    async with echo(server_of(ca.issue(is_expired=True))) as server:
        assert await _asked(server.port, caller_of(ca)) is not None
        assert "certificate has expired" in _problem(server.port, caller_of(ca))


async def test_server_is_not_believed_when_its_certificate_is_for_another_name(ca: Authority) -> None:
    async with echo(server_of(ca.issue("admission.example.org"))) as server:
        assert await _asked(server.port, caller_of(ca)) is not None
        assert "IP address mismatch" in _problem(server.port, caller_of(ca))
        named = caller_of(ca, server_name="admission.example.org")
        assert await _asked(server.port, named) is None
        assert _problem(server.port, named) == ""


async def test_server_is_not_believed_when_its_certificate_is_signed_by_itself(ca: Authority, stranger: Authority) -> None:
    # The certificate of a CA is one that signed itself.
    own = Issued(cert=stranger.cert, key=stranger.key)
    async with echo(server_of(own)) as server:
        assert await _asked(server.port, caller_of(ca)) is not None
        assert "self-signed certificate" in _problem(server.port, caller_of(ca))


async def test_client_is_let_in_when_it_shows_the_certificate_that_is_asked_for(ca: Authority) -> None:
    clients = ca
    async with echo(server_of(ca.issue(), client_ca=clients)) as server:
        credentials = caller_of(ca, issued=clients.issue("lane-anisora", file="lane"))
        assert await _asked(server.port, credentials) is None
        assert _problem(server.port, credentials) == ""


async def test_client_is_refused_when_it_has_no_certificate_and_one_is_asked_for(ca: Authority) -> None:
    async with echo(server_of(ca.issue(), client_ca=ca)) as server:
        error = await _asked(server.port, caller_of(ca))
        problem = _problem(server.port, caller_of(ca))
    assert error is not None
    assert error.code == ErrorCode.SERVICE_UNAVAILABLE
    assert "asks for a client certificate: set WARMLANE_TLS_CLIENT_CERT_FILE" in problem


@pytest.mark.parametrize("is_expired", [False, True])
async def test_client_is_refused_when_its_certificate_is_not_good(ca: Authority, stranger: Authority, is_expired: bool) -> None:
    issuer = ca if is_expired else stranger
    async with echo(server_of(ca.issue(), client_ca=ca)) as server:
        credentials = caller_of(ca, issued=issuer.issue("lane", file="lane", is_expired=is_expired))
        assert await _asked(server.port, credentials) is not None
        assert "does not take the client certificate" in _problem(server.port, credentials)


async def test_client_is_told_soon_when_it_speaks_in_the_clear_to_a_server_with_tls(ca: Authority) -> None:
    async with echo(server_of(ca.issue())) as server:
        error = await _asked(server.port, CallerCredentials())
        problem = _problem(server.port, CallerCredentials())
    assert error is not None
    assert error.code == ErrorCode.SERVICE_UNAVAILABLE
    assert "speaks TLS: set WARMLANE_TLS_CA_FILE" in problem


async def test_client_is_told_soon_when_it_speaks_tls_to_a_server_without(ca: Authority) -> None:
    async with echo() as server:
        error = await _asked(server.port, caller_of(ca))
        problem = _problem(server.port, caller_of(ca))
        assert _problem(server.port, CallerCredentials()) == ""
    assert error is not None
    assert error.code == ErrorCode.SERVICE_UNAVAILABLE
    assert "does not speak TLS: unset WARMLANE_TLS_CA_FILE" in problem


def test_nothing_is_said_of_tls_when_nobody_listens(ca: Authority) -> None:
    # Port 1 is never served here.
    assert _problem(1, caller_of(ca)) == ""


async def test_log_says_why_when_a_channel_cannot_connect(ca: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.handshakes._LOOK_S", 0.05)
    async with echo(server_of(ca.issue())) as server, create_channel(address := f"127.0.0.1:{server.port}") as channel:
        with capture_logs() as lines:
            async with told_handshakes(channel, address, CallerCredentials()):
                with pytest.raises(grpc.aio.AioRpcError):
                    # It waits for a connection, and one that comes back from each try is what a lane does.
                    await _bare(channel, "/a.B/C")(b"", timeout=0.5, wait_for_ready=True)
    told = [line["reason"] for line in lines if line["event"] == "admission_cannot_be_reached"]
    assert told == [f"{address} speaks TLS: set WARMLANE_TLS_CA_FILE to the CA of its certificate"]


async def test_renewed_certificate_is_shown_when_the_files_change(ca: Authority, stranger: Authority) -> None:
    issued = ca.issue(is_expired=True)
    async with echo(server_of(issued)) as server:
        assert await _asked(server.port, caller_of(ca)) is not None
        assert ca.issue() == issued
        assert await _asked(server.port, caller_of(ca)) is None


async def test_old_certificate_is_shown_when_the_renewed_files_do_not_fit(ca: Authority) -> None:
    issued = ca.issue()
    right_key = issued.key.read_bytes()
    async with echo(server_of(issued)) as server:
        with capture_logs() as lines:
            issued.key.write_bytes(ca.issue("localhost", file="other").key.read_bytes())
            for _ in range(3):
                assert await _asked(server.port, caller_of(ca)) is None
            issued.key.unlink()
            for _ in range(3):
                assert await _asked(server.port, caller_of(ca)) is None
            issued.key.write_bytes(right_key)
            assert await _asked(server.port, caller_of(ca)) is None
    reasons = [line["reason"] for line in lines if line["event"] == "certificate_not_renewed"]
    # Each told once, not at every connection.
    assert reasons == [f"{issued.key} is not the key of {issued.cert}", f"{issued.key} cannot be read: No such file or directory"]


async def test_client_ca_is_renewed_when_its_file_changes(ca: Authority, stranger: Authority) -> None:
    lane = stranger.issue("lane", file="lane")
    async with echo(server_of(ca.issue(), client_ca=ca)) as server:
        assert await _asked(server.port, caller_of(ca, issued=lane)) is not None
        both = ca.cert.read_bytes() + stranger.cert.read_bytes()
        ca.cert.write_bytes(both)
        assert await _asked(server.port, caller_of(ca, issued=lane)) is None


@pytest.mark.parametrize("bind", ["0.0.0.0:0", "[::]:0", "192.0.2.1:50051"])
def test_server_says_what_is_missing_when_it_shall_listen_beyond_loopback(ca: Authority, bind: str) -> None:
    tls, tokens = server_of(ca.issue()), ServerCredentials(tokens={Role.LANE: (TOKENS[Role.LANE],)})
    with pytest.raises(BindError, match=r"missing: the tokens.*WARMLANE_OPERATOR_TOKEN"):
        GrpcServer(bind, {}, credentials=tls)
    with pytest.raises(BindError, match=r"missing: TLS \(WARMLANE_TLS_CERT_FILE and WARMLANE_TLS_KEY_FILE\)$"):
        GrpcServer(bind, {}, credentials=tokens)
    with pytest.raises(BindError, match=r"missing: TLS .*, and the tokens"):
        GrpcServer(bind, {})


async def test_server_listens_beyond_loopback_when_it_has_tls_and_tokens(ca: Authority) -> None:
    async with echo(server_of(ca.issue(), tokens=TOKENS), bind="0.0.0.0:0") as server:
        assert await _asked(server.port, caller_of(ca, token=TOKENS[Role.OPERATOR])) is None


async def test_log_names_the_roles_when_some_have_no_token(ca: Authority) -> None:
    with capture_logs() as lines:
        async with echo(ServerCredentials(tokens={Role.LANE: (TOKENS[Role.LANE],)})):
            pass
        async with echo():
            pass
    assert [line["roles"] for line in lines if line["event"] == "roles_without_token"] == [["bridge", "client", "operator"]]
    assert not any(TOKENS[Role.LANE] in str(line) for line in lines)


@pytest.mark.parametrize("address", ["192.0.2.1:50051", "admission.example.org:50051", "0.0.0.0:50051"])
def test_token_is_not_sent_when_it_would_travel_in_the_clear(ca: Authority, address: str) -> None:
    credentials = CallerCredentials(token=TOKENS[Role.LANE])
    with pytest.raises(CredentialError, match="WARMLANE_TLS_CA_FILE must be set") as caught:
        create_channel(address, credentials)
    assert TOKENS[Role.LANE] not in f"{caught.value} {credentials!r}"


async def test_call_keeps_its_own_metadata_when_the_channel_adds_a_token() -> None:
    seen: list[tuple[str, str | bytes]] = []

    async def behave(_request: object, context: grpc.aio.ServicerContext[object, object]) -> bytes:
        seen.extend((str(key), value) for key, value in context.invocation_metadata() or ())
        return b""

    handler = grpc.method_handlers_generic_handler("a.B", {"C": grpc.unary_unary_rpc_method_handler(behave)})
    server = GrpcServer("127.0.0.1:0", {"a.B": lambda to: to.add_generic_rpc_handlers((handler,))})
    await server.start()
    async with create_channel(f"127.0.0.1:{server.port}", CallerCredentials(token=TOKENS[Role.LANE])) as channel:
        await _bare(channel, "/a.B/C")(b"", timeout=5, metadata=(("x-own", "1"),))
    await server.stop(0)
    assert ("x-own", "1") in seen
    assert ("authorization", f"Bearer {TOKENS[Role.LANE]}") in seen


async def test_lane_knows_that_it_is_refused_when_its_token_is_wrong() -> None:
    talk = Talk(report=lambda _stream: LaneReport(lane_id="lane-anisora"), on_wish=lambda _stream, _wish: None, interval_s=lambda: 1.0)
    async with echo(ServerCredentials(tokens={Role.LANE: (TOKENS[Role.LANE],)})) as server:
        credentials = CallerCredentials(token=TOKENS[Role.CLIENT])
        async with create_channel(f"127.0.0.1:{server.port}", credentials) as channel:
            attachment = Attachment(1, DispatchServiceStub(channel), talk)
            with pytest.raises(StreamEndedError, match="UNAUTHENTICATED: The token is none of this server's") as caught:
                await attachment.open(PATIENCE_S)
            await attachment.close()
    assert caught.value.is_refused
