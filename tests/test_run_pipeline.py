"""The pipeline as a user types it: exit codes, killed, stopped, gone on with, what it prints and what it leaves."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from run_pipeline import command_to_go_on
from src.runs import kills
from src.runs.kills import kill_and_compare, results_of
from tests.forked_command import ROOT, CommandServer, Finished, assert_refused, assert_stopped
from tests.golden_forms import golden, key_paths, masked
from tests.tiny_runs import bar_files

pytestmark = pytest.mark.slow
SCRIPT = "run_pipeline.py"
GOLDEN = Path(__file__).parent / "golden"
LLAMA = "transformers.models.llama.modeling_llama"
SMALL_YAML = """
test_mode: {market: MNQ}
hardware: {vectorized_envs: 4, batch_size: 32, torch_threads: 1, optimize_memory: false}
data: {path: BARS}
training: {n_epochs: 2, production_net_arch: [12], policy_kwargs: {net_arch: {pi: [16], vf: [16]}}}
llm: {llm_threads: 1}
checkpoint: {interval_steps: 64}
pipeline: {reallocate_resources: false}
monitoring: {log_interval: 5, tensorboard: false}
evidence: {stress_slippage_ticks: [0], chart_sessions: 0, pass_attempts: 200, trials_path: trials.jsonl}
validation: {max_peak_memory_gb: 1000}
"""
ROWS = "*/members/seed-0/base/metrics.jsonl"
LOCKS = (".run.lock", ".run.holder")
LONG = "10000000"
"""Timesteps of a run that is to be stopped."""


# Workplaces, made once


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    made = CommandServer(tmp_path_factory.mktemp("output"), [LLAMA], waits_for_disk=True)  # kills aim at writing
    yield made
    made.close()


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return bar_files(tmp_path_factory.mktemp("bars"))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, bars: dict[str, Path]) -> Path:
    """A working folder with configurations in it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    small = SMALL_YAML.replace("BARS", str(bars["plain"]))
    (folder / "small.yaml").write_text(small)
    (folder / "subproc.yaml").write_text(small.replace("vectorized_envs: 4", "vec_env: subproc, vectorized_envs: 2"))
    (folder / "typo.yaml").write_text(small.replace("interval_steps", "intervall_steps"))
    (folder / "missed.yaml").write_text(f"{small}phase2: {{estimated_duration: 0.001}}\n")
    (folder / "step_by_step.yaml").write_text(small.replace("pipeline: {", "pipeline: {auto_advance: false, "))
    # An update of many seconds, 60 passes over 128 minibatches, in networks of the size that production is estimated
    # with before: with smaller ones the estimate would take far longer than the update.
    slow = small.replace("n_epochs: 2, production_net_arch: [12]", "n_epochs: 60, n_steps: 1024")
    slow = slow.replace("[16]", "[512, 256, 128]")
    (folder / "slow_update.yaml").write_text(slow)
    return folder


@pytest.fixture(scope="module")
def complete(server: CommandServer, elsewhere: Path) -> tuple[Finished, Path]:
    """A run that meets its targets, and its folder."""
    finished = server.run(SCRIPT, "--mock-llm", "--config", "small.yaml", "--timesteps", "256", cwd=elsewhere)
    return finished, only_run(elsewhere / "logs")


@pytest.fixture(scope="module")
def stopped(server: CommandServer, elsewhere: Path) -> Path:
    """The output folder of a run that was stopped in phase 2."""
    output = elsewhere / "stopped"
    options = ("--mock-llm", "--config", "small.yaml", "--timesteps", LONG, "--output-dir", output)
    run = server.start(SCRIPT, *options, cwd=elsewhere)
    run.until(lambda: checkpoints(output))
    run.send(signal.SIGTERM)
    assert run.finish().code == 3
    return output


def only_run(output: Path) -> Path:
    (folder,) = (path.parent for path in output.glob("*/ledger.json"))
    return folder


def checkpoints(output: Path, training: str = "base") -> list[int]:
    """Steps of a training's checkpoints."""
    found = output.glob(f"*/members/seed-0/{training}/checkpoint-*")
    return sorted(int(path.name.removeprefix("checkpoint-")) for path in found)


