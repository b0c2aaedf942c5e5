"""Select the rows of one market by names in rows, headers and file names, and by prices."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market.contracts import CONTRACTS, Contract
from src.market.files.contract_months import GRACE_DAYS, Month, canonical_names, is_merged, months_of_rows
from src.market.files.identity_words import (
    KIND_WORDS,
    market_reading,
    nothing_by_name,
    nothing_in_rows,
    nothing_of_several,
)
from src.market.files.instrument_names import PREDECESSORS, Instrument, instrument_in_file_name, parse_instrument
from src.market.files.price_level import PriceLevel, judge_prices
from src.market.files.reading import MarketReading
from src.market.files.rows import NO_TIME, FileRows
from src.market.units import DAY_NS

_MOST_IDS = 200  # 50 years of quarterly contracts; more means a download of all instruments
_UNDECIDED = ("ambiguous", "unknown")
UNNAMED = "files without an instrument name"


@dataclass
class _Part:
    """One table with the instruments that its names stand for; the verdicts are filled in step by step."""

    rows: FileRows
    instruments: list[Instrument | None]
    """For each of `rows.instrument_names`; None if no row has that name."""
    header: Instrument | None
    file_name: Instrument | None
    keep: NDArray[np.bool_]
    root: str = ""
    by: str = ""
    """What names the market: "rows", "file", or "" for nothing."""
    labels: int = 0
    """How many of rows, header and file name agree on `root`."""
    notes: list[str] = field(default_factory=list)
    groups: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None
    """Kept rows sorted by name, and the start of each name's rows; computed once `keep` is final."""

    def rows_name_market(self) -> bool:
        return any(one is not None and one.kind != "id" and one.root != "" for one in self.instruments)

    def rows_name_contracts(self) -> bool:
        return any(one is not None and one.kind == "future" for one in self.instruments)


def choose_market(rows: list[FileRows], market: Contract) -> tuple[list[FileRows], MarketReading]:
    """Select the market's rows, or those of its micro or mini if it has none, and report what was left out.

    In the result `instrument_names` are contracts in canonical spelling ("ESZ5"); empty for a continuous series.

    Raises:
        BarDataError: no row is the market's, instruments cannot be distinguished, or prices are those of another
            market or scale.
    """
    family = _family(market)
    dropped: Counter[str] = Counter()
    parts = [_read_names(table) for table in rows]
    for part in parts:
        _choose_rows(part, family, market, dropped)
    own = {family[0], *PREDECESSORS.get(family[0], ())}
    if any(part.root in own for part in parts):
        for part in parts:
            _drop_if(part, part.root not in own and part.root != "", part.root, dropped)
    named = any(part.by and part.keep.any() for part in parts)
    if named and len(rows) > 1:
        for part in parts:
            _drop_if(part, not part.by, UNNAMED, dropped)
    levels = _judge_levels(parts, market, dropped, several=len(rows) > 1)
    kept = [part for part in parts if part.keep.any()]
    if not kept:
        raise BarDataError(_nothing_left(parts, market, dropped))
    root = next((part.root for part in kept if part.root), market.symbol)
    doubt = next(
        (level.words or "the prices do not identify a market" for level in levels if level.level in _UNDECIDED), ""
    )
    return _named_by_contract(kept, root), market_reading(market, root, {part.by for part in kept}, doubt, dropped)


def _family(market: Contract) -> list[str]:
    """The market's root, then those of its micro or mini, whose bars it can use."""
    mini = market.parent or market.symbol
    roots = [symbol for symbol, contract in CONTRACTS.items() if mini in (symbol, contract.parent)]
    roots += PREDECESSORS.get(mini, ())
    return [market.symbol, *(root for root in roots if root != market.symbol)]


def _read_names(table: FileRows) -> _Part:
    present = set(np.unique(table.instrument).tolist())
    instruments = [_in_rows(table, code) if code in present else None for code in range(len(table.instrument_names))]
    in_name = instrument_in_file_name(table.file)
    header = parse_instrument(table.file_instrument) if table.file_instrument else None
    if header is not None and header.kind == "id":
        header = None
    path_words = f"{table.file} {table.label}".upper().replace("_", " ")
    if header is not None and (table.file_instrument or "").upper().replace("_", " ") in path_words:
        # The reader took it from the file name or from an archive member's name.
        in_name, header = _more_specific(header, in_name), None
    return _Part(table, instruments, header, in_name, np.ones(len(table), dtype=bool))


