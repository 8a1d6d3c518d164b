"""Certificates of a CA made for one test, as files, and a token for each role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from runtime.credentials import CallerCredentials, CallerFiles, ServerCredentials, ServerFiles
from runtime.roles import Role

TOKENS: Mapping[Role, str] = {role: f"{role}-token-" + "0123456789abcdef" * 2 for role in Role}
"""One for each role; none of them is in any log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate and its key."""

    cert: Path
    key: Path


class Authority:
    """A CA whose certificate and key are files in the folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        """Makes it."""
        self._folder = folder
        self._name = name
        self._ca = trustme.CA(organization_name=name)
        self.cert, self.key = folder / f"{name}.pem", folder / f"{name}.key"
        self._ca.cert_pem.write_to_path(self.cert)
        self._ca.private_key_pem.write_to_path(self.key)

    def issue(self, *names: str, file: str = "server", is_expired: bool = False) -> Issued:
        """A certificate for these names, as files that begin with `file`; written again, they are renewed."""
        now = datetime.now(UTC)
        begun, ended = (now - timedelta(days=2), now - timedelta(days=1)) if is_expired else (None, None)
        made = self._ca.issue_cert(*(names or ("localhost", "127.0.0.1")), not_before=begun, not_after=ended)
        issued = Issued(cert=self._folder / f"{self._name}-{file}.pem", key=self._folder / f"{self._name}-{file}.key")
        issued.cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        made.private_key_pem.write_to_path(issued.key)
        return issued


def server_of(issued: Issued, *, client_ca: Authority | None = None, tokens: Mapping[Role, str] | None = None) -> ServerCredentials:
    """Of a server with this certificate."""
    files = ServerFiles(cert=issued.cert, key=issued.key, client_ca=client_ca.cert if client_ca is not None else None)
    return ServerCredentials(files=files, tokens={role: (token,) for role, token in (tokens or {}).items()})


def caller_of(authority: Authority, *, issued: Issued | None = None, token: str = "", server_name: str = "") -> CallerCredentials:
    """Of a caller that trusts this CA."""
    cert, key = (issued.cert, issued.key) if issued is not None else (None, None)
    return CallerCredentials(files=CallerFiles(ca=authority.cert, cert=cert, key=key, server_name=server_name), token=token)
