"""Asks one server whether it serves, for container health checks: `python -m runtime.health_probe ADDRESS [SERVICE]`.

ADDRESS is `host:port` of a gRPC server (grpc.health.v1; SERVICE is a name that it knows, absent: the whole server), or an `http://` URL
that must answer 200. Exit codes: 0 it serves, 1 it does not, 2 the arguments or the settings are wrong.

It runs beside the process that it asks, in its environment, and takes TLS from there. On loopback, TLS is spoken where
WARMLANE_TLS_CERT_FILE is set, and that very certificate is trusted, whatever name stands in it; elsewhere, where WARMLANE_TLS_CA_FILE is
set. To a server that asks for client certificates it shows WARMLANE_TLS_CLIENT_CERT_FILE, or without one the server's own. No token is
needed.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

import grpc
from grpc_health.v1 import health_pb2

from runtime.rpc_errors import service_error

_TIMEOUT_S = 3.0


def probe_grpc(address: str, service: str = "") -> str | None:
    """None when the service serves; else why not."""
    try:
        channel = _channel(address)
    except OSError as error:
        return f"{address} does not answer ({error})"
    with channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(service=service), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            return f"{address} does not answer: {service_error(error).message}"
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return None
    return f"{address} says {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"


def _channel(address: str) -> grpc.Channel:
    """A channel to the server. Raises OSError when its certificate cannot be looked at, ValueError when the settings of TLS are wrong."""
    # The probe talks to its own machine, whatever proxy the environment names for the outside.
    options = (("grpc.enable_http_proxy", 0),)
    if not any(name.startswith("WARMLANE_TLS_") for name in os.environ):
        return grpc.insecure_channel(address, options=options)
    # Late: a probe runs every few seconds for as long as its container, and reading settings takes longer than the rest of it.
    from runtime.probe_tls import probe_channel

    return probe_channel(address, options)


def probe_http(url: str) -> str | None:
    """None when the URL answers 200; else why not."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or http.client.HTTP_PORT, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", parts.path or "/")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{url} does not answer ({error})"
    finally:
        connection.close()
    return None if status == http.client.OK else f"{url} answers {status}"


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    if not arguments or len(arguments) > 2 or (arguments[0].startswith("http://") and len(arguments) > 1):
        sys.stderr.write("usage: python -m runtime.health_probe HOST:PORT [SERVICE] | http://HOST:PORT/PATH\n")
        return 2
    try:
        problem = probe_http(arguments[0]) if arguments[0].startswith("http://") else probe_grpc(*arguments)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if problem is None:
        return 0
    sys.stderr.write(f"{problem}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
