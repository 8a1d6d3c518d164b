"""Looks at what answers: admission, lanes, the bridge, the object store, the collector of traces. Every call ends within seconds."""

from __future__ import annotations

import asyncio
import http.client
import secrets
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError

from command_line.doctor.finding import Case
from command_line.doctor.machine_probes import now
from command_line.doctor.probes import HttpAnswer, ProbeError, SnapshotAnswer
from command_line.failures import CommandError, ExitCode
from command_line.session import with_admission
from runtime.health_probe import probe_grpc
from runtime.objects import open_object_store, reason_of
from runtime.roles import Role

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_HTTP_TIMEOUT_S = 3.0
_HTTP_BODY_BYTES = 64 * 1024
_STORE_PATIENCE_S = 5.0
_TRIAL_PREFIX = "doctor/"
_CONTENT = b"warmlane doctor was here\n"


def snapshot(case: Case) -> SnapshotAnswer:
    """As `warmlane lanes` asks for it."""
    try:
        asked = now()
        answer = with_admission(case.address, lambda client: client.snapshot(), role=Role.OPERATOR)
        return SnapshotAnswer(snapshot=answer, asked=asked, answered=now())
    except CommandError as error:
        if error.exit_code is ExitCode.INTERRUPTED:
            raise
        raise ProbeError(error.message) from error


def http_health(url: str, case: Case) -> HttpAnswer:
    """Of the bridge of this machine: its own certificate is trusted, whatever name stands in it."""
    parts = urlsplit(url)
    asked = now()
    with _connection(parts.scheme, parts.hostname or "", parts.port or 0, case) as connection:
        try:
            connection.request("GET", f"{parts.path}/health")
            answer = connection.getresponse()
            answer.read(_HTTP_BODY_BYTES)
        except (OSError, http.client.HTTPException) as error:
            msg = f"{url} does not answer ({str(error) or type(error).__name__})"
            raise ProbeError(msg) from error
        return HttpAnswer(status=answer.status, date=_date(answer.getheader("Date")), asked=asked, answered=now())


def grpc_health(address: str, service: str) -> str | None:
    """By grpc.health.v1, with the TLS settings of this environment."""
    try:
        return probe_grpc(address, service)
    except ValueError as error:
        return str(error)


def collector(url: str, headers: Mapping[str, str]) -> int:
    """Posts a message of OTLP without spans, which is empty."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    made: type[http.client.HTTPConnection] = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = made(parts.hostname or "", parts.port, timeout=_HTTP_TIMEOUT_S)
    try:
        connection.request("POST", parts.path, body=b"", headers={**headers, "content-type": "application/x-protobuf"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        # The text of an error of ours names the address, and no header.
        msg = f"{url} does not answer ({str(error) or type(error).__name__})"
        raise ProbeError(msg) from error
    finally:
        connection.close()


def object_store(url: str) -> float:
    """Puts, reads and deletes one small object under a key of its own; the seconds that took."""
    started_s = time.monotonic()
    try:
        store = open_object_store(url)
        asyncio.run(_try_object(store, f"{_TRIAL_PREFIX}{secrets.token_hex(16)}"))
    except TimeoutError as error:
        msg = f"it does not answer within {_STORE_PATIENCE_S:.0f} s"
        raise ProbeError(msg) from error
    except (BaseError, OSError) as error:
        raise ProbeError(reason_of(error)) from error
    except ValueError as error:
        raise ProbeError(str(error)) from error
    return time.monotonic() - started_s


async def _try_object(store: ObjectStore, key: str) -> None:
    """Each call has its time: the library's own patience is for processes that have nobody waiting before them."""
    try:
        async with asyncio.timeout(_STORE_PATIENCE_S):
            await obstore.put_async(store, key, _CONTENT)
            found = bytes(await (await obstore.get_async(store, key)).bytes_async())
    finally:
        async with asyncio.timeout(_STORE_PATIENCE_S):
            await obstore.delete_async(store, key)
    if found != _CONTENT:
        msg = "what was read is not what was put"
        raise ProbeError(msg)


@contextmanager
def _connection(scheme: str, host: str, port: int, case: Case) -> Iterator[http.client.HTTPConnection]:
    if scheme == "https":
        try:
            context = ssl.create_default_context(cafile=case.environment.get("WARMLANE_HTTP_TLS_CERT_FILE"))
        except OSError as error:
            msg = f"the certificate of WARMLANE_HTTP_TLS_CERT_FILE cannot be read: {error.strerror}"
            raise ProbeError(msg) from error
        context.check_hostname = False
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(host, port, timeout=_HTTP_TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=_HTTP_TIMEOUT_S)
    try:
        yield connection
    finally:
        connection.close()


def _date(text: str | None) -> datetime | None:
    try:
        return None if text is None else parsedate_to_datetime(text).astimezone(UTC)
    except ValueError:
        return None