def phase_of(output: Path, name: str) -> dict[str, Any]:
    return json.loads((only_run(output) / "ledger.json").read_text())["phases"][name]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of the runs there."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name not in LOCKS}


def in_one_line(text: str) -> str:
    return " ".join(text.split())


def command_in(text: str) -> list[str]:
    """What to type to go on: the last line, after one that says so. Script and options."""
    *_, before, command = text.rstrip("\n").split("\n")
    assert before.endswith("Resume with:")
    python, *rest = shlex.split(command)
    assert python == "python"
    return rest


# Exit code 0


@pytest.mark.parametrize("script", [SCRIPT, "run_hardware_maximized.py"])
def test_members_train_together_where_the_shell_asks_for_it(
    server: CommandServer, elsewhere: Path, script: str
) -> None:
    output = elsewhere / f"together-{script}"
    options = ("--mock-llm", "--config", "small.yaml", "--timesteps", "128", "--learner", "population", "--group", "2")
    options += ("--seeds", "1")
    finished = server.run(script, *options, "--output-dir", output, cwd=elsewhere)
    assert finished.code == 0, finished.err
    report = json.loads((only_run(output) / "report.json").read_text())
    assert [(row["learner"], row["group"]) for row in report["training"]] == [
        ("population", 1), ("population", 2), ("population", 2), ("population", 1),
    ]  # fmt: skip
    assert "up to 2 members together" in in_one_line(finished.out)


def test_members_that_cannot_train_together_are_refused(server: CommandServer, elsewhere: Path) -> None:
    output = elsewhere / "not-together"
    options = ("--config", "subproc.yaml", "--learner", "population", "--output-dir", output)
    finished = server.run(SCRIPT, *options, cwd=elsewhere)
    assert_refused(finished, output, "hardware.learner is population", "hardware.vec_env is subproc")


def test_a_run_prints_phases_verdict_arms_and_targets(complete: tuple[Finished, Path]) -> None:
    finished, _ = complete
    assert finished.code == 0, finished.err
    assert finished.err == ""
    assert masked(finished.out) == golden(GOLDEN / "console_pipeline.txt", masked(finished.out))


def test_a_run_fits_eighty_columns_and_warns_of_nothing(complete: tuple[Finished, Path]) -> None:
    finished, folder = complete
    lines = finished.out.splitlines()
    assert lines[-1] == f"Report: {Path('logs') / folder.name / 'report.html'}"
    assert lines[-2] == f"Tables: {Path('logs') / folder.name / 'exports'}"
    assert lines[-3] == f"Figures: {Path('logs') / folder.name / 'report.json'}"
    assert max(len(line) for line in lines[:-3]) <= 80
    for word in ("Traceback", "Warning", "nan", "None"):
        assert word not in finished.out


def test_a_run_writes_everything_into_its_folder(complete: tuple[Finished, Path]) -> None:
    _, folder = complete
    assert re.fullmatch(r"pipeline_MNQ_\d{8}-\d{6}", folder.name)
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml", "ledger.json", "run.log", "hardware.csv", "metrics.jsonl", "report.json", "report.html",
        "base.zip", "hybrid.zip", "base.policy.json", "base.policy.safetensors", "hybrid.policy.json",
        "hybrid.policy.safetensors", "manifest.json", "members", "tasks", "exports",
    }  # fmt: skip
    assert "ended early" not in (folder / "run.log").read_text()


def test_the_reports_keys_are_those_of_the_golden_file(complete: tuple[Finished, Path]) -> None:
    """A key that comes, goes or moves is a change for whoever reads reports: update the file and tell them."""
    report = json.loads((complete[1] / "report.json").read_text())
    keys = "".join(f"{key}\n" for key in sorted(key_paths(report)))
    assert keys == golden(GOLDEN / "report_keys_pipeline.txt", keys)


def test_gone_on_with_a_complete_run_has_nothing_left_to_do(
    server: CommandServer, elsewhere: Path, complete: tuple[Finished, Path]
) -> None:
    first, folder = complete
    before = contents(folder.parent)
    options = ("--mock-llm", "--config", "small.yaml", "--timesteps", "256", "--auto-resume")
    again = server.run(SCRIPT, *options, cwd=elsewhere)
    assert again.code == 0, again.err
    assert "is done: nothing is left to do" in in_one_line(again.out)
    assert again.out.partition("Verdict")[2] == first.out.partition("Verdict")[2]
    assert contents(folder.parent) == before


