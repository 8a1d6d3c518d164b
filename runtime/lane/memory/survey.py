"""`python -m runtime.lane.memory.survey ORDER`: looks at memory, GPUs and prepared folders for `warmlane doctor`; one JSON object."""

from __future__ import annotations

import sys
from pathlib import Path

from runtime.lane.memory.process import host_available_bytes, host_memory_bytes
from runtime.survey import Survey, SurveyedGpu, SurveyedTorch, SurveyOrder


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
        import torch
    except (ImportError, OSError) as error:
        return SurveyedTorch(error=f"{type(error).__name__}: {error}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return SurveyedTorch(version=torch.__version__, cuda=torch.version.cuda or "", gpus=tuple(_gpu(index) for index in range(count)))


def _gpu(index: int) -> SurveyedGpu:
    import torch

    name = ""
    try:
        name = torch.cuda.get_device_name(index)
        free_bytes, total_bytes = torch.cuda.mem_get_info(index)
        capability = torch.cuda.get_device_capability(index)
        return SurveyedGpu(index=index, name=name, capability=capability, total_bytes=total_bytes, free_bytes=free_bytes)
    except RuntimeError as error:
        return SurveyedGpu(index=index, name=name, error=str(error).strip().splitlines()[0])


def _folder_problem(folder: Path, model: str) -> str:
    from runtime.lane.wan.manifest import ManifestError, open_folder

    try:
        open_folder(folder, model)
    except ManifestError as error:
        return str(error)
    return ""


def main() -> int:
    """One order on the command line, the survey on standard output."""
    order = SurveyOrder.model_validate_json(" ".join(sys.argv[1:]))
    sys.stdout.write(survey(order).model_dump_json() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
