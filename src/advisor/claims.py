"""Which process has claimed a situation, and whether it still lives."""

from __future__ import annotations

import functools
import os
import socket

import psutil


def this_process() -> str:
    """Host, number and start of this process: no later process is the same."""
    return _name_of(os.getpid(), _own_start(os.getpid()))


def is_alive(owner: str) -> bool:
    """Whether the process of that name runs. One of another host counts as gone: a store is used on one machine, and a
    container that was started again has another host name."""
    host, _, rest = owner.rpartition(" pid ")
    number, _, _ = rest.partition(" ")
    if host != socket.gethostname() or not number.isdecimal():
        return False
    started = _started(int(number))
    return started is not None and _name_of(int(number), started) == owner


def _name_of(pid: int, started: float) -> str:
    return f"{socket.gethostname()} pid {pid} {started}"


def _started(pid: int) -> float | None:
    try:
        return _own_start(pid) if pid == os.getpid() else psutil.Process(pid).create_time()
    except psutil.Error:
        return None


@functools.cache
def _own_start(pid: int) -> float:
    return psutil.Process(pid).create_time()
