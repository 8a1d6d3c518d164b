"""Says in a sentence why a TLS connection does not come about; gRPC tells it in terms of its library, or not at all."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import structlog

from runtime.addresses import split_address
from runtime.credentials import CallerCredentials, CallerFiles

_log = structlog.get_logger()

TIMEOUT_S = 3.0
# How long a server that refuses the client's certificate may take to say so, after its own handshake is over.
_VERDICT_S = 0.5
_LOOK_S = 5.0
_SAY_AGAIN_S = 60.0


def handshake_problem(address: str, credentials: CallerCredentials) -> str | None:
    """Tries one handshake with whoever listens at `host:port`; None: TLS is not what is wrong, or nobody is there.

    Waits up to 3 s for each step.
    """
    try:
        host, port = split_address(address)
        connection = socket.create_connection((host, port), timeout=TIMEOUT_S)
    except (OSError, ValueError):
        return None
    with connection:
        if credentials.files is None:
            return _problem_in_the_clear(connection, address)
        return _problem_of(connection, credentials.files, address, host)


def _problem_in_the_clear(connection: socket.socket, address: str) -> str | None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nothing is sent over this connection: it is only asked whether TLS is spoken.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with context.wrap_socket(connection):
            return f"{address} speaks TLS: set WARMLANE_TLS_CA_FILE to the CA of its certificate"
    except OSError:
        return None


def _problem_of(connection: socket.socket, files: CallerFiles, address: str, host: str) -> str | None:
    name = files.server_name or host
    try:
        context = ssl.create_default_context(cafile=str(files.ca))
        context.set_alpn_protocols(["h2"])
        if files.cert is not None:
            context.load_cert_chain(files.cert, files.key, password=lambda: "-")
        with context.wrap_socket(connection, server_hostname=name) as secured:
            return _verdict(secured, files, address)
    except ssl.SSLCertVerificationError as error:
        return f"the certificate of {address} is not good for {name}: {error.verify_message}"
    except ssl.SSLError as error:
        if error.reason == "WRONG_VERSION_NUMBER":
            return f"{address} does not speak TLS: unset WARMLANE_TLS_CA_FILE, or give that server a certificate"
        return f"the TLS handshake with {address} failed: {error.reason or error.strerror}"
    except OSError as error:
        return f"the TLS handshake with {address} failed: {error.strerror or type(error).__name__}"


def _verdict(secured: ssl.SSLSocket, files: CallerFiles, address: str) -> str | None:
    """With TLS 1.3 the client's handshake is over before the server has looked at its certificate. One that likes it speaks first."""
    secured.settimeout(_VERDICT_S)
    try:
        if secured.recv(1):
            return None
    except TimeoutError:
        return None
    except OSError:
        pass
    if files.cert is None:
        return f"{address} asks for a client certificate: set WARMLANE_TLS_CLIENT_CERT_FILE and WARMLANE_TLS_CLIENT_KEY_FILE"
    return f"{address} does not take the client certificate {files.cert}: it must be of a CA in that server's WARMLANE_TLS_CLIENT_CA_FILE"


@asynccontextmanager
async def told_handshakes(channel: grpc.aio.Channel, address: str, credentials: CallerCredentials) -> AsyncIterator[None]:
    """While the block runs, the log says why the channel cannot connect where TLS is the reason: at once, then every minute."""
    telling = asyncio.create_task(_tell(channel, address, credentials), name="tell-handshakes")
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.wait({telling})


async def _tell(channel: grpc.aio.Channel, address: str, credentials: CallerCredentials) -> None:
    loop = asyncio.get_running_loop()
    told, told_at_s = "", 0.0
    while True:
        await asyncio.sleep(_LOOK_S)
        if channel.get_state() is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            continue
        problem = await asyncio.to_thread(handshake_problem, address, credentials)
        if problem and (problem != told or loop.time() - told_at_s >= _SAY_AGAIN_S):
            told, told_at_s = problem, loop.time()
            _log.error("admission_cannot_be_reached", reason=problem)
