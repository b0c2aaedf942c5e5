"""Advice as a forecast: which windows count, against bars walked one at a time, and every figure in plain Python."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from src.advisor.mock import MockAdvisor
from src.advisor.situations import N_MARKET_SITUATIONS, N_SITUATIONS
from src.advisor.table import AdviceTable, empty_table, freeze_table, situation_order, tabulate
from src.agent.market import Market, prepare_market
from src.evaluation.forecast import (
    AT_BREAK,
    HORIZONS,
    PAST_FLAT,
    WHOLE,
    advice_mix,
    forecast_facts,
    horizon_facts,
    reliability,
    spearman,
)
from src.market.bars import make_bars
from src.market.context import CONTEXT_FEATURES
from src.market.contracts import get_contract
from src.market.load import build_tables
from src.market.settings import DataSettings
from src.market.split import Split
from src.report.console import advice_lines, print_summary
from src.trading.params import make_params
from src.trading.rules import load_rule_profile
from src.trading.settings import EnvironmentSettings
from tests.market.bar_makers import scheduled_slots
from tests.report.page_report import full_report, typed
from tests.tiny_runs import bar_files, quick_calendar, tiny_config, whole_run

INTERVAL_MIN, PER_SESSION, N_SESSIONS = 15, 92, 5
SLOTS = scheduled_slots(N_SESSIONS, INTERVAL_MIN)
NO_TRADE_BARS = 2
SEALED = (2, 3, 4)
CODES = 6
HOLD, BUY, SELL = 0, 1, 2


@pytest.fixture(autouse=True, scope="module")
def _calendar_asked_once() -> Iterator[None]:
    with quick_calendar():
        yield


@cache
def account_constants() -> tuple[Any, Any]:
    rules = load_rule_profile("none")
    return rules, make_params(EnvironmentSettings(), get_contract("NQ"), rules)


def market_with(
    seed: int = 0,
    *,
    holes: Sequence[tuple[int, int]] = (),
    roll: int | None = None,
    hours: str = "rth",
    slots: np.ndarray = SLOTS,
    sealed: Sequence[int] = SEALED,
) -> Market:
    """A walk of whole ticks that opens off the last close, without [start, start + length) of each hole; market codes
    are drawn at random, 0 (unknown) among them."""
    rng = np.random.default_rng(seed)
    keep = np.ones(len(slots), bool)
    for start, length in holes:
        keep[start : start + length] = False
    n = len(slots)
    moves, gaps = rng.integers(-2, 3, n), rng.integers(-1, 2, n)
    close = 20_000 + np.cumsum(moves + gaps)
    opened = close - moves
    contract = np.zeros(n, np.int16) if roll is None else (np.arange(n) >= roll).astype(np.int16)
    bars = make_bars(
        market="NQ", interval_s=60 * INTERVAL_MIN, source="test bars", open_ns=slots[keep], open=opened[keep],
        high=(np.maximum(opened, close) + rng.integers(0, 3, n))[keep],
        low=(np.minimum(opened, close) - rng.integers(0, 3, n))[keep],
        close=close[keep], volume=rng.integers(1, 500, n)[keep], contract=contract[keep], contract_names=("C0", "C1"),
    )  # fmt: skip
    data = DataSettings(no_trade_bars=NO_TRADE_BARS, max_hole_bars=10_000)
    tables = build_tables(bars, data, trading_hours=hours)
    usable = np.flatnonzero(tables.sessions.usable)
    test = np.array([k for k in sealed if k in usable], np.int32)
    none = np.zeros(0, np.int32)
    rules, params = account_constants()
    situation = rng.integers(0, CODES, len(tables.bars)).astype(np.int32)
    return Market(tables, Split(none, none, test, 0), rules, params, situation)


def table_of(rows: Mapping[int, Sequence[float]], side: int = 0) -> AdviceTable:
    """Covers one side of these market codes with [p(HOLD), p(BUY), p(SELL)]."""
    probabilities, covered = np.zeros((N_SITUATIONS, 6), np.float32), np.zeros(N_SITUATIONS, bool)
    for code, row in rows.items():
        probabilities[code * 5 + side, : len(row)] = row
        covered[code * 5 + side] = True
    return freeze_table(probabilities, covered, "test", "test")


# ---------------------------------------------------------------- the oracle: one bar, one sum after another


def sealed_bars(market: Market) -> list[int]:
    """Bars of sealed sessions after which the next slot lies between the trading open and the forced exit."""
    bars, sessions = market.tables.bars, market.tables.sessions
    found = []
    for t in range(len(bars)):
        session, following = int(bars.session_id[t]), int(bars.open_ns[t]) + bars.interval_ns
        if (
            session in market.split.test
            and sessions.trade_open_ns[session] <= following <= sessions.flat_slot_ns[session]
        ):
            found.append(t)
    return found


def walk_on(market: Market, t: int, horizon: int) -> int | str:
    """Ticks gained from the next open to the close `horizon` bars on, or what ended the walk."""
    bars = market.tables.bars
    exit_at, u = int(market.tables.sessions.flat_slot_ns[bars.session_id[t]]), t
    for _ in range(horizon):
        due = int(bars.open_ns[u]) + bars.interval_ns
        if due >= exit_at:
            return "past_flat"
        v = u + 1
        if v == len(bars) or bars.session_id[v] != bars.session_id[t] or bars.contract[v] != bars.contract[u]:
            return "at_break"
        late = int(bars.open_ns[v]) - due
        if late > NO_TRADE_BARS * bars.interval_ns or bars.open_ns[v] > exit_at:
            return "at_break"
        if bars.open_ns[v] == exit_at:
            return "past_flat"
        u = v
    return int(bars.close[u]) - int(bars.open[t + 1])


def slow_spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """A rank is one more than the smaller values, and half of the other equal ones."""

    def ranks(values: Sequence[float]) -> list[float]:
        return [1 + sum(w < v for w in values) + (sum(w == v for w in values) - 1) / 2 for v in values]

    if len(set(x)) < 2 or len(set(y)) < 2:
        return None
    a, b = ranks(x), ranks(y)
    middle = (len(a) + 1) / 2
    top = sum((p - middle) * (q - middle) for p, q in zip(a, b, strict=True))
    return top / math.sqrt(sum((p - middle) ** 2 for p in a) * sum((q - middle) ** 2 for q in b))


def slow_horizon(
    market: Market, rows: Mapping[int, Sequence[float]], bars: Sequence[int], horizon: int
) -> dict[str, Any]:
    counts: Counter[str] = Counter(dropped_past_flat=0, dropped_at_break=0, ties=0, zero_returns=0, windows=0)
    leans, gains, scores, hits, sessions = [], [], [], 0, set()
    said: dict[int, list[tuple[float, bool]]] = {}
    for t in bars:
        _, buy, sell = (float(np.float32(p)) for p in rows[int(market.situation[t])][:3])
        gained = walk_on(market, t, horizon)
        if isinstance(gained, str):
            counts[f"dropped_{gained}"] += 1
            continue
        counts["windows"] += 1
        if buy == sell:
            counts["ties"] += 1
        elif gained == 0:
            counts["zero_returns"] += 1
        else:
            leans.append(buy - sell)
            gains.append(gained)
            hits += (buy > sell) == (gained > 0)
            said.setdefault(min(9, math.floor(buy / (buy + sell) * 10)), []).append((buy / (buy + sell), gained > 0))
            scores.append((buy / (buy + sell) - (1 if gained > 0 else 0)) ** 2)
            sessions.add(int(market.tables.bars.session_id[t]))
    n = len(gains)
    ups = sum(gained > 0 for gained in gains)
    return {
        **counts,
        "n": n,
        "sessions": len(sessions),
        "hit_rate": hits / n if n else None,
        "up_rate": ups / n if n else None,
        "forecast_up_rate": sum(lean > 0 for lean in leans) / n if n else None,
        "information_coefficient": slow_spearman(leans, gains),
        "brier": math.fsum(scores) / n if n else None,
        "brier_of_up_rate": ups / n * (1 - ups / n) if n else None,
        "reliability": [
            {
                "said_up_frac": math.fsum(p for p, _ in of) / len(of),
                "up_frac": sum(up for _, up in of) / len(of),
                "n": len(of),
            }
            for _, of in sorted(said.items())
        ],
    }


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        if name == "reliability":
            assert len(found[name]) == len(value)
            for of_bin, wanted in zip(found[name], value, strict=True):
                assert_same(of_bin, wanted)
            continue
        assert found[name] == (pytest.approx(value, abs=1e-9) if isinstance(value, float) else value), name


# ---------------------------------------------------------------- windows and figures

eighths = st.integers(0, 8).map(lambda k: k / 8)
some_rows = st.dictionaries(st.integers(1, CODES - 1), st.tuples(eighths, eighths, eighths), max_size=CODES - 1)
some_holes = st.lists(st.tuples(st.integers(PER_SESSION, len(SLOTS) - 1), st.integers(1, 6)), max_size=5)


@settings(max_examples=30)
@given(
    st.integers(0, 2**32 - 1),
    some_rows,
    some_holes,
    st.none() | st.integers(2 * PER_SESSION, len(SLOTS)),
    st.sampled_from(["rth", "globex"]),
)
def test_every_figure_is_that_of_bars_walked_one_at_a_time(
    seed: int, rows: dict[int, tuple[float, ...]], holes: list[tuple[int, int]], roll: int | None, hours: str
) -> None:
    market = market_with(seed, holes=holes, roll=roll, hours=hours)
    facts = forecast_facts(market, table_of(rows))
    sealed = sealed_bars(market)
    covered = [t for t in sealed if int(market.situation[t]) in rows]
    assert (facts["sealed_bars"], facts["covered_bars"]) == (len(sealed), len(covered))
    momentum = [float(market.tables.context[t, CONTEXT_FEATURES.index("momentum")]) for t in covered]
    leans = [rows[int(market.situation[t])][BUY] - rows[int(market.situation[t])][SELL] for t in covered]
    assert_same(facts["momentum"], {"n": len(covered), "correlation": slow_spearman(momentum, leans)})
    assert set(facts["horizons"]) == {"1", "5", "15"}
    for horizon in HORIZONS:
        assert_same(facts["horizons"][str(horizon)], slow_horizon(market, rows, covered, horizon))


def test_a_hole_and_the_forced_exit_drop_windows_and_a_roll_inside_a_session_drops_the_session() -> None:
    rows = {code: (0.2, 0.5, 0.3) for code in range(CODES)}
    noon = 3 * PER_SESSION + 72  # 12:00 New York of the fourth session, eleven bars after its first decision
    whole, holed = market_with(), market_with(holes=[(noon, 3)])
    silent, rolled = market_with(holes=[(noon, 2)]), market_with(roll=noon)
    for horizon in ("5", "15"):
        at = [forecast_facts(market, table_of(rows))["horizons"][horizon] for market in (whole, holed, silent, rolled)]
        assert [of["dropped_at_break"] for of in at] == [0, min(int(horizon), 11), 0, 0]
        assert at[3]["windows"] == 2 * (26 - int(horizon)), "its session is left out"
        # 26 bars in each of three sessions, of which the last one's next open is the forced exit.
        assert at[0]["dropped_past_flat"] == 3 * int(horizon)
        assert at[0]["windows"] == 3 * (26 - int(horizon))


def test_a_forced_exit_without_a_bar_of_its_own_drops_the_same_windows() -> None:
    rows = {code: (0.2, 0.5, 0.3) for code in range(CODES)}
    exit_bar = 3 * PER_SESSION + 87  # 15:45 New York
    one, other = (forecast_facts(market_with(holes=holes), table_of(rows)) for holes in ([], [(exit_bar, 1)]))
    for horizon in map(str, HORIZONS):
        assert other["horizons"][horizon]["dropped_at_break"] == 0
        assert other["horizons"][horizon]["dropped_past_flat"] == one["horizons"][horizon]["dropped_past_flat"]


def test_the_figures_of_nine_bars_worked_by_hand() -> None:
    buy = np.array([0.5, 0.2, 0.3, 0.3, 0.6, 0.1, 0.4, 0.9, 0.9])
    sell = np.array([0.2, 0.5, 0.3, 0.1, 0.2, 0.3, 0.4, 0.0, 0.0])
    ticks = np.array([3, -2, 5, 0, -4, 2, 0, 0, 0])
    fate = np.array([WHOLE] * 7 + [PAST_FLAT, AT_BREAK], np.int8)
    session = np.array([1, 1, 2, 3, 4, 4, 5, 6, 7], np.int32)
    # Used: leans +.3 -.3 +.4 -.2 (ranks 3 1 4 2), moves 3 -2 -4 2 (ranks 4 2 1 3): 1 - 6 x 12 / (4 x 15).
    expected = {
        "windows": 7,
        "dropped_past_flat": 1,
        "dropped_at_break": 1,
        "ties": 2,
        "zero_returns": 1,
        "n": 4,
        "sessions": 2,
        "hit_rate": 0.5,
        "up_rate": 0.5,
        "forecast_up_rate": 0.5,
        "information_coefficient": -0.2,
        "brier": (4 / 49 + 4 / 49 + 9 / 16 + 9 / 16) / 4,
        "brier_of_up_rate": 0.25,
        # Said: 2/7 and 1/4 of which one went up, 5/7 and 3/4 of which one did.
        "reliability": [
            {"said_up_frac": 15 / 56, "up_frac": 0.5, "n": 2},
            {"said_up_frac": 41 / 56, "up_frac": 0.5, "n": 2},
        ],
    }
    assert_same(horizon_facts(buy, sell, ticks, fate, session), expected)


def knowing(market: Market, bars_late: int) -> Market:
    """The market with codes that tell the move of the bar after next when 0 late: up is 1, down 2, none 3."""
    tables = market.tables
    moves = np.sign(tables.prices[:, 3].astype(int) - tables.prices[:, 0])
    told = np.roll(np.array([3, 1, 2])[moves], bars_late - 1).astype(np.int32)
    return replace(market, situation=told)


def test_an_advisor_that_knows_the_next_bar_is_always_right_and_one_bar_late_it_knows_nothing() -> None:
    market = market_with(7, slots=scheduled_slots(24, INTERVAL_MIN), sealed=range(2, 24))
    table = table_of({1: (0.1, 0.8, 0.1), 2: (0.1, 0.1, 0.8), 3: (0.6, 0.2, 0.2)})
    known = forecast_facts(knowing(market, 0), table)["horizons"]["1"]
    assert known["n"] > 300
    assert known["hit_rate"] == 1.0
    assert known["brier"] == pytest.approx((1 / 9) ** 2)
    assert known["information_coefficient"] > 0.8
    assert known["ties"] > 0
    assert known["zero_returns"] == 0, "a move of nothing was said to be none"
    late = forecast_facts(knowing(market, 1), table)["horizons"]["1"]
    assert abs(late["hit_rate"] - 0.5) < 4.5 * math.sqrt(0.25 / late["n"])
    assert abs(late["information_coefficient"]) < 4.5 / math.sqrt(late["n"])


@given(st.integers(0, 2**32 - 1), some_rows)
@settings(max_examples=20)
def test_advice_turned_over_is_wrong_where_it_was_right(seed: int, rows: dict[int, tuple[float, ...]]) -> None:
    market = market_with(seed % 5)
    turned = {code: (hold, sell, buy) for code, (hold, buy, sell) in rows.items()}
    for horizon in map(str, HORIZONS):
        one, other = (forecast_facts(market, table_of(given))["horizons"][horizon] for given in (rows, turned))
        assert one["n"] == other["n"]
        if one["n"]:
            assert one["hit_rate"] + other["hit_rate"] == pytest.approx(1.0)
        if one["information_coefficient"] is not None:
            assert one["information_coefficient"] == pytest.approx(-other["information_coefficient"])


def test_without_answers_there_is_no_figure() -> None:
    facts = forecast_facts(market_with(), empty_table())
    assert facts["covered_bars"] == 0
    assert facts["momentum"] == {"n": 0, "correlation": None}
    for of in facts["horizons"].values():
        assert of["n"] == of["sessions"] == of["windows"] == 0
        assert of["hit_rate"] is of["up_rate"] is of["information_coefficient"] is of["brier"] is None


def test_only_the_answers_for_a_flat_account_forecast() -> None:
    rows = {code: (0.2, 0.5, 0.3) for code in range(CODES)}
    assert forecast_facts(market_with(), table_of(rows, side=1))["covered_bars"] == 0


@given(st.lists(st.tuples(st.integers(-4, 4), st.floats(-5, 5)), max_size=40))
def test_the_rank_correlation_is_that_of_pandas(pairs: list[tuple[int, float]]) -> None:
    frame = pd.DataFrame(pairs, columns=["x", "y"], dtype=float)
    found = spearman(frame["x"].to_numpy(), frame["y"].to_numpy())
    if frame["x"].nunique() < 2 or frame["y"].nunique() < 2:
        assert found is None
    else:
        assert found == pytest.approx(frame.corr(method="spearman").loc["x", "y"], abs=1e-12)


# ---------------------------------------------------------------- what the advice says


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 7), max_size=60))
def test_entropy_and_mix_are_means_over_the_bars_that_were_answered(seed: int, codes: list[int]) -> None:
    labels = {0: [0, 1, 2], 1: [0, 2, 3, 4, 5], 2: [0, 2, 3, 4, 5], 3: [0, 1, 3, 4, 5], 4: [0, 1, 3, 4, 5]}
    names = ["HOLD", "BUY", "SELL", "MOVE_TO_BE", "ENABLE_TRAIL", "DISABLE_TRAIL"]
    rng = np.random.default_rng(seed)
    probabilities, covered = np.zeros((N_SITUATIONS, 6), np.float32), np.zeros(N_SITUATIONS, bool)
    for situation in range(5, 35):
        if rng.random() < 0.7:
            said = labels[situation % 5]
            # Whole eighths: an action may have none, and two may have the same.
            probabilities[situation, said] = rng.multinomial(8, np.full(len(said), 1 / len(said))) / 8
            covered[situation] = True
    mix = advice_mix(freeze_table(probabilities, covered, "test", "test"), np.array(codes, np.int32))
    assert list(mix) == ["flat", "long winning", "long losing", "short winning", "short losing"]
    for side, found in enumerate(mix.values()):
        rows = [probabilities[code * 5 + side].tolist() for code in codes if covered[code * 5 + side]]
        assert found["bars"] == len(rows)
        if not rows:
            assert found["entropy"] is found["likeliest"] is found["probability"] is None
            continue
        entropies = [-sum(p * math.log(p) for p in row if p) / math.log(len(labels[side])) for row in rows]
        assert found["entropy"] == pytest.approx(math.fsum(entropies) / len(rows))
        likeliest = Counter(row.index(max(row)) for row in rows)
        for action in labels[side]:
            assert found["likeliest"][names[action]] == pytest.approx(likeliest[action] / len(rows))
            assert found["probability"][names[action]] == pytest.approx(sum(r[action] for r in rows) / len(rows))
        assert set(found["likeliest"]) == {names[action] for action in labels[side]}


def test_advice_that_never_varies_has_no_entropy_and_indifference_has_all() -> None:
    codes = np.array([1, 1, 2])
    certain, level = table_of({1: (0, 1, 0), 2: (0, 1, 0)}), table_of({1: (1 / 3,) * 3, 2: (1 / 3,) * 3})
    assert advice_mix(certain, codes)["flat"]["entropy"] == 0.0
    assert advice_mix(certain, codes)["flat"]["likeliest"] == {"HOLD": 0.0, "BUY": 1.0, "SELL": 0.0}
    assert advice_mix(level, codes)["flat"]["entropy"] == pytest.approx(1.0)
    assert advice_mix(certain, np.arange(N_MARKET_SITUATIONS))["flat"]["bars"] == 2


# ---------------------------------------------------------------- in a run


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A whole tiny run with the mock advisor."""
    folder = tmp_path_factory.mktemp("bars")
    seen = whole_run(tiny_config({"data.path": bar_files(folder)["plain"], "test_mode.output_dir": str(folder)}))
    assert not seen["outcome"]
    return dict(seen["report"])


