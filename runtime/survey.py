"""What `warmlane doctor` asks of a process that may import torch, and what that answers: one order as JSON, one survey as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SurveyOrder(_Message):
    """What is to be looked at.

    Attributes:
        with_torch: import torch and open every GPU; takes seconds.
        models_dir: holds the folders of `models`.
        models: whose prepared folders are to be looked at.
    """

    with_torch: bool = False
    models_dir: Path = Path()
    models: tuple[str, ...] = ()


class SurveyedGpu(_Message):
    """A GPU as torch sees it. `error` is set, and the figures are 0, when it cannot be opened."""

    index: int
    name: str
    capability: tuple[int, int] = (0, 0)
    total_bytes: int = 0
    free_bytes: int = 0
    error: str = ""


class SurveyedTorch(_Message):
    """Torch as it is installed. `cuda` is empty for a build without CUDA; `error` says why it cannot be imported."""

    version: str = ""
    cuda: str = ""
    gpus: tuple[SurveyedGpu, ...] = ()
    error: str = ""


class Survey(_Message):
    """What was found.

    Attributes:
        host_bytes: memory of the machine, or of its container.
        available_bytes: what of it can still be taken.
        torch: None when it was not asked for.
        weights: by model: why its folder cannot be opened; empty when it can. Looks at names and sizes, not at contents.
    """

    host_bytes: int
    available_bytes: int
    torch: SurveyedTorch | None
    weights: Mapping[str, str]
