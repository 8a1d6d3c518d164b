"""Reads a bridge's console stream in a thread of its own and keeps every problem that it listed."""

from __future__ import annotations

import json
import threading
import time
from types import TracebackType
from typing import Any, Self

import httpx

from tests.harness.http import NO_AUTHORITIES

_END_S = 5.0
_AGAIN_S = 0.1
_READ_S = 30.0


class ConsoleWatch:
    """Use as a context manager.

    Attributes:
        latest: the newest snapshot; empty before the first.
    """

    def __init__(self, url: str, admin_key: str) -> None:
        """Of the bridge at this URL."""
        self.latest: dict[str, Any] = {}
        self._url = f"{url}/console/events"
        self._headers = {"X-Admin-Key": admin_key}
        self._seen: list[frozenset[tuple[str, str]]] = [frozenset()]
        self._is_over = False
        self._client = httpx.Client(verify=NO_AUTHORITIES, timeout=_READ_S)
        self._thread = threading.Thread(target=self._read, name="console-watch", daemon=True)

    def __enter__(self) -> Self:
        """Begins."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Ends; the thread notices when the bridge is gone, or at the next message."""
        self._is_over = True
        self._thread.join(_END_S)
        self._client.close()

    def mark(self) -> int:
        """A place in what was seen, for `new_problems`."""
        return len(self._seen)

    def new_problems(self, mark: int) -> set[str]:
        """Codes of what was listed since then and was not listed, word for word, at that place."""
        before = self._seen[mark - 1]
        return {code for problems in self._seen[mark:] for code, text in problems if (code, text) not in before}

    def _read(self) -> None:
        while not self._is_over:
            try:
                with self._client.stream("GET", self._url, headers=self._headers) as reply:
                    self._follow(reply)
            except httpx.HTTPError:
                # The bridge is away, or not there yet.
                time.sleep(_AGAIN_S)

    def _follow(self, reply: httpx.Response) -> None:
        name = ""
        for line in reply.iter_lines():
            if self._is_over:
                return
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data" and name == "snapshot":
                self.latest = json.loads(value)
                self._seen.append(frozenset((one["code"], one["text"]) for one in self.latest["problems"]))
