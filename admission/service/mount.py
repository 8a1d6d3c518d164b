"""Which services admission serves, under which names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from warmlane.admission.v1 import access_service_pb2, admission_service_pb2, operator_service_pb2
from warmlane.admission.v1.access_service_pb2_grpc import add_AccessServiceServicer_to_server
from warmlane.admission.v1.admission_service_pb2_grpc import add_AdmissionServiceServicer_to_server
from warmlane.admission.v1.operator_service_pb2_grpc import add_OperatorServiceServicer_to_server
from warmlane.lane.v1 import dispatch_service_pb2
from warmlane.lane.v1.dispatch_service_pb2_grpc import add_DispatchServiceServicer_to_server

from admission.service.access import AccessService
from admission.service.clients import AdmissionService
from admission.service.files import Files
from admission.service.lanes import DispatchService
from admission.service.operators import OperatorService
from admission.service.recycling import STREAM_LIFE_S
from runtime.images import check_image

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc.aio
    from obstore.store import ObjectStore

    from admission.service.doors import Doors
    from admission.service.port import AccessController, Controller
    from runtime.clock import Clock
    from runtime.images import CheckedImage
    from runtime.rpc_observer import RpcObserver
    from runtime.traces.rpc import RpcTraces

ADMISSION = admission_service_pb2.DESCRIPTOR.services_by_name["AdmissionService"].full_name
ACCESS = access_service_pb2.DESCRIPTOR.services_by_name["AccessService"].full_name
OPERATOR = operator_service_pb2.DESCRIPTOR.services_by_name["OperatorService"].full_name
DISPATCH = dispatch_service_pb2.DESCRIPTOR.services_by_name["DispatchService"].full_name

NAMES = (ADMISSION, ACCESS, OPERATOR, DISPATCH)
"""Full names, as health and reflection tell them."""


def services(  # noqa: PLR0913  # everything that the services stand on
    *,
    controller: Controller,
    access: AccessController,
    objects: ObjectStore,
    clock: Clock,
    doors: Doors,
    stream_life_s: float = STREAM_LIFE_S,
    check_image: Callable[[bytes], CheckedImage] = check_image,
    observer: RpcObserver | None = None,
    traces: RpcTraces | None = None,
) -> dict[str, Callable[[grpc.aio.Server], None]]:
    """What adds each service to a server, by its full name. Watching streams end after `stream_life_s`; images are looked at by
    `check_image`, in a thread; `observer` and `traces` are told of what comes in one call with others."""
    files = Files(objects)
    clients = AdmissionService(
        controller=controller,
        files=files,
        doors=doors,
        stream_life_s=stream_life_s,
        check_image=check_image,
        observer=observer,
        traces=traces,
    )
    sessions = AccessService(access=access, doors=doors)
    operators = OperatorService(controller=controller, clock=clock, doors=doors, stream_life_s=stream_life_s)
    lanes = DispatchService(controller=controller, doors=doors)
    return {
        ADMISSION: lambda server: add_AdmissionServiceServicer_to_server(clients, server),
        ACCESS: lambda server: add_AccessServiceServicer_to_server(sessions, server),
        OPERATOR: lambda server: add_OperatorServiceServicer_to_server(operators, server),
        DISPATCH: lambda server: add_DispatchServiceServicer_to_server(lanes, server),
    }
