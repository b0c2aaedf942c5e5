"""Planted advice: informative advice must show an effect, random advice must not.

    python -m src.canaries.planted_advice --seeds 20
    python -m src.canaries.planted_advice --seeds 20 --noise

The sign of a planted market is hidden from the observation and given to the advisor: situations carry it, and the
advice table says BUY or SELL by it. From equal base weights a hybrid policy is fine-tuned on that table, another on its
placebo (the same rows permuted), and both play the same unseen sessions. With --noise the situations carry a sign of
their own that has nothing to do with the market. Exit code 1 where planted advice is not found or noise is too often.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from src.advisor.settings import LLMSettings
from src.advisor.situations import N_MARKET_SITUATIONS, N_SITUATIONS, UNKNOWN, split_situations
from src.advisor.table import LABEL_SETS, AdviceTable, freeze_table
from src.agent.market import Market
from src.agent.members import ArmName
from src.agent.rollout_plan import plan_rollouts
from src.agent.settings import HardwareSettings, TrainingSettings
from src.agent.trainer import Trainer
from src.agent.training import set_threads
from src.canaries.planted import (
    DRIFT_SIGMA,
    EVALUATION_SESSIONS,
    HOLD_BARS,
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
from src.evaluation.arms import PolicyArm
from src.evaluation.placebo import placebo_table
from src.market.synthetic import planted_bars
from src.shell import run_main
from src.statistics.intervals import Interval, paired_interval
from src.trading.layout import BUY, FLAT, HOLD, LONG_LOSING, LONG_WINNING, SELL
from src.trading.settings import EnvironmentSettings
from src.wording import signed_usd, usd

INTERVAL_MIN = 5
CODES_A_SIGN = (N_MARKET_SITUATIONS - 1) // 2
"""Half of the market codes say up, half down. With one code each, the placebo would be the sign turned over."""
CONVICTION = 0.9
"""What the advisor gives to the action it means; the rest is shared by the other labels of the side."""
SEEDS_A_MISTAKE = 5
"""One seed of five may come out wrong, 4 of 20. An honest 95% interval takes noise for advice in one of forty."""


def signal_table() -> AdviceTable:
    """An advisor that is sure of the sign of each market code (`signal_codes`) on every side, and of nothing else.

    Flat it says to enter that way, in a position to hold it or, if it stands the other way, to close it.
    """
    codes, sides = split_situations(np.arange(N_SITUATIONS))
    up = codes % 2 == 1
    entry = np.where(up, BUY, SELL)
    is_long = (sides == LONG_WINNING) | (sides == LONG_LOSING)
    meant = np.where((sides == FLAT) | (is_long != up), entry, HOLD)
    labels = LABEL_SETS[sides]
    rest = (1.0 - CONVICTION) / (labels.sum(axis=1, keepdims=True) - 1)
    rows = np.where(labels, rest, 0.0)
    rows[np.arange(N_SITUATIONS), meant] = CONVICTION
    covered = codes != UNKNOWN
    rows[~covered] = 0.0
    return freeze_table(rows.astype(np.float32), covered, "planted sign", f"planted sign, conviction {CONVICTION}")


def signal_codes(sign: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.int32]:
    """Market codes int32[n] that carry sign float[n]: odd ones say up, even ones down.

    A new code is drawn every HOLD_BARS bars, in which the sign is constant, so that a placebo holds its opinion as
    long as the advisor does.
    """
    block = np.arange(len(sign)) // HOLD_BARS
    drawn = rng.integers(CODES_A_SIGN, size=int(block[-1]) + 1)[block]
    return (1 + 2 * drawn + (np.asarray(sign) < 0)).astype(np.int32)


def advised_market(
    environment: EnvironmentSettings, symbol: str, n_sessions: int, interval_min: int, seed: int, *, noise: bool
) -> Market:
    """A planted market whose sign only the situations know; with `noise` they know another, independent one."""
    bars, sign = planted_bars(symbol, n_sessions, interval_min, seed, DRIFT_SIGMA, HOLD_BARS, hours="rth")
    rng = np.random.default_rng([seed, int(noise)])
    if noise:
        blocks = -(-len(sign) // HOLD_BARS)
        sign = np.repeat(rng.choice(np.array([-1.0, 1.0], np.float32), blocks), HOLD_BARS)[: len(sign)]
    return replace(canary_market(bars, environment), situation=signal_codes(sign, rng))


@dataclass(frozen=True)
class AdviceTrial:
    """One seed: net US dollars and trades a session of both policies, and the interval of hybrid - placebo."""

    seed: int
    hybrid_usd: float
    placebo_usd: float
    hybrid_trades: float
    placebo_trades: float
    interval: Interval

    @property
    def helps(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.interval.low is not None and self.interval.low > 0


def advice_trial(
    training: TrainingSettings,
    hardware: HardwareSettings,
    environment: EnvironmentSettings,
    seed: int,
    *,
    noise: bool,
    symbol: str = "NQ",
    interval_min: int = INTERVAL_MIN,
    timesteps: int = LEARNING_TIMESTEPS,
    n_sessions: int = EVALUATION_SESSIONS,
    llm: LLMSettings | None = None,
) -> AdviceTrial:
    """Train base, hybrid and placebo on one market, compare the latter two on the sessions of another."""
    llm = llm or LLMSettings()
    market = advised_market(environment, symbol, TRAIN_SESSIONS, interval_min, seed, noise=noise)
    unseen = advised_market(environment, symbol, n_sessions, interval_min, seed + UNSEEN, noise=noise)
    trainer = Trainer(training, hardware, environment, torch.device("cpu"), seed)
    base = train_base(trainer, market, timesteps)
    budget = max(1, round(timesteps * training.finetune_frac))
    plan = plan_rollouts(budget, hardware.vectorized_envs, hardware.batch_size, training.n_steps)
    table = signal_table()
    played = {}
    for name, heard in ((ArmName.HYBRID, table), (ArmName.PLACEBO, placebo_table(table, seed))):
        policy = trainer.finetune(base, trainer.make_env(market, heard), plan, [], llm)[0].policy
        played[name] = play((PolicyArm(name, policy, True),), unseen, usable_sessions(unseen), heard)[name]
    hybrid, placebo = played[ArmName.HYBRID], played[ArmName.PLACEBO]
    return AdviceTrial(
        seed=seed,
        hybrid_usd=float(hybrid.net_usd.mean()),
        placebo_usd=float(placebo.net_usd.mean()),
        hybrid_trades=float(hybrid.n_trades.mean()),
        placebo_trades=float(placebo.n_trades.mean()),
        interval=paired_interval(hybrid.net_usd - placebo.net_usd, seed=seed),
    )


@dataclass(frozen=True)
class AdviceGate:
    """Trials of planted advice, or of noise, and whether they came out as they must."""

    noise: bool
    trials: tuple[AdviceTrial, ...]
    passed: bool
    words: str

    @property
    def found(self) -> int:
        """Trials in which advice looked worth something."""
        return sum(trial.helps for trial in self.trials)

    @property
    def over_seeds(self) -> tuple[float, float | None]:
        """Mean of hybrid - placebo over the seeds, US dollars a session, and its standard error (None of one seed).

        A seed's interval holds its two policies fixed; what noise seems to be worth on average is only seen here.
        """
        differences = np.array([trial.hybrid_usd - trial.placebo_usd for trial in self.trials])
        n = len(differences)
        return float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(n)) if n > 1 else None


def judge_trials(found: int, n: int, *, noise: bool) -> tuple[bool, str]:
    """Planted advice may be missed, and noise taken for advice, in at most one seed of five. ValueError for no seed."""
    if n < 1:
        raise ValueError("the planted-advice check needs at least one seed")
    allowed = n // SEEDS_A_MISTAKE
    if noise:
        verdict = "noise is not taken for advice" if found <= allowed else "noise is taken for advice"
        return found <= allowed, f"{verdict}: {found} false alarms in {n} seeds, {allowed} allowed"
    verdict = "planted advice is found" if n - found <= allowed else "planted advice is missed"
    return n - found <= allowed, f"{verdict}: hybrid - placebo above zero in {found} of {n} seeds, {n - allowed} needed"


def planted_advice_gate(
    seeds: Iterable[int],
    training: TrainingSettings | None = None,
    hardware: HardwareSettings | None = None,
    environment: EnvironmentSettings | None = None,
    *,
    noise: bool,
    timesteps: int = LEARNING_TIMESTEPS,
    n_sessions: int = EVALUATION_SESSIONS,
) -> AdviceGate:
    """Run a trial a seed and judge their number; defaults where nothing is given. torch's threads are left alone."""
    settings = (training or TrainingSettings(), hardware or HardwareSettings(), environment or EnvironmentSettings())
    trials = tuple(
        advice_trial(*settings, seed, noise=noise, timesteps=timesteps, n_sessions=n_sessions) for seed in seeds
    )
    found = sum(trial.helps for trial in trials)
    return AdviceGate(noise, trials, *judge_trials(found, len(trials), noise=noise))


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row a seed, the verdict, then one JSON line; 1 where planted advice was missed or noise was not."""
    parser = canary_parser("Is advice found where it is planted, and only there?", seeds=20)
    parser.add_argument("--noise", action="store_true", help="an advisor that knows nothing")
    parser.add_argument("--sessions", type=int, default=EVALUATION_SESSIONS)
    args = parser.parse_args(argv)
    if args.sessions < 1:
        parser.error(f"--sessions is {args.sessions}, it must be at least 1")
    hardware = HardwareSettings(torch_threads=args.threads, learner=args.learner)
    set_threads(hardware)
    environment = EnvironmentSettings(rule_profile=args.rule_profile)
    gate = planted_advice_gate(
        seeds_of(args, parser), None, hardware, environment,
        noise=args.noise, timesteps=args.timesteps, n_sessions=args.sessions,
    )  # fmt: skip
    table = results_table(
        f"{'Noise' if args.noise else 'Planted advice'}: net P&L per session, 95% CI",
        *("seed", "hybrid", "placebo", "difference", "low", "high", "trades", "placebo's", "helps"),
    )
    for trial in gate.trials:
        interval = trial.interval
        known = (trial.hybrid_usd, trial.placebo_usd, interval.mean, interval.low, interval.high)
        cells = ["-" if x is None else usd(x) for x in known]
        cells += [f"{x:.1f}" for x in (trial.hybrid_trades, trial.placebo_trades)]
        table.add_row(str(trial.seed), *cells, "yes" if trial.helps else "no")
    mean, error = gate.over_seeds
    spread = "" if error is None else f" (standard error {usd(error)})"
    words = f"{gate.words}\nhybrid - placebo over seeds: {signed_usd(mean)}/session{spread}"
    summary = {
        "check": "planted_advice",
        "noise": gate.noise,
        "passed": gate.passed,
        "found": gate.found,
        "mean_difference_usd": mean,
        "standard_error_usd": error,
        "timesteps": args.timesteps,
        "trials": [{**asdict(trial), "helps": trial.helps} for trial in gate.trials],
    }
    show(table, words, summary)
    return int(not gate.passed)


if __name__ == "__main__":
    run_main(main)
