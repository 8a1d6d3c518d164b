"""`python -m runtime.lane.survey ORDER`: looks at memory, GPUs and prepared folders for `warmlane doctor`; prints one JSON object."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import ValidationError

from runtime.lane.memory.process import host_available_bytes, host_memory_bytes
from runtime.lane.wan.manifest import ManifestError, open_folder
from runtime.survey import Survey, SurveyedTorch, SurveyOrder


def survey(order: SurveyOrder) -> Survey:
    """Looks at what the order names."""
    # Before torch is there: it takes some of what is available.
    host_bytes, available_bytes = host_memory_bytes(), host_available_bytes()
    return Survey(
        host_bytes=host_bytes,
        available_bytes=available_bytes,
        torch=_torch() if order.with_torch else None,
        weights={model: _folder_problem(order.models_dir / model, model) for model in order.models},
    )


def _torch() -> SurveyedTorch:
    try:
        # Late: it imports torch, which takes seconds and may not be there.
        from runtime.lane.memory.gpus import survey_torch
    except (ImportError, OSError) as error:
        return SurveyedTorch(error=f"{type(error).__name__}: {error}")
    return survey_torch()


def _folder_problem(folder: Path, model: str) -> str:
    try:
        open_folder(folder, model)
    except ManifestError as error:
        return str(error)
    return ""


def main() -> int:
    """One order on the command line, the survey on standard output."""
    try:
        order = SurveyOrder.model_validate_json(" ".join(sys.argv[1:]))
    except ValidationError:
        sys.stderr.write("one order as JSON is needed, as runtime/survey.py has it; `warmlane doctor` gives it\n")
        return 2
    sys.stdout.write(survey(order).model_dump_json() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
