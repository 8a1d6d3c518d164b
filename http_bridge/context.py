"""What the routes share: made once by `create_app`, found through the request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from starlette.requests import Request

from http_bridge.fair_threads import FairThreads
from http_bridge.session_cache import SessionCache
from runtime.images import CheckedImage, check_image

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from http_bridge.bodies import LargeBodies
    from http_bridge.client import AdmissionClient
    from http_bridge.config import BridgeSettings
    from http_bridge.console.stream import Consoles
    from http_bridge.convert import Links
    from http_bridge.event_stream import EventStreams
    from http_bridge.upstream.accounts import AccountsUpstream
    from http_bridge.upstream.images import ImageUpstream

# Looking at one image takes up to 250 MiB; two at a time keep that bounded and a small machine busy.
IMAGES_AT_ONCE = 2
"""Input images that are looked at at a time."""


def _image_checks() -> FairThreads:
    return FairThreads(IMAGES_AT_ONCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """The parts that routes use.

    Attributes:
        event_streams: the open ones, with their limits.
        consoles: the open ones of operators, by admin session.
        large_bodies: places for bodies that take much memory.
        images: the server of the image models; None where none is set.
        accounts: the server of the accounts' admin paths; None where none is set.
        image_checks: the threads in which images are looked at, shared fairly by callers; closed by the lifespan.
        check_image: looks at the bytes of one image, in one of those threads; blocks.
        sessions: generation sessions that were found good.
        stopping: set when the process was told to stop; held requests then end at once with `service_unavailable`.
    """

    settings: BridgeSettings
    client: AdmissionClient
    objects: ObjectStore
    links: Links
    large_bodies: LargeBodies
    event_streams: EventStreams
    consoles: Consoles
    images: ImageUpstream | None = None
    accounts: AccountsUpstream | None = None
    image_checks: FairThreads = field(default_factory=_image_checks)
    check_image: Callable[[bytes], CheckedImage] = check_image
    sessions: SessionCache = field(default_factory=SessionCache)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


def bridge_of(request: Request) -> Bridge:
    """The bridge that serves this request."""
    return cast("Bridge", request.scope["app"].state.bridge)
