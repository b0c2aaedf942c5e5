"""Figures of one series of net P&L by session: ratios, drawdown, trades, and the deflated Sharpe ratio.

A session is a trading day. Ratios do not depend on the capital, so dollars give the same ratios as returns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.statistics.samples import FEW_SESSIONS, Float64, is_constant, sample_size

SESSIONS_A_YEAR = 252
EULER_MASCHERONI = 0.5772156649015329
CONFIDENCE = 0.95
"""What a track record must reach to be long enough."""
MOST_SESSIONS = 10**9
"""More sessions than this are none: a ratio hardly above its benchmark would need astronomically many."""


@dataclass(frozen=True)
class SeriesFigures:
    """Figures of net P&L by session; None if the sessions do not define one."""

    sessions: int
    net_usd: float
    mean_usd: float | None
    sd_usd: float | None
    sharpe: float | None
    sortino: float | None
    max_drawdown_usd: float


@dataclass(frozen=True)
class TradeFigures:
    """Figures of the trades in a number of sessions; None if there was no trade, loss or bar."""

    trades: int
    trades_a_day: float | None
    win_rate: float | None
    profit_factor: float | None
    exposure_frac: float | None


@dataclass(frozen=True)
class DeflatedSharpe:
    """A Sharpe ratio per session (not annualised) against the best that this many trials show by luck.

    `probability` is that of the true ratio exceeding `expected_maximum`; None, with the reason, if it is unknown.
    `sessions_needed` is how many sessions like these bring it to 95%, at least ten; None if no number does.
    """

    sessions: int
    trials: int
    sharpe: float | None
    skew: float | None
    kurtosis: float | None
    expected_maximum: float | None
    probability: float | None
    reason: str = ""
    sessions_needed: int | None = None


def series_figures(net_usd: Float64) -> SeriesFigures:
    """Figures of net P&L by session float64[n], in time order, US dollars. ValueError for a value not finite."""
    _check_series(net_usd)
    n = len(net_usd)
    return SeriesFigures(
        sessions=n,
        net_usd=float(net_usd.sum()),
        mean_usd=float(net_usd.mean()) if n else None,
        sd_usd=float(net_usd.std(ddof=1)) if n > 1 else None,
        sharpe=sharpe_ratio(net_usd),
        sortino=sortino_ratio(net_usd),
        max_drawdown_usd=max_drawdown_usd(net_usd),
    )


def sharpe_ratio(net_usd: Float64, *, per_year: float = SESSIONS_A_YEAR) -> float | None:
    """Mean over standard deviation (n - 1) of float64[n], times sqrt(per_year); None without two different sessions.

    `per_year=1` gives the ratio of one session. Sharpe, The Sharpe Ratio, Journal of Portfolio Management 21, 1994;
    the root assumes sessions without correlation (Lo, The Statistics of Sharpe Ratios, Financial Analysts Journal 58,
    2002).
    """
    _check_series(net_usd)
    if is_constant(net_usd):
        return None
    return float(net_usd.mean() / net_usd.std(ddof=1)) * math.sqrt(per_year)


def sortino_ratio(net_usd: Float64, *, per_year: float = SESSIONS_A_YEAR) -> float | None:
    """Mean over downside deviation of float64[n], times sqrt(per_year); None without a losing session.

    The downside deviation is sqrt(sum min(x, 0)^2 / n): from zero, over all sessions, not over the losing ones alone
    (Sortino & Price, Performance Measurement in a Downside Risk Framework, Journal of Investing 3, 1994).
    """
    _check_series(net_usd)
    losses = np.minimum(net_usd, 0.0)
    if not losses.any():
        return None
    # Scaled, so that no square of a tiny loss becomes zero.
    worst = -losses.min()
    return float(net_usd.mean() / worst / math.sqrt(np.mean((losses / worst) ** 2))) * math.sqrt(per_year)


def max_drawdown_usd(net_usd: Float64) -> float:
    """The largest drop of the running total of float64[n] below its running maximum, which starts at zero."""
    _check_series(net_usd)
    curve = np.concatenate([[0.0], np.cumsum(net_usd)])
    return float((np.maximum.accumulate(curve) - curve).max())


def trade_figures(
    *,
    trades: NDArray[np.int64],
    wins: NDArray[np.int64],
    gross_wins_usd: Float64,
    gross_losses_usd: Float64,
    bars: NDArray[np.int64],
    bars_exposed: NDArray[np.int64],
) -> TradeFigures:
    """Figures of trades from one entry per session, each array of length n.

    Gross wins are the sum of the winning trades, gross losses that of the losing ones as a positive number; a
    break-even trade is not a win. `bars_exposed` counts the `bars` with a position.

    Raises: ValueError for lengths that differ.
    """
    columns: tuple[NDArray[Any], ...] = (trades, wins, gross_wins_usd, gross_losses_usd, bars, bars_exposed)
    if len({column.shape for column in columns}) != 1 or trades.ndim != 1:
        raise ValueError(f"expected columns of one length, got shapes {[column.shape for column in columns]}")
    n_trades, n_bars = int(trades.sum()), int(bars.sum())
    return TradeFigures(
        trades=n_trades,
        trades_a_day=n_trades / len(trades) if len(trades) else None,
        win_rate=int(wins.sum()) / n_trades if n_trades else None,
        profit_factor=profit_factor(gross_wins_usd, gross_losses_usd),
        exposure_frac=int(bars_exposed.sum()) / n_bars if n_bars else None,
    )


def profit_factor(gross_wins_usd: Float64, gross_losses_usd: Float64) -> float | None:
    """Sum of gross wins float64[n] over sum of gross losses float64[k], both as positive numbers; None without a loss.

    ValueError for a negative or infinite amount.
    """
    for amounts in (gross_wins_usd, gross_losses_usd):
        if not np.isfinite(amounts).all() or (amounts < 0).any():
            raise ValueError("gross wins and gross losses must be finite and at least 0")
    losses = float(gross_losses_usd.sum())
    return float(gross_wins_usd.sum()) / losses if losses else None


def probabilistic_sharpe(sharpe: float, benchmark: float, n: int, skew: float, kurtosis: float) -> float | None:
    """The chance that the true Sharpe ratio is above a benchmark, both of one observation, not annualised.

    Z[(SR - SR*) sqrt(n - 1) / sqrt(1 - skew SR + (kurtosis - 1) / 4 SR^2)], kurtosis 3 for a normal series (Bailey &
    Lopez de Prado, The Sharpe Ratio Efficient Frontier, Journal of Risk 15, 2012). None where n is under 2 or the root
    is of nothing, which only a series of two values reaches.
    """
    variance = _sharpe_variance(sharpe, skew, kurtosis)
    if n < 2 or variance <= 0:
        return None
    return NormalDist().cdf((sharpe - benchmark) * math.sqrt((n - 1) / variance))


def minimum_track_record(
    sharpe: float, benchmark: float, skew: float, kurtosis: float, *, confidence: float = CONFIDENCE
) -> float | None:
    """Observations from which the true Sharpe ratio is above a benchmark with this confidence, if they go on alike.

    Units: both ratios are of one observation, not annualised; the result is a number of observations, seldom whole.

    Notes: 1 + (1 - skew SR + (kurtosis - 1) / 4 SR^2) (Z^-1[confidence] / (SR - SR*))^2, kurtosis 3 for a normal
    series: where `probabilistic_sharpe` reaches the confidence. None where the ratio is not above the benchmark, which
    no length would show, or the probabilistic ratio is unknown.

    Raises: ValueError for a confidence outside 0.5 to 1.

    References: Bailey & Lopez de Prado, The Sharpe Ratio Efficient Frontier, Journal of Risk 15, 2012.
    """
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence must lie between 0.5 and 1, not {confidence}")
    variance = _sharpe_variance(sharpe, skew, kurtosis)
    if sharpe <= benchmark or variance <= 0:
        return None
    errors = NormalDist().inv_cdf(confidence) / (sharpe - benchmark)
    return 1 + variance * errors * errors  # a power would overflow with an exception


def _sharpe_variance(sharpe: float, skew: float, kurtosis: float) -> float:
    """Variance of an estimated Sharpe ratio times n - 1."""
    return 1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2


def expected_maximum_sharpe(variance: float, trials: int) -> float:
    """The expected maximum Sharpe ratio of independent worthless trials, in the unit of sqrt(variance).

    sqrt(V) ((1 - g) Z^-1[1 - 1/N] + g Z^-1[1 - 1/(N e)]), g the Euler-Mascheroni constant, V the variance of the
    trials' ratios; 0 for one trial, where there was no selection (Bailey & Lopez de Prado, The Deflated Sharpe
    Ratio, Journal of Portfolio Management 40, 2014). ValueError for no trial or a negative variance.
    """
    if trials < 1 or not variance >= 0:
        raise ValueError(f"trials must be at least 1 and variance at least 0, not {trials} and {variance}")
    if trials == 1:
        return 0.0
    quantile = NormalDist().inv_cdf
    luck = (1 - EULER_MASCHERONI) * quantile(1 - 1 / trials) + EULER_MASCHERONI * quantile(1 - 1 / (trials * math.e))
    return math.sqrt(variance) * luck


def deflated_sharpe(net_usd: Float64, *, trial_sharpes: Float64, trials: int) -> DeflatedSharpe:
    """The deflated Sharpe ratio of net P&L by session float64[n] (Bailey & Lopez de Prado 2014).

    `trial_sharpes` float64[k] are the ratios (of one session, not annualised) of the `trials` tried on these sessions,
    this one among them; those without a ratio count as trials. Their variance is over k - 1. Trials that resemble each
    other are fewer than they are counted, so the probability errs on the low side. ValueError for more ratios than
    trials.
    """
    _check_series(net_usd)
    if len(trial_sharpes) > trials:
        raise ValueError(f"{len(trial_sharpes)} ratios cannot come from {trials} trials")
    n, sample = len(net_usd), sample_size(len(net_usd))
    sharpe = sharpe_ratio(net_usd, per_year=1)
    if sharpe is None or sample.level == "none":
        reason = sample.words if sample.level == "none" else "every session has the same net P&L"
        return DeflatedSharpe(n, trials, sharpe, None, None, None, None, reason)
    standard = (net_usd - net_usd.mean()) / net_usd.std()
    skew, kurtosis = float(np.mean(standard**3)), float(np.mean(standard**4))
    if trials > 1 and len(trial_sharpes) < 2:
        reason = f"only {len(trial_sharpes)} of {trials} trials has a Sharpe ratio, so their variance is unknown"
        return DeflatedSharpe(n, trials, sharpe, skew, kurtosis, None, None, reason)
    variance = float(np.var(trial_sharpes, ddof=1)) if len(trial_sharpes) > 1 else 0.0
    benchmark = expected_maximum_sharpe(variance, trials)
    probability = probabilistic_sharpe(sharpe, benchmark, n, skew, kurtosis)
    reason = "" if probability is not None else "the sessions have only two distinct values"
    needed = minimum_track_record(sharpe, benchmark, skew, kurtosis)
    enough = None if needed is None or needed > MOST_SESSIONS else max(FEW_SESSIONS, math.ceil(needed))
    return DeflatedSharpe(n, trials, sharpe, skew, kurtosis, benchmark, probability, reason, enough)


def _check_series(net_usd: Float64) -> None:
    if net_usd.ndim != 1 or not np.isfinite(net_usd).all():
        raise ValueError("net P&L by session must be one column of finite dollars")
