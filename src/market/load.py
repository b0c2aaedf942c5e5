"""Build the market tables from the `data` section: find the bars, validate, place them in sessions, derive features."""

from __future__ import annotations

import logging
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market import features
from src.market.bar_files import files_for_market, read_columns
from src.market.bar_rows import BarRows
from src.market.bars import Bars, make_bars, read_only
from src.market.contracts import Contract, get_contract
from src.market.files.front_month import front_month
from src.market.files.resample import resampled
from src.market.row_verdicts import SoundRows, sound_rows
from src.market.sessions import Schedule, place_in_sessions
from src.market.settings import DataSettings
from src.market.synthetic import synthetic_bars
from src.market.table_cache import TableCache, key_of
from src.market.tables import MarketTables, bar_flags, judge_sessions, run_starts

logger = logging.getLogger(__name__)

DEFAULT_FOLDER = Path("data")
"""Folder searched for bars when no path is given; relative to the working directory."""


TABLE_KEYS = ("timezone", "stamp", "adjusted", "repair", "interval_min", "no_trade_bars", "max_hole_bars")
"""Settings of `data` on which the tables of a file depend."""


def load_market(settings: DataSettings, market: str, *, trading_hours: str, seed: int) -> MarketTables:
    """The market's tables from `settings.path`, else from data/, else from the synthetic generator (`seed`).

    Tables of large files are kept in the user's cache folder (`table_cache`) and are the same bits from there.
    Raises MarketError (unknown market), BarDataError (unusable bars), ConfigError (trading hours, overrides).
    """
    contract = get_contract(market)
    choices = {name: getattr(settings, name) for name in TABLE_KEYS}
    choices |= {"market": contract.symbol, "trading_hours": trading_hours}
    path = DEFAULT_FOLDER if settings.path is None else settings.path
    cache = TableCache.of_user()
    key = key_of(path, listed_files(path), choices)
    tables = None if key is None else cache.load(key)
    if tables is not None:
        return tables
    bars = load_bars(settings.path, contract.symbol, repair=settings.repair, interval_min=settings.interval_min)
    if bars is None:
        bars = synthetic_bars(contract.symbol, settings.synthetic_sessions, settings.synthetic_interval_min, seed)
        logger.warning("no bars of %s in %s/: these are SYNTHETIC bars", contract.symbol, DEFAULT_FOLDER)
    tables = build_tables(bars, settings, trading_hours=trading_hours)
    if key is not None and not bars.synthetic:
        cache.store(key, tables)
    return tables


