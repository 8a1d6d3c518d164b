"""The options that several commands share, as types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from command_line.completion import complete_task, complete_unfinished_task

Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="WARMLANE_ADMISSION_ADDRESS",
        help="host:port of admission. Default: the stack that runs on ./warmlane-data, else 127.0.0.1:50051.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
_TASK_HELP = "Id of a task, as `submit` printed it."
TaskId = Annotated[str, typer.Argument(metavar="TASK", help=_TASK_HELP, autocompletion=complete_task)]
UnfinishedTaskId = Annotated[str, typer.Argument(metavar="TASK", help=_TASK_HELP, autocompletion=complete_unfinished_task)]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Write the video to this file; waits for it.", show_default=False, dir_okay=True)
]
