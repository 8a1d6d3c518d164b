"""Checks of the doors: health, documentation, keys and sessions."""

from __future__ import annotations

from command_line.smoke.deployment import Reply
from command_line.smoke.outcome import CheckFailedError, CheckSkippedError
from command_line.smoke.visit import Visit

_WRONG_KEY = "not-the-key-of-this-deployment"
_OPEN = "The deployment lets everyone in: set WARMLANE_API_KEY, and WARMLANE_ALLOW_UNAUTHENTICATED=false."
SESSION_COOKIE = "gg_session"


async def health(visit: Visit) -> str:
    """The bridge answers, and says that it is one."""
    document = (await visit.deployment.call("GET", "/health")).expect(200, "Give the URL of the bridge, with /api where a proxy wants it.")
    if document.get("status") != "ok" or document.get("app") != "warmlane" or not isinstance(document.get("version"), str):
        raise CheckFailedError("GET /health is not that of Warmlane", "Give the URL of the bridge, with /api where a proxy wants it.")
    return f"Warmlane {document['version']}"


async def documentation(visit: Visit) -> str:
    """The description of the API is served, and names its paths."""
    document = (await visit.deployment.call("GET", "/openapi.json")).expect(200)
    paths = document.get("paths")
    missing = [path for path in ("/generate", "/status/{task_id}", "/gallery") if not isinstance(paths, dict) or path not in paths]
    if missing:
        raise CheckFailedError(f"/openapi.json does not describe {', '.join(missing)}", "Look whether a proxy changes or caches it.")
    return "/openapi.json describes the paths"


async def no_credential(visit: Visit) -> str:
    """Without a credential nothing protected opens."""
    for method, path in (("GET", "/models"), ("GET", "/gallery"), ("POST", "/generate")):
        reply = await visit.deployment.call(method, path, body={} if method == "POST" else None)
        reply.refusal(401, "unauthenticated", _OPEN)
    return "401 without a credential"


async def wrong_key(visit: Visit) -> str:
    """A wrong key opens nothing."""
    headers = {"X-API-Key": _WRONG_KEY}
    for method, path in (("GET", "/models"), ("POST", "/generate")):
        reply = await visit.deployment.call(method, path, headers=headers, body={} if method == "POST" else None)
        reply.refusal(403, "forbidden", _OPEN)
        if _WRONG_KEY.encode() in reply.content:
            raise CheckFailedError(f"{reply.what} repeats the key that was sent", "Look at what a proxy puts into error pages.")
    return "403 for a wrong key"


async def right_key(visit: Visit) -> str:
    """The key that was given opens the protected paths."""
    if visit.api_key is None:
        msg = "no API key was given: --api-key or WARMLANE_API_KEY"
        raise CheckSkippedError(msg)
    reply = await visit.deployment.call("GET", "/models", headers={"X-API-Key": visit.api_key})
    reply.expect(200, "Give the key that the bridge has: WARMLANE_API_KEY in its environment.")
    return "the API key opens the protected paths"


async def session(visit: Visit) -> str:
    """A session is opened and good, with a cookie that browsers keep to themselves."""
    opened = await visit.deployment.call("POST", "/auth/session")
    document = opened.expect(201, "Look at the bridge's log; 429 means that this address opened many sessions within a minute.")
    if document.get("session_status") != "active" or not isinstance(document.get("expires_at"), str):
        raise CheckFailedError("POST /auth/session does not say active and expires_at", "Compare the bridge's version.")
    cookie, attributes = cookie_of(opened, SESSION_COOKIE)
    for needed in ("httponly", "path=/"):
        if needed not in attributes:
            raise CheckFailedError(f"the cookie {SESSION_COOKIE} lacks {needed}", "Look whether a proxy rewrites cookies.")
    if visit.deployment.is_encrypted and "secure" not in attributes:
        raise CheckFailedError(f"the cookie {SESSION_COOKIE} is not Secure on https", "Set WARMLANE_COOKIE_SECURE=true.")
    checked = (await visit.deployment.call("GET", "/auth/session", headers={"Cookie": cookie})).expect(200)
    if checked.get("active") is not True:
        raise CheckFailedError("GET /auth/session does not say that the session is active", "Look at admission's log.")
    (await visit.deployment.call("GET", "/models", headers={"Cookie": cookie})).expect(200, "A session must open the protected paths.")
    visit.session = cookie
    hint = "" if visit.deployment.is_encrypted or "secure" not in attributes else "; its cookie is Secure: browsers send it over https only"
    return f"a session is good until {document['expires_at']}{hint}"


async def bad_session(visit: Visit) -> str:
    """A missing and a made-up session are told apart."""
    advice = "Compare the bridge's version."
    (await visit.deployment.call("GET", "/auth/session")).refusal(401, "generation_session_missing", advice)
    made_up = {"Cookie": f"{SESSION_COOKIE}=made-up"}
    (await visit.deployment.call("GET", "/auth/session", headers=made_up)).refusal(401, "generation_session_invalid", advice)
    return "401 for a missing and for a made-up session"


def cookie_of(reply: Reply, name: str) -> tuple[str, set[str]]:
    """`name=value` of a cookie that the reply sets, and its attributes in lower case."""
    for header in reply.headers.get_list("set-cookie"):
        pair, *attributes = (part.strip() for part in header.split(";"))
        if pair.startswith(f"{name}=") and pair != f"{name}=":
            return pair, {attribute.lower() for attribute in attributes}
    raise CheckFailedError(f"{reply.what} sets no cookie {name}", "Look whether a proxy takes cookies away.")