def printed(report: Mapping[str, Any]) -> str:
    console = Console(file=StringIO(), width=80)
    print_summary(console, typed(report), Path("logs/run"))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_run_reports_how_its_advice_forecasts(report: dict[str, Any]) -> None:
    forecaster, arms = report["forecaster"], report["arms"]
    assert forecaster["covered_bars"] <= forecaster["sealed_bars"]
    assert set(forecaster["horizons"]) == {"1", "5", "15"}
    for of in forecaster["horizons"].values():
        assert of["windows"] == of["ties"] + of["zero_returns"] + of["n"]
        assert forecaster["covered_bars"] == of["windows"] + of["dropped_past_flat"] + of["dropped_at_break"]
        assert of["sessions"] <= report["data"]["split"]["sealed"]["sessions"]
    assert report["advice"]["by_side"]["flat"]["bars"] == forecaster["covered_bars"]
    assert {name for name, arm in arms.items() if "advice" in arm} == {"hybrid", "hybrid_placebo", "fused"}
    rules = arms["fused"]["advice"]["rules"]
    assert sum(rules.values()) == sum(arms["fused"]["actions"].values())
    assert "rules" not in arms["hybrid"]["advice"]
    parts = [part["fused"]["advice"]["rules"] for part in (arms, report["validation_arms"])]
    assert {rule: sum(part[rule] for part in parts) for rule in rules} == {
        rule: report["fusion"][rule] for rule in rules
    }


