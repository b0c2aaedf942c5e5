"""Choose the rows of one market: what rows, headers, file names and prices say they are of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market.contracts import CONTRACTS, Contract
from src.market.files.contract_months import DAY_NS, GRACE_DAYS, Month, canonical_names, is_merged, months_of_rows
from src.market.files.identity_words import (
    KIND_WORDS,
    market_reading,
    nothing_by_name,
    nothing_in_rows,
    nothing_of_several,
)
from src.market.files.instrument_names import (
    PREDECESSORS,
    Instrument,
    instrument_in_file_name,
    parse_instrument,
)
from src.market.files.price_level import PriceLevel, judge_prices
from src.market.files.reading import MarketReading
from src.market.files.rows import NO_TIME, FileRows

_MOST_IDS = 200  # front months of 50 years; more are a download of everything
_UNDECIDED = ("ambiguous", "unknown")
UNNAMED = "files that name no instrument"


@dataclass
class _Part:
    """One table with what its names say; the verdicts are filled in step by step."""

    rows: FileRows
    said: list[Instrument | None]
    """Of each of `rows.instrument_names`; only those that occur in rows."""
    header: Instrument | None
    file_name: Instrument | None
    keep: NDArray[np.bool_]
    root: str = ""
    by: str = ""
    """"rows", "file", or "" if nothing names its market."""
    labels: int = 0
    notes: list[str] = field(default_factory=list)
    groups: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None
    """Kept rows sorted by name, and where each name's begin; made once `keep` is final."""

    def rows_name_market(self) -> bool:
        return any(said is not None and said.kind != "id" and said.root != "" for said in self.said)

    def rows_name_contracts(self) -> bool:
        return any(said is not None and said.kind == "future" for said in self.said)


def choose_market(rows: list[FileRows], market: Contract) -> tuple[list[FileRows], MarketReading]:
    """The rows of the market, or of its micro or mini if none are its own, and what was left out.

    Afterwards `instrument_names` are contracts in canonical spelling ("ESZ5"); empty for a continuous series.
    Raises BarDataError if no row is the market's, if instruments cannot be told apart, and for prices of another market
    or scale.
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
    doubt = next((level.words or "prices do not tell" for level in levels if level.level in _UNDECIDED), "")
    return _named_by_contract(kept, root), market_reading(market, root, {part.by for part in kept}, doubt, dropped)


def _family(market: Contract) -> list[str]:
    """The market and the roots that may serve it, the market first."""
    mini = market.parent or market.symbol
    roots = [symbol for symbol, contract in CONTRACTS.items() if mini in (symbol, contract.parent)]
    roots += PREDECESSORS.get(mini, ())
    return [market.symbol, *(root for root in roots if root != market.symbol)]


def _read_names(table: FileRows) -> _Part:
    present = set(np.unique(table.instrument).tolist())
    said = [_in_rows(table, code) if code in present else None for code in range(len(table.instrument_names))]
    in_name = instrument_in_file_name(table.file)
    header = parse_instrument(table.file_instrument) if table.file_instrument else None
    if header is not None and header.kind == "id":
        header = None
    spoken = f"{table.file} {table.label}".upper().replace("_", " ")
    if header is not None and (table.file_instrument or "").upper().replace("_", " ") in spoken:
        # The reader took it from the name of the file or of an archive's member.
        in_name, header = _more_telling(header, in_name), None
    return _Part(table, said, header, in_name, np.ones(len(table), dtype=bool))


def _more_telling(read: Instrument, own: Instrument | None) -> Instrument:
    """Of two readings of a name the one that says more: a spread, or the month of the same root."""
    if own is not None and (own.kind == "spread" or (own.kind == "future" and own.root == read.root)):
        return own
    return read


def _in_rows(table: FileRows, code: int) -> Instrument | None:
    """What one name of the rows says; "202512" is a month only in rows before it, else a number."""
    name = table.instrument_names[code]
    said = parse_instrument(name)
    if said is None or said.root or said.month is None or not name.strip().isdigit():
        return said
    times = table.time_ns[(table.instrument == code) & (table.time_ns != NO_TIME)]
    months, _ = months_of_rows(said, "", times)
    ahead = months[0].expiry_day() - times // DAY_NS
    return said if times.size and ((ahead >= -GRACE_DAYS) & (ahead < 6 * 366)).all() else Instrument("id", name)


def _choose_rows(part: _Part, family: list[str], market: Contract, dropped: Counter[str]) -> None:
    """Decide one table's root and drop the rows that name something else."""
    file_said = part.header or part.file_name
    if part.rows_name_market():
        part.by = "rows"
        _drop_other_rows(part, family, dropped)
        agrees = [said for said in (part.header, part.file_name) if said is not None and said.root == part.root]
        part.labels = 1 + len(agrees)
        return
    if file_said is not None:
        part.by = "file"
        part.labels = sum(said is not None and said.root == file_said.root for said in (part.header, part.file_name))
        if file_said.kind in ("future", "continuous") and file_said.root in family:
            part.root = file_said.root
        elif file_said.root:
            _drop_if(part, True, KIND_WORDS.get(file_said.kind, file_said.root), dropped)
    _tell_ids_apart(part, family[0])


