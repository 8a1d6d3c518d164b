"""The settings of traces, of every process."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

_PATH = "/v1/traces"
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]{0,4096}")


def _blank_is_unset(value: object) -> object:
    return None if value == "" else value


def _is_endpoint(url: str) -> str:
    if not url:
        return url
    try:
        parts = urlsplit(url)
        is_known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_known = False
    if not is_known:
        msg = "must be the http:// or https:// URL of an OTLP/HTTP collector, such as http://127.0.0.1:4318"
        raise ValueError(msg)
    if "@" in parts.netloc or parts.query or parts.fragment:
        msg = "must have no user, password, query or fragment; what the collector asks for goes into WARMLANE_OTLP_HEADERS"
        raise ValueError(msg)
    return url.rstrip("/")


def _are_headers(value: SecretStr | None) -> SecretStr | None:
    if value is not None:
        split_headers(value.get_secret_value())
    return value


def split_headers(text: str) -> dict[str, str]:
    """`name=value,name=value`, values percent-encoded where they hold a comma or a percent sign, as OpenTelemetry writes it.

    Raises:
        ValueError: it is not that; the text says nothing of the values.
    """
    headers = {}
    for number, pair in enumerate(text.split(","), start=1):
        if not pair.strip():
            continue
        name, found, value = pair.partition("=")
        name, value = name.strip(), unquote(value.strip())
        if not found or _HEADER_NAME.fullmatch(name) is None or _HEADER_VALUE.fullmatch(value) is None:
            msg = f"must be name=value pairs separated by commas; number {number} is not one"
            raise ValueError(msg)
        headers[name.lower()] = value
    return headers


class TraceSettings(BaseSettings):
    """Where spans go. Base of every process's settings.

    Attributes:
        otlp_endpoint: base URL of a collector that takes OTLP over HTTP; `/v1/traces` is added unless it stands there. Empty: traces are
            off, and neither OpenTelemetry's messages nor anything else of it is loaded.
        otlp_headers: sent to the collector with every batch, `name=value` pairs separated by commas; for its credentials.
        trace_sample_ratio: share of the traces that begin here of which the spans are sent, 0 to 1. Callers that bring a context decided
            already. Recommended: 1, and less where the collector has more than it can keep.
    """

    model_config = SettingsConfigDict(env_prefix="WARMLANE_", frozen=True, extra="ignore")

    otlp_endpoint: Annotated[str, AfterValidator(_is_endpoint)] = Field(
        default="", description="Base URL of an OTLP/HTTP collector; empty: no traces."
    )
    otlp_headers: Annotated[SecretStr | None, BeforeValidator(_blank_is_unset), AfterValidator(_are_headers)] = Field(
        default=None, description="Headers for the collector, name=value pairs separated by commas."
    )
    trace_sample_ratio: float = Field(default=1.0, ge=0.0, le=1.0, description="Share of new traces of which spans are sent.")

    def otlp_url(self) -> str:
        """Where spans are posted to; empty: nowhere."""
        if not self.otlp_endpoint or self.otlp_endpoint.endswith(_PATH):
            return self.otlp_endpoint
        return self.otlp_endpoint + _PATH

    def otlp_header_map(self) -> dict[str, str]:
        """The headers by name."""
        return {} if self.otlp_headers is None else split_headers(self.otlp_headers.get_secret_value())
