"""The figures of a device, as far as a machine without a GPU has them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from runtime.lane.memory.open import is_out_of_gpu_memory, open_device
from runtime.lane.memory.process import host_rss_bytes, host_rss_peak_bytes


def test_the_cpu_is_opened_when_it_is_named() -> None:
    assert open_device("cpu").device == "cpu"


def test_an_unknown_device_is_refused_when_it_is_named() -> None:
    with pytest.raises(ValueError, match="auto, cpu or cuda:N"):
        open_device("tpu")


def test_no_torch_is_imported_when_nothing_was_asked_of_the_cpu() -> None:
    # A process whose pipelines have no tensors (as in tests) would start seconds later and take 300 MB more.
    script = (
        "import sys; from runtime.lane.memory.open import open_device; memory = open_device('cpu'); memory.limits(); memory.reset_peaks();"
        "memory.cleanup(); memory.live_bytes(); memory.figures(); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_the_peak_is_not_below_the_resident_set_when_both_are_read() -> None:
    peak_bytes = host_rss_peak_bytes()
    assert peak_bytes is not None
    # Read one after the other; the kernel updates both counters lazily, some pages apart.
    assert peak_bytes > host_rss_bytes() * 0.9 > 0


def test_an_error_is_no_gpu_memory_error_when_torch_did_not_raise_it() -> None:
    assert not is_out_of_gpu_memory(MemoryError())


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: out of memory",
    ],
)
def test_an_error_is_a_gpu_memory_error_when_a_library_beside_torch_could_not_allocate(text: str) -> None:
    # Only torch's own class counted.
    assert is_out_of_gpu_memory(RuntimeError(text))
    assert not is_out_of_gpu_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


@pytest.mark.torch
def test_torch_s_own_error_is_told_apart_when_it_is_raised() -> None:
    import torch

    assert is_out_of_gpu_memory(torch.OutOfMemoryError())
