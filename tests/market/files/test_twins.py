"""Every invented file, from its bytes to bars or to the paragraph that says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.errors import BarDataError
from src.market.bars import Bars
from src.market.contracts import get_contract
from src.market.load import load_bars, load_market
from src.market.settings import DataSettings
from tests.forked_command import CommandServer

TWINS = Path(__file__).parent / "twins"
EXPECTED: dict[str, dict[str, Any]] = json.loads((TWINS / "expected.json").read_text(encoding="utf-8"))
REFUSED = {
    "ninjatrader_hour_off/NQ 06-25.Last.txt": r"clock of its times changes inside the file.*weeks? of 2025-",
    "tradingview_novolume/CME_MINI_ES1!, 5.csv": r"put the Volume study on the chart before exporting",
    "wrong_symbol/bars.csv": r"the rows name NQ \(17 rows\).*--market NQ",
    "mt5/US500_M5.csv": r"US500 is a cash index or a broker's CFD.*counts the broker's price changes",
}
READ_BY = {
    "close_stamped/ES_5m.csv": "stamps at the bar's close",
    "sierra_chicago/ES.csv": "America/Chicago, stamps at the bar's open",
    "sierra_utc/ESZ25-CME_5m.scid_BarData.txt": "UTC, stamps at the bar's open",
    "tradestation/@ES_5min.txt": "America/Chicago, stamps at the bar's close",
    "firstrate_noheader/ES_5min_sample.txt": "America/New_York, stamps at the bar's open",
    "ninjatrader/ES 12-25.Last.txt": "UTC, stamps at the bar's close",
}


def read(name: str, **options: Any) -> Bars:
    bars = load_bars(TWINS / name, EXPECTED[name]["market"], **options)
    assert bars is not None
    return bars


def test_every_twin_is_here_and_every_refusal_is_one_that_is_expected() -> None:
    assert all((TWINS / name).is_file() for name in EXPECTED)
    must_be_refused = {name for name, twin in EXPECTED.items() if twin["must"].startswith(("refuse", "ask"))}
    assert must_be_refused == set(REFUSED)


@pytest.mark.parametrize("name", sorted(set(EXPECTED) - set(REFUSED)))
def test_a_twin_is_read_as_the_bars_that_it_holds(name: str) -> None:
    twin = EXPECTED[name]
    bars = read(name)
    assert bars.reading is not None
    assert (bars.market, bars.synthetic) == (twin["market"], False)
    if "bars" in twin:
        assert (len(bars), bars.interval_s) == (twin["bars"], 60 * twin["interval_min"])
        tick = float(get_contract(bars.market).tick_size)
        for place, row in ((0, twin["first"]), (-1, twin["last"])):
            assert bars.open_ns[place] == np.datetime64(row["open_utc"][:-1], "ns").astype(np.int64)
            prices = {side: float(getattr(bars, side)[place]) * tick for side in ("open", "high", "low", "close")}
            assert prices == {side: row[side] for side in prices}
            assert bars.volume[place] == row["volume"]
    if twin.get("contract"):
        assert bars.contract_names == (twin["contract"],)
    if name in READ_BY:
        assert READ_BY[name] in bars.reading.clocks[0].words


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_twin_that_cannot_be_used_is_refused_in_one_paragraph_with_its_remedy(name: str) -> None:
    with pytest.raises(BarDataError, match=REFUSED[name]) as caught:
        read(name)
    assert "\n" not in str(caught.value)
    with pytest.raises(BarDataError, match=REFUSED[name]):
        read(name, repair=True)


def test_of_two_markets_in_one_file_the_rows_of_the_one_asked_for_are_read() -> None:
    both = TWINS / "two_markets" / "bars.csv"
    found = {market: load_bars(both, market) for market in ("NQ", "ES")}
    for market, other in (("NQ", "ES"), ("ES", "NQ")):
        bars = found[market]
        assert bars is not None
        assert bars.reading is not None
        assert bars.contract_names == (f"{market}Z5",)
        assert bars.reading.market.dropped == ((other, 17),)


def test_a_handful_of_off_tick_rows_is_rounded_and_named() -> None:
    reading = read("yfinance_offtick/ES_F_5m.csv").reading
    assert reading is not None
    assert [(finding.kind, finding.verdict, finding.count) for finding in reading.findings] == [
        ("off-tick price", "repaired", 1)
    ]


def test_a_wall_clock_read_under_the_wrong_zone_or_stamp_is_refused_with_the_right_one() -> None:
    for options in ({"timezone": "UTC"}, {"stamp": "close"}):
        with pytest.raises(BarDataError, match=r"America/Chicago.*open"):
            read("sierra_chicago/ES.csv", **options)
    right = read("sierra_chicago/ES.csv", timezone="America/Chicago", stamp="open")
    assert right.fingerprint == read("sierra_chicago/ES.csv").fingerprint


def test_what_a_file_was_taken_to_be_travels_with_its_tables() -> None:
    path = TWINS / "sierra_chicago" / "ES.csv"
    tables = load_market(DataSettings(path=path), "ES", trading_hours="rth", seed=0)
    assert tables.bars.reading == read("sierra_chicago/ES.csv").reading


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("wrong_symbol/bars.csv", "use --market NQ"),
        ("tradingview_novolume/CME_MINI_ES1!, 5.csv", "put the Volume study on the chart"),
        ("ninjatrader_hour_off/NQ 06-25.Last.txt", "changes inside the file"),
    ],
)
def test_the_shell_ends_with_2_and_the_paragraph(server: CommandServer, tmp_path: Path, name: str, says: str) -> None:
    market = EXPECTED[name]["market"]
    done = server.run(
        "run_hardware_maximized.py", "--market", market, "--mock-llm", "--data", str(TWINS / name), cwd=tmp_path
    )
    assert done.code == 2
    assert says in " ".join(done.err.split())
    assert "Traceback" not in done.err


def test_the_validator_says_how_a_file_was_read_and_which_reading_was_asked_for(
    server: CommandServer, tmp_path: Path
) -> None:
    path = str(TWINS / "sierra_chicago" / "ES.csv")
    done = server.run("validate_testing_framework.py", "--market", "ES", "--only", "data", "--data", path, cwd=tmp_path)
    said = " ".join(done.out.split())
    assert done.code == 1, "17 bars are no session"
    assert "read as America/Chicago, stamps at the bar's open: 0 of 17 bars fall into closed hours" in said
    options = ("--timezone", "Europe/Berlin", "--stamp", "open", "--interval", "15")
    done = server.run(
        "validate_testing_framework.py", "--market", "ES", "--only", "data", "--data", path, *options, cwd=tmp_path
    )
    assert "America/Chicago" in done.out
    assert "Europe/Berlin" in done.out
