"""Results and input images through the real processes, once over a folder and once over S3, with no other file in common."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import httpx
import obstore
import pytest
from obstore.store import ObjectStore
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceStub

from admission.core.tasks import TaskId, TaskState
from admission.retention import InWork, Keep, Keeper
from admission.store.memory import MemoryStore
from admission.store.port import Batch
from runtime.clock import Reading
from runtime.images import check_image
from runtime.objects import open_object_store
from tests.harness.bridge import data_uri, png
from tests.harness.http import Frontend
from tests.harness.light_stack import ADMISSION, HTTP_BRIDGE, LightStack
from tests.harness.moto_store import moto_store, with_environment
from tests.harness.tasks import make_task

_LANE = "lane-anisora"
_PATIENCE_S = 15.0
_CLIP = {"model": "anisora", "width": 256, "height": 256, "num_frames": 9, "seed": 1}


@dataclass(frozen=True, kw_only=True)
class Rig:
    """A running stack, a client of its bridge, and the store as whoever runs it sees it."""

    stack: LightStack
    frontend: Frontend
    objects: ObjectStore
    url: str

    def keys(self, prefix: str = "") -> list[str]:
        """What is stored."""
        return sorted(item["path"] for item in obstore.list(self.objects, prefix or None).collect())

    def until(self, holds: Callable[[], bool]) -> None:
        """Polls until it holds."""
        ends_s = time.monotonic() + _PATIENCE_S
        while not holds():
            assert time.monotonic() < ends_s, self.stack.tails()
            time.sleep(0.02)


@pytest.fixture(scope="module", params=[pytest.param("file", marks=pytest.mark.long), "s3"])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder: Path = tmp_path_factory.mktemp("stack")
    with ExitStack() as life:
        if request.param == "s3":
            moto = life.enter_context(moto_store())
            url, environment = moto.url, moto.environment
        else:
            url, environment = (tmp_path_factory.mktemp("objects") / "some" / "prefix").as_uri(), {}
        life.enter_context(with_environment(environment))
        settings = {"WARMLANE_OBJECT_STORE_URL": url, **environment}
        stack = life.enter_context(LightStack(folder, processes=(ADMISSION, _LANE, HTTP_BRIDGE), environment=settings))
        frontend = life.enter_context(Frontend(stack.http_url, stack.api_key))
        yield Rig(stack=stack, frontend=frontend, objects=open_object_store(url), url=url)
        assert stack.unexpected_exits() == ()
        assert not stack.objects.exists(), "nothing lies in a folder that only one of them knows"


@pytest.fixture(scope="module")
def clip(rig: Rig) -> tuple[str, bytes]:
    """A finished task and its file."""
    status, content = rig.frontend.render(**_CLIP, prompt="a lake")
    return str(status["task_id"]), content


def _get(rig: Rig, path: str, **headers: str) -> httpx.Response:
    return rig.frontend.client.get(path, headers=headers)


def test_file_is_whole_and_named_by_its_content_when_it_is_fetched(rig: Rig, clip: tuple[str, bytes]) -> None:
    task_id, content = clip
    assert content[4:8] == b"ftyp"
    reply = _get(rig, f"/results/{task_id}")
    assert reply.content == content
    assert reply.headers["ETag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    head = rig.frontend.client.head(f"/results/{task_id}")
    assert (head.status_code, head.headers["Content-Length"], head.content) == (200, str(len(content)), b"")
    assert _get(rig, f"/results/{task_id}", **{"If-None-Match": reply.headers["ETag"]}).status_code == 304


def test_parts_are_those_of_the_file_when_ranges_are_asked(rig: Rig, clip: tuple[str, bytes]) -> None:
    task_id, content = clip
    size = len(content)
    for asked, expected in (
        ("bytes=0-", content),
        ("bytes=10-19", content[10:20]),
        ("bytes=-7", content[-7:]),
        (f"bytes={size - 1}-", content[-1:]),
    ):
        reply = _get(rig, f"/results/{task_id}", Range=asked)
        assert (reply.status_code, reply.content) == (206, expected)
    several = _get(rig, f"/results/{task_id}", Range=f"bytes=0-9,{size - 10}-")
    assert several.headers["Content-Type"].startswith("multipart/byteranges; boundary=")
    assert content[:10] in several.content
    assert content[-10:] in several.content
    assert _get(rig, f"/results/{task_id}", Range=f"bytes={size}-").headers["Content-Range"] == f"bytes */{size}"


def test_preview_is_a_picture_when_it_is_fetched(rig: Rig, clip: tuple[str, bytes]) -> None:
    reply = _get(rig, f"/preview/{clip[0]}")
    image = check_image(reply.content)
    assert (reply.headers["Content-Type"], image.media_type) == ("image/jpeg", "image/jpeg")
    assert _get(rig, f"/preview/{clip[0]}", Range="bytes=0-2").content == b"\xff\xd8\xff"


def test_the_same_file_comes_over_grpc_when_it_is_read_from_an_offset(rig: Rig, clip: tuple[str, bytes]) -> None:
    task_id, content = clip
    with grpc.insecure_channel(rig.stack.grpc_address) as channel:
        call = AdmissionServiceStub(channel).ReadResult(pb.ReadResultRequest(task_id=task_id, offset=5), timeout=_PATIENCE_S)
        assert b"".join(part.chunk for part in call) == content[5:]


def test_an_input_image_is_stored_once_when_both_doors_take_it(rig: Rig) -> None:
    picture = png("teal", (256, 256))
    key = f"inputs/{hashlib.sha256(picture).hexdigest()}"
    body = {**_CLIP, "mode": "i2v", "prompt": "a boat", "reference_image": data_uri(picture)}
    first, second = rig.frontend.generate(**body), rig.frontend.generate(**body)
    with grpc.insecure_channel(rig.stack.grpc_address) as channel:
        uploaded = AdmissionServiceStub(channel).UploadInput(iter([pb.UploadInputRequest(chunk=picture)]), timeout=_PATIENCE_S)
    assert uploaded.image.key == key
    assert rig.keys("inputs") == [key]
    # The lane reads it from the store: there is no other way to it.
    assert [rig.frontend.wait(task_id)["status"] for task_id in (first, second)] == ["done", "done"]


def test_files_are_gone_when_the_task_is_deleted(rig: Rig) -> None:
    status, _ = rig.frontend.render(**_CLIP, prompt="a tree")
    task_id = status["task_id"]
    assert rig.keys(f"results/{task_id}") == [f"results/{task_id}/1/preview.jpg", f"results/{task_id}/1/video.mp4"]
    assert rig.frontend.client.delete(f"/gallery/{task_id}").json() == {"deleted": True, "id": task_id}
    assert _get(rig, f"/status/{task_id}").status_code == 404
    rig.until(lambda: rig.keys(f"results/{task_id}") == [])
    assert _get(rig, f"/results/{task_id}").json()["detail"]["code"] == "task_not_found"


def test_result_is_not_found_when_the_object_is_gone(rig: Rig) -> None:
    status, _ = rig.frontend.render(**_CLIP, prompt="a hill")
    obstore.delete(rig.objects, rig.keys(f"results/{status['task_id']}"))
    for path in ("results", "preview"):
        reply = _get(rig, f"/{path}/{status['task_id']}")
        assert (reply.status_code, reply.json()["detail"]["code"]) == (404, "result_not_found")


class _Later:
    """A clock two days from now."""

    def now(self) -> Reading:
        return Reading(monotonic_s=0.0, utc=datetime.now(UTC) + timedelta(days=2))


async def test_what_nothing_names_is_removed_when_it_is_old(rig: Rig) -> None:
    # A part of the store of its own: the images of the running stack are not this keeper's.
    objects, store = open_object_store(f"{rig.url}/apart"), MemoryStore()
    await store.open()
    epoch = await store.claim_epoch()
    used, unused = (f"inputs/{letter * 64}" for letter in "ab")
    for key in (used, unused, "results/old/1/video.mp4", "results/kept/1/video.mp4"):
        await obstore.put_async(objects, key, b"bytes")
    old = make_task(task_id=TaskId("old"), state=TaskState.DONE, updated_at=datetime.now(UTC) - timedelta(days=40))
    kept = replace(old, task_id=TaskId("kept"), updated_at=datetime.now(UTC), parameters={"reference_image": {"key": used}})
    await store.write(epoch, Batch(tasks=[old, kept]))
    keep = Keep(done=timedelta(days=30), failed=None, events=None, audit=None)
    keeper = Keeper(store=store, access=store.access, objects=objects, clock=_Later(), keep=keep, in_work=InWork(used=frozenset))
    assert await keeper.remove_old(epoch) == 1
    assert [await keeper.remove_unused_inputs() for _ in range(2)] == [0, 1]
    left = [item["path"] for item in await obstore.list(objects).collect_async()]
    assert sorted(left) == [used, "results/kept/1/video.mp4"]
    await store.close()


def test_no_key_of_an_image_is_shown_when_a_task_is_in_the_gallery(rig: Rig, clip: tuple[str, bytes]) -> None:
    page = _get(rig, "/gallery?per_page=100").text
    assert clip[0] in page
    assert "inputs/" not in page
