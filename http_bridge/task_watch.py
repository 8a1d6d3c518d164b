"""One watch of a task: the stream of admission that tells its changes, with a bounded wait for the first, closed with its reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import grpc
from warmlane.admission.v1 import admission_service_pb2 as admission

from http_bridge.calls import CALL_TIMEOUT_S
from runtime.errors import ErrorCode, ServiceError
from runtime.rpc_errors import service_error

if TYPE_CHECKING:
    from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceAsyncStub

# Admission ends a watch after 30 minutes.
_WATCH_TIMEOUT_S = 35 * 60.0


async def watch_task(
    stub: AdmissionServiceAsyncStub, task_id: str, after_sequence: int, only_owner: str
) -> AsyncGenerator[admission.WatchTaskResponse, None]:
    """See `AdmissionClient.watch_task`."""
    message = admission.WatchTaskRequest(task_id=task_id, after_sequence=after_sequence, only_owner=only_owner)
    call = stub.WatchTask(message, timeout=_WATCH_TIMEOUT_S)
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            change = await call.read()
        while isinstance(change, admission.WatchTaskResponse):
            yield change
            change = await call.read()
    except TimeoutError:
        raise ServiceError(code=ErrorCode.SERVICE_UNAVAILABLE, message="Admission did not answer in time.", retry_after_s=1.0) from None
    except grpc.RpcError as error:
        raise service_error(error) from error
    finally:
        call.cancel()
