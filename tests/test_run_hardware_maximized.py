"""The command a user types: exit codes, what it prints, what it leaves behind, and how it stops."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.forked_command import ROOT, CommandServer, Finished, assert_refused, assert_stopped
from tests.golden_forms import golden, masked
from tests.market.bar_makers import bar_table, scheduled_slots, walk_bars, write_csv

SCRIPT = "run_hardware_maximized.py"
GOLDEN = Path(__file__).parent / "golden" / "console_run.txt"
SMALL_YAML = """
hardware: {vectorized_envs: 4, batch_size: 64, torch_threads: 1}
training: {production_net_arch: [12], policy_kwargs: {net_arch: {pi: [16], vf: [16]}}, n_epochs: 2}
data: {synthetic_interval_min: 15}
monitoring: {log_interval: 20}
evidence: {seeds: 1, stress_slippage_ticks: [0], chart_sessions: 1, pass_attempts: 200, trials_path: trials.jsonl}
validation: {max_peak_memory_gb: 1000}
"""
LESS = ["--config", "little.yaml"]
LITTLE = "evidence: {seeds: 1, stress_slippage_ticks: [0], chart_sessions: 1, pass_attempts: 200}"
"""What keeps a run short that is not about evidence."""

OWN_ENV = """
import gymnasium as gym, numpy as np
class Mine(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gym.spaces.Discrete(2)
    def __init__(self):
        raise RuntimeError("no feed")
class NoEnv:
    pass
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder without data/, so that bars are synthetic, with a configuration and an environment in it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "small.yaml").write_text(SMALL_YAML)
    (folder / "subproc.yaml").write_text(SMALL_YAML.replace("torch_threads", "vec_env: subproc, torch_threads"))
    (folder / "own_env.py").write_text(OWN_ENV)
    (folder / "little.yaml").write_text(LITTLE)
    return folder


@pytest.fixture(scope="module")
def good_run(server: CommandServer, elsewhere: Path) -> tuple[Finished, Path]:
    """A small run that meets its targets, and its folder."""
    options = ("--config", "small.yaml", "--timesteps", "256", "--output-dir", "good")
    finished = server.run(SCRIPT, "--mock-llm", *options, cwd=elsewhere)
    (folder,) = (elsewhere / "good").iterdir()
    return finished, folder


@pytest.mark.slow
def test_a_good_run_prints_phases_verdict_arms_and_targets(good_run: tuple[Finished, Path]) -> None:
    finished, _ = good_run
    assert finished.code == 0, finished.err
    assert masked(finished.out) == golden(GOLDEN, masked(finished.out))
    assert finished.err.strip() == "WARNING  no bars of NQ in data/: these are SYNTHETIC bars"


@pytest.mark.slow
def test_a_good_run_fits_eighty_columns_and_warns_of_nothing(good_run: tuple[Finished, Path]) -> None:
    finished, folder = good_run
    lines = finished.out.splitlines()
    assert lines[-1] == f"Report: {Path('good') / folder.name / 'report.html'}"
    assert lines[-2] == f"Tables: {Path('good') / folder.name / 'exports'}"
    assert lines[-3] == f"Figures: {Path('good') / folder.name / 'report.json'}"
    assert max(len(line) for line in lines[:-3]) <= 80
    for word in ("Traceback", "Warning", "nan", "None"):
        assert word not in finished.out + finished.err
    assert json.loads((folder / "report.json").read_text())["validation_passed"] is True


