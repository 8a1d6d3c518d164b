"""Ids of image tasks: which are let through, and whose they are in a private gallery."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from http_bridge.upstream.ids import KEY_OWNER, ImageIds, is_upstream_id, shared_secret
from runtime.errors import ServiceError

SHARED = ImageIds(shared_secret("a", "b"), is_private=False)
PRIVATE = ImageIds(shared_secret("a", "b"), is_private=True)
IDS = st.from_regex(r"[0-9A-Za-z_-]{1,64}", fullmatch=True)
OWNERS = st.text(min_size=1, max_size=40).filter(lambda text: "\0" not in text and text.isprintable()).map(lambda text: f"session:{text}")


def _is_found(ids: ImageIds, public_id: str, owner: str) -> bool:
    try:
        ids.upstream(public_id, owner)
    except ServiceError as error:
        return error.code != "task_not_found"
    return True


@given(upstream_id=IDS, owner=OWNERS, other=OWNERS)
def test_id_is_its_owners_and_the_keys_when_the_gallery_is_private(upstream_id: str, owner: str, other: str) -> None:
    public_id = PRIVATE.public(upstream_id, owner)
    assert PRIVATE.upstream(public_id, owner) == PRIVATE.upstream(public_id, KEY_OWNER) == upstream_id
    assert _is_found(PRIVATE, public_id, other) is (other == owner)
    assert not _is_found(PRIVATE, f"image-{upstream_id}", owner)
    # Another secret makes another proof; a gallery that is shared again asks for none.
    assert not _is_found(ImageIds(shared_secret("a", "c"), is_private=True), public_id, owner)
    assert SHARED.upstream(public_id, other) == upstream_id


@given(upstream_id=IDS, owner=OWNERS)
def test_id_is_plain_when_the_gallery_is_shared(upstream_id: str, owner: str) -> None:
    assert SHARED.public(upstream_id, owner) == PRIVATE.public(upstream_id, KEY_OWNER) == f"image-{upstream_id}"
    assert SHARED.upstream(f"image-{upstream_id}", owner) == upstream_id


@given(st.text(max_size=80))
def test_id_is_made_of_letters_that_lead_nowhere_else_when_it_is_let_through(text: str) -> None:
    if _is_found(SHARED, f"image-{text}", KEY_OWNER):
        assert set(text) <= set("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-.")
        assert is_upstream_id(SHARED.upstream(f"image-{text}", KEY_OWNER))


@pytest.mark.parametrize(
    "public_id", ["a", "image-", "image-a\n", "image-a.", "image-a.short", "IMAGE-a", "image-a/b", "image-" + "a" * 65]
)
def test_id_is_unknown_when_it_is_none(public_id: str) -> None:
    assert not _is_found(SHARED, public_id, KEY_OWNER)


@given(key=st.text(max_size=20), other_key=st.text(max_size=20), owner=OWNERS, other=OWNERS)
def test_request_keys_are_equal_when_caller_and_key_are_and_never_else(key: str, other_key: str, owner: str, other: str) -> None:
    same = SHARED.request_key(key, owner) == SHARED.request_key(other_key, other)
    assert same is ((key, owner) == (other_key, other))


def test_gallery_of_the_upstream_is_for_the_key_alone_when_it_is_private() -> None:
    assert [ids.may_list(owner) for ids in (SHARED, PRIVATE) for owner in (KEY_OWNER, "session:1")] == [True, True, True, False]
