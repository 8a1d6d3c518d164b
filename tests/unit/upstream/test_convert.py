"""Whatever an upstream answers: a reply of the contract is made of it, or none."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from http_bridge.convert import Links
from http_bridge.upstream.convert import gallery_item, item_id, model_item, moment, status_reply
from http_bridge.upstream.errors import refusal
from http_bridge.upstream.reply import Reply

NAMES = st.sampled_from(
    ["status", "progress", "stage", "created_at", "diagnostics", "events", "id", "parameters", "seed", "width", "queue_position",
     "modes", "fixed_parameters", "value", "locked", "detail", "code", "metadata", "type", "preview_url", "error", "eta_seconds"]
)  # fmt: skip
TEXTS = st.sampled_from(["done", "failed", "image", "2026-01-01T12:00:00", "0001-01-01T00:00:00+14:00", "task_not_found", ""]) | st.text(
    max_size=5
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=6),
    max_leaves=15,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=10), st.integers(min_value=300, max_value=599))
def test_reply_can_be_sent_when_the_upstream_answers_with_anything(body: dict[str, object], status: int) -> None:
    read = Reply(upstream="image", status=status, content=json.dumps(body).encode()).json()
    found = read if isinstance(read, dict) else {}
    for made in (status_reply(found, "image-a", Links()), gallery_item(found, "image-a", Links()), model_item(found)):
        if made is not None:
            json.dumps(json.loads(made.model_dump_json()), allow_nan=False)
    assert item_id(found) is None or isinstance(item_id(found), str)
    error = refusal("image", status, found, of_task=status % 2 == 0)
    assert 400 <= error.status <= 503
    assert error.response().body


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-01T12:00:00", datetime(2026, 1, 1, 12, tzinfo=UTC)),
        ("2026-01-01T12:00:00Z", datetime(2026, 1, 1, 12, tzinfo=UTC)),
        ("2026-01-01T14:00:00.5+02:00", datetime(2026, 1, 1, 12, 0, 0, 500_000, tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", None),
        ("yesterday", None),
        (1767268800, None),
        (None, None),
    ],
)
def test_time_is_utc_when_it_has_a_zone_and_when_it_has_none(text: object, expected: datetime | None) -> None:
    assert moment(text) == expected


def test_retry_after_is_kept_when_it_is_a_number_of_seconds_and_no_longer_than_a_day() -> None:
    waits = {"7": "7", "-1": "60", "Wed, 21 Oct 2026 07:28:00 GMT": "60", "nan": "60", "9999999": "86400"}
    for sent, expected in waits.items():
        assert refusal("image", 429, None, retry_after=sent).headers["Retry-After"] == expected
