"""What the shell offers after TAB: tasks, lanes and models of the running stack. Never an error, and never more than a second."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Sequence

import grpc.aio
import typer
from warmlane.admission.v1 import admission_service_pb2 as admission
from warmlane.admission.v1 import operator_service_pb2 as operators
from warmlane.admission.v1 import task_pb2
from warmlane.admission.v1.admission_service_pb2_grpc import AdmissionServiceStub
from warmlane.admission.v1.operator_service_pb2_grpc import OperatorServiceStub

from command_line.address import find_admission
from command_line.credentials import credentials_of
from command_line.documents import enum_name
from command_line.up.processes import ALL_PROCESSES
from runtime.fit.gpus import GPUS
from runtime.roles import Role
from runtime.rpc import create_channel
from runtime.rules.catalogue import MODELS

_PATIENCE_S = 1.0
# As many as somebody still looks through.
_TASKS = 50

Offers = list[tuple[str, str]]
"""Words, each with what the shell says beside it."""

_Look = Callable[[grpc.aio.Channel], Awaitable[Offers]]


def complete_task(context: typer.Context, incomplete: str) -> Offers:
    """The newest tasks."""
    return _matching(_from_stack(context, _tasks, Role.CLIENT), incomplete)


def complete_unfinished_task(context: typer.Context, incomplete: str) -> Offers:
    """Those that can still be cancelled."""
    states = (task_pb2.TASK_STATE_QUEUED, task_pb2.TASK_STATE_LEASED)
    return _matching(_from_stack(context, lambda channel: _tasks(channel, states), Role.CLIENT), incomplete)


def complete_lane(context: typer.Context, incomplete: str) -> Offers:
    """Every lane that admission knows."""
    return _matching(_from_stack(context, _lanes, Role.OPERATOR), incomplete)


def complete_model(context: typer.Context, incomplete: str) -> Offers:
    """The models of the running stack; without one, those of this program."""
    offers = _from_stack(context, _models, Role.CLIENT)
    return _matching(offers or [(model, rules.name) for model, rules in MODELS.items()], incomplete)


def complete_mode(incomplete: str) -> Offers:
    """The modes of any model."""
    modes = dict.fromkeys(mode for rules in MODELS.values() for mode in rules.modes)
    told = [(mode, " and ".join(model for model, rules in MODELS.items() if mode in rules.modes)) for mode in modes]
    return _matching(told, incomplete)


def complete_process(incomplete: str) -> Offers:
    """The processes of a stack."""
    return _matching([(name, "") for name in ALL_PROCESSES], incomplete)


def complete_gpu(incomplete: str) -> Offers:
    """The GPUs that are known by name."""
    return _matching([(name, limits.gpu) for name, limits in GPUS.items()], incomplete)


def _matching(offers: Iterable[tuple[str, str]], incomplete: str) -> Offers:
    return [(word, told) for word, told in offers if word.startswith(incomplete)]


def _from_stack(context: typer.Context, look: _Look, role: Role) -> Offers:
    """What the stack says; nothing where it does not say it in time. Whatever is wrong, somebody is typing and wants no traceback."""
    try:
        address = find_admission(context.params.get("address") or os.environ.get("WARMLANE_ADMISSION_ADDRESS"))
        return asyncio.run(_looked(address, look, role))
    except Exception:
        return []


async def _looked(address: str, look: _Look, role: Role) -> Offers:
    async with asyncio.timeout(_PATIENCE_S), create_channel(address, credentials_of(os.environ, role, address)) as channel:
        return await look(channel)


async def _tasks(channel: grpc.aio.Channel, states: Sequence[task_pb2.TaskState.ValueType] = ()) -> Offers:
    request = admission.ListTasksRequest(page_size=_TASKS, states=states)
    answer = await AdmissionServiceStub(channel).ListTasks(request, timeout=_PATIENCE_S)
    return [
        (task.task_id, f"{task.request.model}, {enum_name(task_pb2.TaskState.DESCRIPTOR, task.state)}, {task.created_at.ToJsonString()}")
        for task in answer.tasks
    ]


async def _lanes(channel: grpc.aio.Channel) -> Offers:
    answer = await OperatorServiceStub(channel).GetSnapshot(operators.GetSnapshotRequest(), timeout=_PATIENCE_S)
    return [(lane.lane_id, " and ".join(lane.models)) for lane in answer.lanes]


async def _models(channel: grpc.aio.Channel) -> Offers:
    answer = await AdmissionServiceStub(channel).ListModels(admission.ListModelsRequest(), timeout=_PATIENCE_S)
    return [(model.id, model.name) for model in answer.models]
