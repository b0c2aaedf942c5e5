"""Planted-edge canary: the default configuration must learn a market with a known edge.

    python -m src.canaries.planted --seeds 10

Each seed trains base PPO on a planted market (a visible sign drifts the next bar by 0.15 bar sigma, 30 bars long) and
is evaluated on a planted market of another seed, beside the best policy known (follow the sign) and random-legal
actions. Exit code 1 where a seed, or the median of ten or more, learned too little.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from rich.table import Table

from src.advisor.table import AdviceTable, empty_table
from src.agent.market import Market, market_of_bars
from src.agent.members import ArmName
from src.agent.ppo import TimedMaskablePPO
from src.agent.rollout_plan import plan_rollouts
from src.agent.settings import LEARNERS, HardwareSettings, TrainingSettings
from src.agent.trainer import Trainer
from src.agent.training import set_threads
from src.console import PlainConsole, live_on, uncut
from src.evaluation.arms import Arm, PolicyArm, RandomLegalArm
from src.evaluation.assembly import FeatureAssembly
from src.evaluation.playing import ArmResult, FreshBatches, evaluate
from src.market.bars import Bars
from src.market.settings import DataSettings
from src.market.synthetic import planted_bars
from src.shell import Parser, run_main
from src.trading.layout import BUY, CONTEXT, HOLD, SELL
from src.trading.session_batch import SessionBatch
from src.trading.settings import EnvironmentSettings
from src.wording import usd

LEARNED, FOLLOW_SIGN = "learned", "follow_sign"
"""Arms: the policy that was trained here, and the best known one."""
DRIFT_SIGMA, HOLD_BARS = 0.15, 30
TRAIN_SESSIONS, EVALUATION_SESSIONS = 120, 40
UNSEEN = 1_000_000
"""Added to a seed, it names the market that seed's policies are evaluated on."""
LEARNING_TIMESTEPS = 50_000
SIGN_COLUMN = 0
"""The context feature whose place the visible sign takes."""
LEAST_SHARE, LEAST_MEDIAN_SHARE = 0.40, 0.50
"""Of the best known policy's net P&L. docs/canaries.md has seeds 0 to 9 of the defaults as measured four times: the
medians are .53 to .60, and two of the forty shares, .28 and .39, are below the first bar."""
UNLUCKY_SHARE = 0.25
"""One in ten of ten seeds or more may fall short of the first bar, but not of this."""
SEEDS_FOR_MEDIAN = 10
"""Of fewer seeds the median is as much of a lottery: that of seeds 0 to 2 was .66 and .49."""


def canary_market(bars: Bars, environment: EnvironmentSettings) -> Market:
    """A market of canary bars, with the tables, the split and the account constants of any run."""
    return market_of_bars(bars, DataSettings(), environment)


def planted_market(
    environment: EnvironmentSettings, symbol: str, n_sessions: int, interval_min: int, seed: int
) -> Market:
    """A planted market whose sign, known at the close of each bar, is one context feature."""
    bars, sign = planted_bars(symbol, n_sessions, interval_min, seed, DRIFT_SIGMA, HOLD_BARS, hours="rth")
    market = canary_market(bars, environment)
    context = market.tables.context.copy()
    context[:, SIGN_COLUMN] = sign
    return replace(market, tables=replace(market.tables, context=context))


def usable_sessions(market: Market) -> NDArray[np.int32]:
    """Every session that can be played, int32[k]: a canary market is trained on or evaluated on, never both."""
    return np.flatnonzero(market.tables.sessions.usable).astype(np.int32)


class FollowSign:
    """The best policy known on the planted market: be on the side of the sign, close when it turns."""

    name, sees_advice = FOLLOW_SIGN, False

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        """BUY while the sign is up, SELL while it is down; what that side already holds is kept."""
        up = batch.obs[:, CONTEXT.start + SIGN_COLUMN] > 0
        wanted = np.where(up, BUY, SELL)
        return np.where(batch.masks[np.arange(batch.n), wanted], wanted, HOLD)


def play(
    arms: Sequence[Arm], market: Market, session_ids: NDArray[np.int32], table: AdviceTable | None = None
) -> dict[str, ArmResult]:
    """Every arm plays these sessions of a canary market once, all of them in one batch; no table is no advice."""
    table = empty_table() if table is None else table
    assembly = FeatureAssembly(market.tables.context, table)
    return evaluate(
        arms, market.first_bars(session_ids), FreshBatches(market.tape(table), market.session_params), assembly
    )


