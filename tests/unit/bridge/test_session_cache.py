"""Sessions that the bridge knows to be good."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from http_bridge.convert import SessionCheck
from http_bridge.session_cache import SessionCache

START = datetime(2026, 1, 1, tzinfo=UTC)


def _session(session_id: str) -> SessionCheck:
    return SessionCheck(state="active", session_id=session_id, expires_at=START + timedelta(hours=24))


def test_session_is_known_until_the_moment_it_ends() -> None:
    now = START
    cache = SessionCache(now=lambda: now)
    cache.keep("token", _session("a"))
    now = START + timedelta(hours=24) - timedelta(microseconds=1)
    assert cache.find("token") == _session("a")
    now = START + timedelta(hours=24)
    assert cache.find("token") is None
    # And is forgotten: it does not come back with the clock.
    now = START
    assert cache.find("token") is None


def test_least_recently_used_session_goes_when_there_are_too_many() -> None:
    cache = SessionCache(2, now=lambda: START)
    for name in ("a", "b"):
        cache.keep(name, _session(name))
    assert cache.find("a") is not None
    cache.keep("c", _session("c"))
    assert [cache.find(name) is not None for name in ("a", "b", "c")] == [True, False, True]


def test_token_is_nowhere_in_it_when_a_session_is_kept() -> None:
    cache = SessionCache(now=lambda: START)
    cache.keep("hush-token", _session("a"))
    assert "hush-token" not in repr(cache._good)
