"""No process outlives its run: when a run is killed, its fork server and workers end, even stopped or stuck ones.

The fork server of multiprocessing ends when the last process that holds its pipe has ended. Workers hold it too, and
one that is stuck in a step keeps both alive. Here workers close the pipe, so the server ends with the run, and the
kernel kills each worker with the server (Linux; elsewhere a worker ends when it next reads its own pipe). While the
server imports what its workers need, it does not look at the pipe: until `src.trading.orphans.loaded` is imported, the
kernel kills it with the thread that started it, which waits for the workers meanwhile.
"""

from __future__ import annotations

import ctypes
import multiprocessing.forkserver
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def is_fork_server() -> bool:
    """Whether this process was started as multiprocessing's fork server (or forked from one)."""
    return sys.orig_argv[-1].startswith("from multiprocessing.forkserver import main")


def kill_with_parent(signum: int) -> None:
    """Have the kernel send this process a signal when the thread that started it ends; 0: no longer."""
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def end_with_fork_server() -> None:
    """In a worker: end with the fork server, and do not keep it alive."""
    pipe = multiprocessing.forkserver._forkserver._forkserver_alive_fd  # type: ignore[attr-defined]
    if pipe is None:
        return  # a worker that another start method has made
    multiprocessing.forkserver._forkserver._forkserver_alive_fd = None  # type: ignore[attr-defined]
    server = os.getppid()
    kill_with_parent(signal.SIGKILL)
    os.close(pipe)
    if os.getppid() != server:  # it ended before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)


if is_fork_server():
    kill_with_parent(signal.SIGKILL)
