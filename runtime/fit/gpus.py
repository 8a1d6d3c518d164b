"""GPUs known by name, for predictions before any lane was seen: what torch sees of each, and what was assumed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from runtime.fit.cost import DeviceLimits, ModelLadder
from runtime.fit.traced import TRACED, TracedModel

_MIB = 1024**2
_GIB = 1024**3

BASELINE = "A10G"
"""The GPU of every promise; it decides while no lane was seen yet. The profile of the real checkpoints has its name."""

ASSUMED_OTHER_BYTES = 512 * _MIB
ASSUMED_OTHER_REASON = (
    "assumed: CUDA's context and libraries take 0.13 to 0.51 GiB where torch's out-of-memory messages tell it; a lane measures its own"
)
"""The messages name what the process has in use, what torch allocated and what it holds unallocated; the difference is neither. Read so:
T4 0.14, L4 0.21 and 0.24, a card of 44.39 GiB 0.51, A100 of 80 GB 0.50 GiB (public files 71591476370, 68867666409, 69287043362,
61361843301, 17061693613). No whole message of an A10G was found, so the highest is taken for all."""

ASSUMED_MARGIN_BYTES = 512 * _MIB
ASSUMED_MARGIN_REASON = (
    "kept free for the workspaces of cuBLAS and cuDNN and for fragmentation, as a CUDA lane does unless it is told otherwise"
)

ASSUMED_HOST_BYTES = 64 * _GIB
ASSUMED_HOST_REASON = "assumed: a g5.4xlarge, the smallest one-GPU machine of its family that holds either model's fp8 weights"
"""facts/models.md, section 4: g5.xlarge 16 GiB, 2xlarge 32, 4xlarge 64. AniSora stored as fp8 is 34 GiB."""

ASSUMED_PINNED_REASON = "assumed: three quarters of host memory; the system and the page cache keep a quarter"


def assumptions(limits: DeviceLimits) -> dict[str, str]:
    """Why the figures of a GPU of `GPUS` that nobody measured are what they are, by what they are."""
    reasons = {"other": ASSUMED_OTHER_REASON, "margin": ASSUMED_MARGIN_REASON, "pinned": ASSUMED_PINNED_REASON}
    return reasons | {"host": ASSUMED_HOST_REASON} if limits.host_bytes == ASSUMED_HOST_BYTES else reasons


def limits_on_host(limits: DeviceLimits, host_bytes: int) -> DeviceLimits:
    """The same GPU in a machine with this much memory."""
    return DeviceLimits(
        gpu=limits.gpu,
        total_bytes=limits.total_bytes,
        other_bytes=limits.other_bytes,
        margin_bytes=limits.margin_bytes,
        host_bytes=host_bytes,
        pinned_limit_bytes=pinned_limit(host_bytes),
    )


def pinned_limit(host_bytes: int) -> int:
    """What may be pinned of a host's memory."""
    return host_bytes * 3 // 4


def baseline_models() -> tuple[TracedModel, ...]:
    """The real models, without the tiny ones."""
    return tuple(traced for traced in TRACED.values() if traced.profile == BASELINE.lower())


def baseline_ladders(storage: str = "fp8") -> tuple[ModelLadder, ...]:
    """The ladders of the real models with weights stored as `fp8` or `bf16`. Raises ValueError for another storage."""
    return tuple(traced.ladder(storage) for traced in baseline_models())


def _gpu(name: str, total_gib: float) -> DeviceLimits:
    return DeviceLimits(
        gpu=name,
        total_bytes=int(total_gib * _GIB),
        other_bytes=ASSUMED_OTHER_BYTES,
        margin_bytes=ASSUMED_MARGIN_BYTES,
        host_bytes=ASSUMED_HOST_BYTES,
        pinned_limit_bytes=pinned_limit(ASSUMED_HOST_BYTES),
    )


GPUS: Mapping[str, DeviceLimits] = MappingProxyType(
    {
        # 24 GB. facts/models.md, section 4 (public files 59684655605, 67220962792, 65821013555).
        BASELINE: _gpu("NVIDIA A10G", 22.06),
        # 16 GB. Public files 71591476370, 53005865853.
        "T4": _gpu("Tesla T4", 14.56),
        # 24 GB. Public files 69516158784, 55497994311.
        "L4": _gpu("NVIDIA L4", 22.03),
        # 48 GB. Public file 67366471984.
        "L40S": _gpu("NVIDIA L40S", 44.39),
        # 80 GB. Public file 61363762331.
        "A100-80GB": _gpu("NVIDIA A100-SXM4-80GB", 79.25),
    }
)
"""By short name. Total: what torch's out-of-memory messages call the total capacity, to 0.01 GiB. GPUs without a source are left out."""
