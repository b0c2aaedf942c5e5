"""A benchmark run as a JSON file: written by `benchmark_framework.py`, read and checked by `compare_benchmarks.py`.

Loads no library, so that two files are compared in a moment.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from src.errors import UserError
from src.files import read_input, write_json
from src.plain_text import foreign, foreign_values

KIND: Final = "benchmark"
SCHEMA_VERSION: Final = 1
MOST_BYTES: Final = 64 * 2**20
"""Of a file that is read; a run of every suite has some tens of KB."""
BASELINE, OPTIMIZED = "baseline", "optimized"
MODES: Final = (BASELINE, OPTIMIZED)

SUITES: Final[Mapping[str, str]] = {
    "steps": "accounts stepped together",
    "rollout": "collecting a rollout",
    "update": "the PPO update of a rollout",
    "training": "rollout and update end to end, and the networks' share",
    "fusion": "fusing decisions with advice",
    "cache": "rows of features at 70% hits",
    "pool": "preparing an evaluation environment",
    "advice": "advice of the language model",
    "logging": "a training step's record",
    "checkpoint": "saving a policy in training",
}
"""What each suite measures, by the name that `--suite` takes."""

REPEATS, PAIR_REPEATS, QUICK_REPEATS = 7, 5, 3
"""Blocks of a case in a process, unless `--repeats` says otherwise."""
LEAST_PROCESSES: Final = 8
"""Fewest processes of a mode for which a pair's interval has its nominal coverage."""

IDENTITY: Final = {"processor": str, "architecture": str, "system": str, "cores": int, "memory_gib": int}
"""Facts that identify a machine: if one differs, it is another machine."""


class BenchmarkFileError(UserError):
    """A benchmark file that cannot be used."""


@dataclass(frozen=True)
class Row:
    """One case of a suite: seconds of one operation, by process and in it by repeat.

    `workload` is what was to be done, the same in all modes; `way` is how this mode did it; `facts` what belongs to
    the figure (parameters of the networks, the hit rate met).
    """

    suite: str
    case: str
    unit: str
    way: str
    workload: Mapping[str, Any]
    facts: Mapping[str, Any]
    seconds: tuple[tuple[float, ...], ...]

    @property
    def key(self) -> tuple[str, str]:
        """Which row of a run this is."""
        return self.suite, self.case

    @property
    def process_medians(self) -> list[float]:
        """The median over repeats of each process."""
        return [statistics.median(repeats) for repeats in self.seconds]

    @property
    def median_s(self) -> float:
        """The median of the processes' medians."""
        return statistics.median(self.process_medians)

    @property
    def spread(self) -> float:
        """Half the interquartile range of all repeats, divided by their median."""
        values = [value for repeats in self.seconds for value in repeats]
        if len(values) < 2:
            return 0.0
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return (high - low) / 2.0 / middle


@dataclass(frozen=True)
class BenchmarkRun:
    """Everything a file holds. `pair` names the pair of files that were measured in turns, None outside of one."""

    mode: str
    quick: bool
    created: str
    repeats: int
    suites: tuple[str, ...]
    revision: Mapping[str, Any]
    machine: Mapping[str, Any]
    """`identity` (the keys of `IDENTITY`), `state` before and after, `versions`."""
    not_measured: Mapping[str, str]
    """Why a suite has no rows, by its name."""
    rows: tuple[Row, ...]
    pair: str | None = None

    @property
    def processes(self) -> int:
        """How many processes were measured."""
        return len(self.rows[0].seconds) if self.rows else 0


