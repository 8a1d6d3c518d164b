"""Where a request really came from: the socket, or what proxies that are trusted say of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

UNKNOWN = "unknown"
"""Instead of an address where the socket has none, such as one of a Unix domain."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Scheme = Literal["http", "https"]

# More than any chain of proxies; the rest of the list was made up by the client and is not even split.
_MAX_HOPS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Address and scheme that a request is taken to have come with."""

    address: str
    scheme: Scheme


_FORWARDED = (b"x-forwarded-for", b"x-forwarded-proto")


class TrustedProxies:
    """Who is believed about the addresses of others; nobody, when the list is empty."""

    def __init__(self, networks: Sequence[str]) -> None:
        """Addresses or networks, as the settings checked them."""
        self._networks: tuple[Network, ...] = tuple(ip_network(network) for network in networks)
        # Most peers come again and again.
        self._peer = lru_cache(maxsize=1024)(self._looked_at)

    def seen(self, peer: str, scheme: Scheme, forwarded_for: str, forwarded_proto: str) -> Seen:
        """What a request of this socket is taken for.

        The address is the rightmost one of X-Forwarded-For that is not trusted: what stands left of it may be made up. Where all are
        trusted it is the leftmost, which a trusted one wrote. Of a list with garbage on the way there nothing is believed.
        """
        address, is_trusted = self._peer(peer)
        if not is_trusted:
            return Seen(address=address, scheme=scheme)
        hops = forwarded_for.rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]
        first, back = self._first_believed(hops)
        if first is None:
            return Seen(address=address, scheme=_scheme(forwarded_proto, 1, 1) or scheme)
        return Seen(address=str(first), scheme=_scheme(forwarded_proto, len(hops), back) or scheme)

    def _looked_at(self, peer: str) -> tuple[str, bool]:
        """Its address as text, and whether it is believed."""
        found = parse_address(peer)
        return (peer[:64] or UNKNOWN, False) if found is None else (str(found), self.trusts(found))

    def _first_believed(self, hops: Sequence[str]) -> tuple[Address | None, int]:
        """The address nearest to the client that can be believed, counted from the back; None: garbage is in the way."""
        for back, hop in enumerate(reversed(hops), start=1):
            address = parse_address(hop)
            if address is None or not self.trusts(address) or back == len(hops):
                return address, back
        return None, 0

    def trusts(self, address: Address) -> bool:
        """Whether the address is one of the trusted."""
        return any(address.version == network.version and address in network for network in self._networks)


def parse_address(text: str) -> Address | None:
    """The address in `1.2.3.4`, `1.2.3.4:80`, `::1`, `[::1]` or `[::1]:80`; None for anything else.

    IPv4 in the clothes of IPv6 (`::ffff:1.2.3.4`) counts as itself, and an interface (`%eth0`) is left out: each is one address to us.
    """
    text = text.strip()
    return None if len(text) > 64 else _parsed(text)


def subscriber(address: Address) -> str:
    """Whom an address stands for: an IPv6 address for its /64, which one subscriber has whole."""
    return str(ip_network((address, 64), strict=False)) if isinstance(address, IPv6Address) else str(address)


# Most addresses come again and again.
@lru_cache(maxsize=1024)
def _parsed(text: str) -> Address | None:
    if text.startswith("["):
        text, _, port = text[1:].partition("]")
        if port and not _is_port(port):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _is_port(":" + port):
            return None
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_port(text: str) -> bool:
    digits = text.removeprefix(":")
    return text.startswith(":") and digits.isascii() and digits.isdigit() and len(digits) <= 5


def _scheme(forwarded_proto: str, hops: int, back: int) -> Scheme | None:
    """What the hop spoke; lists as long as that of the addresses go with it, of others the nearest proxy's word counts. None: no word."""
    words = [word.strip().lower() for word in forwarded_proto.rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]]
    word = words[-back] if len(words) == hops else words[-1]
    return cast("Scheme", word) if word in ("http", "https") else None


class ClientAddress:
    """Puts the believed address and scheme where everything behind it looks for them. Outside everything else."""

    def __init__(self, app: ASGIApp, proxies: TrustedProxies) -> None:
        """Wraps the application."""
        self._app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] == "http":
            peer, port = scope.get("client") or (UNKNOWN, 0)
            seen = self._proxies.seen(peer, scope["scheme"], *_forwarded(scope["headers"]))
            scope["client"], scope["scheme"] = (seen.address, port), seen.scheme
        await self._app(scope, receive, send)


def _forwarded(headers: Sequence[tuple[bytes, bytes]]) -> tuple[str, str]:
    """X-Forwarded-For and -Proto. Several lines of one header are one list (RFC 9110, 5.3)."""
    told = [(name, value.decode("latin-1")) for name, value in headers if name in _FORWARDED]
    if not told:
        return "", ""
    addresses, schemes = (",".join(value for name, value in told if name == wanted) for wanted in _FORWARDED)
    return addresses, schemes


def client_address(request: Request) -> str:
    """Where the request came from, as `ClientAddress` found it."""
    return request.client.host if request.client else UNKNOWN


def client_subscriber(scope: Scope) -> str:
    """Whose address that is; empty for this machine's: where a proxy on it is not among the trusted, it speaks for everyone."""
    host: str = (scope.get("client") or (UNKNOWN, 0))[0]
    address = parse_address(host)
    if address is None:
        return host
    return "" if address.is_loopback else subscriber(address)