def train_base(trainer: Trainer, market: Market, timesteps: int) -> TimedMaskablePPO:
    """Base PPO as a run trains it, on the market's training sessions."""
    hardware, training = trainer.hardware, trainer.training
    plan = plan_rollouts(timesteps, hardware.vectorized_envs, hardware.batch_size, training.n_steps)
    return trainer.base(trainer.make_env(market), plan, [])[0]


def learn_planted(
    training: TrainingSettings,
    hardware: HardwareSettings,
    environment: EnvironmentSettings,
    seed: int,
    *,
    symbol: str = "NQ",
    interval_min: int = 1,
    timesteps: int = LEARNING_TIMESTEPS,
) -> dict[str, float]:
    """Train on one planted market, evaluate on another: mean net US dollars a session by arm, and the learned share.

    `share` is the learned policy's net P&L over that of following the sign.
    """
    market = planted_market(environment, symbol, TRAIN_SESSIONS, interval_min, seed)
    unseen = planted_market(environment, symbol, EVALUATION_SESSIONS, interval_min, seed + UNSEEN)
    trainer = Trainer(training, hardware, environment, torch.device("cpu"), seed)
    began = time.perf_counter()
    model = train_base(trainer, market, timesteps)
    seconds = time.perf_counter() - began
    arms: Sequence[Arm] = (PolicyArm(LEARNED, model.policy, False), FollowSign(), RandomLegalArm(seed))
    results = play(arms, unseen, usable_sessions(unseen))
    net = {name: float(result.net_usd.mean()) for name, result in results.items()}
    return {
        **net,
        "share": net[LEARNED] / net[FOLLOW_SIGN],
        "train_s": seconds,
        "timesteps": float(model.num_timesteps),
    }


@dataclass(frozen=True)
class PlantedGate:
    """Whether the planted edge was learned; `rows` are `learn_planted` of each of `seeds`."""

    seeds: tuple[int, ...]
    rows: tuple[dict[str, float], ...]
    shares: tuple[float, ...]
    passed: bool
    words: str

    @property
    def median_share(self) -> float:
        """Of the seeds' shares."""
        return float(np.median(self.shares))


def judge_shares(shares: Sequence[float]) -> tuple[bool, str]:
    """Whether these shares of the best known policy, one a seed, pass, and why.

    Every seed must reach LEAST_SHARE. Of ten seeds or more one in ten need only reach UNLUCKY_SHARE, and the median
    must reach LEAST_MEDIAN_SHARE. ValueError for none.
    """
    if not len(shares):
        raise ValueError("the planted check needs at least one seed")
    least, median = float(np.min(shares)), float(np.median(shares))
    seeds = f"{len(shares)} seed{'s' if len(shares) > 1 else ''}"
    found = f"{seeds} learned {least:.2f} or more of the best known policy's net P&L, median {median:.2f}"
    short = sum(not share >= LEAST_SHARE for share in shares)
    if short > len(shares) // SEEDS_FOR_MEDIAN:
        most = ", but for one in ten" if len(shares) >= SEEDS_FOR_MEDIAN else ""
        return False, f"planted edge not learned: {found}; every seed must learn {LEAST_SHARE:.2f}{most}"
    if not least >= UNLUCKY_SHARE:
        return False, f"planted edge not learned: {found}; no seed may learn less than {UNLUCKY_SHARE:.2f}"
    if len(shares) < SEEDS_FOR_MEDIAN:
        needed = f"{LEAST_SHARE:.2f}; under {SEEDS_FOR_MEDIAN} seeds no median is judged"
        return True, f"planted edge learned: {found} (needed {needed})"
    if not median >= LEAST_MEDIAN_SHARE:
        return False, f"planted edge not learned: {found}; the median must be {LEAST_MEDIAN_SHARE:.2f}"
    return True, f"planted edge learned: {found} (needed {LEAST_SHARE:.2f} and {LEAST_MEDIAN_SHARE:.2f})"