def test_the_summary_shows_the_forecast_within_eighty_columns(report: dict[str, Any]) -> None:
    text = printed(report)
    assert "Advice as a forecast" in text
    assert "no CI" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "rank corr. with momentum" in text


def test_the_summary_of_a_run_without_a_market_has_no_forecast(report: dict[str, Any]) -> None:
    of_arms = ("forecaster", "advice", "session_dates", "seeds")
    without = {name: section for name, section in report.items() if name not in of_arms} | {"arms": {}}
    assert "forecast" not in printed(without)


def test_the_summary_says_what_the_advice_did() -> None:
    made = full_report(3, 1, bars_a_session=24, n_charted=0, n_samples=2, n_records=2)
    heard = {"choices": 1_200, "advised": 1_000, "changed": 30, "changed_frac": 0.025}
    deaf = {"choices": 0, "advised": 0, "changed": 0, "changed_frac": None}
    rules = {**dict.fromkeys(made["arms"]["fused"]["advice"]["rules"], 0), "agreement": 12}
    flat = made["advice"]["by_side"]["flat"] | {"entropy": 0.5, "likeliest": {"HOLD": 0.9, "BUY": 0.1, "SELL": 0.0}}
    made["advice"]["by_side"]["flat"] = flat
    made["arms"] = {
        "flat": made["arms"]["flat"],
        "hybrid": {**made["arms"]["hybrid"], "advice": heard},
        "fused": {**made["arms"]["fused"], "advice": {**deaf, "rules": rules}},
    }
    assert advice_lines(typed(made)) == [
        "Advice on sealed bars while flat: HOLD 90%, BUY 10%, SELL 0%; entropy 50% of maximum.",
        "Advice changed 30 of hybrid's 1,200 decisions (2.5%).",
        "Advice changed 0 of fused's 0 decisions.",
        "Rules that decided in fused: agreement 12.",
    ]
    flat |= {"bars": 0, "entropy": None, "likeliest": None}
    del made["session_dates"], made["seeds"]
    assert advice_lines(typed({**made, "arms": {}})) == ["Advice on sealed bars while flat: none."]


