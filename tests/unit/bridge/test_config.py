"""The bridge's settings."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from http_bridge.config import BridgeSettings, split_bind


@pytest.mark.parametrize("origin", ["*", "https://*.example.org", "example.org", "https://example.org/", "null", "file://x"])
def test_origin_is_refused_when_it_is_not_exact(origin: str) -> None:
    with pytest.raises(ValidationError):
        BridgeSettings(cors_origins=(origin,))


def test_origins_are_read_from_json_when_environment_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARMLANE_CORS_ORIGINS", '["https://app.example.org"]')
    assert BridgeSettings().allowed_origins() == ("https://app.example.org", "http://localhost:5173", "http://127.0.0.1:5173")


def test_lax_is_sent_when_cookies_are_not_secure() -> None:
    assert BridgeSettings(cookie_secure=False).sent_samesite() == "lax"
    assert BridgeSettings(cookie_secure=True).sent_samesite() == "none"


def test_key_is_none_and_never_shown_when_settings_are_printed() -> None:
    assert BridgeSettings.model_validate({"api_key": ""}).api_key is None
    assert "hunter2" not in repr(BridgeSettings.model_validate({"api_key": "hunter2"}))


@pytest.mark.parametrize(("bind", "parts"), [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("[::1]:0", ("::1", 0))])
def test_bind_is_split_when_it_is_host_and_port(bind: str, parts: tuple[str, int]) -> None:
    assert split_bind(bind) == parts


@pytest.mark.parametrize("bind", ["8080", ":8080", "host:", "host:99999", "host:x"])
def test_bind_is_refused_when_it_is_not_host_and_port(bind: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        split_bind(bind)
