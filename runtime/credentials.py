"""What a process shows when it calls, and what a server asks of its callers: TLS files and tokens, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from runtime.addresses import is_loopback
from runtime.roles import Role

MIN_TOKEN_CHARACTERS = 32
_MAX_TOKENS = 2


class CredentialError(ValueError):
    """TLS files or tokens cannot be used as they are; the text says why in one line, and never what a token is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFiles:
    """PEM files of a server.

    Attributes:
        cert: its certificate, followed by those between it and the CA.
        key: the certificate's key, not encrypted.
        client_ca: certificates of the CAs whose client certificates are let in; None: clients need none.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerFiles:
    """PEM files of a caller.

    Attributes:
        ca: certificates of the CAs that it trusts.
        cert: its own certificate, for servers that ask for one; None: it has none.
        key: the key of that certificate.
        server_name: name that must stand in the server's certificate; empty: the host that it dials.
    """

    ca: Path
    cert: Path | None = None
    key: Path | None = None
    server_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCredentials:
    """How a server knows its callers.

    Attributes:
        files: to speak TLS with; None: in the clear, on loopback only.
        tokens: of each role, one or two; without any, everyone may call everything, on loopback only.
    """

    files: ServerFiles | None = None
    tokens: Mapping[Role, tuple[str, ...]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerCredentials:
    """What a caller shows.

    Attributes:
        files: to speak TLS with; None: in the clear.
        token: sent with every call; empty: none is.
    """

    files: CallerFiles | None = None
    token: str = field(default="", repr=False)

    def check_for(self, address: str) -> None:
        """Raises CredentialError when a token would travel in the clear."""
        if self.token and self.files is None and not is_loopback(address):
            msg = f"WARMLANE_TLS_CA_FILE must be set: a token is sent to {address} over TLS only"
            raise CredentialError(msg)


OPEN_SERVER = ServerCredentials()
OPEN_CALLER = CallerCredentials()


def split_tokens(text: str) -> tuple[str, ...]:
    """The tokens of a setting: one, or two separated by a comma, so that one can take the other's place.

    Raises:
        CredentialError: one of them is none.
    """
    tokens = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if len(tokens) > _MAX_TOKENS:
        msg = "at most two tokens, separated by a comma"
        raise CredentialError(msg)
    for token in tokens:
        if len(token) < MIN_TOKEN_CHARACTERS:
            msg = f"a token has at least {MIN_TOKEN_CHARACTERS} characters; make one with: openssl rand -hex 32"
            raise CredentialError(msg)
        # As a header carries it: HTTP knows no others there, and a blank would end it.
        if not all("!" <= character <= "~" for character in token):
            msg = "a token is made of printable ASCII characters, without blanks"
            raise CredentialError(msg)
    return tokens
