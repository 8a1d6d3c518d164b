"""What `warmlane up` prints when it is ready: the page to open, where all is, with which keys, and commands that work when pasted."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping

from command_line.program import program
from command_line.up.folder import DataFolder
from command_line.up.ports import LOOPBACK
from command_line.up.processes import DEDICATED_LANES, DEGRADED_POOL, HTTP_BRIDGE, StackOptions

_PROMPT = "a paper boat on a quiet pond"
# Small enough for a machine without a GPU to render in seconds.
_WIDTH, _HEIGHT, _FRAMES = 512, 512, 17


def first_steps(options: StackOptions, *, ports: Mapping[str, int], address: str, folder: DataFolder, needs_address: bool) -> list[str]:
    """The lines, top to bottom.

    Args:
        options: what runs, with which keys.
        ports: where each process listens.
        address: where admission answers.
        folder: where the logs are.
        needs_address: `warmlane submit` would not find admission by itself.
    """
    lines = [f"admission: {address} (gRPC)", f"logs: {folder.logs}"]
    url = f"http://{LOOPBACK}:{ports[HTTP_BRIDGE]}" if HTTP_BRIDGE in ports else None
    if url is not None:
        # First, and enough for a person: the page needs no key.
        lines = [
            f"Open {url}/ in a browser to make a video.",
            "",
            f"URL: {url}",
            f"API key: {options.api_key}",
            f"admin key: {options.admin_key} (opens {url}/console; header X-Admin-Key for admin paths)",
            *lines,
        ]
    model = _servable_model(options)
    if model is None:
        return [*lines, "No lane was started here: nothing is rendered until one attaches."]
    lines += ["", "Try it:"]
    if url is not None:
        lines.append(f"  {_curl(url, options.api_key, model)}")
    submit = [*program(), "submit", "--model", model, "--prompt", _PROMPT]
    submit += ["--width", str(_WIDTH), "--height", str(_HEIGHT), "--frames", str(_FRAMES)]
    submit += ["--address", address] if needs_address else []
    submit += ["--wait", "--output", "first.mp4"]
    return [*lines, f"  {shlex.join(submit)}", "", "Ctrl-C stops everything."]


def _servable_model(options: StackOptions) -> str | None:
    running = [model for lane, model in DEDICATED_LANES.items() if lane in options.processes]
    if running:
        return running[0]
    return next(iter(DEDICATED_LANES.values())) if DEGRADED_POOL in options.processes else None


def _curl(url: str, api_key: str, model: str) -> str:
    body = {"model": model, "prompt": _PROMPT, "width": _WIDTH, "height": _HEIGHT, "num_frames": _FRAMES}
    headers = ["-H", f"X-API-Key: {api_key}", "-H", "Content-Type: application/json"]
    return shlex.join(["curl", "-sS", "-X", "POST", f"{url}/generate", *headers, "-d", json.dumps(body)])
