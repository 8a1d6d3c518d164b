"""Checks of the admin paths: closed to strangers; with the key sessions, diagnostics and the audit log."""

from __future__ import annotations

import json

from command_line.smoke.access import cookie_of
from command_line.smoke.deployment import Reply
from command_line.smoke.outcome import CheckFailedError, CheckSkippedError
from command_line.smoke.visit import PROMPT, Visit
from runtime.rules.catalogue import MODELS

_VERSION = "Compare the bridge's version; look at its log."
_KEY = "Give the key that the bridge has (WARMLANE_ADMIN_KEY, at least 16 characters)."
_COUNTERS = ("queue_depth", "queue_overloaded_count", "queue_timeout_count", "fallback_count")
_LANE_FACTS = ("model", "mode", "availability", "warm", "resident_model", "cold_start_count", "fallback_reason")
_ENTRY_MEMBERS = {"id", "ts", "ip", "action", "details", "success"}
_COOKIE = "gg_admin_session"
_WRONG_KEY = "not-the-admin-key-of-this-deployment"


async def closed(visit: Visit) -> str:
    """Nobody is let in, neither without a credential nor with the API key."""
    attempts: list[dict[str, str]] = [{}]
    if visit.api_key is not None:
        attempts.append({"X-API-Key": visit.api_key})
    for headers in attempts:
        reply = await visit.deployment.call("GET", "/admin/health", headers=headers)
        if reply.status == 403:
            reply.refusal(403, "admin_misconfigured", _VERSION)
            return "403: the deployment has no admin key; set WARMLANE_ADMIN_KEY to see its diagnostics"
        reply.refusal(401, "admin_session_missing", "The admin paths are open: do not serve this deployment; compare its version.")
    return "401 without an admin credential"


async def session(visit: Visit) -> str:
    """The key opens a session, which is good until it is ended; a wrong key opens none."""
    headers = _headers(visit)
    wrong = await visit.deployment.call("POST", "/admin/session", headers={"X-Admin-Key": _WRONG_KEY})
    wrong.refusal(403, "admin_key_invalid", "A wrong admin key must be refused: compare the bridge's version.")
    opened = await visit.deployment.call("POST", "/admin/session", headers=headers)
    opened.expect_status(204, _KEY)
    cookie, attributes = cookie_of(opened, _COOKIE)
    if "httponly" not in attributes or (visit.deployment.is_encrypted and "secure" not in attributes):
        raise CheckFailedError(f"the cookie {_COOKIE} is not HttpOnly, or not Secure on https", "Set WARMLANE_COOKIE_SECURE=true.")
    document = (await visit.deployment.call("GET", "/admin/session", headers={"Cookie": cookie})).expect(200)
    if document.get("active") is not True or not {"idle_timeout_seconds", "last_activity_at"} <= set(document):
        raise CheckFailedError("GET /admin/session lacks active, idle_timeout_seconds or last_activity_at", _VERSION)
    (await visit.deployment.call("DELETE", "/admin/session", headers={"Cookie": cookie})).expect_status(204)
    ended = await visit.deployment.call("GET", "/admin/session", headers={"Cookie": cookie})
    ended.refusal(401, "admin_session_invalid", "An ended session must be refused by every bridge: look at admission.")
    return f"opened, ended and then refused; idle for {document['idle_timeout_seconds']} s at most"


async def diagnostics(visit: Visit) -> str:
    """The figures of queues and lanes, and nothing secret among them."""
    reply = await visit.deployment.call("GET", "/admin/health", headers=_headers(visit))
    document = reply.expect(200, _KEY)
    told = document.get("diagnostics")
    if not isinstance(document.get("ok"), bool) or "ready_accounts" not in document or not isinstance(told, dict):
        raise CheckFailedError("GET /admin/health lacks ok, ready_accounts or diagnostics", _VERSION)
    wrong = [name for name in _COUNTERS if isinstance(told.get(name), bool) or not isinstance(told.get(name), int)]
    if wrong:
        raise CheckFailedError(f"diagnostics has no number {', '.join(wrong)}", _VERSION)
    lanes = told.get("lanes")
    if not isinstance(lanes, list) or not lanes or not all(isinstance(lane, dict) for lane in lanes):
        raise CheckFailedError("diagnostics lists no lane", "Start lanes, and let them reach admission.")
    lacking = sorted({name for lane in lanes for name in _LANE_FACTS if name not in lane})
    if lacking:
        raise CheckFailedError(f"a lane of the diagnostics lacks {', '.join(lacking)}", _VERSION)
    _no_secret(visit, reply)
    if not document["ok"]:
        raise CheckFailedError("GET /admin/health says that not everything is served", f"Look at its diagnostics: {_lanes(lanes)}")
    return f"queue depth {told['queue_depth']}; {_lanes(lanes)}"


async def logs(visit: Visit) -> str:
    """The audit log has the calls of this run, newest first, and nothing secret."""
    reply = await visit.deployment.call("GET", "/admin/logs?limit=100", headers=_headers(visit))
    entries = reply.expect(200, _KEY).get("logs")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and set(entry) >= _ENTRY_MEMBERS for entry in entries):
        raise CheckFailedError("GET /admin/logs is no list of entries with id, ts, ip, action, details, success", _VERSION)
    ids = [entry["id"] for entry in entries]
    if ids != sorted(ids, reverse=True):
        raise CheckFailedError("GET /admin/logs is not sorted newest first", _VERSION)
    actions = {entry["action"] for entry in entries}
    missing = {"admin_session_create", "admin_session_get", "admin_session_delete"} - actions
    if missing:
        raise CheckFailedError(
            f"the audit log lacks {', '.join(sorted(missing))} of this run", "Every admin call must be logged: look at admission."
        )
    _no_secret(visit, reply)
    return f"{len(entries)} entries, newest first"


def _headers(visit: Visit) -> dict[str, str]:
    if visit.admin_key is None:
        msg = "no admin key was given: --admin-key or WARMLANE_ADMIN_KEY"
        raise CheckSkippedError(msg)
    return {"X-Admin-Key": visit.admin_key}


def _no_secret(visit: Visit, reply: Reply) -> None:
    secrets = {"the API key": visit.api_key, "the admin key": visit.admin_key, "a prompt": PROMPT, "a wrong key": _WRONG_KEY}
    for name, secret in secrets.items():
        # As JSON spells it.
        if secret is not None and json.dumps(secret)[1:-1].encode() in reply.content:
            raise CheckFailedError(f"{reply.what} contains {name}", "Do not serve this deployment; compare its version.")


def _lanes(lanes: list[dict[str, object]]) -> str:
    told = ", ".join(f"{lane['model'] or 'pool'} {lane['availability']}" for lane in lanes)
    return f"{len(lanes)} lanes for {len(MODELS)} models: {told}"
