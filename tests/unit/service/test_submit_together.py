"""SubmitTasks over a real channel, with a double behind it: each item as a call of SubmitTask would be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from warmlane.admission.v1 import admission_service_pb2 as pb

from admission.core.commands import OverloadCause, Refusal, RefusalCode, ReplyOverloaded
from admission.core.tasks import Model, TaskId
from admission.engine_types import OverloadedError, RefusedError
from admission.service.submitting import MAX_ITEMS, SUBMIT_TASK, Submitting
from admission.store.port import StoreUnavailableError
from runtime.errors import ErrorCode, ServiceError
from runtime.metrics.registry import Registry
from runtime.metrics.rpc import RpcMetrics
from runtime.objects import input_key
from runtime.rpc_errors import of_status
from runtime.traces import names
from runtime.traces.context import stored
from runtime.traces.rpc import RpcTraces
from tests.harness.metrics import page_of
from tests.unit.service.calls import a_submission, client, error_of
from tests.unit.service.conftest import Stack
from tests.unit.service.double import ControllerDouble, a_task, a_view
from tests.unit.traces.spans import CONTEXT, TRACE, Kept

OVERLOADED = OverloadedError(
    ReplyOverloaded(
        task_id=TaskId("1" * 32), model=Model("anisora"), cause=OverloadCause.DEPTH, depth=25, max_depth=25, waited_s=0.0,
        max_wait_s=30.0, retry_after_s=3.2,
    )
)  # fmt: skip
REFUSED = RefusedError(
    Refusal(code=RefusalCode.VRAM_EXCEEDED, predicted_bytes=2**35, limit_bytes=2**34, placement="streamed", max_num_frames=49)
)


def an_item(key: str = "k", **fields: Any) -> pb.SubmitTasksItem:
    """One that can be gathered, but for the given fields of its request."""
    submission = a_submission(**fields)
    submission.request_id, submission.abandon = key, True
    return pb.SubmitTasksItem(submission=submission)


async def answers_of(stack: Stack, *items: pb.SubmitTasksItem) -> list[pb.SubmitTasksAnswer]:
    """What they are answered."""
    return list((await client(stack).SubmitTasks(pb.SubmitTasksRequest(items=items), timeout=5)).answers)


def facts(error: ServiceError) -> tuple[object, ...]:
    """Everything that is told."""
    return (error.code, error.message, error.metadata, error.retry_after_s, error.violations)


async def test_every_item_has_its_answer_in_its_place(stack: Stack) -> None:
    stack.controller.answers = {
        "one": a_task(task_id=TaskId("1" * 32)),
        "two": OVERLOADED,
        "three": None,
        "four": a_task(task_id=TaskId("4" * 32)),
    }
    wrong = an_item(prompt="five", steps=30)

    answers = await answers_of(stack, an_item(prompt="one"), an_item(prompt="two"), wrong, an_item(prompt="three"), an_item(prompt="four"))

    assert [answer.WhichOneof("answer") for answer in answers] == ["task_id", "refusal", "refusal", "ask_singly", "task_id"]
    assert (answers[0].task_id, answers[4].task_id) == ("1" * 32, "4" * 32)
    assert of_status(answers[1].refusal).code == ErrorCode.QUEUE_OVERLOADED
    assert [violation.field for violation in of_status(answers[2].refusal).violations] == ["steps"]
    # What broke the rules came no further.
    assert [one.request.prompt for one in stack.controller.submitted] == ["one", "two", "three", "four"]


@pytest.mark.parametrize("error", [OVERLOADED, REFUSED, StoreUnavailableError("disk full")], ids=lambda error: type(error).__name__)
async def test_refusal_is_that_of_a_single_call(stack: Stack, error: Exception) -> None:
    stack.controller.answer = error
    [answer] = await answers_of(stack, an_item())
    assert facts(of_status(answer.refusal)) == facts(await error_of(client(stack).SubmitTask(a_submission(), timeout=5)))


@pytest.mark.parametrize(
    "fields", [{"prompt": " ", "steps": 9, "width": 8}, {"model": "no-such"}, {"mode": "i2v"}, {"prompt": "\x00"}], ids=repr
)
async def test_broken_rules_are_told_as_by_a_single_call(stack: Stack, fields: dict[str, Any]) -> None:
    [answer] = await answers_of(stack, an_item(**fields))
    assert facts(of_status(answer.refusal)) == facts(await error_of(client(stack).SubmitTask(a_submission(**fields), timeout=5)))


async def test_error_that_nobody_knows_is_told_with_an_id_and_hurts_no_other(stack: Stack) -> None:
    stack.controller.answers = {"odd": ZeroDivisionError("secret")}
    odd, other = await answers_of(stack, an_item(prompt="odd"), an_item(prompt="a lake"))
    told = of_status(odd.refusal)
    assert (told.code, "secret" in told.message, len(told.metadata["error_id"])) == (ErrorCode.INTERNAL, False, 12)
    assert other.task_id


async def test_item_with_images_is_asked_singly(stack: Stack) -> None:
    with_image = an_item(mode="i2v", reference_image={"key": input_key(b"x")})
    assert [answer.ask_singly for answer in await answers_of(stack, with_image)] == [True]
    assert stack.controller.submitted == []


async def test_call_is_refused_whole_when_it_has_too_many_items(stack: Stack) -> None:
    assert len(await answers_of(stack, *[an_item()] * MAX_ITEMS)) == MAX_ITEMS
    many = pb.SubmitTasksRequest(items=[an_item()] * (MAX_ITEMS + 1))
    error = await error_of(client(stack).SubmitTasks(many, timeout=5))
    assert (error.code, [violation.field for violation in error.violations]) == (ErrorCode.VALIDATION_ERROR, ["items"])
    assert await answers_of(stack) == []


async def test_all_are_left_when_the_caller_hangs_up(stack: Stack) -> None:
    stack.controller.answer = None
    call = client(stack).SubmitTasks(pb.SubmitTasksRequest(items=[an_item(), an_item("l")]), timeout=30)
    await asyncio.wait_for(stack.controller.begun.wait(), 5)
    call.cancel()
    await asyncio.wait_for(stack.controller.left.wait(), 5)


async def test_call_ends_with_service_unavailable_when_admission_stops(stack: Stack) -> None:
    stack.controller.answer = None
    call = asyncio.ensure_future(error_of(client(stack).SubmitTasks(pb.SubmitTasksRequest(items=[an_item()]), timeout=30)))
    await asyncio.wait_for(stack.controller.begun.wait(), 5)
    stack.doors.close()
    error = await call
    assert (error.code, error.metadata["admission"]) == (ErrorCode.SERVICE_UNAVAILABLE, "stopping")


async def test_only_waiting_tasks_are_cancelled_when_that_is_asked(stack: Stack) -> None:
    task = a_task()
    stack.controller.tasks[task.task_id] = a_view(task)
    await client(stack).CancelTask(pb.CancelTaskRequest(task_id=task.task_id, only_waiting=True), timeout=5)
    await client(stack).CancelTask(pb.CancelTaskRequest(task_id=task.task_id), timeout=5)
    assert stack.controller.only_waiting == [True, False]


def traced(item: pb.SubmitTasksItem) -> pb.SubmitTasksItem:
    """Asked for in a trace."""
    item.traceparent, item.tracestate = CONTEXT.traceparent, CONTEXT.state
    return item


async def test_each_item_is_counted_and_traced_as_a_call_of_its_own() -> None:
    controller, tracer, registry = ControllerDouble(), Kept(), Registry("test")
    controller.answers = {"full": OVERLOADED, "held": None}
    together = Submitting(controller, observer=RpcMetrics(registry), traces=RpcTraces(tracer, roots=(SUBMIT_TASK,)))
    items = [traced(an_item()), traced(an_item(prompt="full")), traced(an_item(prompt="held")), traced(an_item(steps=30)), an_item()]

    await together.submit(pb.SubmitTasksRequest(items=items))

    method = SUBMIT_TASK.removeprefix("/")
    page = page_of(registry)
    counted = {
        code: page.value("grpc_requests_total", method=method, code=code) for code in ("OK", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT")
    }
    # The one that is asked singly is told of by the call that follows.
    assert counted == {"OK": 2, "RESOURCE_EXHAUSTED": 1, "INVALID_ARGUMENT": 1}
    spans = [span for span in tracer.spans if span.context.trace_id == TRACE]
    assert {(span.name, span.parent_id) for span in spans} == {(method, CONTEXT.span_id)}
    assert [span.attributes[names.DECISION] for span in spans] == ["accepted", "refused", "refused"]
    assert [span.attributes.get(names.CODE) for span in spans] == [None, "queue_overloaded", "validation_error"]
    assert spans[0].attributes[names.TASK] == a_task().task_id
    # What becomes of the task hangs below its own span.
    assert controller.submitted[0].trace == stored(spans[0].context)
    [own] = [span for span in tracer.spans if span.context.trace_id != TRACE]
    assert (own.parent_id, own.attributes[names.DECISION]) == ("", "accepted")


async def test_each_item_is_counted_as_cancelled_when_the_caller_leaves() -> None:
    controller, registry = ControllerDouble(), Registry("test")
    controller.answer = None
    together = Submitting(controller, observer=RpcMetrics(registry), traces=None)
    asking = asyncio.create_task(together.submit(pb.SubmitTasksRequest(items=[an_item(), an_item()])))
    await asyncio.wait_for(controller.begun.wait(), 5)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert page_of(registry).value("grpc_requests_total", method=SUBMIT_TASK.removeprefix("/"), code="CANCELLED") == 2
