"""`benchmark_framework.py`: both modes do the same work, each its own way; pairs; how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import benchmark_framework
from src.advisor.encoding import PromptEncoder
from src.agent.rollout_plan import plan_rollouts
from src.benchmarks import suites
from src.benchmarks.command import Request, UsageError
from src.benchmarks.comparison import SLOWER, compare_runs, is_paired
from src.benchmarks.file import SUITES, BenchmarkRun, Row, read_run, workload_hash
from src.benchmarks.machine import revision
from src.benchmarks.measuring import BenchmarkError, in_fresh_process, measure_pair, measure_suites
from src.benchmarks.suites import QUICK, SUITE_FUNCTIONS, Bench
from src.benchmarks.workloads import lookups, matrix_products
from src.errors import ConfigError, UserError
from src.trading.vec_env import BatchedTradingVecEnv
from src.trading.workers import WorkerVecEnv
from tests.benchmark_makers import IDENTITY, row, run
from tests.forked_command import ROOT, CommandServer, Finished

SCRIPT = "benchmark_framework.py"

WRAPPED = f"""
import functools, pathlib, random, runpy, sys
import src.benchmarks.suites as suites

# The script as it is, but for its clock, which runs while decisions are fused: 0.2 us each, with the noise of a busy
# machine from process to process and from call to call. What else runs on the machine of a test is no matter of it.
noise = random.Random(pathlib.Path(sys.argv[-1]).name)
slow_process, now = noise.lognormvariate(0, 0.08), 0.0
suites.Case = functools.partial(suites.Case, clock=lambda: now)

class Slow(suites.VectorizedDecisionFusion):
    def fuse_batch(self, *args, **kwargs):
        global now
        actions = super().fuse_batch(*args, **kwargs)
        now += FACTOR * 2e-7 * len(actions) * slow_process * noise.lognormvariate(0, 0.05)
        return actions

