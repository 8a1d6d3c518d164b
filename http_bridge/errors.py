"""The one place where errors become HTTP: status, envelope and advice of every code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from http_bridge.schemas import ErrorBody, ErrorReply
from runtime.errors import ErrorCode, ServiceError
from runtime.guard import is_credential_refusal
from runtime.rules.request import InvalidRequestError, Violation
from runtime.traces import names
from runtime.traces.current import annotate

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

_LOG = structlog.get_logger()

# More than a person reads, and more than the rules find in an honest request; a hostile one must not get a reply larger than itself.
_MAX_NAMED_FIELDS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """Status and advice of a code; `retry_after_s` is sent when the error itself brings none."""

    status: int
    user_action: str
    retry_after_s: float | None = None


_NEW_SESSION = "Open a new session with POST /auth/session and repeat the request."
_NEW_ADMIN_SESSION = "Open an admin session with POST /admin/session and repeat the request."
_KINDS: Mapping[str, _Kind] = MappingProxyType(
    {
        ErrorCode.VALIDATION_ERROR: _Kind(status=422, user_action="Correct the fields that metadata.fields names and send it again."),
        ErrorCode.VRAM_EXCEEDED: _Kind(status=422, user_action="Ask for fewer frames or a smaller size; metadata says what fits."),
        ErrorCode.DEADLINE_UNREACHABLE: _Kind(
            status=422, user_action="Ask for fewer frames or a smaller size; metadata says what can be done in time."
        ),
        ErrorCode.QUEUE_OVERLOADED: _Kind(
            status=503, user_action="No worker can take the request now. Send it again after the time in Retry-After.", retry_after_s=10
        ),
        ErrorCode.TASK_NOT_FOUND: _Kind(status=404, user_action="Check the task id; the task may have been deleted."),
        ErrorCode.LANE_NOT_FOUND: _Kind(status=404, user_action="Check the lane's name; the admin pages list every lane."),
        ErrorCode.TASK_NOT_DONE: _Kind(status=425, user_action="Poll /status until it says done, then ask again."),
        ErrorCode.UNAUTHENTICATED: _Kind(
            status=401, user_action="Send the header X-API-Key, or open a session with POST /auth/session and send its cookie."
        ),
        ErrorCode.FORBIDDEN: _Kind(status=403, user_action="Check the API key, or leave the header out and use a session."),
        ErrorCode.RATE_LIMITED: _Kind(
            status=429, user_action="Wait for the time in Retry-After before the next request.", retry_after_s=60
        ),
        ErrorCode.SERVICE_UNAVAILABLE: _Kind(
            status=503, user_action="Send the request again after the time in Retry-After.", retry_after_s=5
        ),
        ErrorCode.INTERNAL: _Kind(
            status=500, user_action="Send the request again; if it fails again, tell the operator the time of the failure."
        ),
        "model_unavailable": _Kind(status=503, user_action="Choose one of the models that GET /models lists."),
        "generation_session_missing": _Kind(status=401, user_action=_NEW_SESSION),
        "generation_session_expired": _Kind(status=401, user_action=_NEW_SESSION),
        "generation_session_invalid": _Kind(status=401, user_action=_NEW_SESSION),
        "admin_key_invalid": _Kind(status=403, user_action="Check the admin key in the header X-Admin-Key."),
        "admin_misconfigured": _Kind(
            status=403, user_action="The operator must set WARMLANE_ADMIN_KEY, to at least 16 characters, and restart the bridge."
        ),
        "admin_session_missing": _Kind(status=401, user_action=_NEW_ADMIN_SESSION),
        "admin_session_invalid": _Kind(status=401, user_action=_NEW_ADMIN_SESSION),
        "admin_session_expired": _Kind(status=401, user_action=_NEW_ADMIN_SESSION),
        "admin_rate_limited": _Kind(
            status=429, user_action="Wait for the time in Retry-After before trying a key again.", retry_after_s=60
        ),
        "not_supported": _Kind(status=501, user_action="Ask the operator; the detail names the setting that this path needs."),
        "result_not_found": _Kind(status=404, user_action="Look at /status for the reason; submit a new task for another try."),
        "not_found": _Kind(status=404, user_action="Check the path; /docs lists every one."),
        "method_not_allowed": _Kind(status=405, user_action="Use one of the methods in the Allow header; /docs lists them."),
        "payload_too_large": _Kind(status=413, user_action="Send smaller or fewer images."),
        "headers_too_large": _Kind(status=431, user_action="Send fewer or shorter headers and a shorter URL."),
        "range_not_satisfiable": _Kind(status=416, user_action="Ask for bytes within the size that Content-Range names."),
        "precondition_failed": _Kind(status=412, user_action="Ask without If-Match, or begin anew with the ETag of the reply."),
        "request_timeout": _Kind(status=408, user_action="Send the request again over a faster connection, or with smaller images."),
        "client_gone": _Kind(status=499, user_action="Send the request again."),
        "bad_request": _Kind(status=400, user_action="Check the request against /docs."),
    }
)

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")

_CODES_OF_STATUS: Mapping[int, str] = MappingProxyType({404: "not_found", 405: "method_not_allowed", 413: "payload_too_large"})


class HttpError(Exception):
    """An error reply: raised anywhere below a route, sent as the contract's envelope.

    Attributes:
        code: stable name; with it come status and advice.
        detail: a sentence that is safe to show.
        metadata: facts for programs; None leaves the member out.
        headers: headers of the reply beside those of every reply.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        user_action: str | None = None,
    ) -> None:
        """Keeps what the client is told; an unknown code is sent as `internal`. `user_action` replaces the advice of the code."""
        super().__init__(f"{code}: {detail}")
        kind = _KINDS.get(code)
        self.code = code if kind else ErrorCode.INTERNAL.value
        self.detail = detail if kind else "The request could not be served."
        self.metadata = dict(metadata) if metadata else None
        self._kind = kind or _KINDS[ErrorCode.INTERNAL]
        self.headers = dict(headers or {})
        self.user_action = user_action or self._kind.user_action
        wait_s = self._kind.retry_after_s if retry_after_s is None else retry_after_s
        if wait_s is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(wait_s)))

    @property
    def status(self) -> int:
        """HTTP status."""
        return self._kind.status

    def response(self) -> JSONResponse:
        """The reply."""
        annotate(names.CODE, self.code)
        body = ErrorBody(code=self.code, detail=self.detail, user_action=self.user_action, metadata=self.metadata)
        return JSONResponse(ErrorReply(detail=body).model_dump(exclude_none=True), status_code=self.status, headers=self.headers)


