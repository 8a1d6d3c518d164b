"""The parts of an attempt that a pipeline's process times, and what it says of each; the agent makes spans of them."""

from __future__ import annotations

from enum import StrEnum

from runtime.fit.placement import MemoryPhase

Figure = str | int | float | bool


class Part(StrEnum):
    """What an attempt does one after the other; a step is a part of the denoising."""

    LOAD = "load"
    SWITCH = "switch"
    IMAGES = "fetch images"
    PLACE = "place weights"
    TEXT = "text encode"
    KEYFRAMES = "image encode"
    DENOISE = "denoise"
    STEP = "denoising step"
    DECODE = "decode"
    ENCODE = "encode"
    UPLOAD = "upload"


OF_PHASE = {
    MemoryPhase.LOAD: Part.PLACE,
    MemoryPhase.TEXT: Part.TEXT,
    MemoryPhase.ENCODE: Part.KEYFRAMES,
    MemoryPhase.DENOISE: Part.DENOISE,
    MemoryPhase.DECODE: Part.DECODE,
}