def listed_files(path: Path) -> list[Path]:
    """Every regular file that a path names or a folder holds, in order of name."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return [file for file in files if file.is_file()]


def build_tables(
    bars: Bars, settings: DataSettings, *, trading_hours: str, schedule: Schedule | None = None
) -> MarketTables:
    """Place bars of any origin in sessions and derive runs, flags and features from them.

    `schedule` saves reading the calendar again; it must cover the bars (`sessions.schedule_around`).
    """
    bars, sessions = place_in_sessions(bars, trading_hours, schedule)
    run_start = run_starts(bars, sessions, settings.no_trade_bars)
    sessions = judge_sessions(
        bars,
        sessions,
        run_start,
        warmup_bars=features.WARMUP_BARS,
        no_trade_bars=settings.no_trade_bars,
        max_hole_bars=settings.max_hole_bars,
    )
    return MarketTables(
        bars=bars,
        sessions=sessions,
        prices=read_only(np.column_stack((bars.open, bars.high, bars.low, bars.close)), np.int32),
        flags=bar_flags(bars, sessions, run_start, warmup_bars=features.WARMUP_BARS),
        atr_ticks=read_only(features.atr_ticks(bars, sessions, run_start), np.float32),
        window=read_only(features.window_features(bars, sessions, run_start), np.float32),
        context=read_only(features.context_features(bars, sessions, run_start), np.float32),
    )


def load_bars(path: Path | None, market: str, *, repair: bool = False, interval_min: int | None = None) -> Bars | None:
    """Validated bars of a file, or of a folder's files for the market joined in time order; not yet placed in sessions.

    A micro without its own files uses its parent's. None if no path is given and data/ holds none for the market.
    Raises BarDataError for anything that cannot be used, naming file, row, value and fix.
    """
    contract = get_contract(market)
    folder = DEFAULT_FOLDER if path is None else Path(path)
    if path is None and not folder.is_dir():
        return None
    files, owner = files_for_market(folder, contract.symbol)
    if not files:
        if path is None:
            return None
        raise BarDataError(
            f"{folder}: no file for {contract.symbol} in this folder (it holds: {_listing(folder)}). A file's name "
            f"must begin with the market, as in {contract.symbol}_5m.csv or {contract.symbol}-2024.parquet."
        )
    parts = sorted(
        (_checked(file, contract, repair=repair, interval_min=interval_min) for file in files),
        key=lambda part: int(part.rows.open_ns[0]),
    )
    source = ", ".join(part.rows.label for part in parts)
    if owner != contract.symbol:
        source += f" ({owner} bars used for {contract.symbol}: same index and tick size)"
    return resampled(_joined(parts, contract, source), interval_min)


def _checked(file: Path, contract: Contract, *, repair: bool, interval_min: int | None) -> SoundRows:
    raw = read_columns(file)
    rows = BarRows(
        label=str(file),
        time_text=lambda row: str(raw.time_text.iloc[row]),
        open_ns=raw.open_ns,
        prices=raw.prices,
        volume=raw.volume,
        contract=raw.contract,
        contract_names=raw.contract_names,
    )
    sound = sound_rows(rows, contract, repair=repair, interval_min=interval_min)
    for finding in sound.findings:
        logger.warning("%s: %d x %s, %s", file, finding.count, finding.kind, finding.done)
    return sound


def _joined(parts: list[SoundRows], contract: Contract, source: str) -> Bars:
    for earlier, later in pairwise(parts):
        files = f"{earlier.rows.label} and {later.rows.label}"
        if earlier.interval_ns != later.interval_ns:
            minutes = [part.interval_ns // 60_000_000_000 for part in (earlier, later)]
            raise BarDataError(
                f"{files}: bars of {minutes[0]} and of {minutes[1]} minutes cannot be joined. Keep files of one "
                f"interval for {contract.symbol} in the folder, or give --data one file."
            )
        if later.rows.open_ns[0] <= earlier.rows.open_ns[-1]:
            when = np.datetime64(int(later.rows.open_ns[0]), "ns").astype("datetime64[s]")
            raise BarDataError(
                f"{files}: they overlap (the second begins at {when} UTC, before the first ends). Remove the overlap, "
                f"or give --data one file."
            )
    names = tuple(dict.fromkeys(name for part in parts for name in part.rows.contract_names or ("",)))
    codes = np.concatenate([_recoded(part.rows, names) for part in parts])
    open_ns = np.concatenate([part.rows.open_ns for part in parts])
    points = np.concatenate([part.rows.prices for part in parts])
    ticks = np.rint(points / float(contract.tick_size)).astype(np.int32)
    volume = np.rint(np.concatenate([part.rows.volume for part in parts])).astype(np.int64)
    if (open_ns[1:] == open_ns[:-1]).any():
        keep = front_month(open_ns, codes, volume)
        open_ns, ticks, volume, codes = open_ns[keep], ticks[keep], volume[keep], codes[keep]
        source += " (front month by the previous session's volume)"
    present, codes = _by_appearance(codes)
    return make_bars(
        market=contract.symbol,
        interval_s=parts[0].interval_ns // 1_000_000_000,
        source=source,
        open_ns=open_ns,
        open=ticks[:, 0],
        high=ticks[:, 1],
        low=ticks[:, 2],
        close=ticks[:, 3],
        volume=volume,
        contract=codes,
        contract_names=() if names == ("",) else tuple(names[code] for code in present),
        repairs=dict(sum((Counter(part.dropped) for part in parts), Counter())),
    )


def _recoded(rows: BarRows, names: tuple[str, ...]) -> NDArray[np.int16]:
    own = np.array([names.index(name) for name in rows.contract_names or ("",)], dtype=np.int16)
    return own[rows.contract]


def _by_appearance(codes: NDArray[np.int16]) -> tuple[list[int], NDArray[np.int64]]:
    """The codes that occur, in order of first bar, and each bar's index into that list."""
    values, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(values), dtype=np.int64)
    rank[order] = np.arange(len(values))
    return [int(value) for value in values[order]], rank[inverse]


def _listing(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir())
    return (", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")) or "nothing"
