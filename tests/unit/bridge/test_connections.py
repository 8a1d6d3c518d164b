"""How many connections may be open at a time."""

from __future__ import annotations

import pytest

from http_bridge.addresses import TrustedProxies
from http_bridge.connections import ConnectionLimits, Connections


def _connections(*, at_once: int = 100, of_one: int = 2, proxies: tuple[str, ...] = ()) -> Connections:
    return Connections(ConnectionLimits(at_once=at_once, at_once_per_address=of_one), TrustedProxies(proxies))


def test_connection_is_refused_when_its_address_has_as_many_as_it_may() -> None:
    connections = _connections()
    first = connections.take("203.0.113.9")
    assert first is not None
    assert connections.take("203.0.113.9") is not None
    assert connections.take("::ffff:203.0.113.9") is None
    assert connections.take("203.0.113.10") is not None
    connections.give_back(first)
    assert connections.take("203.0.113.9") is not None
    assert connections.count == 3


def test_addresses_of_one_network_count_as_one_when_they_are_ipv6() -> None:
    connections = _connections()
    assert connections.take("2001:db8:0:1::1") is not None
    assert connections.take("2001:db8:0:1:ffff::2") is not None
    assert connections.take("2001:db8:0:1::3") is None
    assert connections.take("2001:db8:0:2::1") is not None


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "10.1.2.3", ""])
def test_peer_is_limited_in_all_only_when_it_speaks_for_others(peer: str) -> None:
    connections = _connections(at_once=5, proxies=("10.0.0.0/8",))
    assert [connections.take(peer) is not None for _ in range(6)] == [True] * 5 + [False]


def test_nothing_is_kept_of_an_address_when_its_connections_are_closed() -> None:
    connections = _connections()
    for number in range(1000):
        place = connections.take(f"198.51.{number // 250}.{number % 250}")
        assert place is not None
        connections.give_back(place)
    assert (connections.count, len(connections._of)) == (0, 0)
