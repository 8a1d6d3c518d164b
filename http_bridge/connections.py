"""How many connections may be open at a time, in all and from one address; and how slow they may be."""

from __future__ import annotations

import resource
from collections import Counter
from dataclasses import dataclass

from http_bridge.addresses import TrustedProxies, parse_address, subscriber

# Beside the connections a bridge has some files open: its channel to admission, the store, logs, metrics.
_OTHER_FILES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What one connection may do, and how many there may be.

    Attributes:
        head_bytes: largest head of a request, its first line included.
        head_s: for the head of a request to arrive, and for a body that nobody wants any more to end.
        idle_s: between two requests.
        write_s: a reply of which the client takes nothing for so long is cut.
        at_once: open connections in all.
        at_once_per_address: of one address; an IPv6 address counts as its /64. Trusted proxies and this machine are not limited: they
            speak for others.
    """

    head_bytes: int = 32 * 1024
    head_s: float = 15.0
    idle_s: float = 75.0
    write_s: float = 60.0
    at_once: int = 2048
    at_once_per_address: int = 256


class Connections:
    """Counts the open connections of one server."""

    def __init__(self, limits: ConnectionLimits, proxies: TrustedProxies, *, spares_loopback: bool = True) -> None:
        """None are open. With `spares_loopback` this machine counts as a proxy of others."""
        self.limits = limits
        self._proxies = proxies
        self._spares_loopback = spares_loopback
        self._open = 0
        self._of: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """How many are open."""
        return self._open

    def take(self, peer: str) -> str | None:
        """Takes a place for a connection of this address; None: there is none. What is returned goes to `give_back` when it closes."""
        name = self._name(peer)
        if self._open >= self.limits.at_once:
            return None
        if name and self._of[name] >= self.limits.at_once_per_address:
            return None
        self._open += 1
        if name:
            self._of[name] += 1
        return name

    def give_back(self, name: str) -> None:
        """The connection is closed."""
        self._open -= 1
        if name:
            self._of[name] -= 1
            if not self._of[name]:
                # Addresses come and go: what is not open is not kept.
                del self._of[name]

    def _name(self, peer: str) -> str:
        """What its connections are counted under; empty: they are not."""
        address = parse_address(peer)
        if address is None or self._proxies.trusts(address) or (self._spares_loopback and address.is_loopback):
            return ""
        return subscriber(address)


def openable_connections(wanted: int) -> int:
    """As many of the wanted connections as this process may have files for, once it asked for all that it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _OTHER_FILES))
