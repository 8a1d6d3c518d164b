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

# More than an honest refusal; a client gets no longer one because the upstream makes one.
_MOST_TOLD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Status, body and the headers that mean something to us; no other header is even kept."""

    upstream: str
    status: int
    content: bytes
    retry_after: str | None = None
    content_type: str | None = None
    content_range: str | None = None

    def body(self, *, of_task: bool = False) -> Mapping[str, object]:
        """The JSON object that a good reply is. `of_task`: the call named a task, which may be what is missing.

        Raises:
            HttpError: the upstream refused, and why; `service_unavailable` when the reply makes no sense.
        """
        self.check(of_task=of_task)
        found = self.json()
        if not isinstance(found, dict):
            raise not_understood(self.upstream, "a body that is no JSON object")
        return found

    def check(self, *, of_task: bool = False) -> None:
        """Returns when the status is a good one. Raises as `body`."""
        if not 200 <= self.status < 300:
            told = self.json() if len(self.content) <= _MOST_TOLD_BYTES else None
            raise refusal(self.upstream, self.status, told, retry_after=self.retry_after, of_task=of_task)

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
