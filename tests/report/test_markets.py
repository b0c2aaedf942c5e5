"""What several markets say together: pooled by date, adjusted over the markets, and shown market by market."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from src.report.complete import complete_report
from src.report.conclusions import CONTRASTS
from src.report.console import print_summary
from src.report.markets import pooled_by_date, together
from src.report.model.report import RunReport
from src.report.page import render
from src.report.schema import check_report
from tests.report.page_report import full_report

SYMBOLS = ("NQ", "ES", "YM", "RTY")
SESSIONS, SEEDS, REPLICATIONS = 29, 3, 399  # fewer than 30 sessions need no block length, which is slow to estimate


def market_report(symbol: str, seed: int, edge_usd: float) -> RunReport:
    """A report of a market in which the hybrid earns `edge_usd` a session more than its placebo and RL alone."""
    facts = json.loads(json.dumps(full_report(SESSIONS, SEEDS, bars_a_session=20, n_charted=1)))
    rng = np.random.default_rng(seed)
    nets = {arm: rng.normal(0.0, 100.0, (SEEDS, SESSIONS)).round(2) for arm in facts["arms"]}
    nets["hybrid"] = (nets["hybrid_placebo"] + edge_usd + rng.normal(0.0, 40.0, (SEEDS, SESSIONS))).round(2)
    nets["rl_only"] = (nets["hybrid_placebo"] + rng.normal(0.0, 10.0, (SEEDS, SESSIONS))).round(2)
    nets["flat"] = np.zeros((SEEDS, SESSIONS))
    plain = {arm: of.tolist() for arm, of in nets.items()}
    facts["seeds"] = {"values": list(range(SEEDS)), "net_usd_by_session": plain}
    first = facts["statistics"]["contrasts"][0]
    facts["statistics"]["contrasts"] = [
        {**first, "arm": str(arm), "against": str(against), "role": role} for arm, against, role in CONTRASTS
    ]
    for arm, of in nets.items():
        facts["arms"][arm]["net_usd_by_session"] = of.mean(axis=0).tolist()
        facts["arms"][arm]["net_usd_per_session"] = float(of.mean())
    facts["run"]["market"] = symbol
    return complete_report(facts)


@cache
def of_several(edges: tuple[float, ...] = (70.0, 0.0, 0.0, -60.0)) -> RunReport:
    """A run of four markets."""
    reports = {
        symbol: market_report(symbol, place, edge)
        for place, (symbol, edge) in enumerate(zip(SYMBOLS, edges, strict=True))
    }
    whole = json.loads(json.dumps(full_report(SESSIONS, SEEDS, bars_a_session=20, n_charted=1)))
    kept = {name: value for name, value in whole.items() if name in RUN_WIDE}
    plain = {symbol: {k: v for k, v in of.to_json_dict().items() if k != "markets"} for symbol, of in reports.items()}
    markets = {"reports": plain, **together(reports, 0, REPLICATIONS)}
    run = {**kept["run"], "market": ", ".join(SYMBOLS)}
    return complete_report({**kept, "arms": {}, "run": run, "markets": markets})


RUN_WIDE = {
    "test_name", "schema_version", "validation_passed", "execution_time", "gpu_utilization", "cache_hit_rate",
    "peak_memory_gb", "peak_memory_kind", "timesteps_completed", "timesteps_total", "targets", "phase_times", "time",
    "hardware", "cache", "fusion", "env_pool", "memory_released_mb", "log_writes", "run", "training", "look_ahead",
    "production_estimate",
}  # fmt: skip


def contrast(report: RunReport, against: str) -> Any:
    assert report.markets is not None
    return next(of for of in report.markets.contrasts if of.against == against)


dates = st.lists(st.integers(1, 9).map(lambda day: f"2024-01-0{day}"), unique=True, min_size=1).map(sorted)


@settings(max_examples=50, deadline=None)
@given(st.lists(dates, min_size=2, max_size=4), st.integers(0, 2**32 - 1))
def test_a_date_is_the_mean_over_the_markets_that_have_it(of_markets: list[list[str]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    own = {str(i): rng.normal(size=(2, len(days))) for i, days in enumerate(of_markets)}
    by_market = {str(i): days for i, days in enumerate(of_markets)}
    found, in_all = pooled_by_date(own, by_market)
    every = sorted({day for days in of_markets for day in days})
    for column, day in enumerate(every):
        for row in range(2):
            held = [own[s][row][days.index(day)] for s, days in by_market.items() if day in days]
            assert found[row, column] == pytest.approx(sum(held) / len(held))
    assert found.shape == (2, len(every))
    assert in_all == sum(all(day in days for days in of_markets) for day in every)


def test_markets_of_the_same_dates_are_not_so_many_times_the_evidence() -> None:
    """Four times the same market: the pooled interval is that of one."""
    one = market_report("NQ", 0, 20.0)
    found = together({symbol: one for symbol in SYMBOLS}, 0, REPLICATIONS)["contrasts"][0]
    own = found["by_market"]["NQ"]
    assert found["pooled"]["sessions"] == SESSIONS == found["dates_in_all"]
    for key in ("mean_usd", "low_usd", "high_usd"):
        assert found["pooled"][key] == pytest.approx(own[key])
    assert own["holm_p_value"] == pytest.approx(min(1.0, 4 * own["p_value"]))


def test_where_the_advice_helps_is_said_by_market_and_over_all_by_the_pooled_contrast() -> None:
    report = of_several()
    markets = report.markets
    assert markets is not None
    assert {symbol: of.effect for symbol, of in markets.advice.items()} == {
        "NQ": "helps", "ES": "open", "YM": "open", "RTY": "hurts"
    }  # fmt: skip
    pooled = contrast(report, "hybrid_placebo").pooled
    assert (pooled.role, pooled.holm_p_value) == ("primary", None)
    assert pooled.low_usd < 0 < pooled.high_usd
    assert report.verdict[0].startswith("Automation: BANNED under apex_50k_eod_2026_03")
    said = " ".join(report.verdict)
    assert "hybrid - hybrid_placebo, pooled, pre-registered: no difference shown" in said
    assert "adjusted over 4 markets: helps in NQ; hurts in RTY; no evidence either way in ES, YM" in said
    (llm,) = (answer for answer in report.answers if answer.key == "llm")
    assert (llm.mark, llm.answer) == ("unknown", f"No evidence either way in {SESSIONS} pooled dates.")
    helped = of_several((60.0, 60.0, 60.0, 60.0))
    (llm,) = (answer for answer in helped.answers if answer.key == "llm")
    assert llm.mark == "pass"
    assert contrast(helped, "hybrid_placebo").pooled.mean_usd == pytest.approx(60.0, abs=5.0)


def test_a_leak_in_one_market_decides_over_everything() -> None:
    plain = json.loads(json.dumps(of_several().to_json_dict()))
    plain["look_ahead"] |= {"passed": False, "found": "ES: bar 7"}
    report = complete_report({k: v for k, v in plain.items() if k not in ("overall", "answers")})
    assert report.overall is not None
    assert report.overall.status == "missed"
    assert report.overall.reason == "ES: bar 7."


def test_the_console_fits_80_columns() -> None:
    console = Console(file=io.StringIO(), width=80)
    print_summary(console, of_several(), Path("logs/run"))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    said = "\n".join(lines)
    for symbol in SYMBOLS:
        assert f"{symbol}: sealed sessions, after costs" in said
    row = next(line for line in lines if line.startswith("hybrid "))
    assert len(re.findall(r"-?\$[\d,.]+", row)) == len(SYMBOLS) + 3, "a figure a market, by date, and its interval"


def test_the_page_has_every_market_once_and_no_id_twice() -> None:
    html = render(of_several())
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    links = set(re.findall(r'href="#([^"]+)"', html))
    assert links <= set(ids)
    for symbol in SYMBOLS:
        assert f"{symbol.lower()}-contrast" in links
        assert f"{symbol.lower()}-contrast-chart" in ids
    chosen = set(re.findall(r'data-chosen-by="([^"$]+)"', html))
    assert chosen <= set(ids)
    assert "markets" in links
    assert 'aria-describedby="def-kendalls_w"' in html
    assert len(html.encode()) < 8_000_000


def test_report_json_reads_back_as_it_was_written() -> None:
    plain: Mapping[str, Any] = json.loads(json.dumps(of_several().to_json_dict()))
    assert check_report(plain, "it").to_json_dict() == plain
