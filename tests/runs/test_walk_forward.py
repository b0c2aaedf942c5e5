"""Folds train on what came before and test on what comes after, each on its own, and change nothing of the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from src.agent.market import Market
from src.errors import BarDataError
from src.report.schema import check_report
from src.runs import plan
from src.runs.walk_forward import folds_of
from tests.tiny_runs import Seen, bar_files, quick_calendar, tiny_config, whole_run

FOLDS = 2


def market_with(usable: list[bool]) -> Market:
    """As much of a market as cutting its sessions needs."""
    return SimpleNamespace(tables=SimpleNamespace(sessions=SimpleNamespace(usable=np.array(usable, np.bool_))))  # type: ignore[return-value]


@given(st.lists(st.booleans(), min_size=1, max_size=120), st.integers(1, 8), st.none() | st.integers(0, 4))
def test_folds_are_in_time_order_disjoint_and_apart_by_the_embargo(
    usable: list[bool], n_folds: int, embargo: int | None
) -> None:
    ids = [i for i, is_usable in enumerate(usable) if is_usable]
    gap = embargo if embargo is not None else (1 if len(ids) >= 40 else 0)
    shortest = len(ids) // (n_folds + 1)
    if shortest <= gap:
        with pytest.raises(BarDataError, match="too few"):
            folds_of(market_with(usable), n_folds, embargo)
        return
    folds = folds_of(market_with(usable), n_folds, embargo)
    assert len(folds) == n_folds
    tested: list[int] = []
    for fold in folds:
        train, test = fold.train.tolist(), fold.test.tolist()
        assert train == ids[: len(train)], "everything before, from the first session on"
        assert test == ids[len(train) + gap : len(train) + gap + len(test)], "the next ones after the embargo"
        assert test
        assert len(fold.validation) == 0
        assert fold.embargo == gap
        tested += test
    assert tested == sorted(set(tested))
    assert tested[-1] == ids[-1]
    lengths = [len(folds[0].train), *(len(fold.test) + gap for fold in folds)]
    assert sum(lengths) == len(ids)
    assert max(lengths) - min(lengths) <= 1


def test_twelve_sessions_in_two_folds_by_hand() -> None:
    first, second = folds_of(market_with([True] * 3 + [False] + [True] * 9), 2, 1)
    assert first.train.tolist() == [0, 1, 2, 4]
    assert first.test.tolist() == [6, 7, 8]
    assert second.train.tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert second.test.tolist() == [10, 11, 12]
    assert not first.train.flags.writeable


def test_too_many_folds_say_what_to_change() -> None:
    with pytest.raises(BarDataError) as refused:
        folds_of(market_with([True] * 9 + [False]), 4, 1)
    said = str(refused.value)
    for words in ("9 usable sessions", "4 walk-forward folds", "embargo of 1", "evidence.walk_forward", "fewer folds"):
        assert words in said


# A run with folds


@pytest.fixture(scope="module")
def asked() -> list[Market]:
    """Markets whose training sessions advice was tabulated for: the run's own, then fold by fold."""
    return []


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory, asked: list[Market]) -> Iterator[tuple[Seen, list[Any]]]:
    """A run with two folds: what it left, and the lines of its log."""
    folder = tmp_path_factory.mktemp("folds")
    threads = torch.get_num_threads()
    tabulate = plan.tabulate_advice

    def noted(market: Market, *args: Any, **kwargs: Any) -> Any:
        asked.append(market)
        return tabulate(market, *args, **kwargs)

    changes = {
        "data.path": str(bar_files(folder)["plain"]),
        "test_mode.output_dir": str(folder / "logs"),
        "monitoring.tensorboard": True,
        "evidence.walk_forward": FOLDS,
    }
    with quick_calendar(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "tabulate_advice", noted)
        seen = whole_run(tiny_config(changes))
    (run,) = (folder / "logs").iterdir()
    yield seen, [run, *map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())]
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_every_fold_is_reported_with_what_it_trained_and_tested_on(
    folded: tuple[Seen, list[Any]], asked: list[Market]
) -> None:
    report = folded[0]["report"]
    check_report(report, "report.json")
    folds = report["walk_forward"]["folds"]
    assert [fold["fold"] for fold in folds] == [1, 2]
    for fold, market in zip(folds, asked[1:], strict=True):
        dates = market.tables.sessions.date
        assert fold["train"]["sessions"] == len(market.split.train)
        assert fold["train"]["last"] == str(dates[market.split.train[-1]]) < fold["test"]["first"]
        assert fold["test"]["last"] == str(dates[market.split.test[-1]])
        assert set(fold["net_usd_per_session"]) == set(report["arms"])
        net = fold["net_usd_per_session"]
        assert fold["difference_usd"] == pytest.approx(net["hybrid"] - net["hybrid_placebo"])
        assert fold["low_usd"] is fold["high_usd"] is None, "four sessions"
        assert net["flat"] == 0.0
    assert folds[0]["test"]["last"] < folds[1]["test"]["first"]
    assert [fold["train"]["sessions"] for fold in folds] == [4, 8]
    assert folds[0]["net_usd_per_session"] != folds[1]["net_usd_per_session"]


@pytest.mark.slow
def test_folds_train_in_folders_of_their_own_and_their_rows_say_which(folded: tuple[Seen, list[Any]]) -> None:
    seen, (run, *rows) = folded
    trainings = ["base", "rl_only", "hybrid", "hybrid_placebo"]
    members = [(training, fold) for fold in (0, 1, 2) for training in trainings]
    assert list(dict.fromkeys((row["phase"], row["fold"]) for row in rows)) == members
    of_fold = {fold: f"fold-{fold}/" if fold else "" for fold in (0, 1, 2)}
    for root in ("members", "tensorboard"):
        filled = {str(path.parent.relative_to(run / root)) for path in (run / root).rglob("*") if path.is_file()}
        own = {f"{of_fold[fold]}seed-0/{training}" for training, fold in members}
        assert {name.partition("/checkpoint-")[0] for name in filled} == own
    assert {(record["phase"], record["fold"]) for record in seen["report"]["training"]} == set(members[:4])
    assert [curve["phase"] for curve in seen["report"]["learning"]["curves"]] == trainings
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Walk-forward" in page
    for fold in (1, 2):
        ledger = json.loads((run / "ledger.json").read_text(encoding="utf-8"))["tasks"]
        assert ledger[f"tasks/fold-{fold}/evaluation"]["status"] == "done"