def _drop_other_rows(part: _Part, family: list[str], dropped: Counter[str]) -> None:
    roots = []
    for said in part.said:
        root = "" if said is None or said.kind not in ("future", "continuous") else said.root
        if said is not None and said.kind == "future" and not root:
            file_said = part.header or part.file_name
            root = file_said.root if file_said is not None and file_said.root in family else family[0]
        roots.append(root)
    counts = np.bincount(part.rows.instrument[part.rows.instrument >= 0], minlength=len(roots))
    present = {root for root, count in zip(roots, counts, strict=True) if count and root in family}
    chosen = next((root for root in family if root in present), "")
    wanted = {chosen, *PREDECESSORS.get(chosen, ())} if chosen else set()
    ranks = [said.rank for said, root in zip(part.said, roots, strict=True) if said is not None and root in wanted]
    contracts = any(
        said is not None and said.kind == "future" and root in wanted
        for said, root in zip(part.said, roots, strict=True)
    )
    part.root = chosen
    unwanted = np.zeros(len(roots) + 1, dtype=bool)  # the last for rows without a name, which are -1
    for code, (said, root, count) in enumerate(zip(part.said, roots, counts.tolist(), strict=True)):
        if said is None or not count:
            continue
        name = ""
        if root not in wanted:
            name = KIND_WORDS.get(said.kind, root or said.root)
        elif said.rank > min(ranks):
            name = f"{root} of a later month"
        elif contracts and said.kind == "continuous":
            name = f"{root} without a contract"
        if name:
            unwanted[code] = True
            dropped[name] += count
    part.keep &= ~unwanted[part.rows.instrument]
    if not chosen:
        part.keep[:] = False
    elif not any(said is not None and said.kind == "future" for said in part.said):
        # Without contracts nothing later would notice that a row names nothing.
        _drop_blank(part, dropped)


def _drop_blank(part: _Part, dropped: Counter[str]) -> None:
    blank = part.keep & (part.rows.instrument < 0)
    if blank.any():
        dropped["no instrument"] += int(blank.sum())
        part.keep &= ~blank


def _tell_ids_apart(part: _Part, root: str) -> None:
    """Rows that name instruments by number only: in succession they are contracts; else nobody can tell."""
    ids = [code for code, said in enumerate(part.said) if said is not None]
    if len(ids) < 2 or not part.keep.any():
        return
    table = part.rows
    if len(ids) > _MOST_IDS:
        raise BarDataError(
            f"{table.label}: its column of instruments names {len(ids):,} of them, all by number "
            f"({', '.join(table.instrument_names[code] for code in ids[:3])} ...): that is no column of "
            f"contracts. Rename or remove it."
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
        f"{table.label}: its rows are of {len(ids)} instruments, named by number only ({shown}): which of them is "
        f"{root} cannot be told. Download the file with symbols (Databento: `map_symbols`), or keep the rows of one "
        f"contract."
    )


def _drop_if(part: _Part, condition: bool, name: str, dropped: Counter[str]) -> None:
    if condition and part.keep.any():
        dropped[name] += int(part.keep.sum())
        part.keep[:] = False


def _judge_levels(parts: list[_Part], market: Contract, dropped: Counter[str], *, several: bool) -> list[PriceLevel]:
    """Refuse prices of another market or scale; in a folder, files that name nothing are left out instead."""
    judged = []
    for part in parts:
        if not part.keep.any():
            continue
        table, root = part.rows, part.root or market.symbol
        level = judge_prices(table.time_ns[part.keep], table.prices[part.keep, 3], root)
        if level.level in ("other market", "factor", "far", "mixed"):
            if several and not part.by:
                _drop_if(part, True, f"{UNNAMED}, with other prices", dropped)
                continue
            # Two labels inside and outside the file that agree outweigh a level that is only near another market's.
            if not (level.level == "other market" and level.within_magnitude and part.labels > 1):
                raise BarDataError(f"{table.label}: {level.words}. {level.remedy}.")
            part.notes.append(f"its {level.words}; its rows and its name both say {root}, so it was read as {root}")
        judged.append(level)
    return judged


