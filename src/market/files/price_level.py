"""Check which market a file's closes belong to, by each market's price range on the same dates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from src.market.files.price_ranges import MARKETS, YearSpans, bounds, described, fits, index_owner, is_known, year_spans
from src.market.files.rows import NO_TIME

Level = Literal["fits", "ambiguous", "other market", "factor", "far", "mixed", "never traded", "unknown"]

ORDER_OF_MAGNITUDE = 5.0
"""Prices further than this factor outside the known range are refused, whatever the names say."""

_MOST = 0.8  # fraction of rows that must fit a market
_JUMP = np.log(1.25)  # log ratio; larger than any index move between bars, smaller than a switch between markets
_FEW_ROWS = 3  # fewer rows are treated as single-row glitches
_FACTORS = (10.0, 100.0, 1_000.0, 10_000.0, 1e9)
_FUND_FACTORS = {"ES": (10.0, "SPY"), "NQ": (40.0, "QQQ"), "YM": (100.0, "DIA"), "RTY": (10.0, "IWM")}


@dataclass(frozen=True)
class PriceLevel:
    """Result of comparing closes with a market's price ranges."""

    level: Level
    words: str = ""
    """A clause for messages: "prices around 25,480 on 2025-11-03 look like NQ's (...), not ES's (...)"."""
    remedy: str = ""
    within_magnitude: bool = True


def judge_prices(time_ns: NDArray[np.int64], close: NDArray[np.float64], root: str) -> PriceLevel:
    """Compare closes in points with the known range of `root` by year; both arrays of length n, in any order.

    "never traded" means outside the range but near it and not another market's, as only adjusted prices are.
    """
    known = (time_ns != NO_TIME) & np.isfinite(close) & (close > 0)
    if not known.any() or not is_known(root):
        return PriceLevel("unknown")
    times, prices = (time_ns, close) if known.all() else (time_ns[known], close[known])
    if (times[1:] < times[:-1]).any():
        order = np.argsort(times, kind="stable")
        times, prices = times[order], prices[order]
    spans = year_spans(times)
    inside = fits(root, spans, prices)
    if inside.mean() < 0.5:
        return _outside(times, spans, prices, inside, root)
    mixed = _mixed(times, spans, prices, inside, root)
    if mixed is not None:
        return mixed
    owner = index_owner(root)
    also = [market for market in MARKETS if market != owner and fits(market, spans, prices).mean() >= _MOST]
    if also:
        return PriceLevel("ambiguous", f"prices of those years fit {' and '.join([root, *also])}")
    every_year = all(inside[rows].mean() >= 0.5 for _, rows in spans)
    return PriceLevel("fits") if every_year else _never_traded(times, prices, inside, root)


def _outside(
    times: NDArray[np.int64],
    spans: YearSpans,
    prices: NDArray[np.float64],
    inside: NDArray[np.bool_],
    root: str,
) -> PriceLevel:
    owner = index_owner(root)
    wide = np.concatenate([_within(prices[rows], *bounds(root, year)) for year, rows in spans])
    near = bool(wide.mean() >= 0.5)
    edge = max(len(prices) // 20, 1)
    smooth = int((np.abs(np.diff(np.log(prices))) >= _JUMP).sum()) <= max(2, len(prices) // 1_000)
    if smooth and (inside[-edge:].mean() >= _MOST or inside[:edge].mean() >= _MOST):
        return _never_traded(times, prices, inside, root)
    where, year = _around(times, prices), _year(times[len(times) // 2])
    ours = f"{root}'s ({described(root, year)})"
    for market in MARKETS:
        if market != owner and fits(market, spans, prices).mean() >= _MOST:
            theirs = f"{market}'s ({described(market, year)})"
            return PriceLevel(
                "other market", f"{where} look like {theirs}, not {ours}", f"Use --market {market} if the file "
                f"holds {market} bars, or give --data a file of {root} bars", near,
            )  # fmt: skip
    fund_factor, fund = _FUND_FACTORS[owner]
    if fits(root, spans, prices, fund_factor).mean() >= _MOST:
        return PriceLevel(
            "factor", f"{where} are about 1/{fund_factor:g} of {ours}, which is {fund}'s level",
            f"Give --data bars of the future, not the fund; if they are the future's, multiply the prices by "
            f"{fund_factor:g}", False,
        )  # fmt: skip
    for factor in _FACTORS:
        for scale, name, verb in ((1 / factor, f"{factor:,.0f} times", "divide"),
                                  (factor, f"1/{factor:,.0f} of", "multiply")):  # fmt: skip
            if fits(root, spans, prices, scale).mean() >= _MOST:
                return PriceLevel(
                    "factor", f"{where} are {name} {ours}", f"If that holds for the whole file, {verb} its prices "
                    f"by {factor:,.0f}; otherwise export it again in points", False,
                )  # fmt: skip
    if not near:
        return PriceLevel(
            "far", f"{where} are far from {ours}", f"Give --data bars of {root} in points, with correct dates",
            False,
        )  # fmt: skip
    return _never_traded(times, prices, inside, root)


def _within(prices: NDArray[np.float64], low: float, high: float) -> NDArray[np.bool_]:
    """Whether prices are within an order of magnitude of a range."""
    return (prices * ORDER_OF_MAGNITUDE >= low) & (prices <= high * ORDER_OF_MAGNITUDE)


def _mixed(
    times: NDArray[np.int64],
    spans: YearSpans,
    prices: NDArray[np.float64],
    inside: NDArray[np.bool_],
    root: str,
) -> PriceLevel | None:
    """Stretches of rows, bounded by jumps, that lie in another market's range and not in this one's."""
    if inside.all():
        return None
    part = np.concatenate(([0], np.cumsum(np.abs(np.diff(np.log(prices))) >= _JUMP)))
    outside_parts = np.bincount(part, weights=~inside) * 2 > np.bincount(part)
    strange = outside_parts[part] & ~inside
    for market in MARKETS:
        theirs = strange & fits(market, spans, prices)
        if market != index_owner(root) and int(theirs.sum()) >= _FEW_ROWS:
            first = int(np.argmax(theirs))
            return PriceLevel(
                "mixed", f"{int(theirs.sum()):,} of {len(prices):,} prices look like {market}'s ({prices[first]:,.2f} "
                f"on {_day(times[first])}), the others like {root}'s ({prices[int(np.argmax(inside))]:,.2f})",
                f"Give --data a file of {root} only, or one with a column `symbol` that names each row's instrument",
            )  # fmt: skip
    return None


def _never_traded(
    times: NDArray[np.int64], prices: NDArray[np.float64], inside: NDArray[np.bool_], root: str
) -> PriceLevel:
    first = int(np.argmin(inside))
    return PriceLevel(
        "never traded",
        f"{int((~inside).sum()):,} of {len(prices):,} closes are prices that never traded ({prices[first]:,.2f} on "
        f"{_day(times[first])}; {root} traded at {described(root, _year(times[first]))})",
    )


def _around(times: NDArray[np.int64], prices: NDArray[np.float64]) -> str:
    middle = len(prices) // 2
    digits = 0 if prices[middle] >= 1_000 else 2
    return f"prices around {prices[middle]:,.{digits}f} on {_day(times[middle])}"


def _day(time_ns: np.int64) -> str:
    return str(np.datetime64(int(time_ns), "ns").astype("datetime64[D]"))


def _year(time_ns: np.int64) -> int:
    return int(time_ns.astype("datetime64[ns]").astype("datetime64[Y]").astype(int)) + 1970
