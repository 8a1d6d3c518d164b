"""The memory of the device that a pipeline works on: cleaning it up and reading its figures. Torch is imported late, in functions."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import psutil

if TYPE_CHECKING:
    import torch


_OUT_OF_MEMORY_TEXTS = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDA error: out of memory",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFigures:
    """What can be read now, in bytes; None where the device cannot tell. Peaks count from `DeviceMemory.reset_peaks`."""

    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    driver_free_bytes: int | None = None
    pinned_bytes: int | None = None


class DeviceMemory(Protocol):
    """The memory of one device. One thread uses it."""

    @property
    def device(self) -> str:
        """Torch's name of it: `cpu`, `cuda:0`."""
        ...

    @property
    def label(self) -> str:
        """Its name for people: `cpu`, `NVIDIA A10G`."""
        ...

    @property
    def residue_allowance_bytes(self) -> int:
        """What may stay after a release without being a leak: workspaces and caches that libraries keep once per process."""
        ...

    def reset_peaks(self) -> None:
        """Peaks count from here."""
        ...

    def wait(self) -> None:
        """Returns when the device has done all work that it was given, so that times and steps are true."""
        ...

    def cleanup(self) -> None:
        """Collects garbage and gives cached memory back to the device and the machine. Waits for the device's work first."""
        ...

    def live_tensor_bytes(self) -> int:
        """Bytes of all tensors alive, wherever they lie. Exact after `cleanup`; slow (it walks all objects)."""
        ...

    def figures(self) -> MemoryFigures:
        """What the device tells now."""
        ...


class HostMemory:
    """A CPU: no allocator of its own to ask, so its only figures are those of the process (`host_rss_bytes`)."""

    device = "cpu"
    label = "cpu"
    # Small tensors that libraries cache, such as position tables; far below the tiny pipelines' 0.7 MB, so that a leak of one shows.
    residue_allowance_bytes = 64 * 1024

    def reset_peaks(self) -> None:
        """Nothing to reset: the process's peak counts from its start."""

    def wait(self) -> None:
        """Nothing to wait for: calls return when the work is done."""

    def cleanup(self) -> None:
        """Collects garbage and returns free heap pages to the system."""
        gc.collect()
        _trim_heap()

    def live_tensor_bytes(self) -> int:
        """Bytes of all tensors that Python can reach."""
        return _tensor_bytes(kinds=("cpu",))

    def figures(self) -> MemoryFigures:
        """None: a CPU has no figures of its own."""
        return MemoryFigures()


class CudaMemory:
    """One CUDA device, as torch's caching allocator and the driver see it."""

    # cuBLAS and cuDNN workspaces live in the caching allocator, up to 32 MiB a handle on the newest GPUs.
    residue_allowance_bytes = 64 * 1024 * 1024

    def __init__(self, device: str) -> None:
        """Opens the device; raises RuntimeError when torch cannot."""
        import torch

        self._device = torch.device(device)
        torch.cuda.set_device(self._device)
        self._label = torch.cuda.get_device_name(self._device)

    @property
    def device(self) -> str:
        """Torch's name of it."""
        return str(self._device)

    @property
    def label(self) -> str:
        """The GPU's name."""
        return self._label

    def reset_peaks(self) -> None:
        """Peaks count from here."""
        import torch

        torch.cuda.reset_peak_memory_stats(self._device)

    def wait(self) -> None:
        """Returns when the GPU has done its work."""
        import torch

        torch.cuda.synchronize(self._device)

    def cleanup(self) -> None:
        """Waits for the GPU, then gives back cached device memory, shared handles, cached pinned memory and free heap pages."""
        import torch

        gc.collect()
        self.wait()
        torch.cuda.empty_cache()
        torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]
        torch.accelerator.empty_host_cache()
        _trim_heap()

    def live_tensor_bytes(self) -> int:
        """The allocator's live bytes on the GPU plus the tensors that Python can reach on the host."""
        import torch

        return torch.cuda.memory_allocated(self._device) + _tensor_bytes(kinds=("cpu",))

    def figures(self) -> MemoryFigures:
        """What allocator and driver tell now."""
        import torch

        free, _total = torch.cuda.mem_get_info(self._device)
        pinned: dict[str, Any] = torch.cuda.host_memory_stats()
        return MemoryFigures(
            allocated_bytes=torch.cuda.memory_allocated(self._device),
            reserved_bytes=torch.cuda.memory_reserved(self._device),
            peak_allocated_bytes=torch.cuda.max_memory_allocated(self._device),
            peak_reserved_bytes=torch.cuda.max_memory_reserved(self._device),
            driver_free_bytes=free,
            pinned_bytes=int(pinned.get("allocated_bytes.current", 0)),
        )


def open_device(name: str) -> DeviceMemory:
    """Opens `cpu`, `cuda:N`, or with `auto` the first GPU if there is one. Asking for `cpu` imports no torch.

    Raises:
        ValueError: no such kind of device.
        RuntimeError: the GPU cannot be opened.
    """
    if name == "auto":
        name = "cuda:0" if _has_cuda() else "cpu"
    if name == "cpu":
        return HostMemory()
    if name == "cuda" or name.startswith("cuda:"):
        return CudaMemory(name)
    msg = f"the device must be auto, cpu or cuda:N, not {name!r}"
    raise ValueError(msg)


def host_rss_bytes() -> int:
    """Resident set of this process."""
    return int(psutil.Process().memory_info().rss)


def host_rss_peak_bytes() -> int | None:
    """Highest resident set of this process since it started; None where the system does not tell."""
    # Not getrusage: its maximum starts with that of the process that started this one.
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None


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


def _tensor_bytes(kinds: tuple[str, ...]) -> int:
    """Bytes of the storages of every tensor that the garbage collector knows, each counted once, on devices of these kinds."""
    if "torch" not in sys.modules:
        return 0
    import torch

    storages: dict[int, int] = {}
    for candidate in gc.get_objects():
        # The class is asked, not the instance: objects that imitate their content would compute it for the question.
        if issubclass(type(candidate), torch.Tensor):
            _count_storage(candidate, kinds, storages)
    return sum(storages.values())


def _count_storage(tensor: torch.Tensor, kinds: tuple[str, ...], storages: dict[int, int]) -> None:
    try:
        if tensor.device.type in kinds:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    except (RuntimeError, NotImplementedError):
        # Tensors without a storage (sparse, fake) hold nothing that could be given back.
        return


def _trim_heap() -> None:
    """Returns free heap pages to the system where the C library can (glibc)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return