suites.VectorizedDecisionFusion = Slow
runpy.run_path({str(ROOT / SCRIPT)!r}, run_name="__main__")
"""


@pytest.fixture(scope="module")
def quick(server: CommandServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Finished, Path]]:
    """Every suite of both modes, quickly."""
    folder = tmp_path_factory.mktemp("quick")
    return {
        mode: (server.run(SCRIPT, "--mode", mode, "--quick", cwd=folder), folder / f"{mode}.json")
        for mode in ("baseline", "optimized")
    }


@pytest.fixture(scope="module")
def runs(quick: dict[str, tuple[Finished, Path]]) -> dict[str, BenchmarkRun]:
    for finished, _ in quick.values():
        assert finished.code == 0, finished.err
    return {mode: read_run(path) for mode, (_, path) in quick.items()}


def request(*options: str) -> Request:
    return Request.of(benchmark_framework.parser().parse_args(options))


def test_every_suite_has_a_function_and_a_meaning() -> None:
    assert list(SUITE_FUNCTIONS) == list(SUITES)


def test_both_modes_measure_every_suite_and_the_same_work(runs: dict[str, BenchmarkRun]) -> None:
    baseline, optimized = ({row.key: row for row in runs[mode].rows} for mode in ("baseline", "optimized"))
    assert list(baseline) == list(optimized)
    assert {suite for suite, _ in baseline} == set(SUITES)
    sizes = ("batch 32", "batch 1,024", "batch 65,536")
    assert {("fusion", size) for size in sizes} | {("cache", "1,000 rows"), ("cache", "10,000 rows")} <= set(baseline)
    for key, one in baseline.items():
        other = optimized[key]
        hashes = {workload_hash(r.suite, r.case, r.unit, r.workload) for r in (one, other)}
        assert len(hashes) == 1, key
        assert one.way != other.way
        assert [len(repeats) for repeats in one.seconds] == [3]


def test_the_two_files_are_comparable(runs: dict[str, BenchmarkRun]) -> None:
    compared = compare_runs(runs["baseline"], runs["optimized"])
    ratios = {row.first.key: row.ratio for row in compared.rows}
    # Only what is so wide apart that no busy machine can turn it round.
    for key in (("fusion", "batch 65,536"), ("steps", "4 accounts"), ("logging", "4 accounts")):
        assert ratios[key] > 5, key
    assert ratios["training", "matrix products alone"] > 1.2


def test_the_reduced_network_has_a_third_of_the_parameters(runs: dict[str, BenchmarkRun]) -> None:
    counts = [
        next(row.facts["parameters"] for row in runs[mode].rows if row.case == "networks alone")
        for mode in ("baseline", "optimized")
    ]
    # By hand: two networks of 261-512-256-128 or 261-256-128, six logits and a value on top.
    assert counts == [
        2 * (261 * 512 + 512 + 512 * 256 + 256 + 256 * 128 + 128) + 7 * 129,
        2 * (261 * 256 + 256 + 256 * 128 + 128) + 7 * 129,
    ]


def test_the_cache_meets_70_percent_of_its_look_ups(runs: dict[str, BenchmarkRun]) -> None:
    rates = [row.facts["hit_rate"] for row in runs["optimized"].rows if row.suite == "cache"]
    assert len(rates) == 2
    assert rates == pytest.approx([0.7, 0.7], abs=0.04)


def test_the_file_says_where_it_was_measured(runs: dict[str, BenchmarkRun]) -> None:
    made = runs["baseline"]
    assert made.machine["identity"].keys() == IDENTITY.keys()
    assert 0 <= made.machine["state"]["cores_free"] <= made.machine["identity"]["cores"]
    assert {"torch", "numpy", "python"} <= made.machine["versions"].keys()
    asked = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    assert made.revision["commit"] == (asked.stdout.strip() or None)
    assert made.quick
    assert made.pair is None


def test_what_is_printed_fits_80_columns(quick: dict[str, tuple[Finished, Path]]) -> None:
    for mode, (finished, _) in quick.items():
        lines = finished.out.splitlines()
        assert max(map(len, lines)) <= 80
        assert f"{mode}: medians of 3 blocks" in finished.out
        assert f"Training ({mode}) reaches 0." in finished.out
        assert f"Written to {mode}.json." in finished.out


def test_nothing_is_shown_or_left_in_the_working_folder_but_the_file(
    quick: dict[str, tuple[Finished, Path]],
) -> None:
    folder = quick["baseline"][1].parent
    assert sorted(path.name for path in folder.iterdir()) == ["baseline.json", "optimized.json"]
    assert [finished.err for finished, _ in quick.values()] == ["", ""]


def test_baseline_has_every_shortcut_off_and_optimized_on() -> None:
    scale = replace(QUICK, n_envs=1)
    with Bench("baseline", scale) as before, Bench("optimized", scale) as after:
        assert isinstance(before.vec_env, WorkerVecEnv)
        assert isinstance(after.vec_env, BatchedTradingVecEnv)
        assert (before.net_arch.pi, after.net_arch.pi) == ((512, 256, 128), (256, 128))
        assert (before.callback("a").log_interval, after.callback("a").log_interval) == (1, 100)
        processes = before.vec_env.processes
    assert not any(process.is_alive() for process in processes)


def test_what_a_mode_leaves_on_the_disk_is_removed() -> None:
    with Bench("optimized", QUICK) as bench:
        folder = bench.folder
        bench.callback("a")
        assert list(folder.iterdir())
    assert not folder.exists()


class Recency:
    """A cache of the most recently used keys, written once more."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.keys: OrderedDict[int, None] = OrderedDict()

    def found(self, key: int) -> bool:
        hit = key in self.keys
        self.keys[key] = None
        self.keys.move_to_end(key)
        if len(self.keys) > self.capacity:
            self.keys.popitem(last=False)
        return hit