def workload_hash(suite: str, case: str, unit: str, workload: Mapping[str, Any]) -> str:
    """Hash of the work, 16 hex digits."""
    told = json.dumps([suite, case, unit, workload], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def gemm_share(rows: Iterable[Row]) -> float | None:
    """Share of the speed of its matrix products alone that training end to end reaches; None if not both were timed.

    Both are measured in turns in each process: the median over processes.
    """
    training = {row.case: row.process_medians for row in rows if row.suite == "training"}
    if not {END_TO_END, PRODUCTS} <= training.keys():
        return None
    pairs = zip(training[PRODUCTS], training[END_TO_END], strict=True)
    return statistics.median(products / whole for products, whole in pairs)


END_TO_END, NETWORKS, PRODUCTS = "end to end", "networks alone", "matrix products alone"
"""Cases of the training suite."""


def safe_to_show(run: BenchmarkRun) -> BenchmarkRun:
    """The run with every text in it escaped and shortened: the file may come from a stranger."""
    rows = (
        replace(row, **{name: foreign_values(value) for name, value in vars(row).items() if name != "seconds"})
        for row in run.rows
    )
    return replace(
        run,
        created=foreign(run.created),
        suites=tuple(map(foreign, run.suites)),
        revision=foreign_values(run.revision),
        machine=foreign_values(run.machine),
        not_measured=foreign_values(run.not_measured),
        rows=tuple(rows),
    )


def joined(runs: list[BenchmarkRun], pair: str) -> BenchmarkRun:
    """Runs of one mode, a process each, as one run of several processes; a suite counts if all measured it."""
    first, last = runs[0], runs[-1]
    by_key = [{row.key: row for row in run.rows} for run in runs]
    common = [key for key in by_key[0] if all(key in rows for rows in by_key)]
    rows = [
        replace(by_key[0][key], seconds=tuple(times for rows in by_key for times in rows[key].seconds))
        for key in common
    ]
    before, after = first.machine["state"], last.machine["state"]
    state = {
        **before,
        "cores_free": statistics.median(run.machine["state"]["cores_free"] for run in runs),
        "load_after": after["load_after"],
    }
    return replace(
        first,
        machine={**first.machine, "state": state},
        not_measured={name: why for run in runs for name, why in run.not_measured.items()},
        rows=tuple(rows),
        pair=pair,
    )


def write_run(path: Path, run: BenchmarkRun) -> None:
    """Write the file whole or not at all. Raises BenchmarkFileError."""
    content = {"kind": KIND, "schema_version": SCHEMA_VERSION, **asdict(run), "gemm_share": gemm_share(run.rows)}
    for row, written in zip(run.rows, content["rows"], strict=True):
        written["workload_hash"] = workload_hash(row.suite, row.case, row.unit, row.workload)
    try:
        write_json(path, content)
    except OSError as error:
        raise BenchmarkFileError(
            f"{path} cannot be written ({error.strerror or error}): free space on that disk, or name another file with "
            f"--output, and measure again."
        ) from error


def read_run(path: Path) -> BenchmarkRun:
    """The run of a file; BenchmarkFileError with the reason and the remedy for whatever is wrong with it."""
    content = _Checked(path, _content_of(path))
    kind, version = content.values.get("kind"), content.values.get("schema_version")
    if kind != KIND:
        raise content.refused(f"is not a benchmark of this toolkit (its kind is {json.dumps(kind)[:40]})")
    if isinstance(version, int) and not isinstance(version, bool) and version > SCHEMA_VERSION:
        raise content.refused(
            f"has schema_version {version}, and this version reads up to {SCHEMA_VERSION}", "update the toolkit, or "
        )
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise content.refused(f"is damaged: schema_version is {json.dumps(version)[:40]}")
    machine = content.part("machine")
    identity = machine.part("identity")
    for name, kinds in IDENTITY.items():
        identity.get(name, kinds)
    state = machine.part("state")
    state.get("cores_free", float)
    state.get("governor", str, optional=True)
    machine.part("versions")
    rows = tuple(_row(item) for item in content.parts("rows"))
    seen: set[tuple[str, str]] = set()
    for index, row in enumerate(rows):
        if row.key in seen:
            raise content.refused(f"is damaged: rows[{index}] is a second {row.suite}, {row.case}")
        seen.add(row.key)
        if len(row.seconds) != len(rows[0].seconds):
            counts = f"{len(row.seconds)} processes where rows[0] has {len(rows[0].seconds)}"
            raise content.refused(f"is damaged: rows[{index}].seconds has {counts}")
    return BenchmarkRun(
        mode=content.get("mode", str, among=MODES),
        quick=content.get("quick", bool),
        created=content.get("created", str),
        repeats=content.get("repeats", int),
        suites=tuple(content.texts("suites")),
        revision=content.part("revision").values,
        machine=machine.values,
        not_measured={name: str(why) for name, why in content.part("not_measured").values.items()},
        rows=rows,
        pair=content.get("pair", str, optional=True),
    )


def _content_of(path: Path) -> Mapping[str, Any]:
    measure = "measure it with: python benchmark_framework.py --pair"
    try:
        raw = read_input(path, MOST_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise BenchmarkFileError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error}): {measure}."
        ) from error
    if not raw.strip():
        raise BenchmarkFileError(f"{path} is empty: the run that wrote it was cut short; {measure}.")
    try:
        content = json.loads(raw, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole)
        json.dumps(content, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise BenchmarkFileError(
            f"{path} is damaged: {half} in one of its texts is not a character: {measure}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise BenchmarkFileError(f"{path} is damaged, it is not JSON ({error}): {measure}.") from error
    if not isinstance(content, dict):
        raise BenchmarkFileError(f"{path} is not a benchmark of this toolkit (it holds no JSON object): {measure}.")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    """A finite number; Python's reader takes 1e999 for infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _whole(text: str) -> int:
    _finite(text)
    return int(text)


@dataclass(frozen=True)
class _Checked:
    """A JSON object whose values are checked when read."""

    path: Path
    values: Mapping[str, Any]
    where: str = ""

    def refused(self, why: str, remedy: str = "") -> BenchmarkFileError:
        return BenchmarkFileError(
            f"{self.path} {why}: {remedy}measure it again with: python benchmark_framework.py --pair."
        )

    def damaged(self, name: str, wanted: str) -> BenchmarkFileError:
        shown = json.dumps(self.values[name])[:60] if name in self.values else "missing"
        return self.refused(f"is damaged: {self.where}{name} is {shown}, not {wanted}")

    def get(self, name: str, kind: type, *, among: Sequence[str] = (), optional: bool = False) -> Any:
        value = self.values.get(name)
        if value is None and optional:
            return None
        kinds = int | float if kind is float else kind
        if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
            raise self.damaged(name, _WORDS[kind])
        if among and value not in among:
            raise self.damaged(name, " or ".join(among))
        return value

    def part(self, name: str) -> _Checked:
        return _Checked(self.path, self.get(name, dict), f"{self.where}{name}.")

    def parts(self, name: str) -> list[_Checked]:
        items = self.get(name, list)
        if not all(isinstance(item, dict) for item in items):
            raise self.damaged(name, "a list of objects")
        return [_Checked(self.path, item, f"{self.where}{name}[{i}].") for i, item in enumerate(items)]

    def texts(self, name: str) -> list[str]:
        items = self.get(name, list)
        if not all(isinstance(item, str) for item in items):
            raise self.damaged(name, "a list of texts")
        return items


_WORDS: Final[Mapping[type, str]] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def _row(item: _Checked) -> Row:
    suite, case, unit = (item.get(name, str) for name in ("suite", "case", "unit"))
    workload = item.part("workload").values
    if item.get("workload_hash", str) != workload_hash(suite, case, unit, workload):
        raise item.refused(f"is damaged: {item.where}workload_hash is not that of its suite, case, unit and workload")
    processes = item.get("seconds", list)
    if not processes or not all(isinstance(repeats, list) and repeats for repeats in processes):
        raise item.damaged("seconds", "a list a process of its repeats")
    if not all(_is_time(value) for repeats in processes for value in repeats):
        raise item.damaged("seconds", "lists of seconds, each above 1e-15 and below 1e12")
    seconds = tuple(tuple(map(float, repeats)) for repeats in processes)
    return Row(suite, case, unit, item.get("way", str), workload, item.part("facts").values, seconds)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 1e-15 < value < 1e12
