"""Does a feature know the future? Recompute it on prefixes of the bars and compare."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from src.market.bars import Bars
from src.market.flags import ENTRY_ALLOWED
from src.market.load import build_tables
from src.market.settings import DataSettings
from src.market.tables import MarketTables


@dataclass(frozen=True)
class LookAheadCheck:
    """How many prefixes were recomputed, and the first difference found ("" for none)."""

    checks: int
    found: str

    @property
    def passed(self) -> bool:
        """Whether every prefix gave the same bits."""
        return not self.found


def first_bars(bars: Bars, n: int) -> Bars:
    """The first `n` bars, as a file that ended there would hold them."""
    columns = ("open_ns", "open", "high", "low", "close", "volume", "contract", "session_id")
    return replace(bars, **{name: getattr(bars, name)[:n] for name in columns})


def check_prefixes(
    tables: MarketTables, data: DataSettings, trading_hours: str, n_checks: int = 4, seed: int = 0, tail: int = 2_000
) -> LookAheadCheck:
    """Rebuild the tables from prefixes that end at random bars, and compare what an agent may see, bit for bit.

    Compared: both feature tables, the ATR and the entry flag of each prefix's last `tail` bars (an earlier bar has been
    the last one of a shorter prefix just as well).
    """
    n = len(tables.bars)
    ends = np.random.default_rng(seed).integers(n // 2, n, size=n_checks)
    for count, end in enumerate(sorted(int(e) for e in ends), start=1):
        prefix = build_tables(first_bars(tables.bars, end), data, trading_hours=trading_hours)
        rows = slice(max(0, len(prefix.bars) - tail), len(prefix.bars))
        for name in ("window", "context", "atr_ticks"):
            whole, part = getattr(tables, name)[rows], getattr(prefix, name)[rows]
            if whole.tobytes() != part.tobytes():
                bits = whole.view(np.uint32) != part.view(np.uint32)
                differing = np.flatnonzero(bits.reshape(len(whole), -1).any(axis=1))
                return LookAheadCheck(
                    count, f"{name} of bar {rows.start + int(differing[0])} changes with bars after {end}"
                )
        entry = (tables.flags[rows] ^ prefix.flags[rows]) & ENTRY_ALLOWED
        if entry.any():
            return LookAheadCheck(
                count,
                f"the entry flag of bar {rows.start + int(np.flatnonzero(entry)[0])} changes with bars after {end}",
            )
    return LookAheadCheck(n_checks, "")
