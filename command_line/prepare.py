"""`warmlane prepare`: makes the folder that a lane opens from the files that a model's authors publish, or checks one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from command_line.address import DEFAULT_DATA_DIR
from command_line.completion import complete_model
from command_line.failures import CommandError, ExitCode
from command_line.options import AsJson
from command_line.prepare_screen import PrepareScreen
from command_line.tables import output_console
from runtime.preparation import SHA256_PATTERN, Checked, Event, Failed, Order, PrepareExit, SourceOrder, Storage, parse_event
from runtime.rules.catalogue import MODELS

EXAMPLES = """Examples:

warmlane prepare anisora

warmlane prepare anisora --high FOLDER/high_noise_model --low FOLDER/low_noise_model --base FOLDER

warmlane prepare anisora --t2v

warmlane prepare phr00t --checkpoint FILE --base hub:Wan-AI/Wan2.2-I2V-A14B-Diffusers --storage bf16

warmlane prepare phr00t --check

Exit codes: 0 the folder is whole; 1 a source, the hub or the disk failed, or the folder differs; 2 what was asked is wrong; 130 Ctrl-C.
"""

_HUB = re.compile(r"hub:(?P<repository>[^/@:]+/[^/@:]+)(@(?P<revision>[^:]+))?(:(?P<file>.+))?")
_FORM = "a path, or hub:OWNER/NAME, hub:OWNER/NAME@REVISION, hub:OWNER/NAME:FILE, hub:OWNER/NAME@REVISION:FILE"


_SOURCES = "Sources"


def _source(title: str) -> object:
    return typer.Option(metavar="SOURCE", help=f"{title}.", show_default="where it is published", rich_help_panel=_SOURCES)


_Model = Annotated[str, typer.Argument(metavar="MODEL", help="anisora or phr00t.", autocompletion=complete_model)]
_ModelsDir = Annotated[Path, typer.Option(envvar="WARMLANE_MODELS_DIR", help="Holds a folder for each model; lanes look here.")]
_StorageOption = Annotated[Storage, typer.Option(help="Of the large matrices. bf16 keeps everything and needs twice the memory.")]
_Variant = Annotated[str, typer.Option(help="phr00t: mega-v12 or mega-v11.", show_default="the newest")]
_Check = Annotated[bool, typer.Option("--check", help="Read the prepared folder entirely and name every difference.")]
_Replace = Annotated[bool, typer.Option("--replace", help="Make the folder anew; the old one stays until the new one is whole.")]
_High = Annotated[str | None, _source("anisora: the high-noise expert")]
_Low = Annotated[str | None, _source("anisora: the low-noise expert")]
_Checkpoint = Annotated[str | None, _source("phr00t: the all-in-one file")]
_Base = Annotated[str | None, _source("Folder with text encoder, tokenizer and VAE (phr00t: the tokenizer)")]
_WithT2v = Annotated[bool, typer.Option("--t2v", help="anisora: the text-to-video pair of Wan 2.2 too.", rich_help_panel=_SOURCES)]
_T2vHigh = Annotated[str | None, _source("anisora: the pair's high-noise expert")]
_T2vLow = Annotated[str | None, _source("anisora: the pair's low-noise expert")]
_Sha256 = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=HEX", help="What a source's one file must have, such as high=…; may be repeated.", rich_help_panel=_SOURCES),
]
_Sizes = Annotated[
    Path | None, typer.Option(help="File with other sizes of the networks than the published ones, for trials.", rich_help_panel=_SOURCES)
]
_DownloadsDir = Annotated[
    Path | None, typer.Option(help="Keeps what comes from the hub meanwhile.", show_default=".downloads in the models' folder")
]
_KeepDownloads = Annotated[bool, typer.Option("--keep-downloads", help="Keep it when the folder is whole.")]


# One parameter per option: typer makes the command line from the signature.
def prepare(  # noqa: PLR0913
    model: _Model,
    *,
    models_dir: _ModelsDir = DEFAULT_DATA_DIR / "models",
    storage: _StorageOption = Storage.FP8,
    variant: _Variant = "",
    check: _Check = False,
    replace: _Replace = False,
    high: _High = None,
    low: _Low = None,
    checkpoint: _Checkpoint = None,
    base: _Base = None,
    with_t2v: _WithT2v = False,
    t2v_high: _T2vHigh = None,
    t2v_low: _T2vLow = None,
    sha256: _Sha256 = None,
    sizes: _Sizes = None,
    downloads_dir: _DownloadsDir = None,
    keep_downloads: _KeepDownloads = False,
    as_json: AsJson = False,
) -> None:
    """Make the folder of a model that lanes open, from published files; or check it.

    A SOURCE is a path, or hub:OWNER/NAME@REVISION:FILE, where @REVISION and :FILE may be left out.

    What is not named is downloaded from where it is published. Stopped and run again, it goes on. With --json one event a line.
    """
    if model not in MODELS:
        msg = f"MODEL must be one of {', '.join(MODELS)}, not {model}."
        raise CommandError(msg)
    named = {"high": high, "low": low, "checkpoint": checkpoint, "base": base, "t2v-high": t2v_high, "t2v-low": t2v_low}
    order = Order(
        action="check" if check else "prepare",
        model=model,
        # The module runs in this folder too, but what it tells is read elsewhere.
        models_dir=models_dir.absolute(),
        storage=storage,
        variant=variant,
        sizes=sizes,
        sources=_sources(named, sha256 or []),
        with_t2v=with_t2v,
        downloads_dir=downloads_dir,
        keep_downloads=keep_downloads,
        replace=replace,
    )
    last = _follow(order, as_json=as_json)
    if isinstance(last, Failed):
        exit_code = ExitCode.USAGE if last.cause == "asked" else ExitCode.FAILED
        raise CommandError(last.text, exit_code=exit_code)
    if isinstance(last, Checked) and last.differences:
        raise typer.Exit(ExitCode.FAILED)


def module_command(order: Order) -> list[str]:
    """The process that does the work: it has torch, this one has not."""
    return [sys.executable, "-m", f"lane_{order.model}.prepare", order.model_dump_json()]


def _follow(order: Order, *, as_json: bool) -> Event:
    """Runs the module to its end and shows what it tells; returns the last event. Raises CommandError when it ends without one."""
    with (
        PrepareScreen(output_console(), visible=not as_json) as screen,
        subprocess.Popen(module_command(order), stdout=subprocess.PIPE, text=True, env=_environment()) as process,
    ):
        last: Event | None = None
        try:
            for line, event in _events(process):
                last = event
                if as_json:
                    typer.echo(line)
                else:
                    screen.show(event)
            code = process.wait()
        except KeyboardInterrupt:
            # Ctrl-C reached the module as well; it ends by itself, and what it wrote is kept.
            process.wait()
            code = PrepareExit.INTERRUPTED
    if code == PrepareExit.INTERRUPTED:
        msg = "stopped. What is done is kept: the same command goes on from there."
        raise CommandError(msg, exit_code=ExitCode.INTERRUPTED)
    if last is None or (code != PrepareExit.OK and not isinstance(last, Failed | Checked)):
        msg = f"the process that prepares ended unexpectedly ({_ending(code)}). What is done is kept: the same command goes on from there."
        raise CommandError(msg, exit_code=ExitCode.FAILED)
    return last


def _events(process: subprocess.Popen[str]) -> Iterator[tuple[str, Event]]:
    assert process.stdout is not None  # noqa: S101  # it was asked for
    for line in process.stdout:
        try:
            yield line.rstrip("\n"), parse_event(line)
        except ValidationError:
            # A library that prints, say.
            typer.echo(line, nl=False, err=True)


def _environment() -> Mapping[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1"}


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _sources(named: Mapping[str, str | None], hashes: list[str]) -> dict[str, SourceOrder]:
    found = {name: _parsed(name, text) for name, text in named.items() if text is not None}
    for text in hashes:
        name, _, digest = text.partition("=")
        if name not in named or re.match(SHA256_PATTERN, digest) is None:
            msg = f"--sha256 {text}: must be NAME=HEX, with one of {', '.join(named)} and 64 hexadecimal digits in lower case."
            raise CommandError(msg)
        found[name] = found.get(name, SourceOrder()).model_copy(update={"sha256": digest})
    return found


def _parsed(name: str, text: str) -> SourceOrder:
    if not text.startswith("hub:"):
        return SourceOrder(path=Path(text).absolute())
    parts = _HUB.fullmatch(text)
    if parts is None:
        msg = f"--{name} {text}: must be {_FORM}."
        raise CommandError(msg)
    return SourceOrder(repository=parts["repository"], revision=parts["revision"], file=parts["file"])
