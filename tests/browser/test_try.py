"""The try page in Chromium on the running stack: from opening it to a video that plays, and what a person meets on the way."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, Route, StorageState

from tests.harness.browser import DESK, PHONE, watched_page
from tests.harness.http import Frontend
from tests.harness.stack import Stack
from tests.harness.try_page import TryPage, try_page
from tests.harness.video import picture

_PROMPT = "A paper boat drifts across a quiet pond at dawn"
_FIRST_VIDEO_S = 60.0
_MOST_BYTES = 150 * 1024
# Long enough to be caught on its way: some ten seconds of rendering.
_LONG_FRAMES = 241


@pytest.fixture(scope="module")
def session(stack: Stack, chromium: Browser) -> StorageState:
    """What a browser keeps that has been here before: new sessions of one address are limited."""
    with try_page(chromium, stack.http_url) as opened:
        return opened.page.context.storage_state()


@pytest.fixture
def opened(stack: Stack, chromium: Browser, session: StorageState) -> Iterator[TryPage]:
    """The page of somebody who has been here before; it must make no error and ask no other host."""
    with _clean_page(stack, chromium, storage_state=session) as page:
        yield page


@contextmanager
def _clean_page(stack: Stack, chromium: Browser, **options: Any) -> Iterator[TryPage]:
    with try_page(chromium, stack.http_url, **options) as page:
        yield page
        assert page.watched.errors == []
        assert page.watched.foreign_requests(stack.http_url) == []


def _sent(page: TryPage) -> list[Request]:
    return [request for request in page.watched.requests if request.method == "POST" and request.url.endswith("/generate")]


def _task_id(page: TryPage) -> str:
    return str(json.loads(page.watched.until("sessionStorage.getItem('warmlane.try.task')"))["id"])


def test_first_video_plays_within_a_minute_when_only_the_keyboard_is_used(
    stack: Stack, chromium: Browser, keep_screenshot: Callable[[Page, str], None]
) -> None:
    began_s = time.monotonic()
    with _clean_page(stack, chromium) as opened:
        keyboard = opened.page.keyboard
        _tab_to(opened, "field-prompt")
        keyboard.type(_PROMPT)
        _tab_to(opened, "submit")
        keyboard.press("Enter")
        opened.wait_until_it_plays()
        assert time.monotonic() - began_s < _FIRST_VIDEO_S
        assert 20_000 < opened.watched.received_bytes(but="/results/") < _MOST_BYTES
        body = json.loads(_sent(opened)[0].post_data or "")
        assert (body["model"], body["mode"], body["prompt"]) == ("anisora", "t2v", _PROMPT)
        assert opened.stage() == "The video is ready."
        keep_screenshot(opened.page, "try.png")


def _tab_to(opened: TryPage, element_id: str) -> None:
    passed = []
    for _ in range(40):
        opened.page.keyboard.press("Tab")
        passed.append(opened.page.evaluate("document.activeElement.id"))
        if passed[-1] == element_id:
            return
    raise AssertionError(f"Tab does not lead to {element_id}; it passed {passed}")


def test_video_of_the_other_model_plays_when_a_picture_is_dropped(opened: TryPage) -> None:
    opened.choose("Phr00t Rapid Mega")
    opened.choose("Picture")
    opened.drop("#field-reference_image", picture())
    opened.page.get_by_alt_text("Preview of boat.png").wait_for()
    opened.prompt.fill(_PROMPT)
    opened.set_frames(9)
    opened.submit.dblclick()
    opened.wait_until_it_plays()
    (request,) = _sent(opened)
    body = json.loads(request.post_data or "")
    assert (body["model"], body["mode"]) == ("phr00t", "i2v")
    assert body["reference_image"].startswith("data:image/png;base64,")
    assert request.headers["idempotency-key"]


def test_problem_stands_at_its_field_when_the_server_refuses_it(opened: TryPage) -> None:
    opened.choose("Keyframes")
    opened.drop("#keyframe-1-image", picture())
    opened.page.get_by_alt_text("Preview of boat.png").wait_for()
    position = opened.page.get_by_label("Frame index")
    position.fill("150")
    opened.prompt.fill(_PROMPT)
    opened.submit.click()
    opened.page.get_by_role("alert").get_by_text("Correct the marked fields and send it again.").wait_for()
    assert "num_frames" in opened.problem(position)
    assert position.evaluate("(control) => control === document.activeElement")
    # Chromium writes every refused request to its console.
    assert [error for error in opened.watched.errors if "422" not in error] == []
    opened.watched.errors.clear()


def test_nothing_is_sent_when_the_page_sees_what_is_wrong(opened: TryPage) -> None:
    opened.choose("Picture")
    opened.drop("#field-reference_image", b"not a picture", name="notes.png")
    chooser = opened.page.locator("#field-reference_image")
    assert opened.problem(chooser) == "notes.png is not a PNG, JPEG or WebP picture."
    opened.submit.click()
    assert opened.problem(opened.prompt) == "Write something here."
    assert opened.problem(chooser) == "Choose a picture."
    assert _sent(opened) == []


def test_refusal_says_what_to_do_when_no_worker_is_free(opened: TryPage) -> None:
    metadata = {"cause": "depth", "depth": 25, "max_depth": 25, "waited_seconds": 0.0, "max_wait_seconds": 30.0}
    detail = {"code": "queue_overloaded", "detail": "25 requests wait already.", "user_action": "Send it again.", "metadata": metadata}
    refusal = json.dumps({"detail": detail})
    headers = {"Content-Type": "application/json", "Retry-After": "10"}
    opened.page.route("**/generate", lambda route: route.fulfill(status=503, body=refusal, headers=headers))
    opened.prompt.fill(_PROMPT)
    opened.submit.click()
    alert = opened.page.get_by_role("alert")
    alert.get_by_text("25 requests wait already.").wait_for()
    assert "Send it again. (in 10 s)" in alert.inner_text()
    assert opened.submit.get_attribute("aria-disabled") == "false"
    opened.watched.errors.clear()


def test_task_is_followed_and_can_be_cancelled_when_the_page_was_reloaded(stack: Stack, opened: TryPage) -> None:
    opened.set_frames(_LONG_FRAMES)
    opened.prompt.fill(_PROMPT)
    opened.submit.click()
    task_id = _task_id(opened)
    opened.open(stack.http_url)
    opened.page.get_by_role("progressbar", name="Progress of the video").wait_for()
    assert opened.prompt.input_value() == _PROMPT
    assert f"/events/{task_id}" in opened.watched.paths()[-8:]
    opened.cancel()
    with Frontend(stack.http_url, stack.api_key) as frontend:
        assert frontend.status(task_id)["error_code"] == "cancelled"


def test_a_new_session_is_opened_when_the_old_one_is_gone(opened: TryPage) -> None:
    opened.page.context.clear_cookies()
    opened.set_frames(_LONG_FRAMES)
    opened.prompt.fill(_PROMPT)
    opened.submit.click()
    assert _task_id(opened)
    opened.cancel()
    assert [error for error in opened.watched.errors if "401" not in error] == []
    opened.watched.errors.clear()


@pytest.mark.long
def test_one_task_is_made_when_the_reply_is_lost(stack: Stack, opened: TryPage) -> None:
    accepted: list[str] = []

    def lose(route: Route) -> None:
        reply = route.fetch()
        accepted.append(reply.json()["task_id"])
        if len(accepted) == 1:
            route.abort()
        else:
            route.fulfill(response=reply)

    opened.page.route("**/generate", lose)
    opened.set_frames(_LONG_FRAMES)
    opened.prompt.fill(_PROMPT)
    opened.submit.click()
    task_id = _task_id(opened)
    opened.cancel()
    assert accepted == [task_id, task_id]
    opened.watched.errors.clear()


@pytest.mark.long
def test_video_of_the_gallery_is_played_and_deleted(stack: Stack, opened: TryPage) -> None:
    with Frontend(stack.http_url, stack.api_key) as frontend:
        status, _ = frontend.render(model="anisora", prompt="A kite over a hill", width=256, height=256, num_frames=9)
        task_id = status["task_id"]
        opened.open(stack.http_url)
        opened.page.get_by_role("button", name="Play: A kite over a hill").first.click()
        opened.watched.until("document.querySelector('#gallery video').currentTime > 0.05")
        opened.page.get_by_role("button", name="Delete: A kite over a hill").first.click()
        opened.page.get_by_role("dialog").get_by_role("button", name="Keep").click()
        assert frontend.status(task_id)["status"] == "done"
        opened.page.get_by_role("button", name="Delete: A kite over a hill").first.click()
        opened.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        opened.page.get_by_role("button", name="Delete: A kite over a hill").wait_for(state="detached")
        assert frontend.client.get(f"/status/{task_id}").status_code == 404


@pytest.mark.parametrize(("scheme", "size"), [("light", DESK), ("dark", PHONE)], ids=["light-desk", "dark-phone"])
def test_axe_finds_nothing_when_much_is_shown(
    stack: Stack, chromium: Browser, session: StorageState, scheme: str, size: dict[str, int]
) -> None:
    with _clean_page(stack, chromium, storage_state=session, color_scheme=scheme, viewport=size) as opened:
        opened.choose("Keyframes")
        opened.page.get_by_role("button", name="Add a keyframe").click()
        opened.page.get_by_text("More settings").click()
        opened.submit.click()
        assert opened.problem(opened.prompt)
        assert opened.watched.violations() == []
        # Nothing is wider than the screen.
        assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.long
def test_place_in_the_queue_is_given_back_when_a_waiting_request_is_cancelled(opened: TryPage) -> None:
    # Never answered: the server holds the request until a worker is free.
    opened.page.route("**/generate", lambda _route: None)
    opened.prompt.fill(_PROMPT)
    opened.submit.click()
    with opened.page.expect_event("requestfailed") as hung_up:
        opened.cancel()
    assert hung_up.value.url.endswith("/generate")
    opened.page.unroute("**/generate")


@pytest.mark.long
def test_video_plays_behind_a_proxy_with_a_prefix_that_collects_streams(stack: Stack, chromium: Browser, session: StorageState) -> None:
    def pass_on(route: Route) -> None:
        # It answers when the whole reply is there; of a stream that is at its end.
        route.fulfill(response=route.fetch(url=route.request.url.replace("/warmlane/", "/"), timeout=120_000))

    with watched_page(chromium, storage_state=session) as watched:
        watched.page.route("**/warmlane/**", pass_on)
        opened = TryPage(watched)
        opened.open(f"{stack.http_url}/warmlane")
        opened.prompt.fill(_PROMPT)
        opened.submit.click()
        opened.wait_until_it_plays()
        assert watched.errors == []
        assert [path for path in watched.paths() if not path.startswith("/warmlane/")] == []


@pytest.mark.long
def test_task_is_asked_for_when_no_stream_comes_through(opened: TryPage) -> None:
    opened.page.route("**/events/*", lambda route: route.abort())
    opened.prompt.fill(_PROMPT)
    opened.submit.click()
    opened.wait_until_it_plays()
    assert f"/status/{_task_id(opened)}" in opened.watched.paths()
    opened.watched.errors.clear()


@pytest.mark.long
def test_nothing_moves_by_itself_when_the_person_wants_less_motion(stack: Stack, chromium: Browser, session: StorageState) -> None:
    with _clean_page(stack, chromium, storage_state=session, reduced_motion="reduce") as opened:
        opened.prompt.fill(_PROMPT)
        opened.submit.click()
        opened.video.wait_for(timeout=60_000)
        opened.watched.until("document.querySelector('#result video').readyState >= 2")
        assert opened.video.evaluate("(video) => [video.paused, video.controls]") == [True, True]


@pytest.mark.long
def test_axe_finds_nothing_in_any_colours_and_size_when_a_video_is_shown(stack: Stack, chromium: Browser, session: StorageState) -> None:
    with _clean_page(stack, chromium, storage_state=session) as opened:
        opened.prompt.fill(_PROMPT)
        opened.submit.click()
        opened.wait_until_it_plays()
        opened.page.get_by_role("button", name=f"Delete: {_PROMPT}").first.wait_for()
        for scheme in ("light", "dark"):
            for size in (DESK, PHONE):
                opened.page.emulate_media(color_scheme=scheme)
                opened.page.set_viewport_size(size)
                assert opened.watched.violations() == [], f"{scheme} {size}"
                assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        opened.page.get_by_role("button", name=f"Delete: {_PROMPT}").first.click()
        opened.page.get_by_role("dialog").wait_for()
        assert opened.watched.violations() == []
