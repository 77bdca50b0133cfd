"""Runs a program that ends when the demo does, even when the demo is killed with -9.

    python -I -S leash.py PARENT_PID PROGRAM [ARGUMENT …]

A script of its own, since the wish has to be made in the child, between fork and exec, where a
process with threads must not run Python of its own. Linux only; elsewhere it just runs the program.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>; kept across execve(2)


def main() -> None:
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it died before the wish was made
            sys.exit(1)
    os.execv(command[0], command)  # noqa: S606  a program of ours, without a shell


if __name__ == "__main__":
    main()