def _more_specific(read: Instrument, own: Instrument | None) -> Instrument:
    """The more specific of two readings of a name: a spread, or a contract month of the same root."""
    if own is not None and (own.kind == "spread" or (own.kind == "future" and own.root == read.root)):
        return own
    return read


def _in_rows(table: FileRows, code: int) -> Instrument | None:
    """The instrument of one name in the rows; "202512" is a month only if all its rows precede it, else an ID."""
    name = table.instrument_names[code]
    instrument = parse_instrument(name)
    if instrument is None or instrument.root or instrument.month is None or not name.strip().isdigit():
        return instrument
    times = table.time_ns[(table.instrument == code) & (table.time_ns != NO_TIME)]
    months, _ = months_of_rows(instrument, "", times)
    ahead = months[0].expiry_day() - times // DAY_NS
    is_month = bool(times.size and ((ahead >= -GRACE_DAYS) & (ahead < 6 * 366)).all())
    return instrument if is_month else Instrument("id", name)


def _choose_rows(part: _Part, family: list[str], market: Contract, dropped: Counter[str]) -> None:
    """Decide one table's root and drop the rows of other instruments."""
    of_file = part.header or part.file_name
    if part.rows_name_market():
        part.by = "rows"
        _drop_other_rows(part, family, dropped)
        part.labels = 1 + _agreeing(part, part.root)
        return
    if of_file is not None:
        part.by = "file"
        part.labels = _agreeing(part, of_file.root)
        if of_file.rank:
            _drop_if(part, True, f"{of_file.root} of a later month", dropped)
        elif of_file.kind in ("future", "continuous") and of_file.root in family:
            part.root = of_file.root
        elif of_file.root:
            _drop_if(part, True, KIND_WORDS.get(of_file.kind, of_file.root), dropped)
    _refuse_mixed_ids(part, family[0])


def _agreeing(part: _Part, root: str) -> int:
    """How many of header and file name give this root."""
    return sum(named is not None and named.root == root for named in (part.header, part.file_name))


def _drop_other_rows(part: _Part, family: list[str], dropped: Counter[str]) -> None:
    roots = []
    for one in part.instruments:
        root = "" if one is None or one.kind not in ("future", "continuous") else one.root
        if one is not None and one.kind == "future" and not root:
            of_file = part.header or part.file_name
            root = of_file.root if of_file is not None and of_file.root in family else family[0]
        roots.append(root)
    counts = np.bincount(part.rows.instrument[part.rows.instrument >= 0], minlength=len(roots))
    present = {root for root, count in zip(roots, counts, strict=True) if count and root in family}
    chosen = next((root for root in family if root in present), "")
    wanted = {chosen, *PREDECESSORS.get(chosen, ())} if chosen else set()
    candidates = [one for one, root in zip(part.instruments, roots, strict=True) if one is not None and root in wanted]
    ranks = [one.rank for one in candidates]
    contracts = any(one.kind == "future" for one in candidates)
    part.root = chosen
    unwanted = np.zeros(len(roots) + 1, dtype=bool)  # the last entry is for rows without a name (code -1)
    for code, (one, root, count) in enumerate(zip(part.instruments, roots, counts.tolist(), strict=True)):
        if one is None or not count:
            continue
        name = ""
        if root not in wanted:
            name = KIND_WORDS.get(one.kind, root or one.root)
        elif one.rank > min(ranks) or (one.rank and not contracts):
            name = f"{root} of a later month"
        elif contracts and one.kind == "continuous":
            name = f"{root} without a contract"
        if name:
            unwanted[code] = True
            dropped[name] += count
    part.keep &= ~unwanted[part.rows.instrument]
    if not chosen:
        part.keep[:] = False
    elif not part.rows_name_contracts():
        # In a continuous series no later check would notice a row without a name.
        _drop_blank(part, dropped)


