"""What a request becomes when it is rendered: sizes, frame counts and keyframes that the model can make, and a seed."""

from __future__ import annotations

from dataclasses import replace

from runtime.rules.catalogue import KEYFRAME_MULTIPLE, MODELS, SIZE_MULTIPLE
from runtime.rules.request import ArbitraryFrame, GenerationRequest
from runtime.values import changed

MAX_SEED = 2_147_483_647

# The VAE turns 4 frames into one latent frame and keeps the first (facts/models.md, section 4).
_FRAMES_PER_LATENT = 4


def effective(request: GenerationRequest, *, seed: int) -> GenerationRequest:
    """The request as it will be rendered; applying it twice changes nothing.

    Width and height go down to a multiple of 16, the frame count down to 8k+1 (anisora) or 4k+1 (phr00t). Keyframes go to the nearest
    multiple of 8 (halves to the even one, as the authors' code rounds) but not past the last frame; where two meet, the later one of the
    list stays. They come out in order of time. `seed`, 0 to 2147483647, replaces a seed of -1.

    Raises:
        ValueError: `seed` is out of range.
    """
    if not 0 <= seed <= MAX_SEED:
        msg = f"seed must be between 0 and {MAX_SEED}"
        raise ValueError(msg)
    multiple = MODELS[request.model].frame_multiple
    num_frames = (request.num_frames - 1) // multiple * multiple + 1
    changes: dict[str, object] = {
        "width": request.width // SIZE_MULTIPLE * SIZE_MULTIPLE,
        "height": request.height // SIZE_MULTIPLE * SIZE_MULTIPLE,
        "num_frames": num_frames,
    }
    if request.seed == -1:
        changes["seed"] = seed
    if request.arbitrary_frames:
        changes["arbitrary_frames"] = _snapped(request.arbitrary_frames, num_frames)
    return changed(request, **changes)


def latent_tokens(request: GenerationRequest) -> int:
    """Latent tokens of an effective request, ((frames-1)/4+1)*(height/16)*(width/16): the measure of its work and of its activations."""
    latent_frames = (request.num_frames - 1) // _FRAMES_PER_LATENT + 1
    return latent_frames * (request.height // SIZE_MULTIPLE) * (request.width // SIZE_MULTIPLE)


def _snapped(frames: tuple[ArbitraryFrame, ...], num_frames: int) -> tuple[ArbitraryFrame, ...]:
    last = (num_frames - 1) // KEYFRAME_MULTIPLE * KEYFRAME_MULTIPLE
    by_index: dict[int, ArbitraryFrame] = {}
    for frame in frames:
        index = min(round(frame.frame_index / KEYFRAME_MULTIPLE) * KEYFRAME_MULTIPLE, last)
        by_index[index] = replace(frame, frame_index=index)
    return tuple(by_index[index] for index in sorted(by_index))