def test_without_auto_advance_the_printed_commands_lead_to_the_same_end(
    server: CommandServer, elsewhere: Path, tmp_path: Path, complete: tuple[Finished, Path]
) -> None:
    """Begun with --auto-resume, where there is nothing to go on with."""
    home = tmp_path / "a home of its own"
    (home / "logs").mkdir(parents=True)
    options = ["--mock-llm", "--config", elsewhere / "step_by_step.yaml", "--timesteps", "256", "--output-dir"]
    script, *rest = SCRIPT, *options, home / "logs", "--auto-resume"
    for phase in (1, 2):
        finished = server.run(script, *rest, cwd=elsewhere)
        assert finished.code == 0, finished.err
        assert ("holds no pipeline run of MNQ to resume: starting a new one" in in_one_line(finished.out)) == (
            phase == 1
        )
        assert f"phase{phase} is done; pipeline.auto_advance is false. Resume with:" in in_one_line(finished.out)
        assert "Verdict" not in finished.out
        assert not list(home.glob("logs/*/report.json"))
        script, *rest = command_in(finished.out)
        assert rest == [*map(str, options), str(home / "logs"), "--auto-resume"]
    finished = server.run(script, *rest, cwd=elsewhere)
    assert finished.code == 0, finished.err
    assert "phase2 (base training) is done" in finished.out
    assert in_one_line(finished.out).endswith(f"Report: {in_one_line(str(only_run(home / 'logs')))}/report.html")
    at_once = tmp_path / "at once"
    shutil.copytree(complete[1].parent, at_once / "logs")
    assert results_of(home) == results_of(at_once)


def test_a_phase_is_begun_anew_with_the_settings_of_the_run_before(
    server: CommandServer, elsewhere: Path, tmp_path: Path, complete: tuple[Finished, Path]
) -> None:
    """None of them is given again; the market is, in lower case."""
    shutil.copytree(complete[1].parent, tmp_path / "logs")
    before = results_of(tmp_path)
    options = ("--start-phase", "3", "--market", "mnq", "--output-dir", tmp_path / "logs")
    finished = server.run(SCRIPT, *options, cwd=elsewhere)
    assert finished.code == 0, finished.err
    said = in_one_line(finished.out)
    assert f"Settingsarethoseof{tmp_path / 'logs'}" in "".join(finished.out.split())  # long paths wrap
    assert "training.timesteps 256" in said
    assert "phase2 (base training) is done" in said
    assert "what hybrid had made is kept in" in said
    assert "hybrid: fine-tuning from base weights, 128 timesteps" in said
    run = only_run(tmp_path / "logs")
    for name in ("tasks/advice", "members/seed-0/rl_only", "members/seed-0/hybrid", "tasks/evaluation"):
        assert (run / f"{name}.before-1" / "task.json").exists(), name
    assert not list(run.glob("members/seed-0/base.before-*"))
    assert results_of(tmp_path) == before


def test_a_language_model_named_on_the_command_line_advises(
    server: CommandServer, elsewhere: Path, tmp_path: Path
) -> None:
    config = tmp_path / "asked.yaml"
    small = (elsewhere / "small.yaml").read_text()
    config.write_text(small.replace("llm: {", f"llm: {{store_path: {tmp_path / 'a.sqlite3'}, "))
    options = ("--llm-model", "tiny", "--llm-budget", "0.001", "--timesteps", "256", "--output-dir", tmp_path / "logs")
    finished = server.run(SCRIPT, "--config", config, *options, cwd=elsewhere)
    assert finished.code == 0, finished.err
    assert "advice: tiny on the training sessions' situations" in finished.out
    advice = json.loads((only_run(tmp_path / "logs") / "report.json").read_text())["advice"]
    assert (advice["advisor"], advice["tabulation"]["asked_now"], advice["situations_asked"]) == ("tiny", 16, 16)
    kept = json.loads((only_run(tmp_path / "logs") / "tasks/advice/task.json").read_text())["facts"]
    assert kept["sha256"] == advice["sha256"]


