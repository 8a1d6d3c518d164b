"""Decides by its token whether a call is let in, and tells refusals without filling the log."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Iterable, Mapping

import structlog

from runtime.errors import ErrorCode, ServiceError
from runtime.roles import Role, roles_of

_log = structlog.get_logger()

_KEY = "authorization"
_SCHEME = "bearer "
_REFUSED_FOR = "credential"
_TOLD_EVERY_S = 10.0
_MOST_PEERS = 256

_MISSING = ServiceError(
    code=ErrorCode.UNAUTHENTICATED,
    message="This server asks for a token: send the metadata `authorization: Bearer TOKEN`.",
    metadata={_REFUSED_FOR: "token_missing"},
)
_UNKNOWN = ServiceError(
    code=ErrorCode.UNAUTHENTICATED, message="The token is none of this server's.", metadata={_REFUSED_FOR: "token_unknown"}
)


def is_credential_refusal(error: ServiceError) -> bool:
    """A server refused this process itself, for its token; the error says nothing about the user that it called for."""
    return error.code in (ErrorCode.UNAUTHENTICATED, ErrorCode.FORBIDDEN) and _REFUSED_FOR in error.metadata


class Guard:
    """The tokens of a server. Belongs to its event loop."""

    def __init__(self, tokens: Mapping[Role, Iterable[str]]) -> None:
        """Lets in whoever has one of these tokens, each to the methods of its role."""
        # Digests are all of one length, so that comparing them tells nothing of a token, not even how long it is.
        self._known = tuple((_digest(token), role) for role, some in tokens.items() for token in some)
        self._allowed: dict[str, frozenset[Role] | None] = {}

    def refusal(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> ServiceError | None:
        """Why the call is refused; None: it is let in. Quick: it is on the way of every call. `method`: one that the server has."""
        try:
            allowed = self._allowed[method]
        except KeyError:
            allowed = self._allowed[method] = roles_of(method)
        if allowed is None:
            return None
        token = _token_of(metadata)
        if token is None:
            return _MISSING
        role = self._role_of(token)
        if role is None:
            return _UNKNOWN
        return None if role in allowed else _forbidden(method, role, allowed)

    def _role_of(self, token: str) -> Role | None:
        digest, found = _digest(token), None
        # All of them, always: the time must not tell which one it was, or how near it came.
        for known, role in self._known:
            if hmac.compare_digest(digest, known):
                found = role
        return found


class RefusalLog:
    """Tells of refused calls, each peer at most once in 10 s. Belongs to one event loop."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        """Measures time by `now_s`, which only rises."""
        self._now_s = now_s
        # When each peer was told of last; the oldest first.
        self._told_s: dict[str, float] = {}
        self._left_out = 0

    def tell(self, peer: str, method: str, error: ServiceError) -> None:
        """Writes a line, or counts one that is left out. `peer` is gRPC's name: `ipv4:192.0.2.1:50051`."""
        now_s = self._now_s()
        host = peer.rpartition(":")[0] or peer
        while self._told_s and now_s - next(iter(self._told_s.values())) >= _TOLD_EVERY_S:
            del self._told_s[next(iter(self._told_s))]
        if host in self._told_s or len(self._told_s) >= _MOST_PEERS:
            self._left_out += 1
            return
        self._told_s[host] = now_s
        _log.warning("call_refused", peer=host, method=method, code=error.code, reason=error.message, left_out_before=self._left_out)
        self._left_out = 0


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _token_of(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """The token that the call carries; None: no token, or more than one."""
    found = None
    for key, value in metadata:
        if key == _KEY:
            if found is not None or not isinstance(value, str):
                return None
            found = value
    if found is None or found[: len(_SCHEME)].lower() != _SCHEME:
        return None
    return found[len(_SCHEME) :]


def _forbidden(method: str, role: Role, allowed: frozenset[Role]) -> ServiceError:
    needed = " or ".join(sorted(allowed)) or "nobody"
    name = method.rpartition("/")[2]
    return ServiceError(
        code=ErrorCode.FORBIDDEN,
        message=f"The token is that of the role {role}; {name} is for {needed}.",
        metadata={_REFUSED_FOR: "token_of_another_role", "role": role, "needed": ",".join(sorted(allowed))},
    )
