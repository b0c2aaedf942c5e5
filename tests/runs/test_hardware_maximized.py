"""Runs of several seeds: each trains and plays as if it were alone, and nothing is said that few sessions forbid."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from src.advisor.table import AdviceTable
from src.agent.trainer import Trainer
from src.errors import BarDataError
from src.evaluation.placebo import placebo_table
from src.report.page.__main__ import main as rebuild_page
from src.report.schema import check_report
from src.statistics.trials import TrialLedger
from src.testing_framework import TestingFramework
from tests.report.page_reader import PageReader
from tests.tiny_runs import bar_files, every_market_checked_once, quick_calendar, tiny_config, weights_in

pytestmark = pytest.mark.slow
CONTROLS = {"flat", "advisor_only"}
TRAININGS = ["base", "rl_only", "hybrid", "hybrid_placebo"]


@dataclass(frozen=True)
class Trained:
    """What a fine-tuning began with: seed, the advice in its observations, its policy's settings, weights, steps."""

    seed: int
    heard: AdviceTable | None
    settings: object
    base: str
    steps: int


@dataclass(frozen=True)
class Ended:
    """A run: its folder, its report as written, what it printed, and its fine-tunings in order."""

    folder: Path
    report: dict[str, Any]
    printed: str
    finetuned: list[Trained]


def rows_of(ended: Ended) -> list[dict[str, Any]]:
    """Of the log, but for their speed."""
    lines = (ended.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{**json.loads(line), "steps_per_s": 0} for line in lines]


def digest(weights: Any) -> str:
    sha = hashlib.sha256()
    for _, tensor in sorted(weights.items()):
        sha.update(tensor.numpy().tobytes())
    return sha.hexdigest()


