"""The console in Chromium on the running stack: what it shows when a lane dies, what an operator may say, and how it comes back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, StorageState, expect

from tests.harness.browser import PHONE, until
from tests.harness.console_page import ConsolePage, console_page
from tests.harness.http import Frontend
from tests.harness.stack import Stack

_LANE, _MODEL = "lane-anisora", "anisora"
_MOST_BYTES = 150 * 1024


@pytest.fixture(scope="module")
def session(stack: Stack, chromium: Browser) -> StorageState:
    """What the browser of an operator keeps who has signed in."""
    with console_page(chromium, stack.http_url) as opened:
        opened.sign_in(stack.admin_key)
        return opened.page.context.storage_state()


@pytest.fixture
def console(stack: Stack, chromium: Browser, session: StorageState) -> Iterator[ConsolePage]:
    """The console of somebody who has signed in; it must make no error and ask no other host."""
    with _clean(stack, chromium, storage_state=session) as page:
        page.wait_until_live()
        yield page


@contextmanager
def _clean(stack: Stack, chromium: Browser, **options: Any) -> Iterator[ConsolePage]:
    with console_page(chromium, stack.http_url, **options) as page:
        yield page
        assert page.watched.errors == []
        assert page.watched.foreign_requests(stack.http_url) == []


def _rendered(stack: Stack, model: str) -> str:
    with Frontend(stack.http_url, stack.api_key) as frontend:
        task_id = frontend.generate(model=model, prompt="a quiet pond", width=256, height=256, num_frames=9, seed=1)
        assert frontend.wait(task_id)["status"] == "done"
    return task_id


def test_key_opens_the_console_and_is_kept_nowhere(stack: Stack, chromium: Browser) -> None:
    with _clean(stack, chromium) as opened:
        assert opened.page.get_by_label("Admin key").evaluate("(field) => field === document.activeElement")
        opened.sign_in(stack.admin_key)
        kept = opened.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, document.body.innerHTML])")
        assert stack.admin_key not in kept
        assert opened.page.get_by_label("Admin key").input_value() == ""
        assert opened.watched.received_bytes(but="/console/events") < _MOST_BYTES
        # A reload needs no key; signing out takes the session away, for every page.
        opened.page.reload()
        opened.wait_until_live()
        (cookie,) = [one for one in opened.page.context.cookies() if one["name"] == "gg_admin_session"]
        opened.page.get_by_role("button", name="Sign out").click()
        opened.page.get_by_label("Admin key").wait_for()
        refused = httpx.get(f"{stack.http_url}/admin/session", headers={"Cookie": f"gg_admin_session={cookie['value']}"}, timeout=10)
        assert refused.status_code == 401
        assert not opened.page.locator("#state").is_visible()


@pytest.mark.long
def test_wrong_key_is_refused_with_what_to_do(stack: Stack, chromium: Browser) -> None:
    with console_page(chromium, stack.http_url) as opened:
        opened.page.get_by_label("Admin key").fill("not the key of this server")
        opened.page.get_by_role("button", name="Sign in").click()
        opened.page.get_by_role("alert").get_by_text("The admin key is not right.").wait_for()
        # Chromium writes every refused request to its console.
        assert [error for error in opened.watched.errors if "403" not in error] == []


def test_lanes_queues_tasks_and_events_are_shown_while_they_change(
    stack: Stack, console: ConsolePage, keep_screenshot: Callable[[Page, str], None]
) -> None:
    _rendered(stack, "phr00t")
    task_id = _rendered(stack, _MODEL)
    row = console.page.locator("#tasks tbody tr").filter(has_text=task_id[-8:])
    expect(row).to_contain_text("done")
    expect(row).to_contain_text(f"dedicated: {_LANE}")
    tile = console.tile(_LANE)
    expect(tile).to_contain_text("predicted")
    expect(tile.get_by_role("img")).to_have_attribute("aria-label", re.compile(r"Memory of lane-anisora: allocated .+, limit [0-9.]+ GiB"))
    assert console.badge(_MODEL) == "its own lanes"
    assert "Waiting: 0 of 25" in console.tile("Degraded pool").inner_text()
    assert "Oldest wait: 0 of 30 s" in console.tile("Degraded pool").inner_text()
    timeline = console.page.locator("#timeline").get_by_role("img")
    expect(timeline).to_have_attribute("aria-label", re.compile(r"What was resident in the last .*lane-anisora: anisora now"))
    until(lambda: "ended" in console.events(), "the end of the task is not shown")
    console.page.get_by_label("Of", exact=True).select_option("lanes")
    until(lambda: "ended" not in console.events() and "lane_ready" in console.events(), "the filter lets events of tasks through")
    console.page.get_by_label("With the text").fill("lane-phr00t")
    about = console.page.locator("#events tbody td:nth-child(3)")
    until(lambda: all(text.startswith("lane-phr00t") for text in about.all_inner_texts()), "the text is not sought")
    console.page.get_by_label("With the text").fill("")
    console.page.get_by_label("Of", exact=True).select_option("everything")
    console.page.set_viewport_size({"width": 1280, "height": 1900})
    keep_screenshot(console.page, "console.png")


@pytest.mark.long
def test_fallback_and_recovery_are_shown_when_a_lane_is_killed(stack: Stack, console: ConsolePage) -> None:
    console.wait_for_badge(_LANE, "ready")
    before = console.page.locator("#timeline-table tbody tr").count()
    old_pid = stack.kill(_LANE)
    console.wait_for_badge(_LANE, "cold")
    console.wait_for_badge(_MODEL, "fallback: capacity")
    assert {"fallback", "lane_not_ready"} <= set(console.problems())
    stack.wait_for_restart(_LANE, old_pid)
    console.wait_for_badge(_LANE, "ready", 120)
    console.wait_for_badge(_MODEL, "its own lanes")
    assert not {"fallback", "lane_not_ready"} & set(console.problems())
    console.page.get_by_label("Of", exact=True).select_option("lanes")
    until(lambda: console.events()[:1] == ["lane_ready"] and "lane_not_ready" in console.events(), "the events do not tell it")
    console.page.get_by_text("The same as a table").click()
    assert console.page.locator("#timeline-table tbody tr").count() > before


def test_lane_is_drained_and_resumed_only_when_that_is_confirmed(stack: Stack, console: ConsolePage) -> None:
    button = console.page.get_by_role("button", name=f"Drain {_LANE}")
    button.click()
    console.confirm("Leave it")
    expect(console.page.get_by_role("dialog")).to_have_count(0)
    assert button.evaluate("(button) => button === document.activeElement")
    assert [request for request in console.watched.requests if request.method == "POST"] == []
    console.page.keyboard.press("Enter")
    console.page.get_by_role("dialog").wait_for()
    console.page.keyboard.press("Tab")
    console.page.keyboard.press("Enter")
    console.wait_for_badge(_LANE, "drained")
    assert "lane_drained" in console.problems()
    console.page.get_by_role("button", name=f"Resume {_LANE}").click()
    console.confirm("Resume")
    console.wait_for_badge(_LANE, "ready")
    until(lambda: "drained" not in console.badge(_LANE), "the lane is still drained")
    logs = httpx.get(f"{stack.http_url}/admin/logs", headers={"X-Admin-Key": stack.admin_key}, timeout=10).json()["logs"]
    assert {"admin_console", "admin_drain", "admin_resume"} <= {entry["action"] for entry in logs}


@pytest.mark.long
def test_model_goes_to_the_pool_and_back_when_that_is_confirmed(stack: Stack, console: ConsolePage) -> None:
    console.page.get_by_role("button", name=f"Send to the pool: {_MODEL}").click()
    console.confirm("Send to the pool")
    console.wait_for_badge(_MODEL, "fallback: manual")
    assert "manual_fallback" in console.problems()
    task_id = _rendered(stack, _MODEL)
    row = console.page.locator("#tasks tbody tr").filter(has_text=task_id[-8:])
    expect(row).to_contain_text("degraded pool: degraded-pool")
    expect(row).to_contain_text("fallback: manual")
    console.page.get_by_role("button", name=f"End the fallback of {_MODEL}").click()
    console.confirm("End the fallback")
    console.wait_for_badge(_MODEL, "its own lanes")


@pytest.mark.long
def test_console_comes_back_by_itself_when_the_bridge_restarts(stack: Stack, chromium: Browser, session: StorageState) -> None:
    with console_page(chromium, stack.http_url, storage_state=session) as console:
        console.wait_until_live()
        old_pid = stack.kill("http-bridge")
        until(lambda: console.connection == "reconnecting", "the console does not notice")
        stack.wait_for_restart("http-bridge", old_pid)
        console.wait_until_live()
        task_id = _rendered(stack, _MODEL)
        expect(console.page.locator("#tasks tbody tr").filter(has_text=task_id[-8:])).to_contain_text("done")
        # What Chromium writes of a server that is away, and nothing else.
        assert [error for error in console.watched.errors if "ERR_" not in error] == []


@pytest.mark.long
def test_console_asks_for_the_key_when_its_session_was_ended_elsewhere(stack: Stack, chromium: Browser) -> None:
    with console_page(chromium, stack.http_url) as console:
        console.sign_in(stack.admin_key)
        (cookie,) = [one for one in console.page.context.cookies() if one["name"] == "gg_admin_session"]
        ended = httpx.delete(f"{stack.http_url}/admin/session", headers={"Cookie": f"gg_admin_session={cookie['value']}"}, timeout=10)
        assert ended.status_code == 204
        console.page.get_by_label("Admin key").wait_for()
        console.page.get_by_role("alert").get_by_text("The admin session is not known, or was ended.").wait_for()
        assert not console.page.locator("#state").is_visible()


@pytest.mark.parametrize(
    "look",
    [
        pytest.param({"color_scheme": "light"}, id="light"),
        pytest.param({"color_scheme": "dark"}, id="dark", marks=pytest.mark.long),
        pytest.param({"viewport": PHONE}, id="phone", marks=pytest.mark.long),
        pytest.param({"viewport": PHONE, "color_scheme": "dark"}, id="phone, dark"),
    ],
)
def test_nothing_keeps_anybody_out_when_the_page_is_looked_at(
    stack: Stack, chromium: Browser, session: StorageState, look: dict[str, Any]
) -> None:
    with _clean(stack, chromium, **look) as opened:
        assert opened.watched.violations() == []
    with _clean(stack, chromium, storage_state=session, **look) as opened:
        opened.wait_until_live()
        opened.page.get_by_text("The same as a table").click()
        assert opened.watched.violations() == []
        # Nothing sticks out to the side; tables scroll in their own boxes.
        assert opened.page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        opened.page.get_by_role("button", name=f"Drain {_LANE}").click()
        opened.page.get_by_role("dialog").wait_for()
        assert opened.watched.violations() == []
