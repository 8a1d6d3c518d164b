"""The header Idempotency-Key: which values are good, and how its violations are told."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Depends, Header
from starlette.requests import Request

from http_bridge.errors import validation_error
from runtime.errors import ServiceError
from runtime.rules.request import Violation
from runtime.submitter import OWN_KEY_PREFIX

HEADER = "Idempotency-Key"
MAX_KEY_CHARACTERS = 128

_KEY = re.compile(rf"[\x20-\x7e]{{1,{MAX_KEY_CHARACTERS}}}")

_DESCRIPTION = f"""Makes the request safe to repeat: the same key with the same body gives the same task, as long as that is kept;
with another body it is refused. It belongs to the session or API key that sent it. Choose a new one (a UUID, say) for every new
request. 1 to {MAX_KEY_CHARACTERS} printable ASCII characters, not beginning with `{OWN_KEY_PREFIX}`."""


async def _key_of(
    request: Request,
    _documented: Annotated[
        str | None,
        Header(
            alias=HEADER,
            description=_DESCRIPTION,
            # Spaces around the value of a header belong to HTTP.
            json_schema_extra={
                "minLength": 1,
                "maxLength": MAX_KEY_CHARACTERS,
                "pattern": rf"^(?!{re.escape(OWN_KEY_PREFIX)})[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$",
            },
        ),
    ] = None,
) -> str:
    sent = request.headers.getlist(HEADER)
    if not sent:
        return ""
    if len(sent) > 1:
        raise validation_error((Violation(field=HEADER, message="must be sent once"),))
    key = sent[0]
    if _KEY.fullmatch(key) is None:
        message = f"must have 1 to {MAX_KEY_CHARACTERS} characters, printable ASCII only"
        raise validation_error((Violation(field=HEADER, message=message),))
    if key.startswith(OWN_KEY_PREFIX):
        raise validation_error((Violation(field=HEADER, message=f"must not begin with {OWN_KEY_PREFIX}"),))
    return key


IdempotencyKeyDependency = Annotated[str, Depends(_key_of)]
"""The key that the client sent, empty when it sent none. Raises HttpError, 422, for one that is not good."""


def named_as_header(error: ServiceError) -> ServiceError:
    """What admission says of the request id, said of the header that it came in."""
    if not any(violation.field == "request_id" for violation in error.violations):
        return error
    violations = tuple(Violation(field=HEADER, message=one.message) if one.field == "request_id" else one for one in error.violations)
    return ServiceError(code=error.code, message=error.message, metadata=error.metadata, violations=violations)
