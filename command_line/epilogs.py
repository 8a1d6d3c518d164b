"""What stands below the help of each command: examples to paste, and its exit codes."""

from __future__ import annotations

_ASKED = "Exit codes: 0 done as asked; 2 what was asked is wrong; 3 admission is away or overloaded; 130 Ctrl-C."
_OF_TASKS = (
    "Exit codes: 0 done as asked; 1 the task failed or was cancelled; 2 what was asked is wrong; 3 admission is away or overloaded; "
    "130 Ctrl-C."
)
_ALONE = "Exit codes: 0 done as asked; 2 what was asked is wrong."


def epilog(*examples: str, exit_codes: str) -> str:
    """Below the help of a command. Paragraphs: the help joins lines that follow each other."""
    return "\n\n".join(("Examples:", *examples, exit_codes))


UP = epilog(
    "warmlane up",
    "warmlane up --profile a10g --without degraded-pool",
    "warmlane up --data-dir second --grpc-port 0",
    exit_codes="Exit codes: 0 stopped by Ctrl-C or SIGTERM; 2 an option is wrong, or a port or the folder is taken; "
    "3 no free port was to be had.",
)
SUBMIT = epilog(
    'warmlane submit --model anisora --prompt "a paper boat" --wait --output boat.mp4',
    'warmlane submit --model phr00t --prompt "it drifts away" --image boat.png --frames 49',
    'warmlane submit --model anisora --prompt "a paper boat" --image a.png@0 --image b.png@48:0.9 --frames 81 --json',
    exit_codes="Exit codes: 0 accepted (with --wait: done); 1 the task failed or was cancelled; 2 the request is wrong; "
    "3 nobody can serve it now; 130 Ctrl-C.",
)
STATUS = epilog("warmlane status TASK", "warmlane status TASK --json", exit_codes=_ASKED)
WATCH = epilog("warmlane watch TASK", "warmlane watch TASK --output boat.mp4", "warmlane watch TASK --json", exit_codes=_OF_TASKS)
CANCEL = epilog("warmlane cancel TASK", exit_codes=_ASKED)
LANES = epilog("warmlane lanes", "warmlane lanes --json", exit_codes=_ASKED)
QUEUE = epilog("warmlane queue", "warmlane queue --json", exit_codes=_ASKED)
DRAIN = epilog("warmlane drain lane-anisora", "warmlane drain lane-anisora --resume", exit_codes=_ASKED)
FALLBACK = epilog("warmlane fallback anisora on", "warmlane fallback anisora off", exit_codes=_ASKED)
EVENTS = epilog(
    "warmlane events --task TASK",
    "warmlane events --follow",
    "warmlane events --type model_fallback_started --type model_fallback_ended --after 1200 --json",
    exit_codes=_ASKED,
)
PLAN = epilog(
    "warmlane plan",
    "warmlane plan --gpu T4 --model anisora --host-gib 16",
    "warmlane plan --explain --model phr00t --width 720 --height 1280 --frames 81",
    exit_codes=_ALONE,
)
