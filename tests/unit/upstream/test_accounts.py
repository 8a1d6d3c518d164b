"""Paths and queries of accounts: which are passed on, and as what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from http_bridge.errors import HttpError
from http_bridge.upstream.accounts import checked_path, checked_query


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("accounts/../health", b"/admin/accounts/../health"),
        ("accounts/..", b"/admin/accounts/.."),
        ("accounts/./a", b"/admin/accounts/./a"),
        ("accounts/a/../../b", b"/admin/accounts/a/../../b"),
        ("accounts//a", b"/admin/accounts//a"),
        ("accounts/a/", b"/admin/accounts/a/"),
        ("accounts/a\\b", b"/admin/accounts/a%5Cb"),
        ("accounts/a b", b"/admin/accounts/a%20b"),
        ("accounts/a?b", b"/admin/accounts/a%3Fb"),
        ("accounts/a#b", b"/admin/accounts/a%23b"),
        ("accounts/a%2fb", b"/admin/accounts/a%252fb"),
        # Decoded, these look like honest paths.
        ("accounts/a/b", b"/admin/accounts/a%2Fb"),
        ("accounts/a.b", b"/admin/accounts/a%2eb"),
        ("accounts/" + "a" * 129, b""),
    ],
)
def test_path_is_refused_when_it_might_mean_another(path: str, raw: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        checked_path(path, raw)
    assert caught.value.code == "not_found"


@given(st.text(max_size=30))
def test_path_has_no_way_up_or_out_when_it_is_let_through(text: str) -> None:
    try:
        path = checked_path(f"accounts/{text}", None)
    except HttpError:
        return
    assert path == f"accounts/{text}"
    assert path.isascii()
    assert not {"", ".", ".."} & set(path.split("/"))
    assert not set("?#\\%\r\n") & set(path)


def test_query_is_refused_when_it_is_long_or_not_printable() -> None:
    assert checked_query("a=1&b=%20") == "a=1&b=%20"
    for query in ("a" * 4097, "a\nb", "\u00e9"):
        with pytest.raises(HttpError):
            checked_query(query)