def test_help_names_its_options_and_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", str(ROOT / SCRIPT), "--help"]
    helped = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert helped.returncode == 0
    for option in ("--start-phase {1,2,3}", "--auto-resume", "--market", "--data", "--config", "--output-dir"):
        assert option in helped.stdout
    assert "torch" not in {line.split("|")[-1].strip() for line in helped.stderr.splitlines()}


# Exit code 1


def test_a_missed_target_is_exit_code_1_and_stays_so(server: CommandServer, elsewhere: Path, tmp_path: Path) -> None:
    options = ("--mock-llm", "--config", "missed.yaml", "--timesteps", "128", "--output-dir", tmp_path / "logs")
    for more in ((), ("--auto-resume",)):
        finished = server.run(SCRIPT, *options, *more, cwd=elsewhere)
        assert finished.code == 1, finished.err
        assert finished.err == ""
        assert "Missed: phase2_duration." in finished.out
        assert ("nothing is left to do" in in_one_line(finished.out)) == bool(more)
    report = json.loads((only_run(tmp_path / "logs") / "report.json").read_text())
    assert report["validation_passed"] is False
    assert report["targets"]["phase2_duration"]["status"] == "missed"


# Exit code 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--market", "NQX"], ["NQX", "Did you mean NQ"]),
        (["--data", "nowhere.csv"], ["nowhere.csv", "no such file"]),
        (["--data", "DEFECTIVE"], ["NQ_defective.csv", "row 4[0-9]", "high"]),
        (["--config", "typo.yaml"], ["typo.yaml", "checkpoint.intervall_steps", "did you mean 'interval_steps'"]),
        (["--start-phase", "2"], ["Phase 2 needs", "holds no pipeline run of MNQ", "without --start-phase"]),
        (["--start-phase", "3"], ["Phase 3 needs", "holds no pipeline run of MNQ"]),
        (["--market", "NQX", "--auto-resume"], ["NQX", "Did you mean NQ"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_input_that_cannot_be_used(
    server: CommandServer, elsewhere: Path, bars: dict[str, Path], tmp_path: Path, options: list[str], words: list[str]
) -> None:
    output = tmp_path / "logs"
    options = [str(bars["defective"]) if option == "DEFECTIVE" else option for option in options]
    config = [] if "--config" in options else ["--config", "small.yaml"]
    finished = server.run(SCRIPT, "--mock-llm", *config, *options, "--output-dir", output, cwd=elsewhere)
    assert_refused(finished, output, *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--auto-resume", "--data", "OTHER"], [r"base of .* was started", "with other inputs: tables was [0-9a-f]+"]),
        (["--auto-resume", "--data", "nowhere.csv"], ["nowhere.csv", "no such file"]),
        (["--auto-resume", "--data", "DEFECTIVE"], ["NQ_defective.csv", "row 4[0-9]", "high"]),
        (["--auto-resume", "--market", "NQX"], ["NQX", "Did you mean NQ"]),
        (["--auto-resume", "--seed", "7"], [r"base of .* was started", "test_mode.seed was 0, is 7"]),
        (["--auto-resume", "--timesteps", "64"], ["timesteps was 10000000, is 64"]),
        (["--auto-resume", "--config", "typo.yaml"], ["typo.yaml", "did you mean 'interval_steps'"]),
        (["--start-phase", "3"], ["Phase 3 needs phase 2", "which is interrupted"]),
        (["--start-phase", "2", "--data", "OTHER"], ["cannot build on phase1", "bars was [0-9a-f]+"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_input_that_does_not_fit_to_what_is_under_way_is_named_and_nothing_of_that_changes(
    server: CommandServer, elsewhere: Path, bars: dict[str, Path], stopped: Path, options: list[str], words: list[str]
) -> None:
    before = contents(stopped)
    files = {"OTHER": str(bars["other"]), "DEFECTIVE": str(bars["defective"])}
    options = [files.get(option, option) for option in options]
    finished = server.run(SCRIPT, *options, "--output-dir", stopped, cwd=elsewhere)
    assert_refused(finished, None, *words)
    assert contents(stopped) == before


def test_two_at_once_in_one_folder_the_second_is_told_of_the_first(
    server: CommandServer, elsewhere: Path, tmp_path: Path
) -> None:
    options = ("--mock-llm", "--config", "small.yaml", "--timesteps", LONG, "--output-dir", tmp_path)
    first = server.start(SCRIPT, *options, cwd=elsewhere)
    first.until(lambda: checkpoints(tmp_path))
    for more in ((), ("--auto-resume",)):
        second = server.run(SCRIPT, *options, *more, cwd=elsewhere)
        assert_refused(second, None, rf"process {first.pid}\b", "--output-dir")
    steps = checkpoints(tmp_path)
    first.until(lambda: checkpoints(tmp_path)[-1] > steps[-1])
    first.send(signal.SIGTERM)
    assert first.finish().code == 3
    assert len(list(tmp_path.glob("pipeline_*"))) == 1


# Exit code 3


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "--auto-resume"),
        ("--auto-resume", "--auto-resume"),
        ("--no-auto-resume --no-quick", "--no-quick --auto-resume"),
        ("--start-phase 2 --seed 3", "--seed 3 --auto-resume"),
        ("--seed 3 --start-phase=3 --quick", "--seed 3 --quick --auto-resume"),
        ("--data 'my bars.csv' --auto-resume --market ES", "--data 'my bars.csv' --market ES --auto-resume"),
    ],
)
def test_the_command_to_go_on_begins_no_phase_anew(given: str, expected: str) -> None:
    command = command_to_go_on(["run_pipeline.py", *shlex.split(given)])
    assert command == f"python run_pipeline.py {expected}"


@pytest.mark.parametrize(
    ("config", "signum", "to_group"),
    [
        ("small.yaml", signal.SIGTERM, False),
        ("small.yaml", signal.SIGINT, True),
        ("subproc.yaml", signal.SIGINT, True),
    ],
)
def test_stopped_in_training_it_prints_the_command_that_goes_on_from_there(
    server: CommandServer, elsewhere: Path, tmp_path: Path, config: str, signum: signal.Signals, to_group: bool
) -> None:
    output = tmp_path / "two words"
    options = ["--mock-llm", "--config", config, "--timesteps", LONG, "--output-dir", str(output)]
    run = server.start(SCRIPT, *options, cwd=elsewhere)
    run.until(lambda: checkpoints(output))
    processes = run.processes()
    assert len(processes) >= (2 if config == "subproc.yaml" else 0)
    run.send(signum, to_group=to_group)
    finished = run.finish()
    assert_stopped(run, finished, processes)
    kept = checkpoints(output)[-1]
    assert phase_of(output, "phase2")["status"] == "interrupted"
    assert phase_of(output, "phase2")["timesteps"] == {"base, seed 0": kept}
    assert in_one_line(str(only_run(output))) in in_one_line(finished.err)
    script, *rest = command_in(finished.err)
    assert script == str(ROOT / SCRIPT)
    assert rest == [*options, "--auto-resume"]
    again = server.start(script, *rest, cwd=elsewhere)
    again.until(lambda: checkpoints(output)[-1] > kept)
    assert f"resuming from {kept:,}" in in_one_line(again.out)
    again.send(signum, to_group=to_group)
    finished = again.finish()
    assert finished.code == 3
    assert command_in(finished.err) == [script, *rest]
    rows = [json.loads(line) for line in (only_run(output) / "metrics.jsonl").read_text().splitlines()]
    steps = [row["num_timesteps"] for row in rows]
    assert steps == sorted(set(steps)), "a row came twice"


@pytest.mark.parametrize("more", [(), ("--auto-resume",)])
def test_stopped_while_it_reads_bars_it_has_changed_nothing(
    server: CommandServer, tmp_path: Path, more: tuple[str, ...]
) -> None:
    config = tmp_path / "long.yaml"
    config.write_text("data: {synthetic_sessions: 2000, synthetic_interval_min: 1}")
    options = ("--mock-llm", "--config", config, "--output-dir", tmp_path / "logs")
    run = server.start(SCRIPT, *options, *more, cwd=tmp_path)
    run.until(lambda: "data: " in run.out)
    run.send(signal.SIGTERM)
    finished = run.finish()
    assert_stopped(run, finished, [])
    if more:
        assert "logs was changed. Resume with:" in in_one_line(finished.err)
        assert command_in(finished.err)[1:] == [*map(str, options), *more]
    else:
        assert finished.err == "Stopped before anything was written.\n"
    assert contents(tmp_path / "logs") == {}


def test_a_second_signal_does_not_wait_for_the_update_to_end(
    server: CommandServer, elsewhere: Path, tmp_path: Path
) -> None:
    options = ("--mock-llm", "--config", "slow_update.yaml", "--timesteps", LONG, "--output-dir", tmp_path)
    run = server.start(SCRIPT, *options, cwd=elsewhere)
    run.until(lambda: any(b'"num_timesteps": 4080' in path.read_bytes() for path in tmp_path.glob(ROWS)))
    run.send(signal.SIGTERM)
    time.sleep(1.0)
    assert run.ended() is None, "one signal waits for the end of the update"
    run.send(signal.SIGTERM)
    finished = run.finish()
    assert_stopped(run, finished, [])
    assert command_in(finished.err)[-1] == "--auto-resume"
    assert phase_of(tmp_path, "phase2")["status"] == "interrupted"
    assert checkpoints(tmp_path) == []


# Killed


@pytest.fixture(scope="module")
def killed(
    server: CommandServer, elsewhere: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[kills.Outcome, Path]:
    """What came of four kills or more, and the folder of the run that was left alone."""
    folder = tmp_path_factory.mktemp("killed")
    settings = (elsewhere / "small.yaml").read_text()
    settings = settings.replace("llm: {", "llm: {model: tiny, tabulation_budget_s: 600, advice_batch_size: 2, ")
    settings = settings.replace("interval_steps: 64", "interval_steps: 256")
    settings = settings.replace("pipeline: {", "pipeline: {max_retries_per_phase: 20, ")

    def start(options: Sequence[str], cwd: Path) -> kills.Process:
        return server.start(SCRIPT, *options, cwd=cwd)

    outcome = kill_and_compare(start, folder, 4, settings=settings, timesteps=1024)
    for seed in range(1, 7):  # a busy machine may let the aimed instants slip by
        if outcome.differences or (outcome.went_on and outcome.kills.keys() == kills.SHARES.keys()):
            break
        more = kill_and_compare(start, folder / f"again-{seed}", 4, seed=seed, settings=settings, timesteps=1024)
        outcome.add(more)
    return outcome, folder / "whole"


@pytest.mark.timeout(900)
def test_killed_at_any_instant_and_gone_on_with_it_ends_as_a_run_left_alone(killed: tuple[kills.Outcome, Path]) -> None:
    outcome, whole = killed
    assert outcome.differences == []
    assert sum(outcome.kills.values()) >= 4
    assert outcome.kills.keys() == {kills.ANY, kills.WRITING, kills.ASKING}, outcome.kills
    assert outcome.went_on > 0, "else nothing was restored, and no damage to a training's state would show"
    assert outcome.finished_runs >= 1
    compared = results_of(whole)
    for part in (
        "base.zip policy.pth", "hybrid.zip policy.pth",
        "members/seed-0/base/checkpoint-000000001024 optimizer.safetensors",
        "members/seed-0/hybrid/checkpoint-000000000512 environment.safetensors",
        "metrics row 0", "report arms", "report advice", "report fusion",
    ):  # fmt: skip
        assert part in compared


class Played:
    """Stands for a run: sleeps until it is killed; gone on with, it has left what `leave` makes of a finished run."""

    def __init__(self, whole: Path, leave: Callable[[Path], None], code: int = 0) -> None:
        self._whole = whole
        self._leave = leave
        self._code = code

    def __call__(self, options: Sequence[str], cwd: Path) -> kills.Process:
        if cwd.name != "whole" and "--auto-resume" not in options:
            return Sleeping()
        shutil.copytree(self._whole / "logs", cwd / "logs")
        if cwd.name != "whole":
            self._leave(only_run(cwd / "logs"))
        return Over(0 if cwd.name == "whole" else self._code)


class Over:
    """A process that has ended."""

    pid = -1

    def __init__(self, code: int) -> None:
        self._code = code

    def ended(self) -> int | None:
        return self._code

    def wait(self) -> int:
        return self._code


class Sleeping:
    """A process that does nothing, at the head of a group."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(["sleep", "600"], start_new_session=True)
        self.pid = self._process.pid

    def ended(self) -> int | None:
        return self._process.poll()

    def wait(self) -> int:
        return self._process.wait()


def nothing(run: Path) -> None:
    """Leave a finished run as it is."""


def another_time(run: Path) -> None:
    rewrite(run / "report.json", lambda report: {**report, "execution_time": 1e9})


def one_bit_of_a_weight(run: Path) -> None:
    flip_last_bit(max(run.glob("members/seed-0/base/checkpoint-*")) / "policy.safetensors")


def one_bit_of_adam(run: Path) -> None:
    flip_last_bit(max(run.glob("members/seed-0/hybrid/checkpoint-*")) / "optimizer.safetensors")


def another_models_export(run: Path) -> None:
    shutil.copy(run / "base.zip", run / "hybrid.zip")


def a_reward_in_the_log(run: Path) -> None:
    rows = (run / "metrics.jsonl").read_text().splitlines()
    row = json.loads(rows[3])
    rows[3] = json.dumps({**row, "mean_reward": row["mean_reward"] + 1e-12})
    (run / "metrics.jsonl").write_text("\n".join(rows))


def a_row_twice(run: Path) -> None:
    rows = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*rows, rows[-1]]))


def a_checkpoint_less(run: Path) -> None:
    shutil.rmtree(max(run.glob("members/seed-0/rl_only/checkpoint-*")))


def a_dollar_of_an_arm(run: Path) -> None:
    def richer(report: dict[str, Any]) -> dict[str, Any]:
        report["arms"]["hybrid"]["net_usd"] += 1.0
        return report

    rewrite(run / "report.json", richer)


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def flip_last_bit(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("leave", "differing"),
    [
        (nothing, []),
        (another_time, []),
        (one_bit_of_a_weight, ["members/seed-0/base/checkpoint-000000001024 policy.safetensors"]),
        (one_bit_of_adam, ["members/seed-0/hybrid/checkpoint-000000000512 optimizer.safetensors"]),
        (another_models_export, [f"hybrid.zip {name}" for name in ("data", "policy.optimizer.pth", "policy.pth")]),
        (a_reward_in_the_log, ["metrics row 3"]),
        (a_row_twice, ["metrics row [0-9]+"]),
        (a_checkpoint_less, ["members/seed-0/rl_only/checkpoint-000000000(256|512) [a-z]+.safetensors"] * 8),
        (a_dollar_of_an_arm, ["report arms"]),
    ],
)
def test_the_comparison_sees_what_differs(
    killed: tuple[kills.Outcome, Path], tmp_path: Path, leave: Callable[[Path], None], differing: list[str]
) -> None:
    outcome = kill_and_compare(Played(killed[1], leave), tmp_path, 1)
    assert outcome.kills == {kills.ANY: 1}
    assert len(outcome.differences) == len(differing), outcome.differences
    for found, expected in zip(outcome.differences, differing, strict=True):
        assert re.fullmatch(f"killed-1: {expected}", found)


def test_the_command_prints_the_kills_and_what_differs(
    killed: tuple[kills.Outcome, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def play(leave: Callable[[Path], None], code: int = 0) -> int:
        played = Played(killed[1], leave, code)
        monkeypatch.setattr(kills, "_Started", lambda script, options, cwd: played(options, cwd))
        return kills.main(["--kills", "1", "--mode", "pipeline"])

    assert play(nothing) == 0
    said = in_one_line(capsys.readouterr().out)
    assert "kill 1: any instant, process group" in said
    assert said.endswith(
        "1 kills (1 any instant) 1 kills (1 process group) 1 runs finished after 0 of the kills "
        "a training resumed from a checkpoint nothing differs"
    )
    assert play(a_dollar_of_an_arm) == 1
    assert in_one_line(capsys.readouterr().out).endswith("differs: killed-1: report arms 1 differences")
    assert play(nothing, code=2) == 1
    assert "differs: killed-1 ended with exit code 2" in in_one_line(capsys.readouterr().out)