def planted_gate(
    seeds: Iterable[int],
    training: TrainingSettings | None = None,
    hardware: HardwareSettings | None = None,
    environment: EnvironmentSettings | None = None,
    *,
    timesteps: int = LEARNING_TIMESTEPS,
) -> PlantedGate:
    """Train on planted markets of these seeds, some 10 s each on a free core, and judge the shares learned.

    Settings not given are the defaults. The bars were set for 50,000 timesteps of them; they do not fit a shorter run.
    torch's threads are left as they are, and another number of them gives another share.
    """
    training, hardware = training or TrainingSettings(), hardware or HardwareSettings()
    environment = environment or EnvironmentSettings()
    numbers = tuple(seeds)
    rows = tuple(learn_planted(training, hardware, environment, seed, timesteps=timesteps) for seed in numbers)
    shares = tuple(row["share"] for row in rows)
    return PlantedGate(numbers, rows, shares, *judge_shares(shares))


def canary_parser(description: str, *, seeds: int) -> Parser:
    """The options that the commands of all canaries share."""
    parser = Parser(description)
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--timesteps", type=int, default=LEARNING_TIMESTEPS, help="of base training")
    parser.add_argument("--rule-profile", default=EnvironmentSettings().rule_profile)
    # Not the free cores, as in a run: sums of two threads round otherwise, so how busy the machine is would decide
    # what a seed learns (seed 0 of the planted market: .48 with one thread, .75 with two).
    parser.add_argument("--threads", type=int, default=1, help="of torch; another number gives other results")
    parser.add_argument("--learner", choices=LEARNERS, help="what trains; fused by default")
    return parser


def seeds_of(args: argparse.Namespace, parser: Parser) -> Iterable[int]:
    """The seeds a command runs, with a bar that shows how far it is."""
    if args.seeds < 1:
        parser.error(f"--seeds is {args.seeds}, it must be at least 1")
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    return _without_warnings(_shown(seeds))


def _shown(seeds: Iterable[int]) -> Iterator[int]:
    console = PlainConsole(stderr=True)
    with live_on(console):
        yield from track(seeds, "seeds", console=console, transient=True)


def _without_warnings(seeds: Iterable[int]) -> Iterator[int]:
    logger = logging.getLogger("src")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield from seeds
    finally:
        logger.setLevel(level)


def show(table: Table, words: str, summary: dict[str, object]) -> None:
    """What a canary's command prints: its table, its verdict, and one line of JSON."""
    console = PlainConsole(width=80)
    console.print(table)
    console.print(words)
    console.print(json.dumps(summary), soft_wrap=True)


def results_table(title: str, *headings: str) -> Table:
    """An empty table of right-aligned columns that fits a terminal of 80."""
    table = Table(title=title, title_justify="left", box=None)
    for heading in headings:
        table.add_column(heading, justify="right")
    return uncut(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row a seed, the verdict, then one JSON line; 1 where the planted edge was not learned."""
    parser = canary_parser("Does the default configuration learn a planted edge?", seeds=3)
    parser.add_argument("--vectorized-envs", type=int, default=HardwareSettings().vectorized_envs)
    parser.add_argument("--learning-rate", type=float, default=TrainingSettings().learning_rate)
    parser.add_argument("--n-epochs", type=int, default=TrainingSettings().n_epochs)
    parser.add_argument("--n-steps", type=int)
    args = parser.parse_args(argv)
    training = TrainingSettings(learning_rate=args.learning_rate, n_epochs=args.n_epochs, n_steps=args.n_steps)
    hardware = HardwareSettings(vectorized_envs=args.vectorized_envs, torch_threads=args.threads, learner=args.learner)
    set_threads(hardware)
    environment = EnvironmentSettings(rule_profile=args.rule_profile)
    gate = planted_gate(seeds_of(args, parser), training, hardware, environment, timesteps=args.timesteps)
    table = results_table(
        "Planted market: net P&L per session",
        *("seed", "learned", "follow sign", "random legal", "share", "training s"),
    )
    for seed, row in zip(gate.seeds, gate.rows, strict=True):
        cells = [usd(row[name]) for name in (LEARNED, FOLLOW_SIGN, ArmName.RANDOM_LEGAL)]
        table.add_row(str(seed), *cells, f"{row['share']:.2f}", f"{row['train_s']:.1f}")
    summary = {
        "check": "planted",
        "passed": gate.passed,
        "median_share": gate.median_share,
        "min_share": float(np.min(gate.shares)),
        "shares": list(gate.shares),
        "seeds": list(gate.seeds),
        "timesteps": args.timesteps,
        "learner": args.learner or "fused",
    }
    show(table, gate.words, summary)
    return int(not gate.passed)


if __name__ == "__main__":
    run_main(main)
