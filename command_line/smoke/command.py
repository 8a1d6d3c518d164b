"""The command `warmlane smoke URL`: options in, one line for each check out, and an exit code."""

from __future__ import annotations

import asyncio
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer

from command_line.epilogs import epilog
from command_line.failures import CommandError, ExitCode
from command_line.options import AsJson
from command_line.smoke.deployment import checked_url, deployment
from command_line.smoke.overload import announcement
from command_line.smoke.runner import checks, run_checks
from command_line.smoke.screen import Screen
from command_line.smoke.visit import Visit

EXIT_CODES = epilog(
    "warmlane smoke https://video.example.org/api",
    "warmlane smoke http://127.0.0.1:8080 --rounds 1 --overload --json",
    exit_codes="Exit codes: 0 every check that was made is ok; 1 one failed; 2 what was asked is wrong; 130 interrupted.",
)

_Key = str | None


# One parameter per option: typer makes the command line from the signature.
def smoke(  # noqa: PLR0913
    url: Annotated[str, typer.Argument(metavar="URL", help="The bridge, with or without /api.")],
    *,
    api_key: Annotated[
        _Key, typer.Option(envvar="WARMLANE_API_KEY", show_envvar=True, show_default="a session", help="Opens the protected paths.")
    ] = None,
    admin_key: Annotated[
        _Key, typer.Option(envvar="WARMLANE_ADMIN_KEY", show_envvar=True, show_default=False, help="For diagnostics and the audit log.")
    ] = None,
    overload: Annotated[bool, typer.Option("--overload", help="Fill the queues until the deployment says queue_overloaded.")] = False,
    rounds: Annotated[int, typer.Option(min=1, max=20, help="Clips of each model.")] = 2,
    timeout: Annotated[float, typer.Option(min=1, max=7200, help="Seconds that one clip may take.")] = 900.0,
    ca: Annotated[Path | None, typer.Option(metavar="FILE", show_default=False, help="PEM file of the certificate's authority.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a deployment as its clients meet it, over HTTP only; everything that is made is deleted again.

    Health, keys and sessions, the rules, both models rendered in turn, events, files and ranges, gallery, cancel, and diagnostics.
    """
    base, context = checked_url(url), _context(ca)
    for option, key in (("--api-key", api_key), ("--admin-key", admin_key)):
        if key is not None and not (key.isascii() and key.isprintable()):
            msg = f"{option}: a key has printable ASCII characters only."
            raise CommandError(msg)
    wanted, screen = checks(rounds=rounds, with_overload=overload), Screen(as_json=as_json)
    made: dict[str, None] = {}
    if overload:
        screen.say(announcement())

    async def run() -> None:
        async with deployment(base, context) as found, _ended_by_signal():
            visit = Visit(
                deployment=found,
                api_key=api_key or None,
                admin_key=admin_key or None,
                render_timeout_s=timeout,
                tell=screen.tell,
                made=made,
            )
            await run_checks(visit, wanted, screen.show)

    try:
        with screen:
            asyncio.run(run())
    except (KeyboardInterrupt, asyncio.CancelledError) as error:
        screen.finish(base)
        left = f"{len(made)} tasks are left: {', '.join(made)}" if made else "nothing is left behind"
        msg = f"interrupted; {left}."
        raise CommandError(msg, exit_code=ExitCode.INTERRUPTED) from error
    screen.finish(base)
    if screen.has_failure:
        raise typer.Exit(ExitCode.FAILED)


def _context(ca: Path | None) -> ssl.SSLContext | None:
    """What certificates are checked with; None: what the system trusts. Raises CommandError."""
    if ca is None:
        return None
    try:
        return ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        msg = f"--ca {ca}: {error.strerror or 'it is no PEM file of certificates'}."
        raise CommandError(msg) from error


@asynccontextmanager
async def _ended_by_signal() -> AsyncIterator[None]:
    """SIGTERM ends the run as Ctrl-C does: what was made is taken away first."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - for the type checker: this is a coroutine of a task
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
