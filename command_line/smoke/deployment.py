"""The deployment as a client of HTTP sees it: one connection pool, a limit of time on everything, replies read whole."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import httpx

from command_line.failures import CommandError
from command_line.smoke.outcome import CheckFailedError

CALL_TIMEOUT_S = 30.0
# A request is held for 30 s at most; the reply follows at once.
SUBMIT_TIMEOUT_S = 45.0
_CONNECT_TIMEOUT_S = 10.0
# Clips of this command are far smaller.
_MAX_REPLY_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole reply."""

    method: str
    path: str
    status: int
    headers: httpx.Headers
    content: bytes

    @property
    def what(self) -> str:
        """For sentences."""
        return f"{self.method} {self.path}"

    def document(self) -> dict[str, Any]:
        """The JSON object that it is. Raises CheckFailedError when it is none."""
        try:
            value = json.loads(self.content)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            media_type = self.headers.get("content-type", "no type")
            raise CheckFailedError(
                f"{self.what} answered {self.status} with {media_type} instead of a JSON object",
                "Look whether a proxy before the bridge answers in its place, and whether the URL is that of the bridge.",
            )
        return value

    def expect(self, status: int, why: str = "") -> dict[str, Any]:
        """The JSON object of a reply with this status; CheckFailedError for any other."""
        self.expect_status(status, why)
        return self.document()

    def expect_status(self, *statuses: int | str) -> None:
        """CheckFailedError for a reply with any other status; a text among them says what to do."""
        if self.status in statuses:
            return
        advice = next((one for one in statuses if isinstance(one, str) and one), "Look at the bridge's log at this time.")
        right = " or ".join(str(one) for one in statuses if isinstance(one, int))
        raise CheckFailedError(f"{self.what} answered {self.status}{self._reason()}, not {right}", advice)

    def refusal(self, status: int, code: str, advice: str) -> dict[str, Any]:
        """The inner object of the error envelope with this status and code; CheckFailedError for anything else."""
        self.expect_status(status, advice)
        detail = self.document().get("detail")
        whole = isinstance(detail, dict) and all(
            isinstance(detail.get(name), str) and detail[name] for name in ("code", "detail", "user_action")
        )
        if not isinstance(detail, dict) or not whole:
            raise CheckFailedError(
                f"{self.what} answered {status} without the error envelope (code, detail, user_action)",
                "Look whether a proxy before the bridge answers in its place.",
            )
        if detail["code"] != code:
            raise CheckFailedError(f"{self.what} answered {status} with the code {detail['code']!a}, not {code}", advice)
        return detail

    def _reason(self) -> str:
        """What the reply says of itself: the code of an error, or where it sends to."""
        if 300 <= self.status < 400 and "location" in self.headers:
            return f" (sends to {self.headers['location']!a})"
        try:
            detail = json.loads(self.content)["detail"]
            return f" ({detail['code']}: {detail['detail']})" if isinstance(detail, dict) else ""
        except (ValueError, KeyError, TypeError):
            return ""


class Deployment:
    """Calls one base URL. Made by `deployment`."""

    def __init__(self, client: httpx.AsyncClient, url: str) -> None:
        """The client has the base URL and its limits of time."""
        self._client = client
        self.url = url

    @property
    def is_encrypted(self) -> bool:
        """It is called over https."""
        return self.url.startswith("https://")

    async def call(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Reply:
        """Sends one request and reads the reply. Raises CheckFailedError when none comes in time."""
        try:
            async with asyncio.timeout(timeout_s), self._client.stream(method, path, headers=headers, json=body) as response:
                content = bytearray()
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > _MAX_REPLY_BYTES:
                        msg = f"{method} {path} sent more than {_MAX_REPLY_BYTES // 1024 // 1024} MiB"
                        raise CheckFailedError(msg, "A clip of this size has some kilobytes: look at what stands behind the URL.")
                return Reply(method=method, path=path, status=response.status_code, headers=response.headers, content=bytes(content))
        except TimeoutError:
            raise self._unreachable(f"{method} {path} was not answered within {timeout_s:g} s") from None
        except httpx.HTTPError as error:
            raise self._unreachable(f"{method} {path}: {_cause(error)}") from error

    @asynccontextmanager
    async def lines(self, path: str, *, headers: Mapping[str, str], timeout_s: float) -> AsyncIterator[tuple[Reply, AsyncIterator[str]]]:
        """A reply that goes on, line by line: its head, and its lines. Raises as `call`."""
        try:
            async with asyncio.timeout(timeout_s), self._client.stream("GET", path, headers=headers) as response:
                content = b"" if response.status_code == 200 else await response.aread()
                head = Reply(method="GET", path=path, status=response.status_code, headers=response.headers, content=content)
                yield head, response.aiter_lines()
        except TimeoutError:
            raise self._unreachable(f"GET {path} did not end within {timeout_s:g} s") from None
        except httpx.HTTPError as error:
            raise self._unreachable(f"GET {path}: {_cause(error)}") from error

    def _unreachable(self, problem: str) -> CheckFailedError:
        return CheckFailedError(problem, f"Check that the bridge runs, that {self.url} reaches it from here, and its certificate.")


def _cause(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__


@asynccontextmanager
async def deployment(url: str, ca: ssl.SSLContext | None) -> AsyncIterator[Deployment]:
    """The deployment at a checked URL; every connection is closed at the end."""
    timeout = httpx.Timeout(SUBMIT_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S)
    # An overload needs more connections than a pool has by itself.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    # Reading the system's authorities takes longer than most checks; plain http has no use for them, and no redirect is followed.
    verify = ca if ca is not None else url.startswith("https://")
    # Each call says by itself which credential it carries: a cookie that came along would let in whom no check meant.
    no_cookies = CookieJar(policy=DefaultCookiePolicy(allowed_domains=[]))
    async with httpx.AsyncClient(base_url=url, timeout=timeout, limits=limits, verify=verify, cookies=no_cookies) as client:
        yield Deployment(client, url)


def checked_url(url: str) -> str:
    """The URL without a final slash. Raises CommandError for one that cannot be that of a bridge."""
    try:
        parts = urlsplit(url)
        port_is_good = parts.port is None or parts.port > 0
    except ValueError:
        port_is_good, parts = False, urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_good:
        msg = "URL: must be that of the bridge, such as https://host or https://host/api."
        raise CommandError(msg)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        msg = "URL: must have no user, password, query or fragment; give keys by WARMLANE_API_KEY and WARMLANE_ADMIN_KEY."
        raise CommandError(msg)
    return url.rstrip("/")