@settings(max_examples=10)
@given(st.integers(100, 600), st.integers(1, 50), st.floats(0.3, 0.8), st.integers(0, 2**32))
def test_look_ups_are_found_as_often_as_wanted_round_after_round(
    capacity: int, batch: int, hit_rate: float, seed: int
) -> None:
    stream = lookups(capacity, batch, hit_rate, np.random.default_rng(seed))
    cache = Recency(capacity)
    shares = [np.mean([cache.found(key) for key in stream.ravel().tolist()]) for _ in range(2)]
    assert shares[1] == pytest.approx(hit_rate, abs=0.05)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "neither --mode nor --pair is given"),
        (["--mode", "baseline", "--pair"], "both --mode and --pair are given"),
        (["--pair", "baseline"], "two modes or none, not 1"),
        (["--pair", "baselin", "optimized"], "did you mean 'baseline'"),
        (["--pair", "--processes", "7"], "--processes is 7; it must be at least 8"),
        (["--mode", "baseline", "--processes", "8"], "--processes belongs to --pair"),
        (["--mode", "baseline", "--suite", "fussion"], "did you mean 'fusion'"),
        (["--mode", "baseline", "--repeats", "0"], "--repeats is 0; it must be at least 1"),
        (["--pair", "--output", "a.json"], "names 1 file, but 2 must be written"),
        (["--mode", "baseline", "--output", "a.json", "b.json"], "names 2 files, but 1 must be written"),
        (["--pair", "--output", "a.json", "./a.json"], "the second mode would overwrite the first"),
        (["--mode", "baseline", "--output", "."], "--output . is a folder"),
        (["--mode", "baseline", "--output", "/dev/null"], "--output /dev/null is a device"),
        (["--mode", "baseline", "--output", "/proc/self/exe"], "--output /proc/self/exe is a symlink"),
        (["--mode", "baseline", "--output", "x" * 10_000], "cannot be written .File name too long.: name another file"),
    ],
)
def test_bad_usage_is_said_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=said):
        request(*options)
    assert list(tmp_path.iterdir()) == []


def test_bad_usage_ends_with_2(server: CommandServer, tmp_path: Path) -> None:
    finished = server.run(SCRIPT, "--pair", "--suite", "fussion", cwd=tmp_path)
    assert finished.code == 2
    assert finished.err.startswith("error:")
    assert "Traceback" not in finished.err


@pytest.mark.parametrize(
    ("options", "files"),
    [
        (["--mode", "baseline"], ["baseline.json"]),
        (["--pair"], ["baseline.json", "optimized.json"]),
        (["--pair", "optimized", "optimized"], ["optimized-1.json", "optimized-2.json"]),
        (["--pair", "--output", "a.json", "b.json"], ["a.json", "b.json"]),
    ],
)
def test_files_are_named_by_their_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], files: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [str(path) for path in request(*options).outputs] == files


def test_repeats_and_processes_have_their_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert request("--mode", "baseline").repeats == 7
    assert (request("--pair").repeats, request("--pair").processes) == (5, 8)
    assert request("--pair", "--quick", "--processes", "2").processes == 2
    assert request("--pair", "--quick").repeats == 3
    options = request("--pair", "--quick", "--suite", "pool", "cache").options("baseline")
    assert options == ["--mode", "baseline", "--repeats", "3", "--suite", "cache", "pool", "--quick"]


def test_the_sides_of_a_pair_take_turns_and_turns_at_beginning() -> None:
    taken: list[str] = []

    def side(name: str):
        def measure() -> BenchmarkRun:
            taken.append(name)
            return run("optimized", [row("s", "c", [[float(len(taken))]])], pair=None)

        return measure

    first, second = measure_pair(side("a"), side("b"), 4, lambda text: None)
    assert "".join(taken) == "abbaabba"
    assert first.rows[0].seconds == ((1.0,), (4.0,), (5.0,), (8.0,))
    assert second.rows[0].seconds == ((2.0,), (3.0,), (6.0,), (7.0,))
    assert is_paired(first, second)
    again, _ = measure_pair(side("a"), side("b"), 4, lambda text: None)
    assert not is_paired(first, again)


def changed(**changes: object) -> BenchmarkRun:
    """A process of a side that was unlike the others."""
    plain = run("optimized", [row("s", "c", [[1.0]])], pair=None)
    machine = {**plain.machine, **{part: changes.pop(part) for part in ("identity", "versions") if part in changes}}
    return replace(plain, machine=machine, **changes)


