"""Proof that no damaged file of a run is used, waited for or lost track of.

    python -m src.runs.damage            every file of a finished and of an interrupted run, in eight ways
    python -m src.runs.damage --every 5  every fifth of these

A short pipeline runs to its end, another one is stopped on its way. Copies of both are damaged, one file at a time, and
resumed. Each must end with the bytes of the undamaged run (times aside), or name the file and end with exit code 1 or
2; in no case may it hang, show a traceback or write through a symlink.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from src import run_names
from src.runs.kills import SCRIPTS, SETTINGS, results_of
from src.runs.run_files import files_in

BAIT = "bait"
"""What a planted symlink points to, outside of the run."""
LIMIT_S = 120.0
"""After which a resumed run counts as hung."""


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def _to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _to_symlink(path: Path) -> None:
    bait = bait_of(path)
    path.rename(bait)
    path.symlink_to(bait)


def _to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: Mapping[str, Callable[[Path], None]] = {
    "truncated": _truncate,
    "emptied": lambda path: os.truncate(path, 0),
    "zeroed": _zero,
    "flipped": _flip,
    "deleted": Path.unlink,
    "a pipe": _to_pipe,
    "a symlink": _to_symlink,
    "a folder": _to_folder,
}
"""Each takes the path of a file."""


def bait_of(path: Path) -> Path:
    """Where the symlink in place of a file points to: the folder that holds the run's home."""
    home = next(parent for parent in path.parents if parent.name.startswith("home"))
    return home.parent / f"{BAIT}-{home.name}"


@dataclass(frozen=True)
class Ended:
    """How a resumed run ended: its exit code, None where it hung, and what it printed."""

    code: int | None
    said: str


Resume = Callable[[Path], Ended]
"""Resumes the run of a home."""


@dataclass
class Outcome:
    """How many damages were tried, how many ended with the same bytes, and what went wrong."""

    tried: int = 0
    same: int = 0
    named: int = 0
    faults: list[str] = field(default_factory=list)


def damages_of(home: Path) -> list[tuple[str, str]]:
    """Every file of the run there, its path below the home, with every way to damage it."""
    (run,) = (path.parent for path in home.glob(f"logs/*/{run_names.LEDGER}"))
    manifest = [run_names.MANIFEST] if (run / run_names.MANIFEST).exists() else []
    names = [f"{run.relative_to(home)}/{name}" for name in [*files_in(run), *manifest]]
    return [(name, how) for name in names for how in DAMAGES if (home / name).stat().st_size or how.startswith("a ")]


def fault_of(home: Path, name: str, how: str, expected: Mapping[str, str], resume: Resume) -> tuple[str, bool]:
    """What is wrong with how the run of this home ends after one of its files was damaged ("" for nothing), and whether
    it ended with the expected results. `name` is the file's path below the home, which is changed."""
    path = home / name
    DAMAGES[how](path)
    bait = bait_of(path)
    was = bait.read_bytes() if bait.exists() else b""
    ended = resume(home)
    named = path.name in ended.said
    if ended.code is None:
        return "hung", False
    if "Traceback" in ended.said or ended.code not in (0, 1, 2):
        return f"exit code {ended.code}: {' '.join(ended.said.split())[-300:]}", False
    if bait.exists() and bait.read_bytes() != was:
        return "written through the symlink", False
    if ended.code == 0:
        found = results_of(home)
        differing = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        return (f"exit code 0, and other results: {', '.join(differing[:4])}" if differing else ""), not differing
    return ("" if named else f"exit code {ended.code} without naming the file"), False


def sweep(
    states: Mapping[str, Path], scratch: Path, expected: Mapping[str, str], resume: Resume, *, every: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:  # fmt: skip
    """Damage copies of homes in all ways, or every `every`th of them, and resume each."""
    outcome = Outcome()
    for state, home in states.items():
        for name, how in damages_of(home)[::every]:
            copy = scratch / f"home-{outcome.tried}"
            shutil.copytree(home, copy, symlinks=True)
            fault, same = fault_of(copy, name, how, expected, resume)
            outcome.tried += 1
            outcome.same += same
            outcome.named += not fault and not same
            if fault:
                outcome.faults.append(f"{state} run, {name.partition('/')[2]} {how}: {fault}")
                say(outcome.faults[-1])
            bait_of(copy / name).unlink(missing_ok=True)
            shutil.rmtree(copy)
    return outcome


def resumed_here(home: Path, *options: str, stop_when: Callable[[], bool] | None = None) -> Ended:
    """`run_pipeline.py` in a fork of this process, which has loaded everything; killed with its group at the limit, or
    stopped by SIGTERM as soon as `stop_when` holds."""
    output = home.parent / f"{home.name}.txt"
    child = os.fork()
    if child == 0:
        _be_the_script(home, output, options)
    began, stopped = time.monotonic(), stop_when is None
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if stop_when is not None and not stopped and stop_when():
            os.kill(child, signal.SIGTERM)
            stopped = True
        if time.monotonic() - began > LIMIT_S:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return Ended(None, output.read_text(encoding="utf-8"))
        time.sleep(0.01)
    said = output.read_text(encoding="utf-8")
    output.unlink()
    return Ended(os.waitstatus_to_exitcode(ended[1]), said)


def _be_the_script(home: Path, output: Path, options: Sequence[str]) -> None:
    """In the child: never returns."""
    code = 1
    try:
        os.setsid()
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for standard in (1, 2):
            os.dup2(handle, standard)
        os.chdir(home)
        sys.argv = [str(SCRIPTS["pipeline"]), *options]
        try:
            runpy.run_path(str(SCRIPTS["pipeline"]), run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was damaged and what went wrong; the exit code: 0 nothing, 1 something."""
    parser = argparse.ArgumentParser(description="Damage every file of a run, resume it, and compare.")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth damage (default 1: all)")
    args = parser.parse_args(argv)
    import src.runs.pipeline  # noqa: F401  (loaded once, for all forks)

    console = Console(soft_wrap=True)

    def say(text: str) -> None:
        console.print(Text(text))

    with tempfile.TemporaryDirectory(prefix="damage-") as folder:
        homes = {state: Path(folder) / f"home-{state}" for state in ("finished", "interrupted")}
        options = ("--config", "settings.yaml", "--timesteps", "2048", "--output-dir", "logs")
        for home in homes.values():
            home.mkdir()
            (home / "settings.yaml").write_text(SETTINGS.replace("model: tiny", "model: mock"), encoding="utf-8")
        began = time.monotonic()
        whole = resumed_here(homes["finished"], *options)
        if whole.code != 0:
            raise RuntimeError(f"the undamaged run ended with exit code {whole.code}: {whole.said}")
        length_s = time.monotonic() - began
        home = homes["interrupted"]
        stopped = resumed_here(
            home, *options, stop_when=lambda: any(home.glob("logs/*/members/*/hybrid/checkpoint-*/manifest.json"))
        )
        if stopped.code != 3:
            raise RuntimeError(f"the run to be interrupted ended with exit code {stopped.code}: {stopped.said}")
        say(f"a run takes {length_s:.1f} s; damages: {[len(damages_of(home)) for home in homes.values()]}")
        expected = results_of(homes["finished"])
        outcome = sweep(
            homes, Path(folder), expected, lambda home: resumed_here(home, "--output-dir", "logs", "--auto-resume"),
            every=args.every, say=say,
        )  # fmt: skip
    say(f"{outcome.tried} damages: {outcome.same} ended with the same bytes, {outcome.named} were named")
    say("no fault" if not outcome.faults else f"{len(outcome.faults)} faults")
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
