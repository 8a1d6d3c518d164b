"""Who may call what: the four roles of callers, and for every method of every service the roles that may call it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Role(StrEnum):
    """What a caller is to a server; each role has a token of its own."""

    BRIDGE = "bridge"
    CLIENT = "client"
    LANE = "lane"
    OPERATOR = "operator"


OPEN_SERVICES = frozenset({"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"})
"""Anyone may call these: probes carry no token, and what reflection tells is published."""

_USERS = frozenset({Role.BRIDGE, Role.CLIENT, Role.OPERATOR})
_BRIDGES = frozenset({Role.BRIDGE})
# A bridge lets admins in by their key or session and has the call in the audit log before it passes it on.
_ADMINS = frozenset({Role.BRIDGE, Role.OPERATOR})
_OPERATORS = frozenset({Role.OPERATOR})
_LANES = frozenset({Role.LANE})

CHANNELZ_METHODS = ("GetTopChannels", "GetServers", "GetServer", "GetServerSockets", "GetChannel", "GetSubchannel", "GetSocket")
"""What gRPC tells of its connections; they name the address of every peer."""

ALLOWED: Mapping[str, Mapping[str, frozenset[Role]]] = {
    "warmlane.admission.v1.AdmissionService": {
        "SubmitTask": _USERS,
        "SubmitTasks": _USERS,
        "GetTask": _USERS,
        "WatchTask": _USERS,
        "ListTasks": _USERS,
        "CancelTask": _USERS,
        "DeleteTask": _USERS,
        "ListModels": _USERS,
        "UploadInput": _USERS,
        "ReadResult": _USERS,
    },
    "warmlane.admission.v1.AccessService": {
        "CreateSession": _BRIDGES,
        "CheckSession": _BRIDGES,
        "CountEvent": _BRIDGES,
        "OpenAdminSession": _BRIDGES,
        "AuthorizeAdmin": _BRIDGES,
        "CloseAdminSession": _BRIDGES,
        "ListAudit": _BRIDGES,
    },
    "warmlane.admission.v1.OperatorService": {
        "GetSnapshot": _ADMINS,
        "WatchEvents": _ADMINS,
        "DrainLane": _ADMINS,
        "SetFallback": _ADMINS,
        "ReportCapacity": _OPERATORS,
        "ImportTask": _OPERATORS,
    },
    "warmlane.lane.v1.DispatchService": {"Attach": _LANES},
    "warmlane.lane.v1.InspectionService": {"GetStatus": _OPERATORS},
    "grpc.channelz.v1.Channelz": dict.fromkeys(CHANNELZ_METHODS, _OPERATORS),
}
"""Roles by service and method. What is not named here, nobody may call where tokens are configured."""


def roles_of(method: str) -> frozenset[Role] | None:
    """Who may call `/package.Service/Method`; None: everyone."""
    service, _, name = method.removeprefix("/").partition("/")
    if service in OPEN_SERVICES:
        return None
    return ALLOWED.get(service, {}).get(name, frozenset())
