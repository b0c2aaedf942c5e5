"""Arms on the same sessions: every policy, control and fusion steps through the same bars in lockstep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib.common.maskable.distributions import MaskableCategorical
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy

from src.advisor.fusion import RULES
from src.advisor.table import AdviceTable, advised_action, confidence
from src.agent.policy import HybridPolicy
from src.evaluation.assembly import AdviceFeed, FeatureAssembly, TableFeed
from src.trading.layout import HOLD, OPINION
from src.trading.session_batch import SessionBatch
from src.trading.tape import Tape

PLACEBO = "hybrid_placebo"


class SessionPool(Protocol):
    """What evaluation asks of an environment pool."""

    def acquire(self) -> tuple[int, Any]: ...

    def release(self, env_id: int, env: Any = None) -> None: ...


class FreshBatches:
    """A pool that builds a new batch each time: for accounts under constants that no other evaluation has."""

    def __init__(self, tape: Tape, params: NDArray[np.void]) -> None:
        self._tape, self._params = tape, params

    def acquire(self) -> tuple[int, SessionBatch]:
        """A new batch."""
        return -1, SessionBatch(self._tape, self._params, with_tables=False)

    def release(self, env_id: int, env: Any = None) -> None:
        """Nothing to keep."""


class Fusion(Protocol):
    """What the fused arm asks of decision fusion."""

    def fuse_batch(self, *args: Any, **kwargs: Any) -> NDArray[np.int64]: ...

    def calculate_risk_scores(self, position_states: object) -> NDArray[np.float32]: ...

    def get_stats(self) -> dict[str, Any]: ...


class Arm(Protocol):
    """One way to decide."""

    name: str
    sees_advice: bool

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        """Actions int64[n]; `opinions` is float32[n, 6] for an arm that sees advice."""


@runtime_checkable
class FedArm(Arm, Protocol):
    """An arm that may have advice of its own; with None it hears what all arms hear."""

    feed: AdviceFeed | None


@dataclass
class AdviceUse:
    """What advice did in one arm's sessions.

    `choices` are decisions with more than one legal action, `advised` those of them with an opinion, `changed` those
    that would have been another action without advice (fed with other advice than its own: with its own), the account
    standing where it stands. `rules`: decisions by each rule of the fusion, the choiceless (bypassed) too.
    """

    choices: int = 0
    advised: int = 0
    changed: int = 0
    rules: dict[str, int] = field(default_factory=dict)

    def count(self, batch: SessionBatch, opinions: NDArray[np.float32]) -> None:
        """Count the choices of this step and the opinions about them."""
        open_choices = ~batch.over & (batch.masks.sum(axis=1) > 1)
        self.choices += int(open_choices.sum())
        self.advised += int((open_choices & opinions.any(axis=1)).sum())


@runtime_checkable
class AdvisedArm(Arm, Protocol):
    """An arm that counts what advice did; `evaluate` restarts the count."""

    advice_use: AdviceUse


class FlatArm:
    """Never trades."""

    name, sees_advice = "flat", False

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        """HOLD."""
        return np.full(batch.n, HOLD, np.int64)


class RandomLegalArm:
    """Any legal action with equal probability, drawn by seed and bar: other sessions do not affect the draw."""

    name, sees_advice = "random_legal", False

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._draws = np.empty(0)

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        """The draw of the bar picks among the legal actions."""
        n_bars = len(batch.tape.prices)
        if len(self._draws) != n_bars:
            self._draws = np.random.default_rng(self._seed).random(n_bars)
        rank = np.floor(self._draws[batch.bars()] * batch.masks.sum(axis=1))
        return (batch.masks.cumsum(axis=1) > rank[:, np.newaxis]).argmax(axis=1)


class AdvisorArm:
    """Does what the advisor says; HOLD where it abstains."""

    name, sees_advice = "advisor_only", True

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        """The likeliest legal action."""
        assert opinions is not None
        advised = advised_action(opinions, batch.masks)
        return np.where(advised < 0, HOLD, advised)


class PolicyArm:
    """A trained policy's likeliest legal action; one that sees advice reads it in its observation."""

    def __init__(self, name: str, policy: MaskableActorCriticPolicy, sees_advice: bool) -> None:
        self.name = name
        self.sees_advice = sees_advice
        self._policy = policy
        policy.set_training_mode(False)

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        """Argmax of the masked distribution."""
        return self.probabilities(batch, opinions).argmax(axis=1)

    def probabilities(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """The masked distribution, float32[n, 6]."""
        batch.obs[:, OPINION] = 0.0 if opinions is None else opinions
        with torch.no_grad():
            obs, _ = self._policy.obs_to_tensor(batch.obs)
            distribution = self._policy.get_distribution(obs, action_masks=batch.masks)
            categorical = distribution.distribution
            assert isinstance(categorical, MaskableCategorical)
            return categorical.probs.cpu().numpy()


class HybridArm(PolicyArm):
    """A hybrid policy, asked twice: `changed` counts where it acts otherwise with its pool weight at zero.

    The observation is the same both times, so what its networks make of the opinion features is no change. One that
    was trained on another table than the run's (a placebo) is given that table and hears it in evaluation, too.
    """

    def __init__(
        self, policy: MaskableActorCriticPolicy, name: str = "hybrid", table: AdviceTable | None = None
    ) -> None:
        assert isinstance(policy, HybridPolicy)
        super().__init__(name, policy, sees_advice=True)
        self._hybrid = policy
        self.feed: AdviceFeed | None = None if table is None else TableFeed(table)
        self.advice_use = AdviceUse()

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        """Argmax of the masked distribution."""
        assert opinions is not None
        weight = float(self._hybrid.llm_weight)
        self._hybrid.set_llm_weight(0.0)
        try:
            unpooled = super().act(batch, opinions)
        finally:
            self._hybrid.set_llm_weight(weight)
        actions = super().act(batch, opinions)
        self.advice_use.count(batch, opinions)
        self.advice_use.changed += int(((actions != unpooled) & ~batch.over).sum())
        return actions


class FusedArm:
    """Decisions of an RL-only policy and the advisor, fused; never put on top of a hybrid policy."""

    name, sees_advice = "fused", True

    def __init__(self, rl: PolicyArm, fusion: Fusion) -> None:
        self._rl = rl
        self._fusion = fusion
        self.advice_use = AdviceUse()

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        """Fuse the sessions that are not over; the others HOLD."""
        assert opinions is not None
        actions = np.full(batch.n, HOLD, np.int64)
        rows = np.flatnonzero(~batch.over)
        masks, accounts = batch.masks[rows], batch.accounts[rows]
        rl = self._rl.probabilities(batch, None)[rows]
        before = self._fusion.get_stats()
        actions[rows] = self._fusion.fuse_batch(
            rl.argmax(axis=1),
            confidence(rl, masks),
            advised_action(opinions[rows], masks),
            confidence(opinions[rows], masks),
            self._fusion.calculate_risk_scores(position_states(batch, rows)),
            masks=masks,
            positions=accounts["position"].astype(np.int64),
        )
        after, use = self._fusion.get_stats(), self.advice_use
        use.count(batch, opinions)
        use.changed += after["advice_changed"] - before["advice_changed"]
        use.rules = {rule: use.rules.get(rule, 0) + after[rule] - before[rule] for rule in RULES}
        return actions


def standard_arms(
    rl_only: MaskableActorCriticPolicy,
    hybrid: MaskableActorCriticPolicy,
    fusion: Fusion,
    seed: int,
    placebo: tuple[MaskableActorCriticPolicy, AdviceTable] | None = None,
) -> list[Arm]:
    """Controls, the advisor alone, the trained policies, and the fusion of `rl_only` with the advisor.

    `placebo` is the hybrid policy trained on permuted advice and the table it was trained on; None leaves it out.
    """
    rl_arm = PolicyArm("rl_only", rl_only, sees_advice=False)
    hybrids = (
        [HybridArm(hybrid)] if placebo is None else [HybridArm(hybrid), HybridArm(placebo[0], PLACEBO, placebo[1])]
    )
    return [FlatArm(), RandomLegalArm(seed), AdvisorArm(), rl_arm, *hybrids, FusedArm(rl_arm, fusion)]


def position_states(batch: SessionBatch, rows: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """What fusion's risk score is made of, by account: losses in a row, share of the drawdown buffer used, win rate."""
    accounts, params = batch.accounts[rows], batch.params
    scale = params["trail_cents"] if params["trail_mode"] else 0.04 * params["start_balance_cents"]
    used = (accounts["peak_cents"] - batch.equities_cents()[rows]) / scale
    wins = sum((accounts["recent_wins"] >> k) & 1 for k in range(10))
    return {
        "consecutive_losses": accounts["consecutive_losses"].astype(np.float64),
        "drawdown_current": np.clip(used, 0.0, 1.0),
        "win_rate_recent": np.where(accounts["n_recent"] > 0, wins / np.maximum(accounts["n_recent"], 1), 0.5),
    }


@dataclass
class ArmResult:
    """One arm's sessions: every array has one entry a session. Money is US dollars after costs unless named gross.

    `gross_win_usd` and `gross_loss_usd` are the sums of the winning and of the losing trades' net P&L, both as positive
    numbers: their difference is `net_usd`, their ratio over sessions the profit factor.
    """

    name: str
    net_usd: NDArray[np.float64]
    gross_usd: NDArray[np.float64]
    commission_usd: NDArray[np.float64]
    slippage_usd: NDArray[np.float64]
    max_drawdown_usd: NDArray[np.float64]
    gross_win_usd: NDArray[np.float64]
    gross_loss_usd: NDArray[np.float64]
    n_trades: NDArray[np.int64]
    n_wins: NDArray[np.int64]
    bars: NDArray[np.int64]
    bars_exposed: NDArray[np.int64]
    breached: NDArray[np.bool_]
    daily_locked: NDArray[np.bool_]
    target_reached: NDArray[np.bool_]
    illegal_actions: int
    actions: dict[int, int] = field(default_factory=dict)
    advice: AdviceUse | None = None


class Tally:
    """What of an arm's sessions no account keeps: drawdown, gains and losses of trades, actions taken."""

    def __init__(self, batch: SessionBatch) -> None:
        self.fall_cents = np.zeros(batch.n, np.int64)
        self.win_cents = np.zeros(batch.n, np.int64)
        self.loss_cents = np.zeros(batch.n, np.int64)
        self.actions = np.zeros(batch.masks.shape[1], np.int64)
        self._peak_cents = batch.equities_cents().copy()
        self._flat_cents = batch.accounts["cash_cents"].copy()

    def step(self, batch: SessionBatch, actions: NDArray[np.int64]) -> None:
        """Step the batch and count. At most one trade ends in a step, also where it began in it."""
        self.actions += np.bincount(actions[~batch.over], minlength=len(self.actions))
        batch.step(actions)
        equity = batch.equities_cents()
        np.maximum(self._peak_cents, equity, out=self._peak_cents)
        np.maximum(self.fall_cents, self._peak_cents - equity, out=self.fall_cents)
        # From flat to flat the balance changes by one trade, its commissions included, or by none.
        accounts = batch.accounts
        net = np.where(accounts["position"] == 0, accounts["cash_cents"] - self._flat_cents, 0)
        self._flat_cents += net
        self.win_cents += np.maximum(net, 0)
        self.loss_cents -= np.minimum(net, 0)


def feed_of(arm: Arm) -> AdviceFeed | None:
    """The arm's own advice, if it has any."""
    return arm.feed if isinstance(arm, FedArm) else None


def decide(
    arm: Arm, batch: SessionBatch, assembly: FeatureAssembly, feed: AdviceFeed | None
) -> tuple[NDArray[np.int64], NDArray[np.float32] | None]:
    """Assemble an arm's context and advice (`feed_of` the arm) and ask it: actions int64[n], and what it heard."""
    assembly.write_context(batch)
    opinions = assembly.opinions(batch, feed) if arm.sees_advice else None
    return arm.act(batch, opinions), opinions


def begin_count(arm: Arm) -> None:
    """Restart the counts of an arm that counts what advice did; results keep earlier counts."""
    if isinstance(arm, AdvisedArm):
        arm.advice_use = AdviceUse()


def evaluate(
    arms: Sequence[Arm],
    first_bars: NDArray[Any],
    pool: SessionPool,
    assembly: FeatureAssembly,
    progress: Callable[[int], None] | None = None,
) -> dict[str, ArmResult]:
    """Play the sessions beginning at `first_bars` (int[n]) once with every arm, all arms a bar at a time.

    `pool` lends a `SessionBatch` made with `with_tables=False`. Each session is a new account of the rule profile.
    """
    for arm in arms:
        begin_count(arm)
    lent = [pool.acquire() for _ in arms]
    try:
        batches: list[SessionBatch] = [batch for _, batch in lent]
        for batch in batches:
            batch.begin(first_bars)
        tallies = [Tally(batch) for batch in batches]
        feeds = [feed_of(arm) for arm in arms]
        steps = 0
        while not all(batch.over.all() for batch in batches):
            for arm, batch, tally, feed in zip(arms, batches, tallies, feeds, strict=True):
                if not batch.over.all():
                    tally.step(batch, decide(arm, batch, assembly, feed)[0])
            steps += 1
            if progress is not None:
                progress(steps)
        return {arm.name: _result(arm, batch, tally) for arm, batch, tally in zip(arms, batches, tallies, strict=True)}
    finally:
        for env_id, batch in lent:
            pool.release(env_id, batch)


def _result(arm: Arm, batch: SessionBatch, tally: Tally) -> ArmResult:
    a = batch.accounts.copy()
    net = (a["cash_cents"] - a["start_cash_cents"]) / 100.0
    commission, slippage = a["commission_paid_cents"] / 100.0, a["slippage_paid_cents"] / 100.0
    return ArmResult(
        name=arm.name,
        net_usd=net,
        gross_usd=net + commission + slippage,
        commission_usd=commission,
        slippage_usd=slippage,
        max_drawdown_usd=tally.fall_cents / 100.0,
        gross_win_usd=tally.win_cents / 100.0,
        gross_loss_usd=tally.loss_cents / 100.0,
        n_trades=a["n_trades"].astype(np.int64),
        n_wins=a["n_wins"].astype(np.int64),
        bars=a["steps"].astype(np.int64),
        bars_exposed=a["bars_exposed"].astype(np.int64),
        breached=a["breached"].astype(np.bool_),
        daily_locked=a["daily_locked"].astype(np.bool_),
        target_reached=a["target_reached"].astype(np.bool_),
        illegal_actions=int(a["illegal_actions"].sum()),
        actions={code: int(count) for code, count in enumerate(tally.actions)},
        advice=arm.advice_use if isinstance(arm, AdvisedArm) else None,
    )