@pytest.mark.slow
def test_the_base_model_loads_with_the_stock_library_elsewhere(good_run: tuple[Finished, Path], tmp_path: Path) -> None:
    _, folder = good_run
    script = (
        "import sys, importlib.util, numpy as np; from sb3_contrib import MaskablePPO\n"
        "assert importlib.util.find_spec('src') is None\n"
        "model = MaskablePPO.load(sys.argv[1], device='cpu')\n"
        "masks = np.array([[True, True, True, False, False, False]] * 3)\n"
        "print(model.predict(np.zeros((3, 261), np.float32), action_masks=masks, deterministic=True)[0].tolist())"
    )
    command = [sys.executable, "-I", "-c", script, str(folder / "base.zip")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    actions = json.loads(done.stdout)
    assert len(actions) == 3
    assert set(actions) <= {0, 1, 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(
            [*LESS, "--vectorized-envs", "64", "--batch-size", "2048", "--timesteps", "4096"],
            ("NQ", 64, 2048),
            marks=pytest.mark.long,
        ),
        ([*LESS, "--market", "RTY", "--batch-size", "512", "--vectorized-envs", "16", "--quick"], ("RTY", 16, 512)),
    ],
)
def test_command_lines_of_the_manual_work(
    server: CommandServer, elsewhere: Path, tmp_path: Path, options: list[str], expected: tuple[str, int, int]
) -> None:
    finished = server.run(SCRIPT, "--mock-llm", *options, "--output-dir", tmp_path, cwd=elsewhere)
    assert finished.code == 0, finished.err
    (folder,) = tmp_path.iterdir()
    report = json.loads((folder / "report.json").read_text())
    base = report["training"][0]
    assert (report["run"]["market"], base["n_envs"], base["batch_size"]) == expected
    assert base["timesteps"] >= base["timesteps_requested"]
    assert "Learning: not measured" in " ".join(report["verdict"])


@pytest.mark.slow
def test_a_missed_target_is_exit_code_1_and_is_named(server: CommandServer, elsewhere: Path, tmp_path: Path) -> None:
    config = tmp_path / "strict.yaml"
    config.write_text(SMALL_YAML.replace("{max_peak", "{max_execution_time_s: 0.01, max_peak"))
    finished = server.run(
        SCRIPT, "--mock-llm", "--config", config, "--timesteps", "128", "--output-dir", tmp_path / "logs", cwd=elsewhere
    )
    assert finished.code == 1
    assert "Missed: execution_time." in finished.out
    (folder,) = (tmp_path / "logs").iterdir()
    report = json.loads((folder / "report.json").read_text())
    assert report["validation_passed"] is False
    assert report["targets"]["execution_time"]["status"] == "missed"


def bars_file(folder: Path, n_sessions: int) -> Path:
    return write_csv(
        bar_table(walk_bars(scheduled_slots(n_sessions, 15), interval_min=15, market="NQ")), folder / "b.csv"
    )


