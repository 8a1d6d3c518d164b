"""From the options of `warmlane submit` to a request: which picture means what, and what was not said stays unsaid."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from warmlane.generation.v1 import generation_pb2

from command_line.client import AdmissionClient
from command_line.failures import CommandError
from runtime.errors import ServiceError
from runtime.images import MAX_IMAGE_BYTES

_KEYFRAME = re.compile(r"^(?P<path>.+)@(?P<index>\d{1,9})(?::(?P<strength>\d+(?:\.\d+)?))?$")

# How many pictures a mode takes; None: one or more, each with its place in the clip.
_PICTURES: dict[str, int | None] = {"t2v": 0, "i2v": 1, "first_last_frame": 2, "arbitrary_frame": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One `--image`.

    Attributes:
        path: the file.
        frame_index: its place in the clip, for `arbitrary_frame`.
        strength: how strongly it binds; None leaves it to the rules.
    """

    path: Path
    frame_index: int | None = None
    strength: float | None = None


def chosen_mode(mode: str | None, images: Sequence[str]) -> str | None:
    """The mode as said, or as the pictures mean it; None leaves it to the model's default."""
    if mode is not None or not images:
        return mode
    if any(_KEYFRAME.match(image) and not Path(image).exists() for image in images):
        return "arbitrary_frame"
    return "i2v" if len(images) == 1 else "first_last_frame"


def pictures(mode: str | None, images: Sequence[str]) -> list[Picture]:
    """The pictures of a request.

    Raises:
        CommandError: their number or form does not fit the mode, or a file is not there.
    """
    # A mode that is not known here is for admission to judge: its answer names those that the model has.
    wanted = _PICTURES.get(mode, len(images)) if mode is not None else 0
    if wanted is None:
        if not images:
            raise CommandError("arbitrary_frame needs at least one --image PATH@INDEX or PATH@INDEX:STRENGTH.")
        found = [_keyframe(image) for image in images]
    else:
        if len(images) != wanted:
            msg = f"mode {mode or 't2v'} takes {wanted} --image, not {len(images)}."
            raise CommandError(msg)
        found = [Picture(path=Path(image)) for image in images]
    for picture in found:
        _check_file(picture.path)
    return found


async def attach_pictures(
    request: generation_pb2.GenerationRequest, found: Sequence[Picture], client: AdmissionClient
) -> generation_pb2.GenerationRequest:
    """Uploads the pictures and names them in a copy of the request, where its mode wants them."""
    complete = generation_pb2.GenerationRequest()
    complete.CopyFrom(request)
    references = [await _uploaded(picture.path, client) for picture in found]
    if request.mode == "i2v":
        complete.reference_image.CopyFrom(references[0])
    elif request.mode == "first_last_frame":
        complete.first_frame_image.CopyFrom(references[0])
        complete.last_frame_image.CopyFrom(references[1])
    elif request.mode == "arbitrary_frame":
        complete.arbitrary_frames.extend(
            generation_pb2.ArbitraryFrame(frame_index=picture.frame_index or 0, image=reference, strength=picture.strength)
            for picture, reference in zip(found, references, strict=True)
        )
    return complete


def _keyframe(image: str) -> Picture:
    match = _KEYFRAME.match(image)
    if match is None:
        msg = f"--image {image}: arbitrary_frame wants PATH@INDEX or PATH@INDEX:STRENGTH, such as sketch.png@8:0.9."
        raise CommandError(msg)
    strength = float(match["strength"]) if match["strength"] is not None else None
    return Picture(path=Path(match["path"]), frame_index=int(match["index"]), strength=strength)


def _check_file(path: Path) -> None:
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError:
        size = None
    if size is None:
        msg = f"--image {path}: no such file."
        raise CommandError(msg)
    if size > MAX_IMAGE_BYTES:
        msg = f"--image {path}: {size} bytes are over the limit of {MAX_IMAGE_BYTES // 1024 // 1024} MiB."
        raise CommandError(msg)


async def _uploaded(path: Path, client: AdmissionClient) -> generation_pb2.InputImage:
    try:
        return await client.upload(await asyncio.to_thread(path.read_bytes))
    except OSError as error:
        msg = f"--image {path}: cannot be read: {error.strerror}."
        raise CommandError(msg) from error
    except ServiceError as error:
        if not error.violations:
            raise
        # Admission knows the bytes only; which of several pictures it was is known here.
        told = " ".join(violation.message for violation in error.violations)
        msg = f"--image {path}: {told}"
        raise CommandError(msg) from error
