"""The tables of a run's results: complete, equal in both formats, and read by the programs they are for."""

from __future__ import annotations

import csv
import io
import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.evaluation.arms import RandomLegalArm
from src.evaluation.assembly import FeatureAssembly
from src.evaluation.playing import FreshBatches, evaluate
from src.evaluation.result_tables import SealedResults, result_tables
from src.evaluation.seeds import by_arm
from src.evaluation.trade_list import TRADE, TradeBook, load_trades, save_trades
from src.evaluation.trade_log import record
from src.runs.evaluations import TRADES_NAME
from src.runs.result_files import MOST_ROWS, csv_bytes, formats_of, inert, parquet_bytes, write_result_files
from src.runs.tasks import Done
from tests.small_runs import advice, market

SEEDS = (3, 8)


def random_arms() -> list[RandomLegalArm]:
    arms = [RandomLegalArm(seed) for seed in SEEDS]
    for arm, seed in zip(arms, SEEDS, strict=True):
        arm.name = f"random_legal@{seed}"
    return arms


@pytest.fixture(scope="module")
def played() -> tuple[SealedResults, TradeBook]:
    """Two random arms on the sealed sessions of a small market."""
    return _played(TradeBook())


def _played(book: TradeBook) -> tuple[SealedResults, TradeBook]:
    here, arms = market(), random_arms()
    pool = FreshBatches(here.tape(advice()), here.session_params)
    assembly = FeatureAssembly(here.tables.context, advice())
    results = evaluate(arms, here.first_bars(here.split.test), pool, assembly, trades=book)
    return SealedResults("NQ", here, by_arm(SEEDS, results), book.rows(), [arm.name for arm in random_arms()]), book


def test_every_trade_is_there_as_the_account_recorded_it(played: tuple[SealedResults, TradeBook]) -> None:
    """`trade_log` follows single accounts step by step and shares nothing with the list but the account's record."""
    of, _ = played
    here = of.market
    pool = FreshBatches(here.tape(advice()), here.session_params)
    logs = record(random_arms(), here.first_bars(here.split.test), pool, FeatureAssembly(here.tables.context, advice()))
    wanted = [
        (arm, session, trade.contracts * (1 if trade.side == "long" else -1), log.first_bar + trade.entry_bar,
         trade.entry_ticks, log.first_bar + trade.exit_bar, trade.exit_ticks, trade.net_usd)
        for arm, of_arm in enumerate(logs.values())
        for session, log in enumerate(of_arm)
        for trade in log.trades
    ]  # fmt: skip
    assert of.trades is not None
    columns = ("arm", "session", "contracts", "entry_bar", "entry_ticks", "exit_bar", "exit_ticks")
    found = [(*(int(row[name]) for name in columns), row["net_cents"] / 100.0) for row in of.trades]
    assert len(wanted) > 50
    assert found == wanted


def test_the_tables_agree_with_each_other_and_with_the_results(played: tuple[SealedResults, TradeBook]) -> None:
    of, _ = played
    tables = result_tables([of])
    sessions, trades = tables["sessions"], tables["trades"]
    key = ["arm", "seed", "date"]
    summed = trades.groupby(key)[["net_usd", "gross_usd", "commission_usd", "slippage_usd"]].sum()
    counted = trades.groupby(key).size()
    indexed = sessions.set_index(key)
    traded = indexed[indexed["n_trades"] > 0]
    assert (counted == traded["n_trades"].reindex(counted.index)).all()
    for name in summed:
        np.testing.assert_allclose(summed[name], traded[name].reindex(summed.index), atol=1e-6)
    for seed, result in zip(SEEDS, of.results.results["random_legal"], strict=True):
        column = f"random_legal_seed{seed}"
        np.testing.assert_allclose(tables["daily_returns"][column] * 50_000, result.net_usd, atol=1e-5)
        np.testing.assert_allclose(tables["equity"][column], 50_000 + np.cumsum(result.net_usd), atol=1e-6)
    # An entry fills at the open of its bar, slippage against it.
    bars = of.market.tables.bars
    opens = pd.Series(bars.open * 0.25, pd.DatetimeIndex(bars.open_ns))
    slip = trades["entry_price"].to_numpy() - opens[trades["entry_bar_utc"]].to_numpy()
    assert set(np.where(trades["side"] == "long", slip, -slip)) == {0.25}


