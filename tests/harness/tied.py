"""Becomes a command that the kernel kills together with the test run: `python -I -S tied.py PARENT_PID COMMAND ARGUMENT…`.

Like the launcher of `warmlane up`, but with SIGKILL: a process that a test has stopped (SIGSTOP) would sleep through a SIGTERM.
"""

import ctypes
import os
import signal
import sys

# From <sys/prctl.h>: the signal that this process gets when the thread that made it ends, however it ends.
PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Asks for SIGKILL at the parent's end, then executes the command."""
    parent_pid, *command = arguments
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"the kernel refused to tie this process to its parent: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != int(parent_pid):
        sys.exit("the parent ended before this process began")
    os.execv(command[0], command)  # noqa: S606 - a plain exec is the whole point


if __name__ == "__main__":
    main(sys.argv[1:])
