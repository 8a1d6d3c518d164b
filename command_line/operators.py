"""`warmlane drain`, `fallback` and `events`: what operators say, and what happened."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from warmlane.admission.v1 import operator_service_pb2

from command_line.breaks import SaidBreaks
from command_line.client import AdmissionClient
from command_line.completion import complete_lane, complete_model, complete_task
from command_line.documents import to_json
from command_line.failures import CommandError
from command_line.options import Address, AsJson
from command_line.session import with_admission
from command_line.tables import event_line, output_console, print_lanes, print_queues
from runtime.roles import Role
from runtime.rules.catalogue import MODELS


class Switch(StrEnum):
    """On or off."""

    ON = "on"
    OFF = "off"


def drain(
    lane: Annotated[
        str, typer.Argument(metavar="LANE", help="Name of a lane, as `warmlane lanes` shows it.", autocompletion=complete_lane)
    ],
    resume: Annotated[bool, typer.Option("--resume", help="Give it work again.")] = False,
    as_json: AsJson = False,
    address: Address = None,
) -> None:
    """Give a lane no more work; what it renders now goes on. Holds across restarts, until --resume."""
    drained = with_admission(address, lambda client: client.drain(lane, resume=resume), role=Role.OPERATOR)
    if as_json:
        typer.echo(to_json(drained))
    else:
        print_lanes(output_console(), [drained])


def fallback(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="anisora or phr00t.", autocompletion=complete_model)],
    switch: Annotated[Switch, typer.Argument(metavar="on|off", help="on: new requests go to the degraded pool.")],
    as_json: AsJson = False,
    address: Address = None,
) -> None:
    """Send a model to the degraded pool, or back to its own lanes. Holds across restarts."""
    if model not in MODELS:
        # Admission would name a field, which here is no option.
        raise CommandError(f"MODEL must be one of {', '.join(MODELS)}, not {model!r}.")
    queue = with_admission(address, lambda client: client.set_fallback(model, enabled=switch is Switch.ON), role=Role.OPERATOR)
    if as_json:
        typer.echo(to_json(queue))
    else:
        print_queues(output_console(), [queue])


def events(
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is recorded from now on, until Ctrl-C.")] = False,
    task: Annotated[str, typer.Option(metavar="TASK", help="Only of this task.", show_default=False, autocompletion=complete_task)] = "",
    lane: Annotated[str, typer.Option(metavar="LANE", help="Only of this lane.", show_default=False, autocompletion=complete_lane)] = "",
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="NAME", help="Only events of this name; may be repeated. docs/events.md lists all."),
    ] = None,
    after: Annotated[
        int | None,
        typer.Option(
            min=0, help="Only events after this number. Default: all that are kept; with --follow only new ones.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    address: Address = None,
) -> None:
    """Show what was recorded, oldest first. Each line begins with the event's number: --after goes on from there."""
    request = operator_service_pb2.WatchEventsRequest(
        after_sequence=after or 0,
        only_new=follow and after is None,
        event_types=types or (),
        task_id=task,
        lane_id=lane,
        no_follow=not follow,
    )

    async def work(client: AdmissionClient) -> None:
        async for event in client.events(request):
            typer.echo(to_json(event, indent=None) if as_json else event_line(event))

    def interrupted() -> str:
        return f"interrupted after event {request.after_sequence}."

    with_admission(address, work, role=Role.OPERATOR, interrupted=interrupted, listener=SaidBreaks(Console(stderr=True)))