def _drop_blank(part: _Part, dropped: Counter[str]) -> None:
    blank = part.keep & (part.rows.instrument < 0)
    if blank.any():
        dropped["no instrument"] += int(blank.sum())
        part.keep &= ~blank


def _refuse_mixed_ids(part: _Part, root: str) -> None:
    """Refuse rows that name instruments by number only, unless the numbers follow one another as contracts do."""
    ids = [code for code, one in enumerate(part.instruments) if one is not None]
    if len(ids) < 2 or not part.keep.any():
        return
    table = part.rows
    if len(ids) > _MOST_IDS:
        raise BarDataError(
            f"{table.label}: the instrument column has {len(ids):,} distinct numbers "
            f"({', '.join(table.instrument_names[code] for code in ids[:3])} ...), so it does not hold contracts. "
            f"Rename or remove it."
        )
    spans, levels = [], []
    for code in ids[:_MOST_IDS]:
        times = table.time_ns[(table.instrument == code) & (table.time_ns != NO_TIME)]
        closes = table.prices[table.instrument == code, 3]
        levels.append(float(np.nanmedian(closes)) if np.isfinite(closes).any() else np.nan)
        if times.size:
            spans.append((int(times.min()), int(times.max())))
    spans.sort()
    apart = len(ids) <= _MOST_IDS and all(later[0] > earlier[1] for earlier, later in pairwise(spans))
    if apart and np.nanmax(levels) < 1.5 * np.nanmin(levels):
        return
    shown = ", ".join(
        f"{table.instrument_names[code]} around {level:,.2f}"
        for code, level in list(zip(ids, levels, strict=False))[:4]
    )
    raise BarDataError(
        f"{table.label}: the rows have {len(ids)} instruments, named by number only ({shown}), so {root} cannot be "
        f"identified. Download the file with symbols (Databento: `map_symbols`), or keep the rows of one contract."
    )


def _drop_if(part: _Part, condition: bool, name: str, dropped: Counter[str]) -> None:
    if condition and part.keep.any():
        dropped[name] += int(part.keep.sum())
        part.keep[:] = False


def _judge_levels(parts: list[_Part], market: Contract, dropped: Counter[str], *, several: bool) -> list[PriceLevel]:
    """Refuse prices of another market or scale; in a folder, leave out files without an instrument name instead."""
    judged = []
    for part in parts:
        if not part.keep.any():
            continue
        table, root = part.rows, part.root or market.symbol
        level = judge_prices(table.time_ns[part.keep], table.prices[part.keep, 3], root)
        if level.level in ("other market", "factor", "far", "mixed"):
            if several and not part.by:
                _drop_if(part, True, f"{UNNAMED} and with other prices", dropped)
                continue
            # Two labels that agree outweigh prices near another market's range.
            if not (level.level == "other market" and level.within_magnitude and part.labels > 1):
                raise BarDataError(f"{table.label}: {level.words}. {level.remedy}.")
            part.notes.append(
                f"{level.words}; two of rows, header and file name say {root}, so the file is read as {root}"
            )
        judged.append(level)
    return judged


_Months = dict[int, tuple[tuple[Month, ...], NDArray[np.intp]]]
"""For each name's code: its contract months, and the index into them for each of its rows."""


def _named_by_contract(parts: list[_Part], root: str) -> list[FileRows]:
    """The kept rows with canonical contract names."""
    months = [_without_merged(part, _months_of(part, root)) for part in parts]
    names = canonical_names(month for found in months for kinds, _ in found.values() for month in kinds)
    return [_with_names(part, found, names) for part, found in zip(parts, months, strict=True)]


def _months_of(part: _Part, root: str) -> _Months:
    """Contract months by code in the rows, or under code 0 if the file name or header gives one for all rows."""
    if part.rows_name_contracts():
        futures = {
            code: one
            for code, one in enumerate(part.instruments)
            if one is not None and one.kind == "future" and _rows_of(part, code).size
        }
    else:
        of_file = [one for one in (part.header, part.file_name) if one is not None and one.kind == "future"]
        continuous = part.by == "rows"
        futures = dict(enumerate(of_file[:1])) if part.keep.any() and not continuous else {}
    return {
        code: months_of_rows(one, one.root or part.root or root, part.rows.time_ns[_rows_of(part, code)])
        for code, one in futures.items()
    }


