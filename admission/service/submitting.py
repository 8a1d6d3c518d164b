"""Submissions: what one must look like, and how many that come in one call are each answered, counted and traced as one of its own."""

from __future__ import annotations

import re
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from warmlane.admission.v1 import admission_service_pb2 as pb

from admission.engine_types import Accepted, Submission
from admission.service import convert
from admission.service.errors import invalid, translate
from runtime.rpc_errors import to_status
from runtime.rpc_handlers import as_told
from runtime.rules.check import check_request
from runtime.rules.request import Violation
from runtime.traces import names
from runtime.traces.context import parse, stored
from runtime.traces.current import OpenSpan, current, entered
from runtime.wire import message_to_raw

if TYPE_CHECKING:
    from admission.service.port import Controller
    from runtime.errors import ServiceError
    from runtime.rpc_observer import RpcObserver
    from runtime.traces.rpc import RpcTraces

MAX_REQUEST_ID_CHARACTERS = 128
MAX_WAITED_S = 30.0
"""The longest that any admission holds a request."""
MAX_ITEMS = 64
"""In one call: what is checked in one turn of the event loop, which others wait for."""

SUBMIT_TASK = f"/{pb.DESCRIPTOR.services_by_name['AdmissionService'].full_name}/SubmitTask"
"""What counts and spans of every submission are called, however it came."""

_REQUEST_ID = re.compile(rf"[\x20-\x7e]{{0,{MAX_REQUEST_ID_CHARACTERS}}}")


def submission_of(message: pb.SubmitTaskRequest) -> Submission:
    """What is asked, checked whole; raises `validation_error` or InvalidRequestError."""
    wrong = []
    if not convert.may_be_owner(message.owner):
        wrong.append(Violation(field="owner", message=convert.OWNER_FORM))
    if _REQUEST_ID.fullmatch(message.request_id) is None:
        wrong.append(
            Violation(field="request_id", message=f"must have at most {MAX_REQUEST_ID_CHARACTERS} characters, printable ASCII only")
        )
    waited_s = convert.seconds(message.waited) if message.HasField("waited") else 0.0
    if not 0.0 <= waited_s <= MAX_WAITED_S:
        wrong.append(Violation(field="waited", message=f"must be 0 to {MAX_WAITED_S:g} s"))
    if message.abandon and not message.request_id:
        wrong.append(Violation(field="abandon", message="needs a request_id"))
    if wrong:
        raise invalid(*wrong)
    return Submission(
        request=check_request(message_to_raw(message.request)),
        owner=message.owner,
        request_id=message.request_id,
        waited_s=waited_s,
        abandon=message.abandon,
        trace=stored(current()),
    )


@dataclass(slots=True, kw_only=True)
class _Item:
    """One of several; `outcome` None: it must be asked by itself."""

    span: tuple[OpenSpan, str] | None
    submission: Submission | None = None
    outcome: Accepted | Exception | None = None


class Submitting:
    """Several submissions in one call."""

    def __init__(self, controller: Controller, *, observer: RpcObserver | None, traces: RpcTraces | None) -> None:
        """Tells each to them as a call of SubmitTask."""
        self._controller = controller
        self._ended = None if observer is None else observer.method(SUBMIT_TASK)
        self._traces = traces

    async def submit(self, request: pb.SubmitTasksRequest) -> pb.SubmitTasksResponse:
        """One answer for each, in their order. Raises `validation_error` when there are too many."""
        if len(request.items) > MAX_ITEMS:
            raise invalid(Violation(field="items", message=f"must be at most {MAX_ITEMS}"))
        started_s, began_ns = time.perf_counter(), time.time_ns() if self._traces is not None else 0
        items = [self._looked_at(message) for message in request.items]
        wanted = [item for item in items if item.submission is not None]
        try:
            outcomes = await self._controller.submit_together([item.submission for item in wanted if item.submission is not None])
        except BaseException:
            for item in wanted:
                self._tell(item, grpc.StatusCode.CANCELLED, started_s, began_ns)
            raise
        for item, outcome in zip(wanted, outcomes, strict=True):
            item.outcome = outcome
        return pb.SubmitTasksResponse(answers=[self._answer(item, started_s, began_ns) for item in items])

    def _looked_at(self, message: pb.SubmitTasksItem) -> _Item:
        item = _Item(span=self._span(message))
        with nullcontext() if item.span is None else entered(item.span[0]):
            try:
                submission = submission_of(message.submission)
            except Exception as error:
                item.outcome = error
                return item
        if not submission.request.images():
            item.submission = submission
        return item

    def _span(self, message: pb.SubmitTasksItem) -> tuple[OpenSpan, str] | None:
        if self._traces is None:
            return None
        return self._traces.begin(parse(message.traceparent, message.tracestate) if message.traceparent else None, SUBMIT_TASK)

    def _answer(self, item: _Item, started_s: float, began_ns: int) -> pb.SubmitTasksAnswer:
        outcome = item.outcome
        if outcome is None:
            # Told by the call that it makes next.
            return pb.SubmitTasksAnswer(ask_singly=True)
        if isinstance(outcome, Accepted):
            self._tell(item, grpc.StatusCode.OK, started_s, began_ns, task_id=outcome.task.task_id)
            return pb.SubmitTasksAnswer(task_id=outcome.task.task_id)
        told = as_told(outcome, translate, SUBMIT_TASK)
        code, details = to_status(told)
        self._tell(item, code, started_s, began_ns, refusal=told)
        return pb.SubmitTasksAnswer(refusal=details)

    def _tell(
        self,
        item: _Item,
        code: grpc.StatusCode,
        started_s: float,
        began_ns: int,
        *,
        task_id: str = "",
        refusal: ServiceError | None = None,
    ) -> None:
        if self._ended is not None:
            self._ended(code, time.perf_counter() - started_s)
        if self._traces is None or item.span is None:
            return
        attributes = item.span[0].attributes
        attributes[names.DECISION] = "accepted" if task_id else "refused"
        if task_id:
            attributes[names.TASK] = task_id
        if refusal is not None:
            attributes[names.CODE] = refusal.code
        if item.submission is not None:
            attributes[names.MODEL] = item.submission.request.model
        self._traces.end(*item.span, SUBMIT_TASK, began_ns, code)
