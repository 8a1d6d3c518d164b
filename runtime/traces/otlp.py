"""Sends spans to a collector over HTTP, as OTLP says."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import httpx

from runtime.traces.encoding import Encoder
from runtime.traces.outbox import Answer, Sent

if TYPE_CHECKING:
    from runtime.traces.tracer import Span, Value

# What the protocol names as worth another try.
_LATER = frozenset({429, 502, 503, 504})


class Collector:
    """A collector of OTLP over HTTP. One thread calls it; `close` when it is not used any more."""

    def __init__(self, url: str, headers: Mapping[str, str], resource: Mapping[str, Value]) -> None:
        """Connects when first used. `resource`: what the process is."""
        self._url = url
        self._encoder = Encoder(resource)
        context = ssl.create_default_context()
        own = {"content-type": "application/x-protobuf", "user-agent": "warmlane"}
        # Nothing from the environment: who set the endpoint here meant this one, directly.
        self._client = httpx.Client(headers={**headers, **own}, verify=context, trust_env=False, follow_redirects=False)

    def send(self, spans: Sequence[Span], within_s: float) -> Sent:
        """See `outbox.Send`."""
        try:
            reply = self._client.post(self._url, content=self._encoder.encode(spans), timeout=within_s)
        except httpx.HTTPError as error:
            return Sent(answer=Answer.LATER, reason=type(error).__name__)
        except Exception as error:
            # A bug of ours must not end the thread; of its text nobody knows what it quotes.
            return Sent(answer=Answer.NEVER, reason=type(error).__name__)
        if reply.is_success:
            return Sent(answer=Answer.TAKEN)
        answer = Answer.LATER if reply.status_code in _LATER else Answer.NEVER
        return Sent(answer=answer, reason=f"the collector answers {reply.status_code}")

    def close(self) -> None:
        """Ends the connections."""
        self._client.close()