_Months = dict[int, tuple[tuple[Month, ...], NDArray[np.intp]]]
"""By code of a name: the contract months it means, and each of its rows' index into them."""


def _named_by_contract(parts: list[_Part], root: str) -> list[FileRows]:
    """The kept rows with canonical names of contracts."""
    months = [_without_merged(part, _months_of(part, root)) for part in parts]
    names = canonical_names(month for found in months for kinds, _ in found.values() for month in kinds)
    return [_with_names(part, found, names) for part, found in zip(parts, months, strict=True)]


def _months_of(part: _Part, root: str) -> _Months:
    """Contracts by code in the rows, or under 0 for a table whose name or header gives one for all its rows."""
    if part.rows_name_contracts():
        said = {
            code: said
            for code, said in enumerate(part.said)
            if said is not None and said.kind == "future" and _rows_of(part, code).size
        }
    else:
        of_file = [said for said in (part.header, part.file_name) if said is not None and said.kind == "future"]
        continuous = part.by == "rows"
        said = dict(enumerate(of_file[:1])) if part.keep.any() and not continuous else {}
    return {
        code: months_of_rows(name, name.root or part.root or root, part.rows.time_ns[_rows_of(part, code)])
        for code, name in said.items()
    }


def _rows_of(part: _Part, code: int) -> NDArray[np.intp]:
    """Kept rows of a name; all kept rows of a table whose rows name no contract."""
    if not part.rows_name_contracts():
        return np.flatnonzero(part.keep)
    if part.groups is None:
        kept = np.flatnonzero(part.keep)
        codes = part.rows.instrument[kept]
        order = np.argsort(codes, kind="stable")
        part.groups = kept[order], np.searchsorted(codes[order], np.arange(len(part.said) + 1))
    rows, edges = part.groups
    return rows[edges[code] : edges[code + 1]]


def _without_merged(part: _Part, found: _Months) -> _Months:
    """Nothing for a table that holds several contracts' rows under one contract's name; refuse rows after an expiry."""
    table = part.rows
    if len(found) == 1:
        months, _ = next(iter(found.values()))
        merged = len(months) == 1 and is_merged(months[0], table.time_ns[part.keep], table.volume[part.keep])
        if merged or (len(months) > 1 and not part.rows_name_contracts()):
            part.notes.append(
                f"named for {months[-1].name(2)}, it holds other contracts' rows too: taken as a continuous series"
            )
            return {}
    for code, (months, member) in found.items():
        rows = _rows_of(part, code)
        for place, month in enumerate(months):
            times = table.time_ns[rows[member == place]]
            last = int(times.max() // DAY_NS) if (times != NO_TIME).any() else 0
            if last > month.expiry_day() + GRACE_DAYS:
                raise BarDataError(
                    f"{table.label}: rows of {month.name(2)} go on to {np.datetime64(last, 'D')}, after it expired on "
                    f"{np.datetime64(month.expiry_day(), 'D')}. Correct the dates or the contract's name."
                )
    return found


def _with_names(part: _Part, found: _Months, names: dict[Month, str]) -> FileRows:
    table = part.rows
    codes = np.full(len(table), -1, dtype=np.int32)
    ordered = sorted({month for kinds, _ in found.values() for month in kinds})
    present = [names[month] for month in ordered]
    for code, (months, member) in found.items():
        codes[_rows_of(part, code)] = np.array([ordered.index(month) for month in months], dtype=np.int32)[member]
    ids = [code for code, said in enumerate(part.said) if said is not None and said.kind == "id"]
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
    said = part.header or part.file_name
    if said is None:
        return f"{part.rows.label}: it holds no rows. Export it again."
    return nothing_by_name(part.rows.label, said, "header" if said is part.header else "name", market)


def market_of_file(path: Path) -> str | None:
    """Root that a file's name says it holds (`ES`), so that a folder's files of other markets need not be read."""
    said = instrument_in_file_name(path)
    return said.root if said is not None else None
