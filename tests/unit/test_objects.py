"""The object store's errors, told apart; and what could not be removed, removed later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import obstore
import pytest
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore
from warmlane.generation.v1.generation_pb2 import GenerationRequest as Message

from admission import object_sweeper
from admission.object_sweeper import ObjectSweeper
from runtime.lane.files import AttemptFiles, InputImageMissingError, StoreUnavailableError
from runtime.objects import is_missing, object_size, open_object_store, reason_of, store_problem
from runtime.rules.check import check_request
from runtime.wire import message_to_raw
from tests.harness.scripted_s3 import ScriptedS3, scripted_s3

_KEY = "inputs/" + "0" * 64


@pytest.fixture
async def s3() -> AsyncIterator[ScriptedS3]:
    async with scripted_s3() as s3:
        yield s3


async def _error(store: ObjectStore) -> Exception:
    with pytest.raises((BaseError, OSError)) as caught:
        await obstore.get_async(store, _KEY)
    return caught.value


@pytest.mark.parametrize(
    ("status", "code", "missing", "reason"),
    [
        (404, "NoSuchKey", True, "NoSuchKey"),
        (404, "NoSuchBucket", False, "NoSuchBucket: the bucket of WARMLANE_OBJECT_STORE_URL does not exist"),
        (403, "AccessDenied", False, "AccessDenied: the credentials may not do this; see docs/howto/object-store.md for what they need"),
        (403, "InvalidAccessKeyId", False, "InvalidAccessKeyId: AWS_ACCESS_KEY_ID is not known to the store"),
        (403, "SignatureDoesNotMatch", False, "SignatureDoesNotMatch: AWS_SECRET_ACCESS_KEY is wrong"),
        (500, "InternalError", False, "InternalError"),
    ],
)
async def test_reason_says_what_to_do_when_the_store_refuses(s3: ScriptedS3, status: int, code: str, missing: bool, reason: str) -> None:
    s3.status, s3.code = status, code
    store = s3.store()
    error = await _error(store)
    assert (is_missing(error), reason_of(error)) == (missing, reason)
    assert await store_problem(store) == (None if missing else reason)


async def test_reason_is_one_line_when_nobody_answers(s3: ScriptedS3, unused_tcp_port: int) -> None:
    s3.port = unused_tcp_port
    reason = reason_of(await _error(s3.store()))
    assert reason.startswith("GenericError: Generic S3 error")
    assert "\n" not in reason


async def test_size_takes_one_call_when_it_is_asked(s3: ScriptedS3) -> None:
    assert await object_size(s3.store(), _KEY) == s3.size_bytes
    assert len(s3.asked) == 1


async def test_a_missing_file_is_missing_when_the_store_is_a_folder(tmp_path: Path) -> None:
    store = open_object_store((tmp_path / "new folder").as_uri())
    assert await store_problem(store) is None
    assert is_missing(await _error(store))


@pytest.mark.parametrize(("code", "expected"), [("NoSuchKey", InputImageMissingError), ("NoSuchBucket", StoreUnavailableError)])
async def test_lane_blames_the_request_only_when_its_image_is_gone(
    s3: ScriptedS3, monkeypatch: pytest.MonkeyPatch, code: str, expected: type[Exception]
) -> None:
    monkeypatch.setattr("runtime.lane.files._TRIES", 2)
    s3.status, s3.code = 404, code
    message = Message(model="anisora", prompt="a boat", mode="i2v", width=256, height=256)
    message.reference_image.key = _KEY
    files = AttemptFiles(s3.store(), pause_s=0)
    with pytest.raises(expected):
        await asyncio.to_thread(files.images, check_request(message_to_raw(message)), lambda: None)


async def test_files_are_removed_later_when_the_store_was_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    for name in ("first", "second", "third"):
        await obstore.put_async(store, f"results/{name}/1/video.mp4", b"video")
    is_away = True

    async def delete_async(objects: ObjectStore, keys: Sequence[str]) -> None:
        if is_away:
            raise OSError("no route to host")
        await obstore.delete_async(objects, keys)

    double = SimpleNamespace(list=obstore.list, delete_async=delete_async, exceptions=obstore.exceptions)
    monkeypatch.setattr(object_sweeper, "obstore", double)
    sweeper = ObjectSweeper(store)
    sweeper.discard("results/first/")
    sweeper.discard("results/second/")
    await sweeper.idle()
    assert len(await obstore.list(store).collect_async()) == 3
    is_away = False
    sweeper.discard("results/third/")
    await sweeper.idle()
    assert await obstore.list(store).collect_async() == []
