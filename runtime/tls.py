"""TLS of gRPC from PEM files: checked at the start, and read again by servers when they are renewed."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc
import structlog

from runtime.credentials import CallerFiles, CredentialError, ServerFiles

_log = structlog.get_logger()

_Signature = tuple[tuple[int, int, int], ...]


def check_server_files(files: ServerFiles) -> None:
    """Raises CredentialError unless a server can use the files."""
    _check_pair(files.cert, files.key)
    if files.client_ca is not None:
        _check_authorities(files.client_ca)


def check_caller_files(files: CallerFiles) -> None:
    """Raises CredentialError unless a caller can use the files."""
    _check_authorities(files.ca)
    if files.cert is not None and files.key is not None:
        _check_pair(files.cert, files.key)


def channel_credentials(files: CallerFiles) -> grpc.ChannelCredentials:
    """For a channel. Raises CredentialError when the files cannot be used."""
    check_caller_files(files)
    key = _read(files.key) if files.key is not None else None
    cert = _read(files.cert) if files.cert is not None else None
    return grpc.ssl_channel_credentials(_read(files.ca), key, cert)


def server_credentials(files: ServerFiles) -> grpc.ServerCredentials:
    """For a server's port; renewed files hold from the next connection on. Raises CredentialError when they cannot be used now."""
    renewed = _Renewed(files)
    return grpc.dynamic_ssl_server_credentials(renewed.first, renewed.look, require_client_authentication=files.client_ca is not None)


class _Renewed:
    """Looks at the files of a server whenever a connection comes in. Threads of gRPC call it."""

    def __init__(self, files: ServerFiles) -> None:
        self._files = files
        self._seen = _signature(files)
        self._refused: _Signature | None = None
        self.first = _configuration(files)

    def look(self) -> grpc.ServerCertificateConfiguration:
        """The certificate from now on; None: as before. Never raises: whoever connects must not suffer from a file half written."""
        try:
            found = self._read_again()
        except CredentialError as error:
            _log.error("certificate_not_renewed", reason=str(error))
            found = None
        # Nothing tells gRPC to go on as before; its types do not know that.
        return found  # type: ignore[return-value]

    def _read_again(self) -> grpc.ServerCertificateConfiguration | None:
        signature = _signature(self._files)
        if signature in (self._seen, self._refused):
            return None
        try:
            configuration = _configuration(self._files)
        except CredentialError:
            # Told once. Where the key follows its certificate a moment later, the signature changes with it.
            self._refused = signature
            raise
        if _signature(self._files) != signature:
            # They are being written: the next connection finds them whole.
            return None
        self._seen, self._refused = signature, None
        _log.info("certificate_renewed", file=str(self._files.cert))
        return configuration


def _configuration(files: ServerFiles) -> grpc.ServerCertificateConfiguration:
    check_server_files(files)
    authorities = _read(files.client_ca) if files.client_ca is not None else None
    return grpc.ssl_server_certificate_configuration([(_read(files.key), _read(files.cert))], authorities)


def _signature(files: ServerFiles) -> _Signature:
    """Changes when one of the files does; empty while one is not there."""
    paths = (files.cert, files.key, *([files.client_ca] if files.client_ca is not None else []))
    try:
        return tuple((found.st_ino, found.st_size, found.st_mtime_ns) for found in (path.stat() for path in paths))
    except OSError:
        return ()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise CredentialError(msg) from error


def _check_pair(cert: Path, key: Path) -> None:
    _read(cert)
    _read(key)
    try:
        # The password is asked for when the key is encrypted, and then on the terminal unless one is given.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: "-")
    except ssl.SSLError as error:
        is_other = error.reason == "KEY_VALUES_MISMATCH"
        msg = (
            f"{key} is not the key of {cert}" if is_other else f"{cert} and {key} must be a PEM certificate and its PEM key, not encrypted"
        )
        raise CredentialError(msg) from error


def _check_authorities(path: Path) -> None:
    _read(path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        msg = f"{path} must hold PEM certificates of the CAs to trust"
        raise CredentialError(msg) from error
