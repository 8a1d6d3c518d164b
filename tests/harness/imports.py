"""Ended tasks of an earlier system, as ImportTask takes them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from PIL import Image
from warmlane.admission.v1 import operator_service_pb2 as pb
from warmlane.admission.v1 import task_pb2
from warmlane.generation.v1 import generation_pb2

CREATED_AT = datetime(2025, 6, 1, 12, 0, 0, 250_000, tzinfo=UTC)
UPDATED_AT = CREATED_AT + timedelta(minutes=3)
OLD_ID = "Old_task-1"

MP4 = b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(range(256)) * 40
"""Begins as an MP4 does; what follows is looked at by nobody here."""
WEBM = b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\xf7\x81\x01\x42\xf2\x81\x04\x42\xf3\x81\x08\x42\x82\x84webm" + bytes(200)


def jpeg(colour: str = "teal") -> bytes:
    """A small picture."""
    content = io.BytesIO()
    Image.new("RGB", (32, 16), colour).save(content, "JPEG")
    return content.getvalue()


def stamp(moment: datetime) -> Timestamp:
    """A time as a message."""
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def old_task(task_id: str = OLD_ID, **changes: Any) -> pb.ImportedTask:
    """A done task of anisora; `changes` are fields of the message, None clears one."""
    request = generation_pb2.GenerationRequest(
        model="anisora", mode="i2v", prompt="a lake", negative_prompt="rain", width=512, height=256, seed=7, num_frames=17, fps=16
    )
    fields: dict[str, Any] = {
        "task_id": task_id,
        "state": task_pb2.TASK_STATE_DONE,
        "request": request,
        "media_type": "video/mp4",
        "lane_mode": task_pb2.LANE_MODE_DEDICATED,
        "created_at": stamp(CREATED_AT),
        "updated_at": stamp(UPDATED_AT),
    }
    return pb.ImportedTask(**{name: value for name, value in (fields | changes).items() if value is not None})


def failed_task(task_id: str = OLD_ID, **changes: Any) -> pb.ImportedTask:
    """A failed task."""
    failure = generation_pb2.Failure(code="render_failed", message="It broke.")
    return old_task(task_id, **{"state": task_pb2.TASK_STATE_FAILED, "media_type": None, "failure": failure, **changes})


def parts(task: pb.ImportedTask | None, video: bytes = b"", preview: bytes = b"", *, piece: int = 4096) -> Iterator[pb.ImportTaskRequest]:
    """The task, which announces these files unless it says something else, then the files in pieces of so many bytes."""
    if task is not None:
        announced = pb.ImportedTask(result_size_bytes=len(video), preview_size_bytes=len(preview))
        announced.MergeFrom(task)
        yield pb.ImportTaskRequest(task=announced)
    for start in range(0, len(video), piece):
        yield pb.ImportTaskRequest(result_chunk=video[start : start + piece])
    for start in range(0, len(preview), piece):
        yield pb.ImportTaskRequest(preview_chunk=preview[start : start + piece])
