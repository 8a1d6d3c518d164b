"""What a lane's `prepare` module runs: one order from the command line, one event as JSON a line on standard output, an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import ValidationError

from runtime.lane.prepare.check import check_folder
from runtime.lane.prepare.failures import Cause, PrepareError
from runtime.lane.prepare.telling import Teller
from runtime.lane.wan.manifest import Manifest, ManifestError, open_folder, read_manifest
from runtime.preparation import Checked, Event, Failed, Order, PrepareExit, Stage

if TYPE_CHECKING:
    from runtime.lane.prepare.checkpoint import Checkpoint


def run_prepare(model: str, read_checkpoint: Callable[[], Checkpoint]) -> int:
    """Does what the order on the command line says; returns the exit code of the process.

    Args:
        model: id.
        read_checkpoint: gives its description; called late, as it imports torch.
    """
    try:
        order = Order.model_validate_json(" ".join(sys.argv[1:]))
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        wrong = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'the order'}: {one['msg']}" for one in found)
        return _fail(Failed(cause=Cause.ASKED, text=f"one order as JSON is needed ({wrong}). Use `warmlane prepare {model}`"))
    if order.model != model:
        return _fail(Failed(cause=Cause.ASKED, text=f"this prepares {model}, not {order.model}"))
    try:
        return _check(order) if order.action == "check" else _prepare(order, read_checkpoint)
    except PrepareError as error:
        return _fail(Failed(cause=error.cause, text=error.text, details=error.details))
    except BrokenPipeError:
        # Whoever wanted this is gone. What is on disk is kept, and standard output must not be written to again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PrepareExit.FAILED
    except KeyboardInterrupt:
        return PrepareExit.INTERRUPTED
    except ModuleNotFoundError as error:
        return _fail(
            Failed(cause="not_installed", text=f"{error.name} is not installed here: `pip install warmlane[lane]`, or `make install`")
        )
    except Exception as error:
        traceback.print_exc()
        return _fail(Failed(cause="internal", text=f"an error that nobody foresaw: {type(error).__name__}: {error}"))


def _prepare(order: Order, read_checkpoint: Callable[[], Checkpoint]) -> int:
    from runtime.lane.prepare.session import prepare

    prepare(order, read_checkpoint(), Teller(_tell))
    return PrepareExit.OK


def _check(order: Order) -> int:
    folder = order.models_dir / order.model
    manifest: Manifest | None = None
    files = size_bytes = 0
    try:
        manifest = read_manifest(folder)
        teller = Teller(_tell)
        files, size_bytes = len(manifest.files), sum(entry.size_bytes for entry in manifest.files)
        teller.begin(Stage.VERIFY, size_bytes)
        differences = check_folder(folder, manifest, teller.add)
        if not differences:
            open_folder(folder, order.model)
    except ManifestError as error:
        differences = [str(error)]
    document = None if manifest is None else manifest.model_dump(mode="json")
    _tell(
        Checked(folder=folder, files=files, size_bytes=size_bytes, differences=tuple(differences), manifest=document),
    )
    return PrepareExit.FAILED if differences else PrepareExit.OK


def _fail(event: Failed) -> int:
    _tell(event)
    return PrepareExit.ASKED if event.cause == Cause.ASKED else PrepareExit.FAILED


def _tell(event: Event) -> None:
    sys.stdout.write(event.model_dump_json() + "\n")
    sys.stdout.flush()