def test_several_markets_share_the_dates_and_name_their_columns(played: tuple[SealedResults, TradeBook]) -> None:
    of, _ = played
    later = replace(of.market, split=replace(of.market.split, test=of.market.split.test[1:]))
    results = by_arm(SEEDS, evaluate(
        random_arms(), later.first_bars(later.split.test), FreshBatches(later.tape(advice()), later.session_params),
        FeatureAssembly(later.tables.context, advice()),
    ))  # fmt: skip
    tables = result_tables([of, SealedResults("ES", later, results)])
    returns = tables["daily_returns"]
    assert list(returns) == [f"{symbol}_random_legal_seed{seed}" for symbol in ("NQ", "ES") for seed in SEEDS]
    assert returns.index.is_monotonic_increasing
    assert returns["ES_random_legal_seed3"].isna().sum() == 1
    assert "trades" not in tables, "one market of an earlier version kept none"


def test_too_many_trades_leave_whole_arms_out(played: tuple[SealedResults, TradeBook]) -> None:
    of, whole = played
    assert whole.dropped == []
    assert of.trades is not None
    first = of.trades[of.trades["arm"] == 0]
    cut, book = _played(TradeBook(len(first) + 1))
    assert book.dropped == [1]
    assert cut.trades is not None
    assert cut.trades.tobytes() == first.tobytes()


def plan_and_results(of: SealedResults, folder: Path, dropped: list[int]) -> tuple[SimpleNamespace, dict[str, Done]]:
    """What a run has of its evaluation, after it was JSON."""
    assert of.trades is not None
    save_trades(of.trades, folder / "tasks/evaluation" / TRADES_NAME)
    facts = {"played": {"sealed": of.results.to_dict()}, "trades": {"arms": list(of.trade_arms), "dropped": dropped}}
    plain = json.loads(json.dumps(facts, default=lambda array: array.tolist()))
    plan = SimpleNamespace(symbol="NQ", context=SimpleNamespace(market=of.market), name_of=lambda name: f"tasks/{name}")
    return plan, {"tasks/evaluation": Done(folder / "tasks/evaluation", plain)}


def test_both_formats_are_read_back_alike_and_written_once(
    played: tuple[SealedResults, TradeBook], tmp_path: Path
) -> None:
    plan, results = plan_and_results(played[0], tmp_path, [1])
    said: list[str] = []
    names = write_result_files([plan], results, ("csv", "parquet"), tmp_path, said.append)  # type: ignore[list-item]
    assert sorted(names) == sorted(
        f"exports/{name}.{kind}"
        for name in ("daily_returns", "equity", "sessions", "trades")
        for kind in ("csv", "parquet")
    )
    assert said == ["exports: too many trades for one file: those of NQ random_legal, seed 8 are left out"]
    wanted = result_tables([played[0]])
    for name, table in wanted.items():
        raw = (tmp_path / f"exports/{name}.csv").read_bytes()
        assert raw.count(b"\r\n") == len(table) + 1
        assert raw.count(b"\n") == raw.count(b"\r\n")
        times = [column for column in ("date", "entry_bar_utc", "exit_bar_utc") if column.encode() in raw[:300]]
        from_csv = pd.read_csv(tmp_path / f"exports/{name}.csv", parse_dates=times)
        from_parquet = pd.read_parquet(tmp_path / f"exports/{name}.parquet")
        pd.testing.assert_frame_equal(from_parquet, table)
        if table.index.name:
            from_csv = from_csv.set_index("date")
        pd.testing.assert_frame_equal(from_csv, from_parquet, check_dtype=False, check_index_type=False)
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "exports").iterdir()}
    lost = tmp_path / "exports/trades.csv"
    lost.unlink()
    write_result_files([plan], results, ("csv", "parquet"), tmp_path, said.append)  # type: ignore[list-item]
    for path, (content, time_ns) in files.items():
        assert path.read_bytes() == content
        assert (path.stat().st_mtime_ns == time_ns) == (path != lost)
    assert write_result_files([plan], {}, ("csv",), tmp_path, said.append) == []  # type: ignore[list-item]