def a_bad_file(kind: str, folder: Path) -> Path:
    """A file of bars that cannot be used."""
    if kind == "missing":
        return folder / "nowhere.csv"
    path = bars_file(folder, 2 if kind == "too few" else 12)
    lines = path.read_text().splitlines()
    if kind == "empty":
        path.write_text("")
    elif kind == "png":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20)
    elif kind == "parquet":
        table = bar_table(walk_bars(scheduled_slots(12, 15), interval_min=15, market="NQ"))
        path = folder / "b.parquet"
        table.to_parquet(path)
        path.write_bytes(path.read_bytes()[:-400])
    elif kind == "duplicate":
        other = f"{lines[199].rpartition(',')[0]},77"  # another volume: a row that says the same again is dropped
        path.write_text("\n".join([*lines[:200], other, *lines[200:]]))
    elif kind == "high below low":
        cells = lines[300].split(",")
        cells[2], cells[3] = "1.0", "99999.0"
        path.write_text("\n".join([*lines[:300], ",".join(cells), *lines[301:]]))
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", ["nowhere.csv", "no such file"]),
        ("empty", ["b.csv", "empty"]),
        ("png", ["b.csv"]),
        ("parquet", ["b.parquet"]),
        ("duplicate", ["b.csv", "row 20[0-9]", "--repair|repair"]),
        ("high below low", ["b.csv", "row 30[0-9]", "high"]),
        ("too few", [r"2 usable sessions|1 usable sessions", r"at least \d+ are needed"]),
    ],
)
def test_bars_that_cannot_be_used(
    server: CommandServer, elsewhere: Path, tmp_path: Path, kind: str, words: list[str]
) -> None:
    path = a_bad_file(kind, tmp_path)
    finished = server.run(SCRIPT, "--mock-llm", "--data", path, "--output-dir", tmp_path / "logs", cwd=elsewhere)
    assert_refused(finished, tmp_path / "logs", *words)


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("hardware: {batch_sise: 64}", ["bad.yaml", "hardware.batch_sise", "did you mean 'batch_size'"]),
        ("hardwear: {}", ["bad.yaml", "hardwear", "did you mean 'hardware'"]),
        ("hardware: {batch_size: many}", ["bad.yaml", "hardware.batch_size", "'many'", "whole number"]),
        ("hardware: {batch_size: 1}", ["bad.yaml", "hardware.batch_size is 1", "2"]),
        ("training: {n_steps: 7}", ["vectorized_envs 32 x n_steps 7", "Set n_steps to 32"]),
        ("environment: {env_class: 'own_env:NoEnv'}", ["own_env:NoEnv", "is not a subclass of gymnasium.Env"]),
        ("environment: {env_class: 'nowhere:Env'}", ["nowhere:Env", "cannot be imported"]),
        ("environment: {rule_profile: nobody}", ["nobody", "apex_50k_eod_2026_03"]),
        ("hardware: [1, 2]", ["bad.yaml", "must be a section"]),
        ("hardware: {batch_size: 64", ["bad.yaml", "line"]),
    ],
)
def test_configurations_that_cannot_be_used(
    server: CommandServer, elsewhere: Path, tmp_path: Path, yaml: str, words: list[str]
) -> None:
    (tmp_path / "bad.yaml").write_text(yaml)
    options = ("--config", tmp_path / "bad.yaml", "--output-dir", tmp_path / "logs")
    assert_refused(server.run(SCRIPT, "--mock-llm", *options, cwd=elsewhere), tmp_path / "logs", *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--market", "NQX"], ["NQX", "Did you mean NQ", "ES, YM, RTY"]),
        (["--device", "cuda"], ["device is cuda", "--device cpu"]),
        (["--batch-size", "1"], ["batch_size", "1"]),
        (["--timesteps", "0"], ["timesteps", "0"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
    ],
)
def test_options_that_cannot_be_used(
    server: CommandServer, elsewhere: Path, tmp_path: Path, options: list[str], words: list[str]
) -> None:
    no_gpu = {"CUDA_VISIBLE_DEVICES": ""}
    finished = server.run(SCRIPT, "--mock-llm", *options, "--output-dir", tmp_path / "logs", cwd=elsewhere, env=no_gpu)
    assert_refused(finished, tmp_path / "logs", *words)


def test_an_option_that_does_not_exist_or_holds_no_number_is_bad_usage(server: CommandServer, elsewhere: Path) -> None:
    for options, word in ((["--marked", "NQ"], "--marked"), (["--seed", "x"], "--seed")):
        finished = server.run(SCRIPT, "--mock-llm", *options, cwd=elsewhere)
        assert finished.code == 2
        assert word in finished.err
        assert "Traceback" not in finished.err


def test_an_output_folder_that_cannot_be_written(server: CommandServer, elsewhere: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for output in (tmp_path / "taken", tmp_path / "taken" / "below", Path("/proc/nowhere")):
        finished = server.run(SCRIPT, "--mock-llm", "--output-dir", output, cwd=elsewhere)
        assert_refused(finished, output, "cannot be written", "--output-dir")
    assert (tmp_path / "taken").read_text() == "a file"


def test_debug_shows_the_traceback_too(server: CommandServer, elsewhere: Path, tmp_path: Path) -> None:
    finished = server.run(
        SCRIPT, "--mock-llm", "--market", "NQX", "--debug", "--output-dir", tmp_path / "logs", cwd=elsewhere
    )
    assert finished.code == 2
    assert "Traceback" in finished.err
    assert "get_contract" in finished.err
    assert "error: Unknown market 'NQX'" in finished.err


def test_help_names_every_option_and_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", str(ROOT / SCRIPT), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    for option in ("--market", "--data", "--config", "--quick", "--mock-llm", "--timesteps", "--device", "--debug"):
        assert option in done.stdout
    assert "torch" not in {line.split("|")[-1].strip() for line in done.stderr.splitlines()}


@pytest.mark.slow
def test_a_worker_that_dies_shows_its_own_traceback(server: CommandServer, elsewhere: Path, tmp_path: Path) -> None:
    config = tmp_path / "own.yaml"
    config.write_text("hardware: {vectorized_envs: 2, batch_size: 8}\nenvironment: {env_class: 'own_env:Mine'}\n")
    run = server.start(SCRIPT, "--mock-llm", "--config", config, "--output-dir", tmp_path / "logs", cwd=elsewhere)
    finished = run.finish()
    assert finished.code == 2
    paragraph, _, trace = finished.err.partition("Traceback")
    assert "worker process of environment" in paragraph
    assert trace.rstrip().endswith("RuntimeError: no feed")
    assert "own_env.py" in trace
    assert trace.count("Traceback") == 0, "the parent's traceback is nobody's business"
    assert list((tmp_path / "logs").rglob("*")) == []


def in_the_middle_of_training(output: Path) -> bool:
    return any(path.stat().st_size for path in output.glob("*/members/seed-0/base/metrics.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "signum", "to_group"),
    [
        ("small.yaml", signal.SIGTERM, False),
        ("subproc.yaml", signal.SIGINT, True),
    ],
)
def test_stopped_in_base_training_it_keeps_its_logs_and_leaves_no_process(
    server: CommandServer, elsewhere: Path, tmp_path: Path, config: str, signum: signal.Signals, to_group: bool
) -> None:
    options = ("--config", config, "--timesteps", "10000000", "--output-dir", tmp_path)
    run = server.start(SCRIPT, "--mock-llm", *options, cwd=elsewhere)
    run.until(lambda: in_the_middle_of_training(tmp_path))
    processes = run.processes()
    assert len(processes) >= (4 if config == "subproc.yaml" else 0)
    run.send(signum, to_group=to_group)
    finished = run.finish()
    assert_stopped(run, finished, processes)
    (folder,) = tmp_path.iterdir()
    assert folder.name in finished.err.replace("\n", "")
    for name in ("metrics.jsonl", "config.yaml", "run.log", "hardware.csv"):
        assert (folder / name).stat().st_size > 0, name
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        assert json.loads(line)["phase"] == "base"
    assert "ended early: KeyboardInterrupt" in (folder / "run.log").read_text()
    assert list(folder.glob("members/seed-0/base/checkpoint-*"))
    assert "Resume with:" in finished.err
    assert finished.err.rstrip().endswith("--auto-resume")
    assert not (folder / "report.json").exists()


@pytest.mark.slow
def test_stopped_in_evaluation_it_keeps_the_models(server: CommandServer, elsewhere: Path, tmp_path: Path) -> None:
    options = ("--config", "small.yaml", "--timesteps", "128", "--output-dir", tmp_path)
    run = server.start(SCRIPT, "--mock-llm", *options, cwd=elsewhere)
    run.until(lambda: "evaluation: " in run.out)
    run.send(signal.SIGINT)
    assert_stopped(run, run.finish(), [])
    (folder,) = tmp_path.iterdir()
    assert (folder / "base.zip").exists()
    assert (folder / "hybrid.zip").exists()
    assert not (folder / "report.json").exists()


@pytest.mark.slow
def test_stopped_while_it_reads_bars_it_has_written_nothing(
    server: CommandServer, elsewhere: Path, tmp_path: Path
) -> None:
    config = tmp_path / "long.yaml"
    config.write_text("data: {synthetic_sessions: 2000, synthetic_interval_min: 1}")
    run = server.start(SCRIPT, "--mock-llm", "--config", config, "--output-dir", tmp_path / "logs", cwd=elsewhere)
    run.until(lambda: "data: " in run.out)
    run.send(signal.SIGINT)
    finished = run.finish()
    assert_stopped(run, finished, [])
    assert finished.err == "Stopped before anything was written.\n"
    assert list((tmp_path / "logs").rglob("*")) == []


def answers_in(store: Path) -> int:
    """How many answers a store holds while another process writes it."""
    if not store.exists():
        return 0
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=10)) as database:
        try:
            return database.execute("SELECT count(*) FROM answers").fetchone()[0]
        except sqlite3.OperationalError:  # the tables are not made yet
            return 0


@pytest.mark.long
@pytest.mark.slow
def test_killed_while_it_asks_the_model_the_next_run_goes_on_to_the_same_table(
    server: CommandServer, elsewhere: Path, tmp_path: Path
) -> None:
    """One answer a transaction, so that asking lasts; the budget is enough for every situation."""

    def options(store: str, logs: str) -> tuple[str | Path, ...]:
        config = tmp_path / f"{store}.yaml"
        asking = f"llm: {{model: tiny, advice_batch_size: 1, llm_threads: 1, store_path: {tmp_path / store}.sqlite3}}"
        config.write_text(f"{SMALL_YAML}{asking}\n")
        return "--config", config, "--timesteps", "128", "--llm-budget", "600", "--output-dir", tmp_path / logs

    def advice(logs: str) -> dict[str, Any]:
        (report,) = (tmp_path / logs).glob("*/report.json")
        return json.loads(report.read_text())["advice"]

    run = server.start(SCRIPT, *options("killed", "first"), cwd=elsewhere)
    run.until(lambda: answers_in(tmp_path / "killed.sqlite3") > 20)
    run.send(signal.SIGKILL, to_group=True)
    assert run.finish().code == -signal.SIGKILL
    stored = answers_in(tmp_path / "killed.sqlite3")
    for store in ("killed", "whole"):
        finished = server.run(SCRIPT, *options(store, store), cwd=elsewhere)
        assert finished.code == 0, finished.err
        assert ("continuing where an earlier run stopped" in finished.out) == (store == "killed")
    resumed, whole = advice("killed"), advice("whole")
    assert 20 < stored < whole["tabulation"]["count_k"]
    assert resumed["sha256"] == whole["sha256"]
    # A batch may have been stored and not counted yet, never the other way round.
    assert resumed["tabulation"]["from_store"] == stored
    assert resumed["tabulation"]["asked_now"] == whole["tabulation"]["count_k"] - stored


@pytest.mark.slow
@pytest.mark.parametrize(
    ("market", "name", "interval_min"),
    [
        pytest.param("NQ", "NQ_1m_2022_tradingview.csv", 1, marks=pytest.mark.long),
        ("ES", "ES_5m_2024_2026_ibkr.parquet", 5),
    ],
)
def test_real_bars_from_the_shell_to_a_report(
    shared_data: Path, tmp_path: Path, market: str, name: str, interval_min: int
) -> None:
    command = [sys.executable, "-W", "error", str(ROOT / SCRIPT), "--market", market, "--data", str(shared_data / name)]
    options = ["--quick", "--mock-llm", "--output-dir", str(tmp_path / "logs")]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SYNTHETIC" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (folder,) = (tmp_path / "logs").iterdir()
    report = json.loads((folder / "report.json").read_text())
    assert report["data"]["interval_min"] == interval_min
    assert report["data"]["synthetic"] is False
    assert report["look_ahead"]["passed"]
    sealed = report["data"]["split"]["sealed"]["sessions"]
    few = "not enough sessions" if sealed < 10 else "low power" if sealed < 40 else f"enough sessions ({sealed})"
    assert few in " ".join(report["verdict"])
    assert all(arm["illegal_actions"] == 0 for arm in report["arms"].values())
    has_interval = [contrast["low_usd"] is not None for contrast in report["statistics"]["contrasts"]]
    assert has_interval == [sealed >= 10] * 5
    assert "pass_simulation" not in report, "a quick run makes no attempts"
    assert (sealed < 10) == (market == "NQ"), "ten sessions of NQ, two of them sealed"


def test_a_sweep_is_this_scripts_and_its_file_is_checked_first(server: CommandServer, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("settings: 2\nspace: {gama: [0.9, 0.99]}\n", encoding="utf-8")
    for script, file, words in (
        (SCRIPT, "sweep.yaml", r"did you mean 'gamma'\?"),
        (SCRIPT, "none.yaml", "There is no configuration file none.yaml"),
        ("run_pipeline.py", "sweep.yaml", "take run_hardware_maximized.py"),
    ):
        finished = server.run(script, "--mock-llm", "--sweep", file, cwd=tmp_path)
        assert_refused(finished, tmp_path / "logs", words)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.yaml"]