def run(folder: Path, bars: Path, **changes: Any) -> Ended:
    heard: list[AdviceTable | None] = []
    finetuned: list[Trained] = []
    make_env, new_finetuned = Trainer.make_env, Trainer.new_finetuned

    def noted_env(trainer: Trainer, market: Any, table: Any = None) -> Any:
        heard.append(table)
        return make_env(trainer, market, table)

    def noted_finetune(trainer: Trainer, base: Any, env: Any, plan: Any, settings: Any) -> Any:
        finetuned.append(Trained(trainer.seed, heard[-1], settings, digest(base), plan.actual))
        return new_finetuned(trainer, base, env, plan, settings)

    own = {"data.path": str(bars), "test_mode.output_dir": str(folder), "evidence.trials_path": str(folder / "trials")}
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    framework = TestingFramework(tiny_config({**own, **dotted}), Console(file=io.StringIO(), width=1000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "make_env", noted_env)
        patch.setattr(Trainer, "new_finetuned", noted_finetune)
        framework.run_hardware_maximized_validation()
    assert framework.run_folder is not None
    report = json.loads((framework.run_folder / "report.json").read_text(encoding="utf-8"))
    return Ended(framework.run_folder, report, framework._context.console.file.getvalue(), finetuned)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    threads = torch.get_num_threads()
    with quick_calendar(), every_market_checked_once():
        yield tmp_path_factory.mktemp("validation")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bars(place: Path) -> Path:
    return bar_files(place)["plain"]


@pytest.fixture(scope="module")
def both(place: Path, bars: Path) -> Ended:
    """Seeds 3 and 4 in one run."""
    return run(place, bars, test_mode__seed=3, evidence__seeds=2)


@pytest.fixture(scope="module")
def alone(place: Path, bars: Path) -> dict[int, Ended]:
    """Each of them in a run of its own."""
    return {seed: run(place, bars, test_mode__seed=seed) for seed in (3, 4)}


def test_the_arms_of_a_seed_are_those_of_a_run_with_that_seed_alone(both: Ended, alone: dict[int, Ended]) -> None:
    sessions = both.report["seeds"]["net_usd_by_session"]
    assert both.report["seeds"]["values"] == [3, 4]
    for place, (seed, single) in enumerate(alone.items()):
        assert single.report["seeds"]["values"] == [seed]
        for arm, rows in single.report["seeds"]["net_usd_by_session"].items():
            assert sessions[arm][place] == rows[0], f"{arm} of seed {seed}"
    assert len({tuple(map(tuple, rows)) for rows in sessions.values()}) > 4, "arms that differ"
    assert sessions["rl_only"][0] != sessions["rl_only"][1]


def test_the_arms_of_a_run_are_its_seeds_averaged(both: Ended, alone: dict[int, Ended]) -> None:
    for part in ("arms", "validation_arms"):
        for name, arm in both.report[part].items():
            single = [ended.report[part][name] for ended in alone.values()]
            by_session = np.mean([of["net_usd_by_session"] for of in single], axis=0)
            assert arm["net_usd_by_session"] == pytest.approx(by_session.tolist())
            counted = 1 if name in CONTROLS else 2
            assert sum(arm["actions"].values()) == sum(sum(of["actions"].values()) for of in single[:counted])


def test_a_seed_trains_and_logs_as_if_it_were_alone(both: Ended, alone: dict[int, Ended]) -> None:
    trained = [(record["phase"], record["seed"]) for record in both.report["training"]]
    assert trained == [(phase, seed) for seed in (3, 4) for phase in TRAININGS]
    rows = rows_of(both)
    for seed, single in alone.items():
        assert [row for row in rows if row["seed"] == seed] == rows_of(single)
    curves = both.report["learning"]["curves"]
    assert [(curve["phase"], curve["seed"]) for curve in curves] == trained
    assert weights_in(both.folder / "hybrid.zip") == weights_in(alone[3].folder / "hybrid.zip")
    assert weights_in(both.folder / "base.zip") == weights_in(alone[3].folder / "base.zip")


def test_of_the_timesteps_those_of_the_first_seed_are_the_runs(both: Ended, alone: dict[int, Ended]) -> None:
    assert both.report["timesteps_completed"] == alone[3].report["timesteps_completed"] > 0
    assert both.report["timesteps_total"] == sum(ended.report["timesteps_total"] for ended in alone.values())


def test_all_three_go_on_from_the_same_weights_with_equal_steps_and_seed_and_the_placebo_hears_permuted_advice(
    both: Ended,
) -> None:
    assert len(both.finetuned) == 6
    for seed, of_seed in ((3, both.finetuned[:3]), (4, both.finetuned[3:])):
        alone, hybrid, placebo = of_seed
        assert {t.seed for t in of_seed} == {seed}
        assert len({t.base for t in of_seed}) == len({t.steps for t in of_seed}) == 1
        assert alone.settings is alone.heard is None
        assert hybrid.settings == placebo.settings is not None
        assert hybrid.heard is not None
        assert placebo.heard is not None
        assert hybrid.heard.sha256 == both.report["advice"]["sha256"] != placebo.heard.sha256
        assert placebo.heard.sha256 == placebo_table(hybrid.heard, seed).sha256
        np.testing.assert_array_equal(placebo.heard.covered, hybrid.heard.covered)
    assert both.finetuned[0].base != both.finetuned[3].base
    steps = {r["timesteps"] for r in both.report["training"] if r["phase"] != "base"}
    assert len(steps) == 1


def bounds_in(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every bound of an interval that a report holds."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("low_usd", "high_usd", "passed_low_frac", "passed_high_frac", "p_value", "holm_p_value"):
                yield f"{path}.{key}", inner
            yield from bounds_in(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from bounds_in(inner, f"{path}[{i}]")


def test_on_few_sessions_no_interval_is_printed_or_reported(both: Ended) -> None:
    n = both.report["statistics"]["sample_size"]["n"]
    assert n < 10
    bounds = dict(bounds_in(both.report))
    assert len(bounds) >= 5 * 4
    assert [path for path, bound in bounds.items() if bound is not None] == []
    assert f"not enough sessions ({n} of 40)" in both.printed
    assert "interval" not in both.printed.replace("no interval", "").replace("90% interval", "")  # of production time
    assert both.report["overall"]["judgement"] == "Cannot say: not enough sessions."
    assert both.report["pass_simulation"]["arms"] == {}
    assert "Survival: not simulated" in both.printed


def test_seeds_and_their_repetitions_are_one_trial_an_arm(both: Ended, alone: dict[int, Ended], place: Path) -> None:
    for ended in (both, *alone.values()):
        assert ended.report["statistics"]["deflated_sharpe"]["hybrid"]["trials"] == 3
    lines = (place / "trials").read_text().splitlines()
    assert sorted(json.loads(line)["arm"] for line in lines) == ["fused", "hybrid", "rl_only"]
    (sealed,) = {json.loads(line)["sealed"] for line in lines}
    assert TrialLedger(place / "trials").count(sealed) == 3


def test_the_report_has_its_schemas_shape_and_the_page_needs_nothing_else(both: Ended, tmp_path: Path) -> None:
    check_report(both.report, "report.json")
    page = (both.folder / "report.html").read_bytes()
    (tmp_path / "report.json").write_bytes((both.folder / "report.json").read_bytes())
    assert rebuild_page([str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_bytes() == page
    read = PageReader(page.decode())
    assert read.unclosed == []
    assert not [tag for tag, given, _ in read.elements if given.get("src") or tag in ("link", "iframe", "img")]
    assert not [given for tag, given, _ in read.elements if (given.get("href") or "#")[0] != "#"]
    assert "not enough sessions" in read.text


def test_folds_that_do_not_fit_are_refused_before_anything_is_written(place: Path, bars: Path, tmp_path: Path) -> None:
    with pytest.raises(BarDataError, match=r"too few for 12 walk-forward folds.*--walk-forward"):
        run(tmp_path / "logs", bars, evidence__walk_forward=12)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not list((tmp_path / "logs").glob("*"))
