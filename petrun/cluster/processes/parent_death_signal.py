"""Run a program that gets SIGTERM when the process that started it is gone.

Usage: `python -m petrun.cluster.processes.parent_death_signal PARENT PROGRAM ...`.

Linux sends SIGTERM on the parent's end, however that came: SIGKILL and the out-of-memory killer leave nobody to do it. It counts the
end of the thread that started the program, which must be the one that waits for it. The wish
(PR_SET_PDEATHSIG) outlives exec but not fork, so the started program states it itself, in a process of its own: code that runs
between fork and exec of a parent with threads, such as MindSpore's, may hang.
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
    # It may have ended before the wish was stated.
    if os.getppid() == int(parent):
        os.execv(command[0], command)


if __name__ == "__main__":
    main()
