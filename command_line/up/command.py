"""Composition of `warmlane up`: options and environment in, a running stack out."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from command_line.address import DEFAULT_DATA_DIR
from command_line.credentials import credentials_of
from command_line.failures import CommandError
from command_line.up.credentials import check_credentials
from command_line.up.first_steps import first_steps
from command_line.up.folder import DataFolder
from command_line.up.gpus import assign_gpus, visible_gpus
from command_line.up.leftovers import MARK, end_leftovers
from command_line.up.ports import Ports
from command_line.up.processes import ALL_PROCESSES, LANES, StackOptions, admission_address, listeners, stack_processes
from command_line.up.readiness import wanted
from command_line.up.screen import Screen
from command_line.up.stack import Plan, run_stack
from runtime.roles import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class UpArguments:
    """The options of `warmlane up` as they were given.

    Attributes:
        profile: `tiny` or `a10g`.
        data_dir: where everything is kept.
        http_port: of the bridge; 0 picks a free one; None when not given.
        grpc_port: of admission; 0 picks a free one; None when not given. Given, every port that is not named is picked free.
        without: processes to leave out.
    """

    profile: str
    data_dir: Path
    http_port: int | None
    grpc_port: int | None
    without: Sequence[str]


def run_up(arguments: UpArguments, environment: Mapping[str, str]) -> None:
    """Runs a stack until it is told to stop. Raises CommandError when it cannot start."""
    names = _chosen_processes(arguments.without)
    # As in a file of settings, a variable without a value is one that was not set.
    environment = {name: value for name, value in environment.items() if value or not name.startswith("WARMLANE_")}
    check_credentials(names, environment)
    folder = DataFolder(arguments.data_dir)
    folder.create()
    screen = Screen(Console())
    with folder.held():
        if end_leftovers(folder.root):
            screen.line("processes of an earlier run on this folder, whose `warmlane up` was killed, were ended")
        options = StackOptions(
            profile=arguments.profile,
            processes=names,
            api_key=environment.get("WARMLANE_API_KEY", secrets.token_urlsafe(24)),
            admin_key=environment.get("WARMLANE_ADMIN_KEY", secrets.token_urlsafe(24)),
        )
        inherited = {**environment, MARK: str(folder.root)}
        make_plan = partial(_plan, options=options, folder=folder, inherited=inherited, devices=_devices(options, environment))
        asyncio.run(
            run_stack(
                listeners(names, http_port=arguments.http_port, grpc_port=arguments.grpc_port),
                make_plan,
                side_by_side=arguments.grpc_port is not None,
                folder=folder,
                screen=screen,
            )
        )


def _plan(ports: Ports, *, options: StackOptions, folder: DataFolder, inherited: Mapping[str, str], devices: Mapping[str, str]) -> Plan:
    address = admission_address(options, ports, inherited)
    # The other commands look at the environment first, then at the folder that is the default.
    found_by_itself = "WARMLANE_ADMISSION_ADDRESS" not in inherited and folder.root == DEFAULT_DATA_DIR.resolve()
    steps = first_steps(options, ports=ports.by_process, address=address, folder=folder, needs_address=not found_by_itself)
    return Plan(
        processes=stack_processes(options, ports=ports, folder=folder, inherited=inherited, devices=devices),
        ports=ports,
        address=address,
        credentials=credentials_of(inherited, Role.OPERATOR, address),
        wanted=wanted(options.processes, ports.by_process),
        first_steps=steps,
    )


def _chosen_processes(without: Sequence[str]) -> tuple[str, ...]:
    unknown = [name for name in without if name not in ALL_PROCESSES]
    if unknown:
        msg = f"--without {unknown[0]}: no such process; they are {', '.join(ALL_PROCESSES)}."
        raise CommandError(msg)
    names = tuple(name for name in ALL_PROCESSES if name not in without)
    if not names:
        raise CommandError("nothing is left to run: every process was left out.")
    return names


def _devices(options: StackOptions, environment: Mapping[str, str]) -> dict[str, str]:
    """GPUs are shared out unless the caller decided, by either variable, or the profile uses none."""
    if options.profile == "tiny" or environment.get("WARMLANE_DEVICE") or environment.get("CUDA_VISIBLE_DEVICES"):
        return {}
    return assign_gpus([name for name in LANES if name in options.processes], visible_gpus())
