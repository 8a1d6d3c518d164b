"""Where a request is taken to have come from."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from http_bridge.addresses import Seen, TrustedProxies, parse_address

PROXIES = TrustedProxies(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"])


def _address(peer: str, forwarded_for: str = "", forwarded_proto: str = "") -> str:
    return PROXIES.seen(peer, "http", forwarded_for, forwarded_proto).address


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        # Nobody speaks for a peer that is not trusted, this machine included.
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("127.0.0.1", "198.51.100.1", "127.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        # What stands left of the first address that is not trusted was made up, or may have been.
        ("10.0.0.1", "127.0.0.1, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "8.8.8.8, 198.51.100.1, 192.0.2.1 , 10.9.9.9", "198.51.100.1"),
        ("10.0.0.1", "8.8.8.8,198.51.100.1,", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, unknown", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, unknown, 10.0.0.2", "10.0.0.1"),
        ("10.0.0.1", "garbage, 198.51.100.1", "198.51.100.1"),
        # All are trusted: the first one asked.
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        # Forms of one address.
        ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.1", "[2001:DB9::1]:4711", "2001:db9::1"),
        ("10.0.0.1", "[2001:db9::1]", "2001:db9::1"),
        ("10.0.0.1", "2001:db9:0:0::1", "2001:db9::1"),
        ("2001:db8::7", "fe80::1%eth0", "fe80::1"),
        ("10.0.0.1", "198.51.100.1:port", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1:999999", "10.0.0.1"),
        ("10.0.0.1", "[2001:db9::1]x", "10.0.0.1"),
        ("10.0.0.1", "1.2.3", "10.0.0.1"),
        ("10.0.0.1", "x" * 5000, "10.0.0.1"),
        # A socket without an address.
        ("unknown", "198.51.100.1", "unknown"),
        ("", "198.51.100.1", "unknown"),
    ],
)
def test_address_is_the_first_one_that_nobody_can_make_up(peer: str, forwarded_for: str, address: str) -> None:
    assert _address(peer, forwarded_for) == address


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "proto", "scheme"),
    [
        ("203.0.113.9", "198.51.100.1", "https", "http"),
        ("10.0.0.1", "198.51.100.1", "https", "https"),
        ("10.0.0.1", "", "https", "https"),
        ("10.0.0.1", "198.51.100.1", "HTTPS ", "https"),
        ("10.0.0.1", "198.51.100.1", "", "http"),
        ("10.0.0.1", "198.51.100.1", "gopher", "http"),
        # Both proxies added their word: the outer one spoke with the client.
        ("10.0.0.1", "198.51.100.1, 10.0.0.2", "https, http", "https"),
        # A client wrote the first; only the proxy's word counts.
        ("10.0.0.1", "198.51.100.1", "https, http", "http"),
        ("10.0.0.1", "8.8.8.8, 198.51.100.1", "https, http", "http"),
    ],
)
def test_scheme_is_what_the_proxy_says_of_the_same_hop(peer: str, forwarded_for: str, proto: str, scheme: str) -> None:
    assert PROXIES.seen(peer, "http", forwarded_for, proto).scheme == scheme


_ADDRESSES = st.ip_addresses().map(str)
_ANYTHING = st.one_of(_ADDRESSES, st.text(max_size=40), st.sampled_from(["", " ", "unknown", "[::1]:80", "10.0.0.1"]))


@given(peer=_ADDRESSES, forwarded=st.lists(_ANYTHING, max_size=5), proto=st.text(max_size=20))
def test_nothing_is_believed_when_the_peer_is_not_trusted(peer: str, forwarded: list[str], proto: str) -> None:
    nobody = TrustedProxies([])
    assert nobody.seen(peer, "http", ",".join(forwarded), proto) == Seen(address=str(parse_address(peer)), scheme="http")


@given(made_up=st.lists(_ANYTHING, max_size=5), client=st.ip_addresses(v=4).map(str))
def test_client_cannot_choose_its_address_when_a_proxy_adds_the_right_one(made_up: list[str], client: str) -> None:
    believed = _address("10.0.0.1", ",".join([*made_up, client]))
    address = parse_address(client)
    assert address is not None
    if not PROXIES.trusts(address):
        assert believed == client


@given(forwarded=st.text(max_size=200), proto=st.text(max_size=30))
def test_address_is_always_one_when_the_peer_has_one(forwarded: str, proto: str) -> None:
    seen = PROXIES.seen("10.0.0.1", "http", forwarded, proto)
    assert str(ip_address(seen.address)) == seen.address
    assert seen.scheme in ("http", "https")


@given(address=st.ip_addresses(), port=st.integers(0, 65535))
def test_every_form_of_an_address_is_read_when_it_is_right(address: object, port: int) -> None:
    plain = parse_address(str(address))
    assert plain is not None
    with_port = f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"
    assert parse_address(with_port) == parse_address(f" {address} ") == plain
