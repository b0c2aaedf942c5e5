"""The GPU, checked and measured in under four minutes: `python -m src.benchmarks.gpu [--write-docs docs/gpu.md]`.

Each check comes before the measures that rest on it, and the first wrong figure ends it. Shows a table; the last line
is the same as JSON. `--device cpu --small` runs all of it through the CPU's implementations, to show that it runs.
"""

from __future__ import annotations

import json
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from rich.console import Console
from rich.table import Table

from src.advisor.choose import BUNDLED
from src.agent.learner.population_network import Precision
from src.agent.market import Market
from src.agent.rollout_plan import RolloutPlan, plan_rollouts
from src.agent.settings import HardwareSettings, NetArch, PolicySettings, TrainingSettings
from src.benchmarks import gpu_learner, gpu_measures, gpu_page, machine
from src.benchmarks.gpu_checks import WrongFigure, check_accounts
from src.benchmarks.workloads import synthetic_market
from src.console import PlainConsole, uncut
from src.errors import EXIT_OK, EXIT_TARGET_MISSED, ConfigError, UserError, is_out_of_memory
from src.files import write_atomically
from src.monitoring.hardware import Sampler
from src.plain_text import one_line
from src.shell import Parser, run_main
from src.trading.cuda import missing

COLUMNS: Final = 100
SECONDS: Final = 235.0
"""Of a whole benchmark; the rest of four minutes is for starting Python."""
SMALL_SECONDS: Final = 900.0
"""With small sizes, which take less than a minute where nothing else runs."""
ROLLOUTS: Final = 10**6
"""Planned for a population that is timed: it is stopped by the clock."""


Case = TypeVar("Case")


@dataclass(frozen=True)
class Setting:
    """What all parts read. `small`: sizes that show that it runs, not how fast."""

    device: torch.device
    small: bool
    market: Market
    plan: RolloutPlan
    training: TrainingSettings


@dataclass(frozen=True)
class Part:
    """One part: its name, the seconds it may take, its work, which is told when its time ends, and the checks that it
    rests on."""

    name: str
    seconds: float
    work: Callable[[Setting, float], dict[str, Any]]
    rests_on: tuple[str, ...] = ()


class _OutOfTime(BaseException):
    """The time of the whole benchmark is up. No `except Exception` of what is measured may catch it."""


def accounts(setting: Setting, deadline: float) -> dict[str, Any]:
    """Accounts and observations, step by step."""
    return check_accounts(setting.device, setting.market, 64 if setting.small else 4096, deadline)


def learner(setting: Setting, deadline: float) -> dict[str, Any]:
    """Outputs, gradients and an update."""
    return gpu_learner.check_learner(setting.device, setting.market, setting.plan, setting.training)


def members(setting: Setting, deadline: float) -> dict[str, Any]:
    """Populations of all sizes, smallest first."""
    sizes = (1, 3) if setting.small else gpu_page.MEMBERS
    # About half of a size's share is set-up: models, graphs, the first rollouts.
    rows, left_out = _in_turns(sizes, deadline, 0.5, lambda size, seconds: _population(setting, size, seconds))
    return {"sizes": rows, "left_out": left_out}


def precisions(setting: Setting, deadline: float) -> dict[str, Any]:
    """TF32 and bf16: speed, and what they do to the gradients."""
    size = 2 if setting.small else 64

    names: tuple[Precision, ...] = ("tf32", "bf16")
    effects = gpu_learner.gradient_effects(setting.device, setting.market, setting.plan, setting.training, names)

    def of(precision: Precision, seconds: float) -> dict[str, Any]:
        return {**_population(setting, size, seconds, precision), "gradient_effect": effects[precision]}

    rows, left_out = _in_turns(names, deadline, 0.4, of)
    return {"rows": rows, "left_out": left_out}


