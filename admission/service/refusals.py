"""What a client is told of a request that no lane can serve: why, and what would do."""

from __future__ import annotations

from functools import lru_cache

from admission.core.commands import Refusal, RefusalCode
from runtime.errors import ErrorCode, ServiceError

_GIB = 1024**3


def refused(refusal: Refusal) -> ServiceError:
    """`vram_exceeded` or `deadline_unreachable`. The same answer is given many times over when a caller asks again and again."""
    message, metadata = _told(refusal)
    code = ErrorCode.VRAM_EXCEEDED if refusal.code is RefusalCode.VRAM_EXCEEDED else ErrorCode.DEADLINE_UNREACHABLE
    return ServiceError(code=code, message=message, metadata=metadata)


@lru_cache(maxsize=1024)
def _told(refusal: Refusal) -> tuple[str, dict[str, str]]:
    fits = {"max_num_frames": str(refusal.max_num_frames)}
    if refusal.max_size is not None:
        fits |= {"max_width": str(refusal.max_size[0]), "max_height": str(refusal.max_size[1])}
    if refusal.code is RefusalCode.VRAM_EXCEEDED:
        told = f"This clip needs {_gib(refusal.predicted_bytes)} of GPU memory, and {_gib(refusal.limit_bytes)} are there."
        facts = {
            "predicted_bytes": str(refusal.predicted_bytes),
            "limit_bytes": str(refusal.limit_bytes),
            "placement": refusal.placement,
        }
    else:
        told = f"This clip would render for {refusal.predicted_s / 60:.0f} minutes, and {refusal.limit_s / 60:.0f} are the most."
        facts = {"predicted_s": f"{refusal.predicted_s:.1f}", "limit_s": f"{refusal.limit_s:.1f}"}
    return f"{told} {_advice(refusal)}", facts | fits


def _advice(refusal: Refusal) -> str:
    ways = []
    if refusal.max_num_frames:
        ways.append(f"at most {refusal.max_num_frames} frames at this size")
    if refusal.max_size is not None:
        ways.append(f"at most {refusal.max_size[0]}x{refusal.max_size[1]} at this number of frames")
    return f"Ask for {', or '.join(ways)}." if ways else "Ask for a smaller size and fewer frames."


def _gib(size_bytes: int) -> str:
    # Of tiny models, too, the figures must tell them apart.
    return f"{size_bytes / _GIB:.1f} GiB" if size_bytes >= _GIB // 2 else f"{size_bytes / 1024**2:.1f} MiB"