def validation_error(violations: tuple[Violation, ...]) -> HttpError:
    """The 422 that names every wrong field; of a great many the first, and how many more there are."""
    named = violations[:_MAX_NAMED_FIELDS]
    fields = [{"field": violation.field, "message": violation.message} for violation in named]
    detail = f"The request breaks the rules for: {', '.join(dict.fromkeys(violation.field for violation in named))}."
    if len(violations) > len(named):
        detail += f" There are {len(violations) - len(named)} more violations."
    return HttpError(ErrorCode.VALIDATION_ERROR, detail, metadata={"fields": fields})


def from_service_error(error: ServiceError) -> HttpError:
    """What a refusal of admission is over HTTP."""
    if is_credential_refusal(error):
        # It is the bridge that admission does not let in. Whoever called the bridge did nothing wrong, and is not told of tokens.
        _LOG.error("admission_refuses_this_bridge", setting="WARMLANE_BRIDGE_TOKEN", reason=error.message)
        return HttpError(ErrorCode.SERVICE_UNAVAILABLE, "The service is set up wrongly: its parts do not know each other.")
    if error.code == ErrorCode.VALIDATION_ERROR and error.violations:
        return validation_error(error.violations)
    if error.code in (ErrorCode.UNAUTHENTICATED, ErrorCode.FORBIDDEN):
        # Said of the bridge and its token: whoever called the bridge can do nothing about it, and must not drop a good credential.
        _LOG.error("admission_refuses_the_bridge", code=error.code)
        return HttpError(ErrorCode.SERVICE_UNAVAILABLE, "The server is not let in by its own controller; its operator must look.")
    metadata: Mapping[str, Any] = error.metadata
    if error.code == ErrorCode.QUEUE_OVERLOADED:
        metadata = _overload_metadata(error.metadata)
    elif error.code in (ErrorCode.VRAM_EXCEEDED, ErrorCode.DEADLINE_UNREACHABLE):
        metadata = _fit_metadata(error.metadata)
    return HttpError(error.code, error.message, metadata=metadata, retry_after_s=error.retry_after_s)


