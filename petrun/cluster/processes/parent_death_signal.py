"""Run a program that gets SIGTERM when the process that started it ends.

Usage: `python -m petrun.cluster.processes.parent_death_signal PARENT PROGRAM ...`.

Linux sends SIGTERM when the parent ends, also after SIGKILL or the out-of-memory killer, when petrun cannot send it. The end of the
thread that started the program counts, so that thread must wait for it. The setting (PR_SET_PDEATHSIG) survives exec but not fork, so the
started program sets it itself, in a process of its own: code that runs between fork and exec of a parent with threads, such as
MindSpore's, may hang.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    # The parent may have ended before the setting was made.
    if os.getppid() == int(parent):
        os.execv(command[0], command)


if __name__ == "__main__":
    main()
