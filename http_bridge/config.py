"""The settings of the bridge: environment variables with the prefix `WARMLANE_`, read in `__main__` only."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from runtime.credentials import CallerCredentials, ServerFiles
from runtime.metrics.settings import MetricsSettings
from runtime.rpc_settings import CallerTlsSettings, PemFile, Tokens
from runtime.tls import check_server_files
from runtime.traces.settings import TraceSettings

# Where the frontend's development server runs; always allowed, as today.
_DEVELOPMENT_ORIGINS = ("http://localhost:5173", "http://127.0.0.1:5173")

SameSite = Literal["none", "lax", "strict"]


def _default_object_store_url() -> str:
    return Path("warmlane-data/objects").absolute().as_uri()


class BridgeSettings(MetricsSettings, CallerTlsSettings, TraceSettings):
    """What the bridge is told at its start.

    Attributes:
        http_bind: `host:port` to serve HTTP on; port 0 picks a free one. Recommended behind a proxy: loopback.
        admission_address: `host:port` of admission's gRPC.
        bridge_token: what the bridge shows to admission; of two, separated by a comma, the first.
        object_store_url: `file:///folder` or `s3://bucket/prefix`; the same store as admission and the lanes use.
        api_key: the key that opens everything but the admin paths. None: protected paths answer 503.
        allow_unauthenticated: serve protected paths to everyone when no key is configured. For a closed network only.
        cookie_secure: send cookies over https only; off for plain http on one machine.
        cookie_samesite: SameSite of the cookies; `none` needs `cookie_secure`, without it `lax` is sent.
        cors_origins: origins of browsers that may call, such as `https://app.example.org`; never `*`.
        public_base_url: absolute base of the URLs in replies, prefix included (`https://host/api`); None: paths from the root.
        max_body_bytes: largest accepted request body. The default of 64 MiB holds three images of the largest size (12 MiB, 16 MiB as
            base64) or the 21 keyframes of a clip of about 2.2 MiB each; larger sets come in through the gRPC upload.
        large_bodies_at_once: how many bodies over 1 MiB are read and taken in at a time; each may take some four times its size of memory.
            Others wait up to 20 s and are then told to come again; smaller bodies never wait. One address gets half of the places at most.
        body_timeout_s: how long a client may take to send its body.
        max_event_streams: how many event streams may be open at a time; each takes about a tenth of a MiB here and as much in admission.
        max_event_streams_per_session: of one session; the API key has no limit of its own.
        max_event_streams_per_address: of all sessions of one address (IPv6: its /64), which may open new ones at any time.
        header_timeout_s: how long a client may take to send a request's head, from the connection or the end of the request before.
        max_header_bytes: largest head of a request.
        write_timeout_s: a reply of which the client takes nothing for so long is cut.
        min_body_rate_bytes_s: how fast a body over 1 MiB must come, on average over 10 s, as it keeps others waiting; 0: any rate.
        max_connections: open connections in all; more are refused. Fewer are served where the process may not open so many files.
        max_connections_per_address: of one address (IPv6: its /64); trusted proxies and this machine may open any number.
        http_tls_cert_file, http_tls_key_file: PEM files to serve https with, without a proxy before it; both or none.
        admin_key: the key of the admin paths, at least 16 characters. None, or a shorter one: they answer 403 `admin_misconfigured`.
        admin_idle_timeout_s: an admin session ends after so long without use.
        new_sessions_per_minute: of one address; 0: unlimited.
        generations_per_minute: of one session; 0: unlimited. Calls with the API key are never limited.
        bad_keys_per_minute: of one address, API keys and admin keys apart; 0: unlimited.
        trusted_proxies: addresses or networks (`10.0.0.0/8`) whose X-Forwarded-For and X-Forwarded-Proto are believed; nobody's by default.
        gallery_private: a task belongs to the session or key that made it, and is 404 to everyone else but the API key.
        image_upstream_url: base URL of the server of the image models, `/api` included where it needs it. None: they are not served.
        image_upstream_key: API key for it.
        accounts_upstream_url: base URL of the server of the accounts' admin paths. None: they are not supported.
        accounts_upstream_key: admin key for it.
        upstream_timeout_s: for an upstream's reply to begin, and between two pieces of it.
    """

    metrics_bind: str = Field(default="127.0.0.1:9100", description="host:port of /metrics; empty turns it off.")
    http_bind: str = Field(default="127.0.0.1:8080", description="host:port of the HTTP server; port 0 picks a free one.")
    admission_address: str = Field(default="127.0.0.1:50051", description="host:port of admission's gRPC.")
    bridge_token: Tokens = Field(default=None, description="What the bridge shows to admission.")
    object_store_url: str = Field(
        default_factory=_default_object_store_url, description="file:///folder or s3://bucket/prefix; the store of admission and the lanes."
    )
    api_key: SecretStr | None = Field(default=None, description="The API key. Without one, protected paths answer 503.")
    allow_unauthenticated: bool = Field(
        default=False, description="Serve everyone when no API key is configured. For a closed network only."
    )
    cookie_secure: bool = Field(default=True, description="Send cookies over https only.")
    cookie_samesite: SameSite = Field(default="none", description="SameSite of cookies; none needs cookie_secure (else lax is sent).")
    cors_origins: tuple[str, ...] = Field(default=(), description="JSON list of origins of browsers that may call; never *.")
    public_base_url: str | None = Field(default=None, description="Absolute base of the URLs in replies; unset: paths.")
    max_body_bytes: int = Field(default=64 * 1024 * 1024, ge=1024, description="Largest accepted request body in bytes.")
    large_bodies_at_once: int = Field(default=4, ge=1, description="Bodies over 1 MiB that are read and taken in at a time; others wait.")
    body_timeout_s: float = Field(default=120.0, gt=0, description="Seconds a client may take to send its body.")

    max_event_streams: int = Field(default=2000, ge=1, description="Event streams that may be open at a time.")
    max_event_streams_per_session: int = Field(default=100, ge=1, description="Event streams of one session.")
    max_event_streams_per_address: int = Field(default=250, ge=1, description="Event streams of one address, of all its sessions.")
    header_timeout_s: float = Field(default=15.0, gt=0, description="Seconds a client may take to send the head of a request.")
    max_header_bytes: int = Field(default=32 * 1024, ge=1024, description="Largest head of a request in bytes.")
    write_timeout_s: float = Field(default=60.0, gt=0, description="Seconds without a byte taken after which a reply is cut.")
    min_body_rate_bytes_s: int = Field(default=10_000, ge=0, description="Bytes per second that a body over 1 MiB must come with; 0: any.")
    max_connections: int = Field(default=2048, ge=1, description="Open connections in all; more are refused.")
    max_connections_per_address: int = Field(default=256, ge=1, description="Open connections of one address; trusted proxies: any number.")
    http_tls_cert_file: PemFile = Field(default=None, description="PEM file: certificate to serve https with; unset: plain http.")
    http_tls_key_file: PemFile = Field(default=None, description="PEM file: key of that certificate.")
    admin_key: SecretStr | None = Field(default=None, description="Opens the admin paths; at least 16 characters.")
    admin_idle_timeout_s: float = Field(
        default=12 * 3600.0, gt=0, le=3650 * 86400, description="Seconds without use that end an admin session."
    )
    new_sessions_per_minute: int = Field(default=20, ge=0, le=1_000_000, description="New sessions of one address; 0: unlimited.")
    generations_per_minute: int = Field(default=120, ge=0, le=1_000_000, description="Generations of one session; 0: unlimited.")
    bad_keys_per_minute: int = Field(default=10, ge=0, le=1_000_000, description="Wrong keys of one address; 0: unlimited.")
    trusted_proxies: tuple[str, ...] = Field(
        default=(), description="JSON list of addresses or networks whose X-Forwarded-For is believed."
    )
    gallery_private: bool = Field(default=False, description="Everyone sees their own tasks only; the API key sees all.")
    image_upstream_url: str | None = Field(default=None, description="Base URL of the server of the image models.")
    image_upstream_key: SecretStr | None = Field(default=None, description="API key for that server.")
    accounts_upstream_url: str | None = Field(default=None, description="Base URL of the server of the accounts' admin paths.")
    accounts_upstream_key: SecretStr | None = Field(default=None, description="Admin key for that server.")
    upstream_timeout_s: float = Field(default=30.0, gt=0, description="Seconds for an upstream's reply to begin, and between its pieces.")

    @field_validator("api_key", "admin_key", "image_upstream_key", "accounts_upstream_key")
    @classmethod
    def _empty_key_is_none(cls, value: SecretStr | None) -> SecretStr | None:
        return value if value is not None and value.get_secret_value() else None

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for network in value:
            ip_network(network)
        return value

    @model_validator(mode="after")
    def _certificate_has_key(self) -> Self:
        if (self.http_tls_cert_file is None) != (self.http_tls_key_file is None):
            msg = "WARMLANE_HTTP_TLS_CERT_FILE and WARMLANE_HTTP_TLS_KEY_FILE are set together or not at all"
            raise ValueError(msg)
        if self.http_tls_cert_file is not None and self.http_tls_key_file is not None:
            check_server_files(ServerFiles(cert=self.http_tls_cert_file, key=self.http_tls_key_file))
        return self

    @field_validator("public_base_url", "image_upstream_url", "accounts_upstream_url")
    @classmethod
    def _base_without_slash(cls, value: str | None) -> str | None:
        if not value:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            msg = "must start with http:// or https:// and name a host"
            raise ValueError(msg)
        # Raises ValueError for a port that there cannot be.
        _ = parts.port
        if parts.query or parts.fragment or "@" in parts.netloc:
            msg = "must be scheme, host and path only: no query, no fragment, no user and password"
            raise ValueError(msg)
        return value.rstrip("/")

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_exact(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            parts = urlsplit(origin)
            if parts.scheme not in ("http", "https") or f"{parts.scheme}://{parts.netloc}" != origin or "*" in origin:
                msg = f"{origin!r} is not an origin: write scheme://host[:port], no path, no final slash, never *"
                raise ValueError(msg)
        return value

    @field_validator("http_bind")
    @classmethod
    def _bind_is_host_and_port(cls, value: str) -> str:
        split_bind(value)
        return value

    @model_validator(mode="after")
    def _token_travels_safely(self) -> Self:
        self.admission_credentials().check_for(self.admission_address)
        return self

    def admission_credentials(self) -> CallerCredentials:
        """What the bridge shows to admission."""
        return self.caller_credentials(self.bridge_token)

    def allowed_origins(self) -> tuple[str, ...]:
        """The configured origins and those of the development server."""
        return tuple(dict.fromkeys((*self.cors_origins, *_DEVELOPMENT_ORIGINS)))

    def sent_samesite(self) -> SameSite:
        """SameSite as it is sent: browsers drop a cookie with None that is not Secure, so Lax stands in."""
        return "lax" if self.cookie_samesite == "none" and not self.cookie_secure else self.cookie_samesite


def split_bind(bind: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6 address]:port`.

    Raises:
        ValueError: it is neither.
    """
    host, _, port = bind.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        msg = f"{bind!r} is not host:port"
        raise ValueError(msg)
    return host.removeprefix("[").removesuffix("]"), int(port)
