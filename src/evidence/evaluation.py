"""Arms on the same sessions: every policy, control and fusion steps through the same bars in lockstep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib.common.maskable.distributions import MaskableCategorical
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy

from src.advisor.fusion import RULES
from src.advisor.table import AdviceTable, advised_action, confidence, renormalise
from src.agent.policy import HybridPolicy
from src.trading.layout import CONTEXT, HOLD, OPINION
from src.trading.session_batch import SessionBatch


class RowCache(Protocol):
    """What feature assembly asks of a cache."""

    def get_batch(self, keys: Iterable[Any]) -> list[NDArray[np.float32] | None]: ...

    def put_batch(self, keys: Sequence[Any], rows: Sequence[Any]) -> None: ...


class SessionPool(Protocol):
    """What evaluation asks of an environment pool."""

    def acquire(self) -> tuple[int, Any]: ...

    def release(self, env_id: int, env: Any = None) -> None: ...


class Fusion(Protocol):
    """What the fused arm asks of decision fusion."""

    def fuse_batch(self, *args: Any, **kwargs: Any) -> NDArray[np.int64]: ...

    def calculate_risk_scores(self, position_states: object) -> NDArray[np.float32]: ...

    def get_stats(self) -> dict[str, Any]: ...


class FeatureAssembly:
    """Writes the pure part of the 33 advice features: 22 context values by bar, 6 opinion values by situation.

    All arms stand at the same bars, so with a cache the first arm fetches a row and the others find it. Without one
    (None) rows come from the tables directly, with the same values. `opinion_lookups` and `opinions_given` count
    opinions asked for and those that were no abstention.
    """

    def __init__(self, context: NDArray[np.float32], table: AdviceTable, cache: RowCache | None) -> None:
        self._context = context
        self._table = table
        self._cache = cache
        self.opinion_lookups = 0
        self.opinions_given = 0

    def write_context(self, batch: SessionBatch) -> None:
        """Fill the context slice of the sessions that are not over."""
        rows = np.flatnonzero(~batch.over)
        bars = batch.bars()[rows]
        batch.obs[rows, CONTEXT] = self._rows("context", bars, self._context)

    def opinions(self, batch: SessionBatch) -> NDArray[np.float32]:
        """Advice over what is legal now, float32[n, 6]; zeros where the advisor abstains or the session is over."""
        opinions = np.zeros((batch.n, batch.masks.shape[1]), np.float32)
        rows = np.flatnonzero(~batch.over)
        raw = self._rows("advice", batch.situations()[rows], self._table.probabilities)
        opinions[rows] = renormalise(raw, batch.masks[rows])
        self.opinion_lookups += len(rows)
        self.opinions_given += int(opinions[rows].any(axis=1).sum())
        return opinions

    def _rows(self, kind: str, indices: NDArray[Any], table: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._cache is None or not len(indices):
            return table[indices]
        keys = [(kind, index) for index in indices.tolist()]
        found = self._cache.get_batch(keys)
        missing = [i for i, row in enumerate(found) if row is None]
        if missing:
            fetched = table[indices[missing]]
            self._cache.put_batch([keys[i] for i in missing], fetched)
            for i, row in zip(missing, fetched, strict=True):
                found[i] = row
        return np.stack(found)  # type: ignore[arg-type]


class Arm(Protocol):
    """One way to decide."""

    name: str
    sees_advice: bool

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        """Actions int64[n]; `opinions` is float32[n, 6] for an arm that sees advice."""


@dataclass
class AdviceUse:
    """What advice did in one arm's sessions.

    `choices` are decisions with more than one legal action, `advised` those of them with an opinion, `changed` those
    that would have been another action without advice, the account standing where it stands. `rules`: decisions by
    each rule of the fusion, the choiceless (bypassed) too.
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
    """An arm that counts what advice did; `evaluate` begins the count anew."""

    advice_use: AdviceUse


class FlatArm:
    """Never trades."""

    name, sees_advice = "flat", False

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        """HOLD."""
        return np.full(batch.n, HOLD, np.int64)


