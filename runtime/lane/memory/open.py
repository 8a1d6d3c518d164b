"""Opens the memory of the device that was asked for, and tells running out of it from other errors."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

from runtime.lane.memory.budget import BudgetMemory
from runtime.lane.memory.host import HostMemory

if TYPE_CHECKING:
    from runtime.lane.memory.port import DeviceMemory

_OUT_OF_MEMORY_TEXTS = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDA error: out of memory",
)


def open_device(
    name: str, *, budget_bytes: int = 0, margin_bytes: int | None = None, pinned_limit_bytes: int | None = None
) -> DeviceMemory:
    """Opens a device. Asking for `cpu` imports no torch.

    Args:
        name: `cpu`, `cuda`, `cuda:N`, or `auto`: the first GPU if there is one.
        budget_bytes: what the device has, if not its own: on a CPU an enforced budget, on a GPU a cap; 0: no such limit.
        margin_bytes: kept free of predictions; None: the device's default.
        pinned_limit_bytes: host memory that may be pinned; None: three quarters of it.

    Raises:
        ValueError: no such kind of device, or a figure below zero.
        RuntimeError: the GPU cannot be opened.
    """
    if min(budget_bytes, margin_bytes or 0, pinned_limit_bytes or 0) < 0:
        msg = "budget, margin and pinned limit cannot be below zero bytes"
        raise ValueError(msg)
    if name == "auto":
        name = "cuda:0" if _has_cuda() else "cpu"
    if name == "cpu" and budget_bytes:
        return BudgetMemory(budget_bytes, margin_bytes=margin_bytes or 0, pinned_limit_bytes=pinned_limit_bytes)
    if name == "cpu":
        return HostMemory(margin_bytes=margin_bytes or 0, pinned_limit_bytes=pinned_limit_bytes)
    if name == "cuda" or name.startswith("cuda:"):
        from runtime.lane.memory.cuda import CudaMemory

        return CudaMemory(name, budget_bytes=budget_bytes, margin_bytes=margin_bytes, pinned_limit_bytes=pinned_limit_bytes)
    msg = f"the device must be auto, cpu or cuda:N, not {name!r}"
    raise ValueError(msg)


def is_out_of_gpu_memory(error: BaseException) -> bool:
    """Whether this was raised because the GPU's memory ran out, by torch's allocator or by a library beside it."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    # What cuBLAS, cuDNN and the driver allocate themselves fails with a plain RuntimeError; only its text says why.
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY_TEXTS)


def _has_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()
