"""The addresses that a process listens on: well formed, on loopback, free."""

from __future__ import annotations

import ipaddress
import socket

TAKEN = "another process holds the port, or the address is not of this machine"

_LAST_PORT = 65_535


class BindError(Exception):
    """A process cannot listen where it should; the text says why in one line."""

    def __init__(self, bind: str, reason: str) -> None:
        """`bind` as it was configured."""
        super().__init__(f"cannot listen on {bind}: {reason}")


def check_address(bind: str) -> None:
    """Raises BindError unless `bind` is `host:port`."""
    host, port = _split(bind)
    if not host or not (port.isascii() and port.isdigit()) or int(port) > _LAST_PORT:
        raise BindError(repr(bind), "the address must be host:port")


def split_address(bind: str) -> tuple[str, int]:
    """Host and port of a `bind` that was checked."""
    host, port = _split(bind)
    return host, int(port)


def is_loopback(address: str) -> bool:
    """Whether `host:port` is on this machine for sure."""
    host, _ = _split(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_reach(bind: str, *, has_tls: bool, has_tokens: bool) -> None:
    """Raises BindError unless `bind` is `host:port`, and on loopback where callers are not known or can be listened to."""
    check_address(bind)
    if is_loopback(bind) or (has_tls and has_tokens):
        return
    missing = [] if has_tls else ["TLS (WARMLANE_TLS_CERT_FILE and WARMLANE_TLS_KEY_FILE)"]
    missing += [] if has_tokens else ["the tokens of those who may call (WARMLANE_OPERATOR_TOKEN and so on)"]
    reason = "gRPC listens on loopback only (127.0.0.1, ::1 or localhost) until TLS and tokens are configured; what is missing: "
    raise BindError(bind, reason + ", and ".join(missing))


def check_free(bind: str) -> None:
    """Raises BindError when the port is taken; gRPC would find it as well, and tell it in lines of its own."""
    host, port = split_address(bind)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind, protocol) as trial:
            # As gRPC does: connections that are still closing hold no port.
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            trial.listen()
    except OSError as error:
        raise BindError(bind, TAKEN) from error


def _split(bind: str) -> tuple[str, str]:
    host, _, port = bind.rpartition(":")
    return host.strip("[]"), port
