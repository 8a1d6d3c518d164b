"""The table of processes that `warmlane up` runs, as data: what each is called, how it starts, when it is stopped."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from command_line.up.folder import DataFolder
from command_line.up.ports import GRPC_OPTION, HTTP_OPTION, LOOPBACK, Listener, Ports, metrics_of

ADMISSION = "admission"
HTTP_BRIDGE = "http-bridge"
DEGRADED_POOL = "degraded-pool"
DEDICATED_LANES: Mapping[str, str] = {"lane-anisora": "anisora", "lane-phr00t": "phr00t"}
"""Lane to the model that it keeps warm."""

LANES = (*DEDICATED_LANES, DEGRADED_POOL)
ALL_PROCESSES = (ADMISSION, *LANES, HTTP_BRIDGE)

# The design's default ports.
_DEFAULT_PORTS: Mapping[str, int] = {ADMISSION: 50051, "lane-anisora": 50061, "lane-phr00t": 50062, DEGRADED_POOL: 50063, HTTP_BRIDGE: 8080}
_DEFAULT_METRICS_PORTS: Mapping[str, int] = {
    HTTP_BRIDGE: 9100,
    ADMISSION: 9101,
    "lane-anisora": 9102,
    "lane-phr00t": 9103,
    DEGRADED_POOL: 9104,
}


BRIDGE_TOKEN = "WARMLANE_BRIDGE_TOKEN"  # noqa: S105 - the name of a variable, as are the others
LANE_TOKEN = "WARMLANE_LANE_TOKEN"  # noqa: S105
OPERATOR_TOKEN = "WARMLANE_OPERATOR_TOKEN"  # noqa: S105
TOKENS = (BRIDGE_TOKEN, LANE_TOKEN, OPERATOR_TOKEN, "WARMLANE_CLIENT_TOKEN")

_KEYS = frozenset({"WARMLANE_API_KEY", "WARMLANE_ADMIN_KEY", "WARMLANE_IMAGE_UPSTREAM_KEY", "WARMLANE_ACCOUNTS_UPSTREAM_KEY"})
_SECRETS_OF: Mapping[str, frozenset[str]] = {
    ADMISSION: frozenset({"WARMLANE_DATABASE_URL", *TOKENS}),
    HTTP_BRIDGE: _KEYS | {BRIDGE_TOKEN},
    # A lane shows its own token to admission, and knows by the operators' who may look into it.
    **dict.fromkeys(LANES, frozenset({LANE_TOKEN, OPERATOR_TOKEN})),
}
"""What each process needs of what is secret; nobody else has it."""
_SECRETS = frozenset().union(*_SECRETS_OF.values())


class StopStage(IntEnum):
    """Who is stopped first: the doors, so that nothing new comes in, then the workers, then the one that records their last reports."""

    DOOR = 0
    WORKER = 1
    RECORD = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process of the table.

    Attributes:
        name: as in the design's table; names its files and its log.
        command: what to execute.
        environment: its whole environment.
        stop_stage: processes of one stage are stopped together, after those of the stages before.
        stop_grace_s: from SIGTERM to SIGKILL.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    stop_stage: StopStage
    stop_grace_s: float = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """What the caller of `warmlane up` chose.

    Attributes:
        profile: `tiny` or `a10g`.
        processes: names of those to run, in the order of the table.
        api_key: opens the HTTP API.
        admin_key: opens its admin paths.
    """

    profile: str
    processes: Sequence[str]
    api_key: str
    admin_key: str


def listeners(processes: Sequence[str], *, http_port: int | None, grpc_port: int | None) -> list[Listener]:
    """Who of the processes listens where, by the options as given."""
    named = {ADMISSION: grpc_port, HTTP_BRIDGE: http_port}
    services = [
        Listener(
            process=name,
            default=_DEFAULT_PORTS[name],
            option=HTTP_OPTION if name == HTTP_BRIDGE else GRPC_OPTION,
            named=named.get(name),
        )
        for name in processes
    ]
    metrics = [
        Listener(process=metrics_of(name), default=_DEFAULT_METRICS_PORTS[name], option=GRPC_OPTION, named=None) for name in processes
    ]
    return services + metrics


def admission_address(options: StackOptions, ports: Ports, inherited: Mapping[str, str]) -> str:
    """Where admission answers: in this stack, or, when it was left out, where the environment says."""
    if ADMISSION in options.processes:
        return f"{LOOPBACK}:{ports.by_process[ADMISSION]}"
    return inherited.get("WARMLANE_ADMISSION_ADDRESS", f"{LOOPBACK}:{_DEFAULT_PORTS[ADMISSION]}")


def stack_processes(
    options: StackOptions, *, ports: Ports, folder: DataFolder, inherited: Mapping[str, str], devices: Mapping[str, str]
) -> list[Process]:
    """The processes to run.

    Args:
        options: what the caller chose.
        ports: where each listens.
        folder: where database, objects and models lie unless `inherited` says otherwise.
        inherited: environment of the caller.
        devices: GPU of each lane as CUDA_VISIBLE_DEVICES; a lane that is missing sees them all.
    """
    shared = _shared_environment(options, ports, folder, inherited)
    return [_process(name, shared, options, ports, devices) for name in options.processes]


def _shared_environment(options: StackOptions, ports: Ports, folder: DataFolder, inherited: Mapping[str, str]) -> dict[str, str]:
    defaults = {
        "WARMLANE_DATABASE_URL": f"sqlite:///{folder.root / 'admission.db'}",
        "WARMLANE_OBJECT_STORE_URL": (folder.root / "objects").as_uri(),
        "WARMLANE_MODELS_DIR": str(folder.root / "models"),
        # Plain http on this machine: a browser would drop a cookie that is for https only.
        "WARMLANE_COOKIE_SECURE": "false",
        # On one machine a stop means all of it: somebody waits for the prompt, and a clip that is cut off runs again at the next start.
        "WARMLANE_DRAIN_GRACE_S": "5",
        # Its C library tells every handshake that fails in lines of its own.
        "GRPC_VERBOSITY": "ERROR",
        # Logs are read while things go wrong.
        "PYTHONUNBUFFERED": "1",
    }
    if options.profile == "tiny":
        defaults["WARMLANE_DEVICE"] = "cpu"
    decided = {
        "WARMLANE_PROFILE": options.profile,
        "WARMLANE_ADMISSION_ADDRESS": admission_address(options, ports, inherited),
    }
    return defaults | dict(inherited) | decided


def _process(name: str, shared: Mapping[str, str], options: StackOptions, ports: Ports, devices: Mapping[str, str]) -> Process:
    bind = f"{LOOPBACK}:{ports.by_process[name]}"
    if name == ADMISSION:
        own, stage = {"WARMLANE_ADMISSION_BIND": bind}, StopStage.RECORD
    elif name == HTTP_BRIDGE:
        own = {"WARMLANE_HTTP_BIND": bind, "WARMLANE_API_KEY": options.api_key, "WARMLANE_ADMIN_KEY": options.admin_key}
        stage = StopStage.DOOR
    else:
        own, stage = {"WARMLANE_LANE_ID": name, "WARMLANE_INSPECTION_BIND": bind}, StopStage.WORKER
        if name in devices:
            own["CUDA_VISIBLE_DEVICES"] = devices[name]
    withheld = _SECRETS - _SECRETS_OF[name]
    environment = {variable: value for variable, value in shared.items() if variable not in withheld}
    own["WARMLANE_METRICS_BIND"] = f"{LOOPBACK}:{ports.by_process[metrics_of(name)]}"
    command = (sys.executable, "-m", name.replace("-", "_"))
    return Process(name=name, command=command, environment=environment | own, stop_stage=stage)