@pytest.mark.parametrize(
    ("unlike", "said"),
    [
        (
            changed(revision={"commit": "fedc", "changed": False}),
            r"revision \(commit\) .* from 0123456789abcdef to fedc",
        ),
        (changed(revision={"commit": "0123456789abcdef", "changed": True}), r"revision \(changed\) .* False to True"),
        (changed(versions={"torch": "3.0"}), r"versions \(torch\) .* from 2.9.0 to 3.0"),
        (changed(versions={"torch": "2.9.0", "numpy": "2.4"}), r"versions \(numpy\) .* from None to 2.4"),
        (changed(identity={**IDENTITY, "cores": 1}), r"machine \(cores\) .* from 2 to 1"),
        (changed(rows=(row("s", "c", [[1.0]], workload={"size": 2}),)), r"work \(s, c\) .*'size': 1.*'size': 2"),
        (changed(rows=(row("s", "tiny", [[1.0]]),)), r"work \(s, c\) .* to None"),
    ],
)
def test_what_changes_while_a_side_is_measured_ends_the_pair_at_once(unlike: BenchmarkRun, said: str) -> None:
    taken: list[BenchmarkRun] = []

    def measure() -> BenchmarkRun:
        taken.append(unlike if len(taken) == 4 else changed())
        return taken[-1]

    with pytest.raises(BenchmarkError, match=said) as ended:
        measure_pair(measure, measure, 8, lambda text: None)
    assert len(taken) == 5
    assert "measure again" in str(ended.value)


def test_a_suite_that_one_process_could_not_measure_ends_no_pair() -> None:
    turns = iter(range(4))

    def measure() -> BenchmarkRun:
        missing = next(turns) >= 2
        rows = [row("s", "c", [[1.0]])] + ([] if missing else [row("advice", "m", [[1.0]])])
        return run("optimized", rows, not_measured={"advice": "no model"} if missing else {}, pair=None)

    first, _ = measure_pair(measure, measure, 2, lambda text: None)
    assert [r.key for r in first.rows] == [("s", "c")]
    assert first.not_measured == {"advice": "no model"}


def test_a_suite_that_cannot_be_measured_is_said_or_ends_the_run_if_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise ConfigError("no model here")

    monkeypatch.setattr(suites, "load_model", refuse)
    measured = measure_suites("optimized", ["fusion", "advice"], 1, quick=True, say=lambda text: None, named=False)
    assert measured.not_measured == {"advice": "no model here"}
    assert {row.suite for row in measured.rows} == {"fusion"}
    with pytest.raises(ConfigError, match="no model here"):
        measure_suites("optimized", ["advice"], 1, quick=True, say=lambda text: None)


