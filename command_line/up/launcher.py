"""Becomes one supervised process, after asking the kernel to end it together with its supervisor.

Run by file name, before anything is imported: `python -I -S launcher.py SUPERVISOR_PID COMMAND ARGUMENT…`. The request survives `exec`, so
the process keeps this one's id, and no code has to run between fork and exec.
"""

import ctypes
import os
import signal
import sys

# From <sys/prctl.h>: the signal that this process gets when its parent ends, however it ends.
PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Asks for SIGTERM at the supervisor's end, then executes the command; returns only by ending the process."""
    supervisor_pid, *command = arguments
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        sys.exit(f"the kernel refused to tie this process to its supervisor: {os.strerror(ctypes.get_errno())}")
    # The supervisor may have ended before the request: then nobody is left to be told by.
    if os.getppid() != int(supervisor_pid):
        sys.exit("the supervisor ended before this process began")
    os.execv(command[0], command)  # noqa: S606 - a plain exec is the whole point


if __name__ == "__main__":
    main(sys.argv[1:])
