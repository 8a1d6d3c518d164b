"""`warmlane import-gallery`: its options, and what it says at the end."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from command_line.breaks import SaidBreaks
from command_line.client import AdmissionClient
from command_line.epilogs import epilog
from command_line.failures import CommandError, ExitCode
from command_line.gallery.database import Gallery, UnusableGalleryError, open_gallery
from command_line.gallery.files import Folders
from command_line.gallery.report import Report
from command_line.gallery.screen import ImportScreen
from command_line.gallery.takeover import Takeover
from command_line.options import Address, AsJson
from command_line.session import with_admission
from command_line.tables import output_console
from runtime.roles import Role

EPILOG = epilog(
    "warmlane import-gallery gallery.db --files results --dry-run",
    "warmlane import-gallery gallery.db --files results",
    exit_codes="What is there already is left as it is: stopped and run again, it goes on.\n\n"
    "Exit codes: 0 every row of a video model is taken over or there; 1 some are not, each is named; 2 FILE is no gallery; "
    "3 admission is away.",
)

_File = Annotated[Path, typer.Argument(metavar="FILE", help="SQLite file of the existing gallery; nothing in it is changed.")]
_FilesDir = Annotated[
    Path | None,
    typer.Option("--files", metavar="DIR", help="Where its videos and previews are, beside FILE's own folder.", show_default=False),
]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Read everything, say what would be taken over, and change nothing.")]
_FailedUnfinished = Annotated[
    bool, typer.Option("--failed-unfinished", help="Take tasks that had not ended over as failed ones, instead of naming them.")
]


def import_gallery(
    file: _File,
    *,
    files_dir: _FilesDir = None,
    dry_run: _DryRun = False,
    failed_unfinished: _FailedUnfinished = False,
    as_json: AsJson = False,
    address: Address = None,
) -> None:
    """Take over an existing gallery: its finished videos with previews, its failed and cancelled tasks, under their own ids."""
    if files_dir is not None and not files_dir.is_dir():
        msg = f"--files {files_dir}: there is no such folder."
        raise CommandError(msg)
    folders = Folders((file.parent, *(() if files_dir is None else (files_dir,))))
    report = Report(file=str(file), is_dry=dry_run)
    try:
        with open_gallery(file) as gallery:
            _say_missing(gallery)
            _run(gallery, folders, report, failed_unfinished=failed_unfinished, visible=not as_json, address=address)
    except UnusableGalleryError as error:
        msg = f"FILE {file}: {error}{_so_far(report)}"
        raise CommandError(msg) from error
    except CommandError as error:
        raise CommandError(error.message + _so_far(report), exit_code=error.exit_code) from error
    if as_json:
        typer.echo(json.dumps(report.document(), indent=2, ensure_ascii=False))
    else:
        report.print(output_console())
    if not report.is_whole:
        raise typer.Exit(ExitCode.FAILED)


def _run(gallery: Gallery, folders: Folders, report: Report, *, failed_unfinished: bool, visible: bool, address: str | None) -> None:
    with ImportScreen(Console(stderr=True), gallery.total, visible=visible) as screen:

        def takeover(client: AdmissionClient | None) -> Takeover:
            return Takeover(folders=folders, client=client, report=report, failed_unfinished=failed_unfinished, on_row=screen.advance)

        if report.is_dry:
            asyncio.run(takeover(None).run(gallery.rows()))
            return
        with_admission(
            address,
            lambda client: takeover(client).run(gallery.rows()),
            role=Role.OPERATOR,
            interrupted=lambda: "interrupted.",
            listener=SaidBreaks(Console(stderr=True)),
        )


def _say_missing(gallery: Gallery) -> None:
    if gallery.missing:
        typer.echo(f"warmlane: the gallery's table lacks {', '.join(gallery.missing)}; rows are taken over without.", err=True)


def _so_far(report: Report) -> str:
    if not report.rows or report.is_dry:
        return ""
    return f" {report.imported} rows were taken over and {report.already_there} were there; run it again to go on."
