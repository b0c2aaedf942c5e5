"""Martingale canary: no arm may earn on a market without an edge.

    python -m src.canaries.martingale --seeds 3

On a martingale no decision that knows only the past has a positive expectation before costs. So a trained agent whose
P&L a trade is surely above zero there has seen the future, or is paid more than the market paid. Random-legal decisions
see nothing at all: what they earn is the bias of the generator and of the fills. Exit code 1 where a check failed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from scipy.special import stdtrit  # type: ignore[import-untyped]

from src.agent.market import Market
from src.agent.members import ArmName
from src.agent.settings import HardwareSettings, TrainingSettings
from src.agent.trainer import Trainer
from src.agent.training import set_threads
from src.canaries.planted import (
    LEARNING_TIMESTEPS,
    TRAIN_SESSIONS,
    UNSEEN,
    canary_market,
    canary_parser,
    play,
    results_table,
    seeds_of,
    show,
    train_base,
    usable_sessions,
)
from src.evaluation.arms import PolicyArm, RandomLegalArm
from src.evaluation.playing import ArmResult
from src.market.synthetic import INNER_STEPS, martingale_bars
from src.shell import run_main
from src.trading.settings import EnvironmentSettings

SESSIONS = 2_000
INTERVAL_MIN = 5
LEVEL = 0.999
"""Each bound is one-sided: the truth lies beyond it once in a thousand."""
RANDOM_LEGAL_LIMIT_SIGMA = 0.05
"""Bars drawn with random wicks or Gaussian sub-steps give any bracket +0.03 to +0.12 bar sigma a trade."""
FEW_TRADES = 1_000
"""An agent that trades less is as good as flat: what is best on a market that pays only costs."""
AGENT = "agent"
"""The arm of the policy that was trained here."""
BAR_SIGMA_TICKS = math.sqrt(INNER_STEPS + 0.5)
"""A canary bar's change has INNER_STEPS steps of +-1 tick, and one more in half of the bars."""


@dataclass(frozen=True)
class TradeMean:
    """The mean of a trade and its one-sided bounds, in the unit of the input; None where too little was traded."""

    sessions: int
    trades: int
    mean: float | None = None
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None


def trade_mean(
    by_session: Sequence[float] | NDArray[Any], trades: Sequence[int] | NDArray[Any], level: float = LEVEL
) -> TradeMean:
    """The mean of a trade from sums by session, float64[n], and trades by session, int64[n]; `level` is one-sided.

    Trades of a session share its market, so sessions are the sample. The ratio estimator r = sum y / sum m of clusters
    of unequal size has the standard error sqrt(n sum (y_i - r m_i)^2 / (n - 1)) / sum m, and r -+ t(level; n - 1)
    standard errors are its bounds (Cochran, Sampling Techniques, 3rd ed. 1977, sections 2.11 and 6.4). Sessions without
    a trade count as what they are. ValueError for other shapes, values that are not finite and levels outside 0.5 to 1.
    """
    sums, counts = np.asarray(by_session, np.float64), np.asarray(trades, np.float64)
    if sums.ndim != 1 or sums.shape != counts.shape or not np.isfinite(sums).all() or not (counts >= 0).all():
        raise ValueError(
            f"wanted a finite sum and a number of trades for each session, got arrays of shape {sums.shape} and "
            f"{counts.shape}"
        )
    if not 0.5 < level < 1:
        raise ValueError(f"level must lie between 0.5 and 1, not {level}")
    n, total = len(sums), float(counts.sum())
    if not total:
        return TradeMean(n, 0)
    mean = float(sums.sum()) / total
    if n < 2:
        return TradeMean(n, int(total), mean)
    residuals = sums - mean * counts
    error = math.sqrt(n * float(residuals @ residuals) / (n - 1)) / total
    reach = float(stdtrit(n - 1, level)) * error
    return TradeMean(n, int(total), mean, error, mean - reach, mean + reach)


@dataclass(frozen=True)
class MartingaleVerdict:
    """One arm on the martingale: P&L a trade before commission and slippage, in bar sigma, its bounds, the verdict."""

    arm: str
    trade: TradeMean
    passed: bool
    words: str


@dataclass(frozen=True)
class MartingaleGate:
    """Both arms on the same fresh sessions."""

    seed: int
    agent: MartingaleVerdict
    random_legal: MartingaleVerdict

    @property
    def passed(self) -> bool:
        """Whether both did."""
        return self.agent.passed and self.random_legal.passed


def judge_agent(trade: TradeMean, few_trades: int = FEW_TRADES) -> tuple[bool, str]:
    """Fails where the lower bound of P&L a trade is above zero; under `few_trades` trades the agent is nearly flat."""
    if trade.trades < few_trades:
        return True, f"agent nearly flat: passes ({trade.trades:,} trades in {trade.sessions:,} sessions)"
    assert trade.mean is not None
    found = f"{trade.mean:+.4f} bar sigma a trade before costs"
    if trade.low is None or trade.high is None:
        return False, f"agent not judged: {found}, but one session has no bounds"
    if trade.low > 0:
        return False, (
            f"agent earns where nothing can be earned: {found}, lower bound {trade.low:+.4f} above 0; a feature "
            f"knows the future, or the fills pay too much"
        )
    return True, f"no leak found by this check: agent {found}, lower bound {trade.low:+.4f} not above 0"


