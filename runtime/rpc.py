"""gRPC as every process uses it: one way to make servers and channels, with TLS and tokens where they are configured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from runtime.addresses import TAKEN, BindError, check_free, check_reach
from runtime.channelz import add_channelz
from runtime.credentials import OPEN_CALLER, OPEN_SERVER, CallerCredentials, ServerCredentials
from runtime.guard import Guard
from runtime.roles import ALLOWED
from runtime.rpc_handlers import PlainServer, Told, Translate
from runtime.rpc_observer import RpcObserver
from runtime.tls import channel_credentials, server_credentials
from runtime.token_channel import TokenChannel
from runtime.traces.rpc import RpcTraces

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
OVERALL = ""
"""Name of the whole server in grpc.health.v1."""

# Both ends speak of the same pings: a client that pings more often than its server allows is thrown out (GOAWAY too_many_pings).
_KEEPALIVE: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
_SIZES: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)

_log = structlog.get_logger()


def create_channel(address: str, credentials: CallerCredentials = OPEN_CALLER) -> grpc.aio.Channel:
    """A channel to `host:port`; its owner closes it. It connects when first used and again after a break, at most 2 s between tries.

    Raises:
        CredentialError: the files cannot be used, or a token would travel in the clear.
    """
    credentials.check_for(address)
    options: tuple[tuple[str, int | str], ...] = (
        *_KEEPALIVE,
        *_SIZES,
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.min_reconnect_backoff_ms", 1_000),
        ("grpc.max_reconnect_backoff_ms", 2_000),
        # A replaced container has a new address: the default looks it up only every 30 s.
        ("grpc.dns_min_time_between_resolutions_ms", 1_000),
        # Channels do not share connections, so one that is closed takes only its own away.
        ("grpc.use_local_subchannel_pool", 1),
        # Processes talk to each other directly, whatever proxy the environment names for the outside.
        ("grpc.enable_http_proxy", 0),
    )
    files = credentials.files
    if files is None:
        channel = grpc.aio.insecure_channel(address, options=options)
    else:
        named = (("grpc.ssl_target_name_override", files.server_name),) if files.server_name else ()
        channel = grpc.aio.secure_channel(address, channel_credentials(files), options=(*options, *named))
    return TokenChannel(channel, credentials.token) if credentials.token else channel


class GrpcServer:
    """A grpc.aio server with health, reflection and errors as the design wants them. One event loop owns it.

    Health starts as NOT_SERVING, overall and for each service; `set_serving` changes it.
    """

    def __init__(
        self,
        bind: str,
        services: Mapping[str, Callable[[grpc.aio.Server], None]],
        *,
        translate: Translate | None = None,
        observer: RpcObserver | None = None,
        credentials: ServerCredentials = OPEN_SERVER,
        traces: RpcTraces | None = None,
        channelz: bool = False,
    ) -> None:
        """Prepares a server; it listens from `start` on.

        Args:
            bind: `host:port`, on loopback unless the credentials have TLS and tokens; port 0 picks a free one.
            services: full name of each service, and what adds it to the server.
            translate: the process's own errors as what clients are told.
            observer: counts the calls.
            credentials: how it knows its callers; health and reflection are open to everyone.
            traces: writes spans of the calls.
            channelz: tells operators what gRPC counts of this process's connections; False: it counts nothing of this server.

        Raises:
            BindError: the address is not on loopback, and TLS or tokens are missing.
        """
        check_reach(bind, has_tls=credentials.files is not None, has_tokens=bool(credentials.tokens))
        self._bind = bind
        self._services = dict(services)
        self._credentials = credentials
        self._guard = Guard(credentials.tokens) if credentials.tokens else None
        self._told = Told(translate, observer, traces)
        self._channelz = channelz
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self._port = 0

    @property
    def port(self) -> int:
        """The port it listens on; 0 before `start`."""
        return self._port

    async def start(self) -> None:
        """Listens and serves. Raises BindError when the port is taken, CredentialError when the TLS files cannot be used."""
        server = grpc.aio.server(
            options=(
                *_KEEPALIVE,
                *_SIZES,
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                # Two servers must never share a port silently, each getting some of the calls.
                ("grpc.so_reuseport", 0),
                # Of a connection that says nothing: two minutes, by default.
                ("grpc.server_handshake_timeout_ms", 10_000),
                ("grpc.enable_channelz", int(self._channelz)),
            ),
        )
        plain = cast("grpc.aio.Server", PlainServer(server, self._told, self._guard))
        for add in self._services.values():
            add(plain)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, plain)
        for name in (OVERALL, *self._services):
            await self.set_serving(name, False)
        channelz = (add_channelz(plain),) if self._channelz else ()
        names = (*self._services, *channelz, health.SERVICE_NAME, reflection.SERVICE_NAME)
        servicer = reflection.aio.ReflectionServicer(service_names=names)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, plain)  # type: ignore[no-untyped-call]  # it has no types
        self._tell_who_is_let_in()
        check_free(self._bind)
        files = self._credentials.files
        try:
            self._port = (
                server.add_insecure_port(self._bind) if files is None else server.add_secure_port(self._bind, server_credentials(files))
            )
        except RuntimeError as error:
            raise BindError(self._bind, TAKEN) from error
        await server.start()
        self._server = server

    def _tell_who_is_let_in(self) -> None:
        """Roles that this server's methods are for but that have no token here cannot call them; somebody may have forgotten one."""
        files, tokens = self._credentials.files, self._credentials.tokens
        named = {role for service in self._services for roles in ALLOWED.get(service, {}).values() for role in roles}
        shut_out = [str(role) for role in sorted(named - set(tokens))] if tokens else []
        _log.info(
            "grpc_access",
            tls=files is not None,
            client_certificates=files is not None and files.client_ca is not None,
            tokens_of=[str(role) for role in sorted(tokens)],
        )
        if shut_out:
            _log.warning("roles_without_token", roles=shut_out)

    async def set_serving(self, service: str, serving: bool) -> None:
        """Says over grpc.health.v1 whether a service serves; any name may be used, `""` is the whole server."""
        serves, not_serves = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set(service, serves if serving else not_serves)

    async def stop(self, grace_s: float) -> None:
        """Says NOT_SERVING for good, refuses new calls, gives those in work `grace_s` seconds, then cancels them. May be called twice."""
        await self._health.enter_graceful_shutdown()
        server, self._server = self._server, None
        if server is not None:
            await server.stop(grace_s)
