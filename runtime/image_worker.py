"""The process that looks at strangers' images: reads one after the other from its parent, within limits that the kernel keeps.

`python -m runtime.image_worker`, started by `runtime.image_process` only. What it is sent: eight bytes of length, and the file. What it
answers: one line of JSON. A file that breaks a limit ends it; the parent knows what that means.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from pathlib import Path

from PIL import JpegImagePlugin, MpoImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from runtime.image_files.webp import libwebp
from runtime.images import InvalidImageError, check_image

LENGTH_BYTES = 8
MAX_CPU_S = 2.0
"""Of the processor, for one file. The costliest that the rules let pass takes a third of it on a core of 2023."""
MAX_MEMORY_BYTES = 320 * 1024 * 1024
"""Of address space, beyond what the empty process has; the file itself is in it."""

TOO_COSTLY = "The image takes too much time or memory to decode; save it again as an ordinary PNG or baseline JPEG, or smaller."

# Decoders that are imported before the limits are set; the check imports them late.
_DECODERS = (JpegImagePlugin, MpoImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)


def main() -> None:
    """Answers until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    libwebp()
    _limit()
    stream = sys.stdin.buffer
    while len(head := stream.read(LENGTH_BYTES)) == LENGTH_BYTES:
        answer = _answer(stream.read(int.from_bytes(head, "big")))
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _limit() -> None:
    used_bytes = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + MAX_MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _answer(content: bytes) -> dict[str, str | int]:
    # The default action of this signal ends the process, wherever in a decoder it is.
    signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)
    try:
        image = check_image(content)
    except InvalidImageError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": TOO_COSTLY}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return {"media_type": image.media_type, "width": image.width, "height": image.height}


if __name__ == "__main__":
    main()
