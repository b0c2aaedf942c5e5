"""Several markets in one run: each as in a run of its own, bit for bit, however the run was stopped and resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from src.command_line import run_parser
from src.configuration import build_config
from src.errors import ConfigError, MarketError
from src.market.synthetic import synthetic_bars
from src.runs.same_report import without_times
from src.testing_framework import BatchedCallback, create_test_config
from tests.market.bar_makers import bar_table, write_csv
from tests.runs.pipeline_runs import Ended, Pipelines, before, crash, differing, pipelines_in, run_of
from tests.tiny_runs import INTERVAL_MIN, N_SESSIONS, every_market_checked_once

MARKETS = ["MNQ", "MES"]


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipelines]:
    with pipelines_in(tmp_path_factory.mktemp("markets")) as made, every_market_checked_once():
        for i, symbol in enumerate(MARKETS):
            bars = synthetic_bars(symbol, N_SESSIONS, INTERVAL_MIN, seed=i)
            made.bars[symbol] = write_csv(bar_table(bars), made.folder / f"{symbol}_bars.csv")
        yield made


def files(pipelines: Pipelines) -> dict[str, str]:
    return {symbol: str(pipelines.bars[symbol]) for symbol in MARKETS}


def over_both(pipelines: Pipelines, home: Path, **options: Any) -> Ended:
    """A pipeline over both markets."""
    changes = {"test_mode.market": MARKETS, "data.path": files(pipelines), **options.pop("changes", {})}
    return pipelines.run(home, changes, **options)


@pytest.fixture(scope="module")
def left_alone(pipelines: Pipelines) -> Path:
    """The home of a pipeline over both markets, done in one go in this process."""
    home = pipelines.new_home()
    ended = over_both(pipelines, home)
    assert ended.error is None, ended.why
    return home


def weights_below(folder: Path) -> dict[str, str]:
    """SHA-256 of what every training left, by its path."""
    found = folder.rglob("weights.safetensors")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def report_in(home: Path) -> dict[str, Any]:
    return json.loads((run_of(home) / "report.json").read_text(encoding="utf-8"))


def test_each_market_is_as_in_a_run_of_its_own(pipelines: Pipelines, left_alone: Path) -> None:
    run, home = run_of(left_alone), pipelines.new_home()
    ended = pipelines.run(home, {"test_mode.market": "MES", "data.path": files(pipelines)["MES"]})
    assert ended.error is None, ended.why
    alone = run_of(home)
    of_mes = weights_below(run / "members/MES")
    assert len(of_mes) == 4
    assert of_mes == weights_below(alone / "members")
    assert of_mes != weights_below(run / "members/MNQ")
    assert (run / "models/MES/hybrid.policy.safetensors").read_bytes() == (
        alone / "hybrid.policy.safetensors"
    ).read_bytes()
    within, own = report_in(left_alone)["markets"]["reports"]["MES"], report_in(home)
    # What the run has once.
    once = {"summary", "phases", "log_writes", "run"}
    assert {k: v for k, v in without_times(within).items() if k not in once} == {
        k: v for k, v in without_times(own).items() if k not in once
    }
    assert within["run"]["market"] == "MES"


def test_the_folder_and_the_ledger_say_which_market(left_alone: Path) -> None:
    run = run_of(left_alone)
    assert run.name.startswith("pipeline_MNQ-MES_")
    assert (
        {path.name for path in (run / "members").iterdir()}
        == set(MARKETS)
        == {path.name for path in (run / "tasks").iterdir()}
    )
    assert not (run / "base.zip").exists()
    ledger = json.loads((run / "ledger.json").read_text(encoding="utf-8"))
    assert list(ledger["phases"]["phase2"]["timesteps"]) == ["MNQ base, seed 0", "MES base, seed 0"]
    measured = [name for name in ledger["tasks"] if name.endswith("production")]
    assert measured == ["tasks/MNQ/production"], "production is measured once"
    report = report_in(left_alone)
    assert report["run"]["market"] == "MNQ, MES"
    assert [row["market"] for row in report["training"]] == ["MNQ"] * 4 + ["MES"] * 4
    assert report["arms"] == {}
    assert report["look_ahead"]["checks"] == sum(
        of["look_ahead"]["checks"] for of in report["markets"]["reports"].values()
    )
    assert report["fusion"]["total"] == sum(of["fusion"]["total"] for of in report["markets"]["reports"].values()) > 0


def test_killed_in_the_second_market_and_resumed_in_two_workers_it_ends_as_one_left_alone(
    pipelines: Pipelines, left_alone: Path
) -> None:
    home = pipelines.new_home()

    def is_there(callback: Any) -> bool:
        return callback.phase == "hybrid" and callback.num_timesteps == 76

    with before(BatchedCallback, "_on_step", crash, nth=2, when=is_there):  # the second hybrid is that of MES
        over_both(pipelines, home)
    assert (run_of(home) / "members/MNQ/seed-0/hybrid/task.json").exists()
    assert not (run_of(home) / "members/MES/seed-0/hybrid/task.json").exists()
    ended = over_both(pipelines, home, auto_resume=True, changes={"hardware.workers": 2})
    assert ended.error is None, ended.why
    assert "MES hybrid, seed 0: resuming from 64" in ended.said
    assert "MNQ hybrid, seed 0: resuming" not in ended.said
    assert differing(home, left_alone) == []


@pytest.mark.parametrize(
    ("overrides", "market", "path"),
    [
        ({"market": ["es"]}, "ES", None),
        ({"market": ["nq", "ES"]}, ("NQ", "ES"), None),
        ({"market": ["NQ", "ES"], "data": "bars"}, ("NQ", "ES"), "bars"),
        ({"market": ["NQ", "ES"], "data": {"es": "e.csv"}}, ("NQ", "ES"), {"ES": "e.csv"}),
        ({"market": "ES", "data": {"NQ": "n.csv", "ES": "e.csv"}}, "ES", "e.csv"),
    ],
)
def test_one_market_is_a_symbol_and_several_a_list(overrides: Mapping[str, Any], market: Any, path: Any) -> None:
    config = create_test_config("hardware_maximized", **overrides)
    plain = config.to_dict()
    assert config.test_mode.market == market
    assert plain["data"]["path"] == path
    again = build_config(None, {name: dict(section) for name, section in plain.items()}, {})
    assert again.to_dict() == plain
    for symbol in config.test_mode.markets:
        of_market = config.of_market(symbol)
        assert of_market.test_mode.market == symbol
        expected = path.get(symbol) if isinstance(path, dict) else path
        assert of_market.to_dict()["data"]["path"] == expected


@pytest.mark.parametrize(
    ("overrides", "said", "error"),
    [
        ({"market": ["NQ", "nq"]}, "The market NQ is named twice", MarketError),
        ({"market": ["NQ", "EZ"]}, "Unknown market 'EZ'", MarketError),
        ({"market": []}, "test_mode.market", ConfigError),
        ({"market": "NQ", "data": {"ES": "e.csv"}}, "names bars of ES, but the run trades NQ", ConfigError),
        ({"market": ["NQ", "ES"], "env_class": "tests.tiny_runs:CountingEnv"}, "name one market", ConfigError),
        ({"market": ["NQ", "ES"], "data": {"path": {"EZ": "e.csv"}}}, "Unknown market 'EZ'", ConfigError),
    ],
)
def test_what_no_run_could_mean_is_refused(overrides: Mapping[str, Any], said: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=said):
        create_test_config("hardware_maximized", **overrides)


@pytest.mark.parametrize(
    ("argv", "market", "data"),
    [
        (["--market", "NQ"], "NQ", None),
        (["--market", "NQ", "ES", "--data", "bars"], ["NQ", "ES"], "bars"),
        (["-m", "NQ", "ES", "--data", "NQ=a=b.csv", "es=e.csv"], ["NQ", "ES"], {"NQ": "a=b.csv", "ES": "e.csv"}),
        (["--data", "run=3.csv"], None, "run=3.csv"),
        (["--data", "NQ=n.csv"], None, {"NQ": "n.csv"}),
    ],
)
def test_options_name_markets_and_their_files(argv: list[str], market: Any, data: Any) -> None:
    args = run_parser("a run").parse_args(argv)
    assert (args.market, args.data) == (market, data)


def test_files_without_a_market_among_several_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_parser("a run").parse_args(["--market", "NQ", "ES", "--data", "NQ=n.csv", "e.csv"])
    assert ended.value.code == 2
    assert "'e.csv' says no market" in " ".join(capsys.readouterr().err.split())
