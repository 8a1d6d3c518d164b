"""Makes the upstreams that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from http_bridge.upstream.accounts import AccountsUpstream
from http_bridge.upstream.client import Ended, Upstream, UpstreamClient, tell_nobody
from http_bridge.upstream.ids import ImageIds, shared_secret
from http_bridge.upstream.images import ImageUpstream

if TYPE_CHECKING:
    from pydantic import SecretStr

    from http_bridge.config import BridgeSettings
    from http_bridge.convert import Links


def image_upstream(settings: BridgeSettings, links: Links, on_ended: Ended | None) -> ImageUpstream | None:
    """The server of the image models; None where none is set. `on_ended` counts."""
    if settings.image_upstream_url is None:
        return None
    upstream = Upstream(
        name="image",
        base_url=settings.image_upstream_url,
        key_header="X-API-Key",
        key=settings.image_upstream_key,
        timeout_s=settings.upstream_timeout_s,
    )
    ids = ImageIds(shared_secret(_text(settings.api_key), _text(settings.image_upstream_key)), is_private=settings.gallery_private)
    return ImageUpstream(UpstreamClient(upstream, on_ended=on_ended or tell_nobody), ids, links)


def accounts_upstream(settings: BridgeSettings, on_ended: Ended | None) -> AccountsUpstream | None:
    """The server of the accounts' admin paths; None where none is set. `on_ended` counts."""
    if settings.accounts_upstream_url is None:
        return None
    upstream = Upstream(
        name="accounts",
        base_url=settings.accounts_upstream_url,
        key_header="X-Admin-Key",
        key=settings.accounts_upstream_key,
        timeout_s=settings.upstream_timeout_s,
    )
    return AccountsUpstream(UpstreamClient(upstream, on_ended=on_ended or tell_nobody))


def _text(key: SecretStr | None) -> str:
    return "" if key is None else key.get_secret_value()
