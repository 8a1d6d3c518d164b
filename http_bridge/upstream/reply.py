"""A short reply of an upstream, read whole."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic_core import from_json

from http_bridge.upstream.errors import not_understood, refusal

# A number such as 1e999 is good JSON, is read as infinity and cannot be written again. Texts match too: then nothing is found.
_MAYBE_INFINITE = re.compile(rb"[0-9][eE]\+?[0-9]{3}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Status, body and the headers that mean something to us; no other header is even kept."""

    upstream: str
    status: int
    content: bytes
    retry_after: str | None = None
    content_type: str | None = None
    content_range: str | None = None

    def body(self) -> Mapping[str, object]:
        """The JSON object that a good reply is.

        Raises:
            HttpError: the upstream refused, and why; `service_unavailable` when the reply makes no sense.
        """
        self.check()
        found = self.json()
        if not isinstance(found, dict):
            raise not_understood(self.upstream, "a body that is no JSON object")
        return found

    def check(self) -> None:
        """Returns when the status is a good one. Raises as `body`."""
        if not 200 <= self.status < 300:
            raise refusal(self.upstream, self.status, self.json(), retry_after=self.retry_after)

    def json(self) -> object:
        """What the body holds; None when it is no JSON that may be sent on."""
        try:
            found = from_json(self.content, allow_inf_nan=False)
        except ValueError:
            return None
        return _finite(found) if _MAYBE_INFINITE.search(self.content) else found


def _finite(found: object) -> object:
    """The same with null for numbers that are none."""
    if isinstance(found, dict):
        return {name: _finite(value) for name, value in found.items()}
    if isinstance(found, list):
        return [_finite(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found