# What gRPC calls `_s` is spelled out in HTTP, as for `queue_overloaded`.
_TIMES = {"predicted_s": "predicted_seconds", "limit_s": "limit_seconds"}
_COUNTS = ("predicted_bytes", "limit_bytes", "max_num_frames", "max_width", "max_height")


def _fit_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The facts of a request that no lane can serve: numbers as numbers. What is not known is left out."""
    facts: dict[str, Any] = {}
    for name, text in metadata.items():
        if name in _TIMES:
            facts[_TIMES[name]] = _seconds(text)
        else:
            facts[name] = _whole(text) if name in _COUNTS else text
    return facts


def _overload_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The contract's names and types for the facts of `queue_overloaded`; gRPC carries text only."""
    return {
        "cause": metadata.get("cause"),
        "depth": _whole(metadata.get("depth")),
        "max_depth": _whole(metadata.get("max_depth")),
        "waited_seconds": _seconds(metadata.get("waited_s")),
        "max_wait_seconds": _seconds(metadata.get("max_wait_s")),
    }


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def unexpected() -> HttpError:
    """The reply to a failure of the bridge itself; the cause is in the log only."""
    return HttpError(ErrorCode.INTERNAL, "The request could not be served.")


def install_handlers(app: FastAPI) -> None:
    """Makes every error of a route, of a dependency and of the framework an envelope."""

    async def on_http_error(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HttpError)  # noqa: S101 - for the type checker: registered for this type below
        return error.response()

    async def on_service_error(_request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)  # noqa: S101 - as above
        http_error = from_service_error(error)
        if http_error.status == 500:
            _LOG.error("service_error_unknown", code=error.code, message=error.message)
        return http_error.response()

    async def on_invalid_request(_request: Request, error: Exception) -> Response:
        assert isinstance(error, InvalidRequestError)  # noqa: S101 - as above
        return validation_error(error.violations).response()

    async def on_invalid_parameter(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
        return validation_error(tuple(_violation(item) for item in error.errors())).response()

    async def on_framework_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - as above
        return _framework_error(request, error).response()

    app.add_exception_handler(HttpError, on_http_error)
    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(InvalidRequestError, on_invalid_request)
    app.add_exception_handler(RequestValidationError, on_invalid_parameter)
    app.add_exception_handler(HTTPException, on_framework_error)


def _violation(item: Mapping[str, Any]) -> Violation:
    # The location starts with the kind (`query`, `path`), which the contract's field names leave out.
    location = item["loc"]
    return Violation(field=".".join(str(part) for part in location[1:]) or str(location[0]), message=str(item["msg"]))


def _framework_error(request: Request, error: HTTPException) -> HttpError:
    code = _CODES_OF_STATUS.get(error.status_code, "bad_request" if error.status_code < 500 else ErrorCode.INTERNAL)
    headers = dict(error.headers or {})
    if code == "method_not_allowed":
        headers["Allow"] = ", ".join(_methods_of_path(request))
    sentences = {
        "not_found": "There is nothing at this path.",
        "method_not_allowed": f"This path does not take {request.method}.",
        "bad_request": "The request could not be read.",
    }
    return HttpError(code, sentences.get(code, "The request could not be served."), headers=headers)


def _methods_of_path(request: Request) -> list[str]:
    """The methods that the path takes, by asking every route; the framework names those of one route alone."""
    routes = request.app.router.routes
    return [method for method in _METHODS if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)]