def _in_turns(
    cases: Sequence[Case], deadline: float, share: float, work: Callable[[Case, float], dict[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """A row for each case, measured for `share` of its part of the time left; and why there is none for the others."""
    rows: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for done, case in enumerate(cases):
        left = deadline - time.perf_counter()
        if left <= 0.0:
            left_out[str(case)] = "no time was left"
            continue
        try:
            rows.append(work(case, share * left / (len(cases) - done)))
        except (RuntimeError, MemoryError, UserError) as error:
            if not isinstance(error, UserError) and not is_out_of_memory(error):
                raise
            left_out[str(case)] = one_line(error)
    return rows, left_out


def _population(setting: Setting, size: int, seconds: float, precision: Precision = "float32") -> dict[str, Any]:
    """With CUDA graphs on a GPU; without them where they cannot be recorded, and then why."""

    def measured(graphs: bool | None) -> dict[str, Any]:
        return gpu_measures.measure_population(
            setting.device, setting.market, setting.plan, setting.training, size,
            0.0 if setting.small else seconds, precision, graphs,
        )  # fmt: skip

    try:
        return {**measured(None), "graphs": setting.device.type == "cuda", "why_no_graphs": ""}
    except UserError as error:
        return {**measured(False), "graphs": False, "why_no_graphs": one_line(error)}


def advice(setting: Setting, deadline: float) -> dict[str, Any]:
    """The bundled model in bf16; the tiny one where it is small."""
    left = deadline - time.perf_counter()
    model, most = ("tiny", 8) if setting.small else (BUNDLED, 512)
    return gpu_measures.measure_advice(setting.device, model, 0.0 if setting.small else left / 3, most)


def run(setting: Setting, deadline: float) -> dict[str, Any]:
    """A whole run, as a user starts it."""
    options = ["--market", "ES", "--mock-llm", "--device", setting.device.type]
    if setting.small:
        options += ["--quick", "--timesteps", "256", "--vectorized-envs", "4", "--batch-size", "64", "--seeds", "1"]
        options += ["--learner", "population"]  # on a GPU it is the default
    return gpu_measures.measure_run(options, max(1.0, deadline - time.perf_counter()))


CHECKS: Final = ("accounts", "learner")
PARTS: Final = (
    Part("accounts", 30.0, accounts),
    Part("learner", 25.0, learner, CHECKS[:1]),
    Part("members", 70.0, members, CHECKS),
    Part("precisions", 25.0, precisions, CHECKS),
    Part("advice", 25.0, advice),
    Part("run", SECONDS, run, CHECKS),
)


def measure(
    setting: Setting, say: Callable[[str], None], seconds: float = SECONDS, parts: Sequence[Part] = PARTS
) -> dict[str, Any]:
    """Do the parts in turn: `parts`, each its figures or `not_measured` with the reason, and `wrong`, None or what
    ended it. A part that is late takes from the later ones; none takes more than is left of `seconds`."""
    found: dict[str, dict[str, Any]] = {}
    wrong: dict[str, Any] | None = None
    ends = time.perf_counter() + seconds
    try:
        with _alarm(seconds):
            for part in parts:
                broken = [name for name in part.rests_on if "not_measured" in found.get(name, {})]
                if wrong is not None or broken:
                    reason = f"{broken[0]} was not checked" if wrong is None else "an earlier figure was wrong"
                    found[part.name] = {"not_measured": reason}
                    continue
                say(f"{part.name} ...")
                found[part.name], wrong = _done(part, setting, ends)
    except _OutOfTime:
        for part in parts:
            found.setdefault(part.name, {"not_measured": f"the {seconds:.0f} s of the benchmark were up"})
    return {"parts": found, "wrong": wrong}


def _done(part: Part, setting: Setting, ends: float) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """A part's figures, and what is wrong with them, if anything is.

    What else goes wrong is this part's result: the figures of the others are worth the machine that they need.
    """
    began, wrong = time.perf_counter(), None
    most = ends if setting.small else min(began + part.seconds, ends)
    try:
        found = part.work(setting, most)
    except WrongFigure as error:
        found = {"not_measured": "a figure was wrong"}
        wrong = {"part": part.name, "words": str(error), "input": error.shown}
    except Exception as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        found = {"not_measured": f"{kind}{one_line(error)}"}
        if kind:
            found["traceback"] = traceback.format_exc()
    return {**found, "took_s": time.perf_counter() - began}, wrong


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise _OutOfTime in the main thread once the time is up."""

    def up(*_: object) -> None:
        raise _OutOfTime

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def new_setting(device: torch.device, *, small: bool) -> Setting:
    """The default sizes, or small ones."""
    market = synthetic_market()
    if small:
        nets = PolicySettings(net_arch=NetArch(pi=(16,), vf=(16,)))
        return Setting(device, True, market, _long(plan_rollouts(64, 4, 32, 16)), TrainingSettings(policy_kwargs=nets))
    hardware, training = HardwareSettings(), TrainingSettings()
    return Setting(
        device, False, market, _long(plan_rollouts(10**6, hardware.vectorized_envs, hardware.batch_size)), training
    )


def _long(plan: RolloutPlan) -> RolloutPlan:
    size = plan.n_envs * plan.n_steps
    return RolloutPlan(plan.n_envs, plan.n_steps, plan.batch_size, ROLLOUTS, ROLLOUTS * size, ROLLOUTS * size)


def identity(device: torch.device, *, small: bool) -> dict[str, Any]:
    """Card, date, revision and libraries."""
    sampler = Sampler(use_gpu=device.type == "cuda")
    sampler.close()
    code = machine.revision()
    on_gpu = device.type == "cuda"
    return {
        "device": device.type,
        "card": torch.cuda.get_device_name() if on_gpu else None,
        "capability": list(torch.cuda.get_device_capability()) if on_gpu else None,
        "driver": _driver() if on_gpu else None,
        "nvml": sampler.gpu_reason or "read",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "revision": code["commit"],
        "changed": code["changed"],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "numba_cuda": _version("numba-cuda"),
        "machine": machine.identity(),
        "small": small,
    }


def _driver() -> str | None:
    """The driver's version; None where NVML does not report it."""
    import pynvml

    try:
        pynvml.nvmlInit()
        said = pynvml.nvmlSystemGetDriverVersion()
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None
    return said.decode() if isinstance(said, bytes) else str(said)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def what_is_missing() -> str | None:
    """Why this machine cannot run the benchmark on a GPU, in one line; None where it can."""
    if not torch.cuda.is_available():
        build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "a build for the CPU only"
        return (
            f"torch finds no CUDA device (torch {torch.__version__}, {build}). Install the driver and a CUDA build "
            f"of torch"
        )
    return missing().rstrip(".") or None


def show(console: Console, found: Mapping[str, Any]) -> None:
    """The table, and what was not measured and why."""
    title = (
        f"Measured on {gpu_page.origin(found)}"
        if found["device"] == "cuda"
        else "On a CPU, small sizes: it runs. No GPU figures"
    )
    table = Table(title=title, title_justify="left")
    for heading in ("what", "figure", "bound or goal"):
        table.add_column(heading)
    for row in gpu_page.rows_of(found["parts"]):
        table.add_row(*row)
    console.print(uncut(table))
    for name, part in found["parts"].items():
        if "not_measured" in part:
            console.print(f"{name}: not measured. {part['not_measured']}")
        for case, reason in part.get("left_out", {}).items():
            console.print(f"{name}, {case}: not measured. {reason}")
    if found["wrong"] is not None:
        console.print(f"WRONG: {found['wrong']['words']}")


def is_complete(found: Mapping[str, Any]) -> bool:
    """Whether everything was measured and nothing was wrong."""
    parts = found["parts"].values()
    return found["wrong"] is None and not any("not_measured" in part or part.get("left_out") for part in parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """0, 1 where a figure was wrong or there was no time for a part, 2 without a GPU or for options that do not fit."""
    parser = Parser("The GPU, checked and measured.", prog="python -m src.benchmarks.gpu")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: with --small, shows that it runs"
    )
    parser.add_argument("--small", action="store_true", help="small sizes: shows that it runs, not how fast")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the JSON to this file, too")
    parser.add_argument("--write-docs", type=Path, metavar="PAGE", help="write the table into this page (docs/gpu.md)")
    options = parser.parse_args(arguments)
    if options.device == "cpu" and not options.small:
        parser.error("--device cpu goes with --small: nothing is measured on a CPU, it only shows that this runs")
    if options.write_docs is not None and options.small:
        parser.error("--write-docs takes the figures of a whole benchmark on a GPU, not those of --small")
    if options.device == "cuda" and (missing := what_is_missing()) is not None:
        raise ConfigError(f"{missing}; or add --device cpu --small, which shows that the benchmark runs.")
    page = None if options.write_docs is None else options.write_docs.read_text(encoding="utf-8")
    torch.set_num_threads(1)
    began = time.perf_counter()
    console, device = PlainConsole(width=COLUMNS), torch.device(options.device)
    found = identity(device, small=options.small)
    setting = new_setting(device, small=options.small)
    seconds = SMALL_SECONDS if options.small else SECONDS
    found |= measure(setting, console.print, seconds - (time.perf_counter() - began))
    found["seconds"] = time.perf_counter() - began
    show(console, found)
    text = json.dumps(found)
    if options.output is not None:
        write_atomically(options.output, text + "\n")
    if page is not None:
        write_atomically(options.write_docs, gpu_page.replaced(page, found))
    console.print(text, soft_wrap=True)
    return EXIT_OK if is_complete(found) else EXIT_TARGET_MISSED


if __name__ == "__main__":
    run_main(main)
