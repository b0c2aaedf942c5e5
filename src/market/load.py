"""Build the market tables from the `data` section: find the bars, validate, place them in sessions, derive features."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from src.errors import BarDataError
from src.market import features
from src.market.bars import Bars, read_only
from src.market.contracts import Contract, get_contract
from src.market.file_bars import ReadOptions, files_of_market, read_bars
from src.market.files.containers import bar_files
from src.market.files.identity_words import nothing_of_several
from src.market.files.resample import resampled
from src.market.files.rows import Stamp
from src.market.sessions import Schedule, place_in_sessions
from src.market.settings import DataSettings
from src.market.synthetic import synthetic_bars
from src.market.table_cache import TableCache, key_of
from src.market.tables import MarketTables, bar_flags, judge_sessions, run_starts

logger = logging.getLogger(__name__)

DEFAULT_FOLDER = Path("data")
"""Folder searched for bars when no path is given; relative to the working directory."""


TABLE_KEYS = (
    "timezone",
    "stamp",
    "adjusted",
    "repair",
    "interval_min",
    "no_trade_bars",
    "max_hole_bars",
    "warmup_bars",
)
"""Settings of `data` on which the tables of a file depend."""


def load_market(settings: DataSettings, market: str, *, trading_hours: str, seed: int) -> MarketTables:
    """The market's tables from `settings.path`, else from data/, else from the synthetic generator (`seed`).

    Tables of large files are kept in the user's cache folder (`table_cache`) and are the same bits from there.
    Raises MarketError (unknown market), BarDataError (unusable bars), ConfigError (trading hours, overrides).
    """
    contract = get_contract(market)
    choices = {name: getattr(settings, name) for name in TABLE_KEYS}
    choices |= {"market": contract.symbol, "trading_hours": trading_hours}
    cache = TableCache.of_user()
    settings = settings.of_market(contract.symbol)
    path = settings.path
    assert not isinstance(path, dict)  # one market has one
    key = _key(path, contract, choices)
    tables = None if key is None else cache.load(key)
    if tables is not None:
        return tables
    bars = load_bars(
        path,
        contract.symbol,
        repair=settings.repair,
        interval_min=settings.interval_min,
        timezone=settings.timezone,
        stamp=settings.stamp,
        adjusted=settings.adjusted,
    )
    if bars is None:
        bars = synthetic_bars(contract.symbol, settings.synthetic_sessions, settings.synthetic_interval_min, seed)
        logger.warning("no bars of %s in %s/: these are SYNTHETIC bars", contract.symbol, DEFAULT_FOLDER)
    tables = build_tables(bars, settings, trading_hours=trading_hours)
    if key is not None and not bars.synthetic and key == _key(path, contract, choices):
        cache.store(key, tables)  # not if a file changed while it was read: its content is then unknown
    return tables


def _key(path: Path | None, contract: Contract, choices: Mapping[str, Any]) -> str | None:
    files, skipped = source_files(path, contract)
    return key_of(path or DEFAULT_FOLDER, files, {**choices, "skipped": [str(file) for file in skipped]})


def build_tables(
    bars: Bars, settings: DataSettings, *, trading_hours: str, schedule: Schedule | None = None
) -> MarketTables:
    """Place bars of any origin in sessions and derive runs, flags and features from them.

    `schedule` saves reading the calendar again; it must cover the bars (`sessions.schedule_around`).
    """
    bars, sessions = place_in_sessions(bars, trading_hours, schedule)
    run_start = run_starts(bars, sessions, settings.no_trade_bars)
    warmup_bars = settings.warmup_bars or features.WARMUP_BARS
    sessions = judge_sessions(
        bars,
        sessions,
        run_start,
        warmup_bars=warmup_bars,
        no_trade_bars=settings.no_trade_bars,
        max_hole_bars=settings.max_hole_bars,
    )
    return MarketTables(
        bars=bars,
        sessions=sessions,
        prices=read_only(np.column_stack((bars.open, bars.high, bars.low, bars.close)), np.int32),
        flags=bar_flags(bars, sessions, run_start, warmup_bars=warmup_bars),
        atr_ticks=read_only(features.atr_ticks(bars, sessions, run_start), np.float32),
        window=read_only(features.window_features(bars, sessions, run_start), np.float32),
        context=read_only(features.context_features(bars, sessions, run_start), np.float32),
    )


def load_bars(
    path: Path | None,
    market: str,
    *,
    repair: bool = False,
    interval_min: int | None = None,
    timezone: str | None = None,
    stamp: Stamp | None = None,
    adjusted: Literal["refuse", "accept"] = "refuse",
) -> Bars | None:
    """Validated bars of a file, or of a folder's files for the market joined in time order; not yet placed in sessions.

    Bars shorter than `interval_min` are joined into bars of that length. A micro without its own files uses its
    parent's, and the other way round. None if no path is given and data/ holds no file that may be the market's.
    Raises BarDataError for anything that cannot be used, naming file, row, value and fix.
    """
    contract = get_contract(market)
    place = DEFAULT_FOLDER if path is None else Path(path)
    files, skipped = source_files(path, contract)
    if path is None and not files:
        return None
    options = ReadOptions(repair, interval_min, timezone, stamp, adjusted == "accept")
    return resampled(read_bars(files, place, contract, options, skipped), interval_min)


def source_files(path: Path | None, contract: Contract) -> tuple[list[Path], list[Path]]:
    """The files to read, and those of the folder that are not read because their names say another market.

    Without a path those of data/, which may have none. Raises BarDataError for a path that does not exist or a folder
    that holds no file for the market.
    """
    place = DEFAULT_FOLDER if path is None else Path(path)
    if not place.is_dir():
        return ([] if path is None else bar_files(place)), []
    try:
        held = bar_files(place)
    except BarDataError:
        if path is None:
            return [], []
        raise
    files = files_of_market(held, contract)
    if not files and path is not None:
        raise BarDataError(nothing_of_several(held, contract))
    return files, [file for file in held if file not in files]
