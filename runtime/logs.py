"""How every process logs: structured events on standard error, JSON for machines or coloured lines for a terminal."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TextIO

import structlog
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from runtime.traces.current import current_trace_id

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from structlog.typing import Processor

# A second line of defence: no caller should pass these, and none of them ever reaches a log.
_NEVER_LOGGED = frozenset({"prompt", "negative_prompt", "token", "api_key", "admin_key", "authorization", "cookie", "password", "secret"})

# Libraries that tell every request or connection at INFO; at DEBUG they tell headers too.
_TALKATIVE = ("alembic", "httpcore", "httpx", "uvicorn.access", "sqlalchemy.engine")


class LogSettings(BaseSettings):
    """How to log. Base of every process's settings.

    Attributes:
        log_format: `json`, `pretty` (for people), or `auto`: pretty when standard error is a terminal.
        log_level: events below it are dropped.
    """

    model_config = SettingsConfigDict(env_prefix="WARMLANE_", frozen=True, extra="ignore")

    log_format: Literal["auto", "json", "pretty"] = Field(
        default="auto", description="How log lines look: json, pretty (for people), or auto: pretty on a terminal."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Log events below this level are dropped.")


def configure_logging(settings: LogSettings, *, process: str = "", lane: str = "") -> None:
    """Sends structlog events and those of the standard `logging` to standard error, in one form.

    Args:
        settings: form and level.
        process: name of this process, in every line when not empty.
        lane: that it is, or renders for; the same.
    """
    pretty = settings.log_format == "pretty" or (settings.log_format == "auto" and sys.stderr.isatty())
    named = {key: value for key, value in (("process", process), ("lane", lane)) if value}
    completed = _Completed(named)
    shared: list[Processor] = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, completed]
    if lane:
        # Its lines say what it works on.
        shared.insert(0, structlog.contextvars.merge_contextvars)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *_rendering(pretty),
            _Written(sys.stderr, None if pretty else completed),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(pretty)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _rendering(pretty: bool) -> list[Processor]:
    # Plain tracebacks only: the richer forms print local variables, and those may be prompts or keys.
    if pretty:
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]


def _json(event: object, default: Callable[[Any], Any]) -> str:
    try:
        return _ENCODER.encode(event)
    except (TypeError, ValueError):
        # Something in it is no JSON. The library's way makes an encoder at every line, which takes as long as all else here.
        return json.dumps(event, default=default)


_ENCODER = json.JSONEncoder()


class BusyLog:
    """Writes one kind of event that comes all the time, as a bound logger would, in a part of its time. Fields are plain values."""

    def __init__(self, logger: str, event: str) -> None:
        """Lines of this event, at INFO, of the logger of this name."""
        self._name = logger
        self._event = event
        self._logger = logging.getLogger(logger)
        # Bound once: a fresh logger finds out at each line who calls it.
        self._bound: structlog.stdlib.BoundLogger = structlog.get_logger(logger).bind()

    def write(self, fields: dict[str, str | int | float]) -> None:
        """A line with these fields."""
        last = list(self._bound._processors)[-1]
        if not isinstance(last, _Written) or last.completed is None:
            self._bound.info(self._event, **fields)
        elif self._logger.isEnabledFor(logging.INFO):
            event: dict[str, object] = {**fields, "event": self._event, "level": "info", "logger": self._name}
            last.write(_ENCODER.encode(last.completed(None, "info", event)))


class _Written:
    """Last of the chain: writes the line. A record of `logging` for it would be formatted once more, which costs more than all before."""

    def __init__(self, stream: TextIO, completed: _Completed | None) -> None:
        """`completed`: what lines of JSON begin with; None while they have another form."""
        self.completed = completed
        self._stream = stream

    def __call__(self, _logger: object, _method: str, line: Any) -> NoReturn:
        self.write(line)
        raise structlog.DropEvent

    def write(self, line: Any) -> None:
        # A full disk or a closed pipe behind the log must not stop what is logged.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(f"{line}\n")
            self._stream.flush()


class _Completed:
    """Adds what every line has: whose it is, when, and of which trace. In one go, as busy processes write a line for every request."""

    def __init__(self, named: dict[str, str]) -> None:
        self._named = named

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
        # Asked here rather than bound by every call: most calls log nothing.
        trace_id = current_trace_id()
        if trace_id:
            event["trace_id"] = trace_id
        event["timestamp"] = f"{datetime.now(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
        if not _NEVER_LOGGED.isdisjoint(event):
            for name in _NEVER_LOGGED & event.keys():
                event[name] = "[not logged]"
        return {**self._named, **event}