def test_figures_that_could_not_be_taken_are_a_dash(report: dict[str, Any]) -> None:
    text = printed({**report, "forecaster": forecast_facts(market_with(), empty_table())})
    assert "- (-)" in text
    assert "None" not in text


@pytest.mark.slow
def test_real_bars_give_the_mock_advisor_no_figure_that_cannot_be(shared_data: Path) -> None:
    data = DataSettings(path=shared_data / "NQ_5m_2024_2026_ibkr.parquet")
    market = prepare_market(data, EnvironmentSettings(), "NQ", 0)
    order = situation_order(market.situation[market.bars_of(market.split.train)])
    facts = forecast_facts(market, tabulate(MockAdvisor(), order))
    for of in facts["horizons"].values():
        assert of["n"] > 1_000
        # Rules of thumb know nothing of the next bars: far outside of this a window would reach into its own past.
        assert abs(of["hit_rate"] - 0.5) < 0.06
        assert abs(of["information_coefficient"]) < 0.1


def test_reliability_is_counted_by_what_was_said() -> None:
    said = np.array([0.05, 0.09, 0.31, 0.95, 1.0, 0.99])
    up = np.array([False, True, True, True, True, False])
    low, middle, high = reliability(said, up)
    assert (low["said_up_frac"], low["up_frac"], low["n"]) == (pytest.approx(0.07), 0.5, 2)
    assert (middle["said_up_frac"], middle["up_frac"], middle["n"]) == (pytest.approx(0.31), 1.0, 1)
    assert (high["said_up_frac"], high["up_frac"], high["n"]) == (pytest.approx(0.98), pytest.approx(2 / 3), 3)
    assert reliability(said[:0], up[:0]) == []


@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), max_size=60))
def test_reliability_loses_no_bar(pairs: list[tuple[float, bool]]) -> None:
    said, up = np.array([p for p, _ in pairs]), np.array([u for _, u in pairs], bool)
    bins = reliability(said, up)
    assert sum(part["n"] for part in bins) == len(pairs)
    assert sum(part["n"] * part["up_frac"] for part in bins) == pytest.approx(up.sum())
    assert [part["said_up_frac"] for part in bins] == sorted(part["said_up_frac"] for part in bins)