def _rows_of(part: _Part, code: int) -> NDArray[np.intp]:
    """Kept rows with a name; all kept rows if the rows name no contracts."""
    if not part.rows_name_contracts():
        return np.flatnonzero(part.keep)
    if part.groups is None:
        kept = np.flatnonzero(part.keep)
        codes = part.rows.instrument[kept]
        order = np.argsort(codes, kind="stable")
        part.groups = kept[order], np.searchsorted(codes[order], np.arange(len(part.instruments) + 1))
    rows, edges = part.groups
    return rows[edges[code] : edges[code + 1]]


def _without_merged(part: _Part, found: _Months) -> _Months:
    """Drop the name of a table that holds several contracts under one; refuse rows after their contract's expiry."""
    table = part.rows
    if len(found) == 1:
        months, _ = next(iter(found.values()))
        merged = len(months) == 1 and is_merged(months[0], table.time_ns[part.keep], table.volume[part.keep])
        if merged or (len(months) > 1 and not part.rows_name_contracts()):
            part.notes.append(
                f"named for {months[-1].name(2)} but holds other contracts' rows too: used as a continuous series"
            )
            return {}
    for code, (months, member) in found.items():
        rows = _rows_of(part, code)
        for place, month in enumerate(months):
            times = table.time_ns[rows[member == place]]
            last = int(times.max() // DAY_NS) if (times != NO_TIME).any() else 0
            if last > month.expiry_day() + GRACE_DAYS:
                raise BarDataError(
                    f"{table.label}: rows of {month.name(2)} continue until {np.datetime64(last, 'D')}, after its "
                    f"expiry on {np.datetime64(month.expiry_day(), 'D')}. Correct the dates or the contract's name."
                )
    return found


def _with_names(part: _Part, found: _Months, names: dict[Month, str]) -> FileRows:
    table = part.rows
    codes = np.full(len(table), -1, dtype=np.int32)
    ordered = sorted({month for kinds, _ in found.values() for month in kinds})
    present = [names[month] for month in ordered]
    for code, (months, member) in found.items():
        codes[_rows_of(part, code)] = np.array([ordered.index(month) for month in months], dtype=np.int32)[member]
    ids = [code for code, one in enumerate(part.instruments) if one is not None and one.kind == "id"]
    if not part.by and len(ids) > 1:
        present = [f"id {table.instrument_names[code]}" for code in ids]
        for place, code in enumerate(ids):
            codes[table.instrument == code] = place
    return _kept(replace(table, instrument=codes, instrument_names=tuple(present)), part.keep, part.notes)


def _kept(table: FileRows, keep: NDArray[np.bool_], notes: list[str]) -> FileRows:
    table = replace(table, notes=(*table.notes, *notes))
    if keep.all():
        return table
    index, text = np.flatnonzero(keep), table.time_text
    return replace(
        table,
        time_ns=table.time_ns[index],
        time_text=lambda row: text(int(index[row])),
        prices=table.prices[index],
        volume=table.volume[index],
        instrument=table.instrument[index],
    )


def _nothing_left(parts: list[_Part], market: Contract, dropped: Counter[str]) -> str:
    if len(parts) > 1:
        return nothing_of_several(list(dict.fromkeys(part.rows.file for part in parts)), market)
    part = parts[0]
    if part.by == "rows":
        return nothing_in_rows(part.rows.label, market, dropped)
    named = part.header or part.file_name
    if named is None:
        return f"{part.rows.label}: no rows. Export the file again."
    return nothing_by_name(part.rows.label, named, "header" if named is part.header else "name", market)


def market_of_file(path: Path) -> str | None:
    """The root in a file's name (`ES`), so that a folder's files of other markets need not be read."""
    named = instrument_in_file_name(path)
    return named.root if named is not None else None
