"""How a health probe speaks TLS to the process that it stands beside, with that process's own settings."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import cast

import grpc
from pydantic import ValidationError

from runtime.addresses import is_loopback, split_address
from runtime.credentials import CredentialError
from runtime.rpc_settings import CallerTlsSettings, ServerTlsSettings
from runtime.settings import problems

_TIMEOUT_S = 3.0


class ProbeSettings(ServerTlsSettings, CallerTlsSettings):
    """The TLS settings of the process that is asked."""

    def trusted(self, address: str) -> tuple[Path, ...]:
        """Files whose certificates are trusted; none: TLS is not spoken there."""
        if is_loopback(address):
            return tuple(path for path in (self.tls_cert_file, self.tls_ca_file) if path is not None) if self.tls_cert_file else ()
        return (self.tls_ca_file,) if self.tls_ca_file is not None else ()

    def shown(self) -> tuple[Path, Path] | None:
        """Certificate and key for a server that asks for one."""
        for cert, key in ((self.tls_client_cert_file, self.tls_client_key_file), (self.tls_cert_file, self.tls_key_file)):
            if cert is not None and key is not None:
                return cert, key
        return None


def probe_channel(address: str, options: tuple[tuple[str, int | str], ...]) -> grpc.Channel:
    """A channel to the server, over TLS where the environment says so.

    Raises:
        OSError: its certificate cannot be looked at, or is not good.
        CredentialError: the settings are wrong.
    """
    try:
        settings = ProbeSettings()
    except ValidationError as error:
        raise CredentialError("; ".join(problems(error))) from error
    trusted, shown = settings.trusted(address), settings.shown()
    if not trusted:
        return grpc.insecure_channel(address, options=options)
    roots = b"\n".join(path.read_bytes() for path in trusted)
    cert, key = (None, None) if shown is None else (shown[0].read_bytes(), shown[1].read_bytes())
    name = _certified_name(address, trusted, shown) if is_loopback(address) else settings.tls_server_name
    if name:
        options = (*options, ("grpc.ssl_target_name_override", name))
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(roots, key, cert), options=options)


def _certified_name(address: str, trusted: tuple[Path, ...], shown: tuple[Path, Path] | None) -> str:
    """A name that stands in the server's certificate, once that is known to be good: nobody else listens on this machine's loopback."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for path in trusted:
        context.load_verify_locations(path)
    # As gRPC does it: a certificate that is trusted itself needs no CA above it.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    if shown is not None:
        context.load_cert_chain(*shown)
    with socket.create_connection(split_address(address), timeout=_TIMEOUT_S) as connection, context.wrap_socket(connection) as secured:
        certificate = secured.getpeercert() or {}
    # Pairs of a kind and a name, here; the types know of other members too.
    names = cast("tuple[tuple[str, str], ...]", certificate.get("subjectAltName", ()))
    # A name that a wildcard stands for is as good as any.
    return next((name.replace("*", "any", 1) for kind, name in names if kind in ("DNS", "IP Address")), "")
