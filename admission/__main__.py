"""`python -m admission`: reads the settings, serves with them, and says in a sentence why it cannot."""

from __future__ import annotations

import gc
import sys

import structlog
import uvloop
from pydantic import ValidationError

from admission.config import AdmissionSettings
from admission.process import serve
from admission.store.port import StaleEpochError, StoreUnavailableError
from runtime.addresses import BindError
from runtime.logs import configure_logging
from runtime.process import GC_THRESHOLDS
from runtime.settings import problems

_log = structlog.get_logger()


def main() -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code."""
    try:
        settings = AdmissionSettings()
    except ValidationError as error:
        return _fail("; ".join(problems(error)))
    configure_logging(settings, process="admission")
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        uvloop.run(serve(settings))
    except (BindError, ValueError, OSError, StoreUnavailableError, StaleEpochError) as error:
        return _fail(str(error))
    except Exception as error:
        _log.critical("admission_failed", exc_info=error)
        return 1
    return 0


def _fail(sentence: str) -> int:
    sys.stderr.write(f"admission: {sentence}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