def judge_random_legal(trade: TradeMean, limit_sigma: float = RANDOM_LEGAL_LIMIT_SIGMA) -> tuple[bool, str]:
    """Fails unless the upper bound of P&L a trade is under `limit_sigma`, which shows bars and fills to be fair."""
    if trade.high is None or trade.low is None:
        return False, f"random-legal not judged: {trade.trades:,} trades in {trade.sessions:,} sessions have no bounds"
    found = f"{trade.mean:+.4f} bar sigma a trade before costs, upper bound {trade.high:+.4f}"
    if trade.high < limit_sigma:
        return True, f"no bias found in bars and fills: random-legal {found} under {limit_sigma:g}"
    if trade.low > 0:
        return False, f"bars or fills pay for trading as such: random-legal {found}, lower bound {trade.low:+.4f}"
    return False, f"too few sessions to call bars and fills fair: random-legal {found}, not under {limit_sigma:g}"


def martingale_market(
    environment: EnvironmentSettings, symbol: str, n_sessions: int, interval_min: int, seed: int
) -> Market:
    """A market without an edge of at least `n_sessions` sessions that can be played."""
    # Days that close before 09:30 have no session: two or three a year.
    spare = 5 + n_sessions // 50
    bars = martingale_bars(symbol, n_sessions + spare, interval_min, seed, hours=environment.trading_hours)
    return canary_market(bars, environment)


def bar_sigma_usd(market: Market) -> float:
    """US dollars that one standard deviation of a canary bar is to the position an account takes."""
    p = market.params[0]
    return BAR_SIGMA_TICKS * int(min(p["contracts"], p["max_contracts"])) * int(p["tick_value_cents"]) / 100.0


def martingale_gate(
    policy: MaskableActorCriticPolicy | None,
    training: TrainingSettings | None = None,
    hardware: HardwareSettings | None = None,
    environment: EnvironmentSettings | None = None,
    *,
    seed: int = 0,
    symbol: str = "NQ",
    interval_min: int = INTERVAL_MIN,
    n_sessions: int = SESSIONS,
    timesteps: int = LEARNING_TIMESTEPS,
) -> MartingaleGate:
    """A policy that sees no advice, and random-legal, on fresh martingale sessions, all in one batch; defaults where
    nothing is given.

    `policy` None trains one as a run does, on a martingale of its own. Fresh: another seed's bars, never trained on.
    """
    environment = environment or EnvironmentSettings()
    if policy is None:
        settings = (training or TrainingSettings(), hardware or HardwareSettings(), environment)
        market = martingale_market(environment, symbol, TRAIN_SESSIONS, interval_min, seed)
        policy = train_base(Trainer(*settings, torch.device("cpu"), seed), market, timesteps).policy
    fresh = martingale_market(environment, symbol, n_sessions, interval_min, seed + UNSEEN)
    results = play((PolicyArm(AGENT, policy, False), RandomLegalArm(seed)), fresh, usable_sessions(fresh)[:n_sessions])
    sigma_usd = bar_sigma_usd(fresh)

    def trade(result: ArmResult) -> TradeMean:
        return trade_mean(result.gross_usd / sigma_usd, result.n_trades)

    agent, random_legal = trade(results[AGENT]), trade(results[ArmName.RANDOM_LEGAL])
    return MartingaleGate(
        seed,
        MartingaleVerdict(AGENT, agent, *judge_agent(agent)),
        MartingaleVerdict(ArmName.RANDOM_LEGAL, random_legal, *judge_random_legal(random_legal)),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row an arm and seed, the verdicts, then one JSON line; 1 where a check failed."""
    parser = canary_parser("Does the agent earn on a market without an edge?", seeds=1)
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    parser.add_argument("--interval-min", type=int, default=INTERVAL_MIN)
    args = parser.parse_args(argv)
    if args.sessions < 2:
        parser.error(f"--sessions is {args.sessions}, it must be at least 2")
    hardware = HardwareSettings(torch_threads=args.threads, learner=args.learner)
    set_threads(hardware)
    environment = EnvironmentSettings(rule_profile=args.rule_profile)
    gates = [
        martingale_gate(
            None, None, hardware, environment,
            seed=seed, n_sessions=args.sessions, timesteps=args.timesteps, interval_min=args.interval_min,
        )
        for seed in seeds_of(args, parser)
    ]  # fmt: skip
    table = results_table(
        "Martingale: bar sigma a trade before costs, one-sided 99.9% bounds",
        *("seed", "arm", "sessions", "trades", "mean", "low", "high", "passed"),
    )
    verdicts = [(gate.seed, verdict) for gate in gates for verdict in (gate.agent, gate.random_legal)]
    for seed, verdict in verdicts:
        trade = verdict.trade
        figures = ["-" if x is None else f"{x:+.4f}" for x in (trade.mean, trade.low, trade.high)]
        counts = (f"{trade.sessions:,}", f"{trade.trades:,}")
        table.add_row(str(seed), verdict.arm, *counts, *figures, "yes" if verdict.passed else "NO")
    passed = all(gate.passed for gate in gates)
    rows = [{"seed": seed, **asdict(verdict)} for seed, verdict in verdicts]
    words = "\n".join(f"seed {seed}: {verdict.words}" for seed, verdict in verdicts)
    show(table, words, {"check": "martingale", "passed": passed, "timesteps": args.timesteps, "rows": rows})
    return int(not passed)


if __name__ == "__main__":
    run_main(main)
