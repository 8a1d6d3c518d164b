"""Entry of the command `warmlane`: its commands, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from command_line import epilogs
from command_line.address import DEFAULT_DATA_DIR
from command_line.completion import complete_process
from command_line.doctor.command import EPILOG as DOCTOR_EPILOG
from command_line.doctor.command import doctor
from command_line.documents import to_json
from command_line.failures import CommandError
from command_line.gallery.command import EPILOG, import_gallery
from command_line.operators import drain, events, fallback
from command_line.options import Address, AsJson, Output, TaskId, UnfinishedTaskId
from command_line.output import check_output
from command_line.plan import plan
from command_line.prepare import EXAMPLES, prepare
from command_line.session import with_admission
from command_line.settings.command import settings
from command_line.smoke.command import EXIT_CODES as SMOKE_EXIT_CODES
from command_line.smoke.command import smoke
from command_line.submit import submit, watch_to_end
from command_line.tables import output_console, print_lanes, print_pool, print_queues, print_task
from command_line.up.command import UpArguments, run_up
from runtime.roles import Role

_EXIT_CODES = (
    "Exit codes: 0 done as asked; 1 it ended without what was asked for; 2 what was asked is wrong; 3 admission is away or overloaded; "
    "130 Ctrl-C."
)

app = typer.Typer(
    name="warmlane",
    help="Serves two heavy video models: starts the stack, submits tasks, shows lanes and queues.",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class Profile(StrEnum):
    """What the lanes load."""

    TINY = "tiny"
    A10G = "a10g"


@app.command(epilog=epilogs.UP)
def up(
    *,
    profile: Annotated[Profile, typer.Option(help="tiny: random weights, made here, no GPU. a10g: the real checkpoints.")] = Profile.TINY,
    data_dir: Annotated[Path, typer.Option(help="Folder for the database, results, logs and run files.")] = DEFAULT_DATA_DIR,
    http_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the HTTP bridge; 0: any free one.", show_default="8080")
    ] = None,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port of admission; 0: any free one. Given, all ports not named are picked free.", show_default="50051"
        ),
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="PROCESS", help="Leave a process out; may be repeated.", autocompletion=complete_process),
    ] = None,
) -> None:
    """Start everything on this machine, and keep it running until Ctrl-C."""
    arguments = UpArguments(profile=profile, data_dir=data_dir, http_port=http_port, grpc_port=grpc_port, without=without or ())
    run_up(arguments, dict(os.environ))


app.command(epilog=epilogs.SUBMIT)(submit)


@app.command(epilog=epilogs.STATUS)
def status(task_id: TaskId, as_json: AsJson = False, address: Address = None) -> None:
    """Show a task as it stands."""
    task = with_admission(address, lambda client: client.task(task_id))
    if as_json:
        typer.echo(to_json(task))
    else:
        print_task(output_console(), task)


@app.command(epilog=epilogs.WATCH)
def watch(task_id: TaskId, output: Output = None, as_json: AsJson = False, address: Address = None) -> None:
    """Follow a task to its end; with --json one object a line for every change."""
    if output is not None:
        check_output(output)
    watch_to_end(address, task_id, output=output, as_json=as_json)


@app.command(epilog=epilogs.CANCEL)
def cancel(task_id: UnfinishedTaskId, as_json: AsJson = False, address: Address = None) -> None:
    """Cancel a task. One that is done stays done."""
    task = with_admission(address, lambda client: client.cancel(task_id))
    if as_json:
        typer.echo(to_json(task))
    else:
        print_task(output_console(), task)


@app.command(epilog=epilogs.LANES)
def lanes(as_json: AsJson = False, address: Address = None) -> None:
    """Show every lane: its model, whether it is ready or drained, and why not."""
    snapshot = with_admission(address, lambda client: client.snapshot(), role=Role.OPERATOR)
    if as_json:
        typer.echo(to_json(snapshot))
    else:
        print_lanes(output_console(), snapshot.lanes)


@app.command(epilog=epilogs.QUEUE)
def queue(as_json: AsJson = False, address: Address = None) -> None:
    """Show the queues and where new requests go, the degraded pool's waiting room and the counters."""
    snapshot = with_admission(address, lambda client: client.snapshot(), role=Role.OPERATOR)
    if as_json:
        typer.echo(to_json(snapshot))
    else:
        print_queues(output_console(), snapshot.queues)
        print_pool(output_console(), snapshot)


app.command(epilog=epilogs.DRAIN)(drain)
app.command(epilog=epilogs.FALLBACK)(fallback)
app.command(epilog=epilogs.EVENTS)(events)
app.command(epilog=epilogs.PLAN)(plan)
app.command(epilog=EXAMPLES)(prepare)
app.command(epilog=DOCTOR_EPILOG)(doctor)
app.add_typer(settings, name="settings")
app.command(epilog=SMOKE_EXIT_CODES)(smoke)
app.command("import-gallery", epilog=EPILOG)(import_gallery)


def main() -> None:
    """Runs the command line."""
    try:
        app()
    except CommandError as error:
        typer.echo(f"warmlane: {error.message}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