class RandomLegalArm:
    """Any legal action with equal probability, drawn by seed and bar: the sessions beside one change nothing in it."""

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

    The observation is the same both times, so what its networks make of the opinion features is no change.
    """

    def __init__(self, policy: MaskableActorCriticPolicy) -> None:
        assert isinstance(policy, HybridPolicy)
        super().__init__("hybrid", policy, sees_advice=True)
        self._hybrid = policy
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
    rl_only: MaskableActorCriticPolicy, hybrid: MaskableActorCriticPolicy, fusion: Fusion, seed: int
) -> list[Arm]:
    """Controls, the advisor alone, both trained policies, and the fusion of `rl_only` with the advisor."""
    rl_arm = PolicyArm("rl_only", rl_only, sees_advice=False)
    return [FlatArm(), RandomLegalArm(seed), AdvisorArm(), rl_arm, HybridArm(hybrid), FusedArm(rl_arm, fusion)]


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
    """One arm's sessions: every array has one entry a session. Money is US dollars after costs unless named gross."""

    name: str
    net_usd: NDArray[np.float64]
    gross_usd: NDArray[np.float64]
    commission_usd: NDArray[np.float64]
    slippage_usd: NDArray[np.float64]
    max_drawdown_usd: NDArray[np.float64]
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
        if isinstance(arm, AdvisedArm):
            arm.advice_use = AdviceUse()
    lent = [pool.acquire() for _ in arms]
    try:
        batches: list[SessionBatch] = [batch for _, batch in lent]
        for batch in batches:
            batch.begin(first_bars)
        peaks = [batch.equities_cents().copy() for batch in batches]
        falls = [np.zeros(batch.n, np.int64) for batch in batches]
        taken = [np.zeros(batch.masks.shape[1], np.int64) for batch in batches]
        steps = 0
        while not all(batch.over.all() for batch in batches):
            for i, (arm, batch) in enumerate(zip(arms, batches, strict=True)):
                if batch.over.all():
                    continue
                assembly.write_context(batch)
                opinions = assembly.opinions(batch) if arm.sees_advice else None
                actions = arm.act(batch, opinions)
                taken[i] += np.bincount(actions[~batch.over], minlength=len(taken[i]))
                batch.step(actions)
                equity = batch.equities_cents()
                np.maximum(peaks[i], equity, out=peaks[i])
                np.maximum(falls[i], peaks[i] - equity, out=falls[i])
            steps += 1
            if progress is not None:
                progress(steps)
        return {
            arm.name: _result(arm, batch, fall, counts)
            for arm, batch, fall, counts in zip(arms, batches, falls, taken, strict=True)
        }
    finally:
        for env_id, batch in lent:
            pool.release(env_id, batch)


def _result(arm: Arm, batch: SessionBatch, falls_cents: NDArray[np.int64], taken: NDArray[np.int64]) -> ArmResult:
    a = batch.accounts.copy()
    net = (a["cash_cents"] - a["start_cash_cents"]) / 100.0
    commission, slippage = a["commission_paid_cents"] / 100.0, a["slippage_paid_cents"] / 100.0
    return ArmResult(
        name=arm.name,
        net_usd=net,
        gross_usd=net + commission + slippage,
        commission_usd=commission,
        slippage_usd=slippage,
        max_drawdown_usd=falls_cents / 100.0,
        n_trades=a["n_trades"].astype(np.int64),
        n_wins=a["n_wins"].astype(np.int64),
        bars=a["steps"].astype(np.int64),
        bars_exposed=a["bars_exposed"].astype(np.int64),
        breached=a["breached"].astype(np.bool_),
        daily_locked=a["daily_locked"].astype(np.bool_),
        target_reached=a["target_reached"].astype(np.bool_),
        illegal_actions=int(a["illegal_actions"].sum()),
        actions={code: int(count) for code, count in enumerate(taken)},
        advice=arm.advice_use if isinstance(arm, AdvisedArm) else None,
    )
