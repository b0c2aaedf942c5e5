"""Runs of a script as processes of their own, forked from one that has imported everything: seconds saved on each.

Signals, exit codes, standard streams and worker processes are those of a run from the shell. The forking process is
apart from pytest's, because a process that has used torch's threads must not fork.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
STOPPED_WITHIN_S = 2.0
"""Of the signal, on a machine that is not busy; here the load of other processes is allowed for."""

_SERVER = """
import gc, json, os, runpy, signal, sys

root, waits_for_disk, *modules = sys.argv[1:]
sys.path.insert(0, root)
if waits_for_disk == "no":
    os.fsync = lambda handle: os.fstat(handle) and None
import src.testing_framework
import tensorboard.summary.writer.event_file_writer
from src.advisor.fusion import compiled_fuse
from src.agent.learner.engine import compile_kernels

compiled_fuse()  # reads it from numba's cache, as every run does
compile_kernels()
for module in modules:
    __import__(module)
gc.collect()
gc.freeze()  # a run would walk through all of this whenever it collects garbage, and copy its pages

def run(request):
    os.setpgid(0, 0)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    for name, stream in (("out", 1), ("err", 2)):
        handle = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[:] = request["argv"]
    runpy.run_path(request["argv"][0], run_name="__main__")

signal.signal(signal.SIGINT, signal.SIG_IGN)
print("ready", flush=True)
for line in iter(sys.stdin.readline, ""):
    request = json.loads(line)
    if "wait" in request:
        status = os.waitpid(request["wait"], 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        run(request)  # leaves through sys.exit, as the script does
        sys.exit(0)
    os.setpgid(pid, pid)  # here as well as there: who is told the number may signal the group at once
    print(pid, flush=True)
"""


@dataclass(frozen=True)
class Finished:
    """What a run left: its exit code, what it printed, and the seconds since it was started or told to stop."""

    code: int
    out: str
    err: str
    seconds: float


class Run:
    """A run that goes on; `src.runs.kills` can kill it."""

    def __init__(self, server: CommandServer, pid: int, out: Path, err: Path) -> None:
        self.pid = pid
        self._server = server
        self._out, self._err = out, err
        self._code: int | None = None
        self._since = time.monotonic()

    @property
    def out(self) -> str:
        """What it has printed so far."""
        return self._out.read_text(encoding="utf-8")

    def until(self, holds: Callable[[], Any], timeout_s: float = 120.0) -> None:
        """Wait until something holds; AssertionError with the output when the run ends or time runs out before."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert self.ended() is None, f"the run ended early\n{self.out}\n{self._err.read_text()}"
            assert time.monotonic() < deadline, f"nothing after {timeout_s} s\n{self.out}\n{self._err.read_text()}"
            time.sleep(0.01)

    def processes(self) -> list[psutil.Process]:
        """Its child processes and theirs."""
        return psutil.Process(self.pid).children(recursive=True)

    def send(self, signum: signal.Signals, *, to_group: bool = False) -> None:
        """Signal the run, or its whole process group as a terminal's Ctrl-C does; its seconds count from here."""
        self._since = time.monotonic()
        (os.killpg if to_group else os.kill)(self.pid, signum)

    def ended(self) -> int | None:
        """Its exit code, None while it runs."""
        if self._code is None and psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE:
            self.wait()
        return self._code

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        if self._code is None:
            self._code = int(self._server.ask({"wait": self.pid}))
        return self._code

    def finish(self) -> Finished:
        """Wait for its end."""
        code = self.wait()
        seconds = time.monotonic() - self._since
        return Finished(code, self.out, self._err.read_text(encoding="utf-8"), seconds)


class CommandServer:
    """Forks runs of the repository's scripts; close it when done. `modules`: what it imports besides. `waits_for_disk`
    False: what is written is kept when a run is killed, but not through a power failure, and costs less."""

    def __init__(self, folder: Path, modules: Sequence[str] = (), *, waits_for_disk: bool = False) -> None:
        self._folder = folder
        self._runs = 0
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(ROOT), "yes" if waits_for_disk else "no", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def ask(self, request: dict[str, Any]) -> str:
        """One line for one line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def start(self, script: str, *options: str | Path, cwd: Path, env: dict[str, str] | None = None) -> Run:
        """Start a script of the repository in `cwd`."""
        self._runs += 1
        out, err = (self._folder / f"{self._runs}.{name}" for name in ("out", "err"))
        for file in (out, err):
            file.touch()
        argv = [str(ROOT / script), *map(str, options)]
        columns = {"COLUMNS": "80", **(env or {})}
        pid = int(self.ask({"argv": argv, "cwd": str(cwd), "out": str(out), "err": str(err), "env": columns}))
        return Run(self, pid, out, err)

    def run(self, script: str, *options: str | Path, cwd: Path, env: dict[str, str] | None = None) -> Finished:
        """Run a script to its end."""
        return self.start(script, *options, cwd=cwd, env=env).finish()

    def close(self) -> None:
        """End the forking process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()


def assert_refused(finished: Finished, output: Path | None, *words: str) -> None:
    """Exit code 2, one paragraph on standard error with these words in it; where `output` is given, nothing in it (but
    the file of a lock)."""
    assert finished.code == 2, finished
    assert finished.err.startswith("error: ")
    assert "\n\n" not in finished.err.strip()
    assert "Traceback" not in finished.err
    assert "Verdict" not in finished.out
    said = " ".join(finished.err.split())
    for word in words:
        assert re.search(word, said), said
    assert all(len(line) <= 80 or max(map(len, line.split())) > 60 for line in finished.err.splitlines()), finished.err
    if output is not None and output.is_dir():
        assert [path for path in output.iterdir() if path.name != ".pipeline.lock"] == []


def assert_stopped(run: Run, finished: Finished, processes: list[psutil.Process]) -> None:
    """Exit code 3 without a traceback, soon, and every process of the run is gone."""
    assert finished.code == 3, finished
    assert "Traceback" not in finished.err
    assert "Stopped" in finished.err
    busy = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert finished.seconds < STOPPED_WITHIN_S * busy
    # A fork server caught while it imports sees only afterwards that nobody needs it any more.
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert not psutil.pid_exists(run.pid) or psutil.Process(run.pid).status() == psutil.STATUS_ZOMBIE