def test_without_the_bundled_model_the_row_names_the_tiny_one(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = replace(QUICK, advice_model="bundled:none")
    with Bench("optimized", scale) as bench:
        (case,) = SUITE_FUNCTIONS["advice"](bench)
    assert (case.name, case.workload["model"]) == ("tiny", "tiny")


def test_the_matrix_products_of_a_timestep_are_those_of_the_hidden_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    flop: list[int] = []
    multiply = matrix_products([261, 256, 128], plan_rollouts(2048, 32, 1024, 64), 5)
    monkeypatch.setattr(torch, "mm", lambda left, right: flop.append(2 * left.numel() * right.shape[1]))
    multiply()
    # By hand: two networks; forward 133,632 + 65,536, in the update twice that and 65,536 for the inputs, five times.
    assert sum(flop) / 2048 == 2 * (199_168 + 5 * (2 * 199_168 + 65_536)) == 5_037_056


@pytest.mark.parametrize("mode", ["baseline", "optimized"])
def test_prompts_are_made_ready_before_an_advice_is_timed(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    initialise = PromptEncoder.__init__

    def counted(self: PromptEncoder, *args: object) -> None:
        made.append(self)
        initialise(self, *args)

    monkeypatch.setattr(PromptEncoder, "__init__", counted)
    with Bench(mode, QUICK) as bench:
        (case,) = SUITE_FUNCTIONS["advice"](bench)
        assert len(made) == 1
        case.call()
        case.call()
    assert len(made) == 1


def test_a_clock_counts_its_own_part_only() -> None:
    with Bench("optimized", QUICK) as bench:
        (update,) = SUITE_FUNCTIONS["update"](bench)
        began, counted = time.perf_counter(), update.clock()
        update.call()
        spent, counted = time.perf_counter() - began, update.clock() - counted
    assert 0 < counted < spent


def test_a_measuring_process_that_fails_is_heard(tmp_path: Path) -> None:
    def command(code: str) -> list[str]:
        return [sys.executable, "-c", code]

    with pytest.raises(UserError, match=r"^the model is missing$"):
        in_fresh_process(command("import sys; sys.stderr.write('error: the model\\nis missing\\n'); sys.exit(2)"))()
    with pytest.raises(BenchmarkError, match=r"(?s)exit code 1:.*ZeroDivisionError"):
        in_fresh_process(command("1 / 0"))()
    with pytest.raises(UserError, match="cannot be read"):
        in_fresh_process(command("pass"))()


def test_there_is_no_revision_outside_of_a_checkout(tmp_path: Path) -> None:
    assert revision(tmp_path) == {"commit": None, "changed": None}


@pytest.mark.slow
def test_a_pair_of_fresh_processes_writes_both_files(tmp_path: Path) -> None:
    options = ["--pair", "optimized", "optimized", "--quick", "--processes", "1", "--suite", "fusion"]
    ended = subprocess.run([sys.executable, str(ROOT / SCRIPT), *options], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    first, second = (read_run(tmp_path / f"optimized-{side}.json") for side in (1, 2))
    assert is_paired(first, second)
    assert (first.processes, second.processes) == (1, 1)
    assert [len(compared.first.seconds[0]) for compared in compare_runs(first, second).rows] == [3, 3, 3]
    assert "pair 1 of 1" in ended.stdout
    assert "python compare_benchmarks.py optimized-1.json optimized-2.json" in " ".join(ended.stdout.split())


@pytest.mark.long
def test_a_part_made_20_percent_slower_is_found(server: CommandServer, tmp_path: Path) -> None:
    """Eight forked processes a side in turns; one side's fusion takes a fifth longer, by a wrapper of the script."""
    counter = iter(range(100))

    def side(factor: float):
        wrapper = tmp_path / f"wrapper-{factor}.py"
        wrapper.write_text(WRAPPED.replace("FACTOR", str(factor)))

        def measure() -> BenchmarkRun:
            output = tmp_path / f"{next(counter)}.json"
            options = ("--mode", "optimized", "--suite", "fusion", "--repeats", "7", "--quick", "--output", output)
            finished = server.run(str(wrapper), *options, cwd=tmp_path)
            assert finished.code == 0, finished.err
            return read_run(output)

        return measure

    plain, slowed = measure_pair(side(1.0), side(1.2), 8, lambda text: None)
    rows = {row.first.case: row for row in compare_runs(plain, slowed).rows}
    found = rows["batch 65,536"]
    assert found.verdict == SLOWER, (found.ratio, found.low, found.high)
    assert 0.7 < found.ratio < 0.95


def test_a_stopped_pair_ends_with_3_and_leaves_neither_file_nor_process(server: CommandServer, tmp_path: Path) -> None:
    going = server.start(SCRIPT, "--pair", cwd=tmp_path)
    going.until(lambda: going.processes())
    measuring = going.processes()
    going.send(signal.SIGTERM)
    finished = going.finish()
    assert finished.code == 3
    assert "Stopped" in finished.err
    assert list(tmp_path.iterdir()) == []
    _, alive = psutil.wait_procs(measuring, timeout=10)
    assert alive == []


def test_the_file_is_json_anybody_can_read(quick: dict[str, tuple[Finished, Path]]) -> None:
    content = json.loads(quick["optimized"][1].read_text(encoding="utf-8"))
    assert content["schema_version"] == 1
    assert 0 < content["gemm_share"] < 1.5
    made = content["rows"][0]
    assert {"suite", "case", "unit", "way", "workload", "workload_hash", "facts", "seconds"} == made.keys()


def test_a_request_that_cannot_be_followed_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        request("--pair", "a", "b", "c")


def test_a_row_tells_median_and_spread() -> None:
    made: Row = row("s", "c", [[1.0, 2.0, 3.0, 4.0, 5.0], [11.0, 12.0, 13.0, 14.0, 15.0], [2.0, 3.0, 4.0, 5.0, 6.0]])
    assert made.process_medians == [3.0, 13.0, 4.0]
    assert made.median_s == 4.0
    assert row("s", "c", [[1.0, 2.0, 3.0, 4.0, 5.0]]).spread == pytest.approx((4.0 - 2.0) / 2 / 3.0)
    assert row("s", "c", [[1.0]]).spread == 0.0
