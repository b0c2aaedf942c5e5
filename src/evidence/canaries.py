"""Does the default configuration learn what is there to be learned? A market with a known edge tells.

    python -m src.evidence.canaries --seeds 10

Each seed trains base PPO on a planted market (a visible sign drifts the next bar by 0.15 bar sigma, 30 bars long) and
is evaluated on a planted market of another seed, beside the best policy known (follow the sign) and random-legal
actions.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from src.advisor.table import empty_table
from src.agent.phases import Market, Trainer, market_of
from src.agent.rollout_plan import plan_rollouts
from src.agent.settings import HardwareSettings, TrainingSettings
from src.agent.training import set_threads
from src.evidence.evaluation import Arm, FeatureAssembly, PolicyArm, RandomLegalArm, evaluate
from src.market.contracts import get_contract
from src.market.load import build_tables
from src.market.settings import DataSettings
from src.market.synthetic import planted_bars
from src.trading.layout import BUY, CONTEXT, HOLD, SELL
from src.trading.params import make_params
from src.trading.rules import load_rule_profile
from src.trading.session_batch import SessionBatch
from src.trading.settings import EnvironmentSettings

DRIFT_SIGMA, HOLD_BARS = 0.15, 30
TRAIN_SESSIONS, EVALUATION_SESSIONS = 120, 40
SIGN_COLUMN = 0
"""The context feature whose place the visible sign takes."""


def planted_market(
    environment: EnvironmentSettings, symbol: str, n_sessions: int, interval_min: int, seed: int
) -> Market:
    """A planted market whose sign, known at the close of each bar, stands in one context feature."""
    data = DataSettings()
    bars, sign = planted_bars(symbol, n_sessions, interval_min, seed, DRIFT_SIGMA, HOLD_BARS, hours="rth")
    tables = build_tables(bars, data, trading_hours=environment.trading_hours)
    context = tables.context.copy()
    context[:, SIGN_COLUMN] = sign
    rules = load_rule_profile(environment.rule_profile)
    return market_of(
        replace(tables, context=context), data, rules, make_params(environment, get_contract(symbol), rules)
    )


class FollowSign:
    """The best policy known on the planted market: be on the side of the sign, close when it turns."""

    name, sees_advice = "follow_sign", False

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        """BUY while the sign is up, SELL while it is down; what that side already holds is kept."""
        up = batch.obs[:, CONTEXT.start + SIGN_COLUMN] > 0
        wanted = np.where(up, BUY, SELL)
        return np.where(batch.masks[np.arange(batch.n), wanted], wanted, HOLD)


class _FreshBatches:
    """A pool that builds a new batch each time: canaries are few."""

    def __init__(self, market: Market) -> None:
        self._market = market

    def acquire(self) -> tuple[int, SessionBatch]:
        return -1, SessionBatch(self._market.tape(empty_table()), self._market.session_params, with_tables=False)

    def release(self, env_id: int, env: object = None) -> None:
        """Nothing to keep."""


def learn_planted(
    training: TrainingSettings,
    hardware: HardwareSettings,
    environment: EnvironmentSettings,
    seed: int,
    *,
    symbol: str = "NQ",
    interval_min: int = 1,
    timesteps: int = 50_000,
) -> dict[str, float]:
    """Train on one planted market, evaluate on another: mean net US dollars a session by arm, and the learned share.

    `share` is the learned policy's net P&L over that of following the sign.
    """
    market = planted_market(environment, symbol, TRAIN_SESSIONS, interval_min, seed)
    unseen = planted_market(environment, symbol, EVALUATION_SESSIONS, interval_min, seed + 1_000_000)
    trainer = Trainer(training, hardware, environment, torch.device("cpu"), seed)
    env = trainer.make_env(market)
    plan = plan_rollouts(timesteps, hardware.vectorized_envs, hardware.batch_size, training.n_steps)
    began = time.perf_counter()
    model, _ = trainer.base(env, plan, [])
    seconds = time.perf_counter() - began
    arms: Sequence[Arm] = (PolicyArm("learned", model.policy, False), FollowSign(), RandomLegalArm(seed))
    first_bars = unseen.first_bars(np.flatnonzero(unseen.tables.sessions.usable).astype(np.int32))
    assembly = FeatureAssembly(unseen.tables.context, empty_table(), None)
    results = evaluate(arms, first_bars, _FreshBatches(unseen), assembly)
    net = {name: float(result.net_usd.mean()) for name, result in results.items()}
    return {**net, "share": net["learned"] / net["follow_sign"], "train_s": seconds, "timesteps": float(plan.actual)}


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row a seed, then one JSON line; 1 where the median seed learned less than half of the best policy."""
    parser = argparse.ArgumentParser(description="Does the default configuration learn a planted edge?")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--timesteps", type=int, default=50_000)
    parser.add_argument("--vectorized-envs", type=int, default=HardwareSettings().vectorized_envs)
    parser.add_argument("--learning-rate", type=float, default=TrainingSettings().learning_rate)
    parser.add_argument("--n-epochs", type=int, default=TrainingSettings().n_epochs)
    parser.add_argument("--n-steps", type=int)
    parser.add_argument("--rule-profile", default=EnvironmentSettings().rule_profile)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args(argv)
    logging.getLogger("src").setLevel(logging.ERROR)
    training = TrainingSettings(learning_rate=args.learning_rate, n_epochs=args.n_epochs, n_steps=args.n_steps)
    hardware = HardwareSettings(vectorized_envs=args.vectorized_envs, torch_threads=args.threads)
    set_threads(hardware)
    environment = EnvironmentSettings(rule_profile=args.rule_profile)
    console = Console(width=80)
    table = Table(title="Planted market: net US dollars a session", title_justify="left", box=None)
    for heading in ("seed", "learned", "follow sign", "random legal", "share", "training s"):
        table.add_column(heading, justify="right")
    rows = []
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        row = learn_planted(training, hardware, environment, seed, timesteps=args.timesteps)
        rows.append(row)
        cells = [f"{row[name]:,.0f}" for name in ("learned", "follow_sign", "random_legal")]
        table.add_row(str(seed), *cells, f"{row['share']:.2f}", f"{row['train_s']:.1f}")
    console.print(table)
    shares = [row["share"] for row in rows]
    median = float(np.median(shares))
    summary = {"median_share": median, "min_share": min(shares), "shares": shares}
    console.print(json.dumps(summary), soft_wrap=True, highlight=False)
    return int(median < 0.5)


if __name__ == "__main__":
    sys.exit(main())
