"""A CUDA GPU as the device: torch's caching allocator, the driver's figures, copies beside the work, and pinned host memory."""

from __future__ import annotations

import gc
import weakref
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from runtime.fit.cost import DeviceLimits
from runtime.fit.gpus import pinned_limit
from runtime.lane.memory.host import trim_heap
from runtime.lane.memory.open import is_out_of_gpu_memory
from runtime.lane.memory.port import MemoryFigures
from runtime.lane.memory.process import host_memory_bytes
from runtime.lane.memory.slabs import plan_slabs

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_MARGIN_BYTES = 512 * 1024 * 1024
"""Kept free: cuDNN's convolution workspaces and cuBLAS's (up to 32 MiB a handle) come from torch's allocator and no trace sees them, and
the allocator hands out large blocks in steps of 2 MiB and cannot use what lies between them."""


@dataclass(frozen=True, slots=True)
class _Ticket:
    """A copy on its way. It keeps both ends alive: memory that is handed out again while the bus writes to it would be spoilt."""

    source: torch.Tensor
    target: torch.Tensor
    done: torch.cuda.Event


class CudaMemory:
    """One CUDA device."""

    # cuBLAS and cuDNN workspaces live in the caching allocator, up to 32 MiB a handle on the newest GPUs.
    residue_allowance_bytes = 64 * 1024 * 1024

    def __init__(
        self, device: str, *, budget_bytes: int = 0, margin_bytes: int | None = None, pinned_limit_bytes: int | None = None
    ) -> None:
        """Opens the device.

        Args:
            device: torch's name of it.
            budget_bytes: the device is taken for one of this size: torch gets no more of it; 0: its own size.
            margin_bytes: kept free beside what is predicted; None: the default.
            pinned_limit_bytes: how much host memory may be pinned; None: three quarters of it.

        Raises:
            RuntimeError: torch cannot open it.
        """
        self._device = torch.device(device)
        torch.cuda.set_device(self._device)
        self._label = torch.cuda.get_device_name(self._device)
        self._budget_bytes = budget_bytes
        self._margin_bytes = DEFAULT_MARGIN_BYTES if margin_bytes is None else margin_bytes
        self._pinned_limit_bytes = pinned_limit(host_memory_bytes()) if pinned_limit_bytes is None else pinned_limit_bytes
        self._pinned_bytes = 0
        self._limits: DeviceLimits | None = None
        self._copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._open_tickets: dict[int, _Ticket] = {}

    @property
    def device(self) -> str:
        """Torch's name of it."""
        return str(self._device)

    @property
    def label(self) -> str:
        """The GPU's name."""
        return self._label

    def limits(self) -> DeviceLimits:
        """What driver and machine tell. The first call makes the libraries' handles, so that what they take is measured too."""
        if self._limits is None:
            self._warm_libraries()
            free_bytes, device_bytes = torch.cuda.mem_get_info(self._device)
            other_bytes = max(0, device_bytes - free_bytes - torch.cuda.memory_reserved(self._device))
            total_bytes = min(self._budget_bytes or device_bytes, device_bytes)
            if self._budget_bytes:
                # A device of that size would have as much beside torch as this one has.
                allowed_bytes = max(0, total_bytes - other_bytes)
                torch.cuda.set_per_process_memory_fraction(allowed_bytes / device_bytes, self._device)
            self._limits = DeviceLimits(
                gpu=self._label,
                total_bytes=total_bytes,
                other_bytes=other_bytes,
                margin_bytes=self._margin_bytes,
                host_bytes=host_memory_bytes(),
                pinned_limit_bytes=self._pinned_limit_bytes,
            )
        return self._limits

    def counting(self) -> AbstractContextManager[None]:
        """Nothing: the GPU's allocator knows its tensors."""
        return nullcontext()

    def allocate(self, size_bytes: int) -> torch.Tensor:
        """A flat uint8 tensor on the GPU."""
        return torch.empty(size_bytes, dtype=torch.uint8, device=self._device)

    def host_buffers(self, sizes_bytes: Sequence[int]) -> tuple[torch.Tensor, ...]:
        """Flat uint8 tensors, parts of pinned slabs up to the limit, and pageable ones by themselves beyond."""
        buffers: dict[int, torch.Tensor] = {}
        for slab in plan_slabs(sizes_bytes):
            memory = self._pinned(slab.size_bytes)
            for index, offset in slab.offsets.items():
                size_bytes = sizes_bytes[index]
                buffers[index] = torch.empty(size_bytes, dtype=torch.uint8) if memory is None else memory[offset : offset + size_bytes]
        return tuple(buffers[index] for index in range(len(sizes_bytes)))

    def begin_copy(self, source: torch.Tensor, target: torch.Tensor) -> object:
        """Starts it on the copy stream, after all work that the GPU was given."""
        self._copies.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._copies):
            target.copy_(source, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(self._copies)
        ticket = _Ticket(source, target, done)
        self._open_tickets[id(ticket)] = ticket
        return ticket

    def finish_copy(self, ticket: object) -> None:
        """Makes the work from here on wait for it; the host does not wait."""
        if not isinstance(ticket, _Ticket):
            msg = f"not a ticket of this device: {ticket!r}"
            raise TypeError(msg)
        torch.cuda.current_stream(self._device).wait_event(ticket.done)
        self._open_tickets.pop(id(ticket), None)

    def reset_peaks(self) -> None:
        """Peaks count from here."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def wait(self) -> None:
        """Returns when the GPU has done its work; copies that nobody finished are done then, too."""
        torch.cuda.synchronize(self._device)
        self._open_tickets.clear()

    def cleanup(self) -> None:
        """Waits for the GPU, then gives back cached device memory, shared handles, cached pinned memory and free heap pages."""
        self.wait()
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]
        torch.accelerator.empty_host_cache()
        trim_heap()

    def live_bytes(self) -> int:
        """The allocator's."""
        return torch.cuda.memory_allocated(self._device)

    def figures(self) -> MemoryFigures:
        """What allocator and driver tell now."""
        free_bytes, _total = torch.cuda.mem_get_info(self._device)
        pinned: dict[str, Any] = torch.cuda.host_memory_stats()
        return MemoryFigures(
            allocated_bytes=torch.cuda.memory_allocated(self._device),
            reserved_bytes=torch.cuda.memory_reserved(self._device),
            peak_allocated_bytes=torch.cuda.max_memory_allocated(self._device),
            peak_reserved_bytes=torch.cuda.max_memory_reserved(self._device),
            driver_free_bytes=free_bytes,
            pinned_bytes=int(pinned.get("allocated_bytes.current", 0)),
        )

    def _pinned(self, size_bytes: int) -> torch.Tensor | None:
        """A pinned slab; None when the limit or the machine has no room for it."""
        if self._pinned_bytes + size_bytes > self._pinned_limit_bytes:
            return None
        try:
            slab = torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)
        except RuntimeError as error:
            if not is_out_of_gpu_memory(error):
                raise
            return None
        self._pinned_bytes += size_bytes
        weakref.finalize(slab.untyped_storage(), self._unpin, size_bytes)
        return slab

    def _unpin(self, size_bytes: int) -> None:
        self._pinned_bytes -= size_bytes

    def _warm_libraries(self) -> None:
        """Makes the handles of cuBLAS and cuDNN and loads the kernels that they and attention need first."""
        kind = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        with torch.inference_mode():
            matrix = torch.ones(64, 64, dtype=kind, device=self._device)
            heads = torch.ones(1, 1, 64, 64, dtype=kind, device=self._device)
            clip = torch.ones(1, 16, 4, 16, 16, dtype=kind, device=self._device)
            kernel = torch.ones(16, 16, 3, 3, 3, dtype=kind, device=self._device)
            torch.mm(matrix, matrix)
            torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
            torch.nn.functional.conv3d(clip, kernel)
        del matrix, heads, clip, kernel
        self.wait()
        torch.cuda.empty_cache()
