"""Every GPU of the machine as torch sees it, for whoever looks at the machine before a lane uses it."""

from __future__ import annotations

import torch

from runtime.survey import SurveyedGpu, SurveyedTorch


def survey_torch() -> SurveyedTorch:
    """Opens every GPU; one that cannot be opened says why."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return SurveyedTorch(version=torch.__version__, cuda=torch.version.cuda or "", gpus=tuple(_gpu(index) for index in range(count)))


def _gpu(index: int) -> SurveyedGpu:
    name = ""
    try:
        name = torch.cuda.get_device_name(index)
        free_bytes, total_bytes = torch.cuda.mem_get_info(index)
        capability = torch.cuda.get_device_capability(index)
        return SurveyedGpu(index=index, name=name, capability=capability, total_bytes=total_bytes, free_bytes=free_bytes)
    except RuntimeError as error:
        return SurveyedGpu(index=index, name=name, error=next(iter(str(error).strip().splitlines()), type(error).__name__))
