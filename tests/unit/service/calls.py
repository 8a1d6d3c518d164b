"""Calls of clients, as the tests of the services make them."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Iterator
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from PIL import Image
from warmlane.admission.v1 import admission_service_pb2 as pb
from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceStub
from warmlane.generation.v1 import generation_pb2

from runtime.errors import ServiceError
from runtime.rpc_errors import service_error
from tests.unit.service.conftest import Stack

if TYPE_CHECKING:
    from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceAsyncStub


def client(stack: Stack) -> AdmissionServiceAsyncStub:
    """What clients call."""
    return AdmissionServiceStub(stack.channel)


async def error_of(call: Awaitable[object]) -> ServiceError:
    """What the call is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return service_error(caught.value)


def a_submission(**fields: Any) -> pb.SubmitTaskRequest:
    """A request that fits every rule, but for the given fields."""
    values = {"model": "anisora", "prompt": "a lake"} | fields
    return pb.SubmitTaskRequest(request=generation_pb2.GenerationRequest(**values), owner="key")


def png(size: tuple[int, int] = (32, 16)) -> bytes:
    """A small picture."""
    content = io.BytesIO()
    Image.new("RGB", size, "teal").save(content, "PNG")
    return content.getvalue()


def chunks(content: bytes, size: int = 64 * 1024) -> Iterator[pb.UploadInputRequest]:
    """The content as an upload."""
    for start in range(0, len(content), size):
        yield pb.UploadInputRequest(chunk=content[start : start + size])