@pytest.mark.slow
def test_quantstats_takes_the_returns_as_they_are(played: tuple[SealedResults, TradeBook], tmp_path: Path) -> None:
    quantstats = pytest.importorskip("quantstats", reason="quantstats is not installed: requirements-dev.txt")
    file = tmp_path / "daily_returns.csv"
    file.write_bytes(csv_bytes(result_tables([played[0]])["daily_returns"]))
    returns = pd.read_csv(file, index_col="date", parse_dates=True)["random_legal_seed3"]
    values = returns.to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        assert quantstats.stats.comp(returns) == pytest.approx(np.prod(1 + values) - 1)
        sharpe = values.mean() / values.std(ddof=1) * math.sqrt(252)
        assert quantstats.stats.sharpe(returns) == pytest.approx(sharpe)
        wealth = np.concatenate(([1.0], np.cumprod(1 + values)))
        drawdown = (wealth / np.maximum.accumulate(wealth) - 1).min()
        assert quantstats.stats.max_drawdown(returns) == pytest.approx(drawdown)


NASTY = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


@given(st.lists(st.tuples(NASTY, st.floats(allow_nan=False, allow_infinity=False)), max_size=6), NASTY)
def test_any_text_survives_and_none_is_a_formula(rows: list[tuple[str, float]], heading: str) -> None:
    table = pd.DataFrame({f"x{heading}": [text for text, _ in rows], "value": [value for _, value in rows]})
    content = csv_bytes(table).decode()
    header, *found = csv.reader(io.StringIO(content, newline=""))
    assert header == [f"x{heading}", "value"]
    assert [(text, float(value)) for text, value in found] == [(inert(text), value) for text, value in rows]
    assert not any(text.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")) for text, _ in found)
    assert all(text == own or text == f"'{own}" for (text, _), (own, _) in zip(found, rows, strict=True))


def test_a_table_that_no_spreadsheet_holds_is_parquet_alone() -> None:
    assert formats_of(pd.DataFrame(index=range(MOST_ROWS - 1)), ("csv", "parquet")) == ["csv", "parquet"]
    assert formats_of(pd.DataFrame(index=range(MOST_ROWS)), ("csv",)) == ["parquet"]
    wide = pd.DataFrame(np.zeros((1, 16_384))).rename_axis("date")
    assert formats_of(wide.iloc[:, 1:], ("csv",)) == ["csv"]
    assert formats_of(wide, ("csv", "parquet")) == ["parquet"]


def test_trades_of_another_kind_are_refused(tmp_path: Path) -> None:
    save_trades(np.zeros(3, TRADE), tmp_path / "right.npy")
    assert len(load_trades(tmp_path / "right.npy")) == 3
    np.save(tmp_path / "wrong.npy", np.zeros(3))
    with pytest.raises(ValueError, match="not trades"):
        load_trades(tmp_path / "wrong.npy")


def test_no_trades_are_a_table_too(played: tuple[SealedResults, TradeBook]) -> None:
    table = result_tables([replace(played[0], trades=np.zeros(0, TRADE))])["trades"]
    assert len(table) == 0
    assert csv_bytes(table).startswith(b"date,market,contract,arm,seed,side,")
    assert list(pd.read_parquet(io.BytesIO(parquet_bytes(table)))) == list(table)
