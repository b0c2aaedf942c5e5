"""Arms: every way to decide that an evaluation compares, from never trading to a trained policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib.common.maskable.distributions import MaskableCategorical
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy

from src.advisor.fusion import RISK_FIELDS, RULES
from src.advisor.table import AdviceTable, advised_action, confidence
from src.agent.deciding import Decider, decider_of, likeliest, masked_shares
from src.agent.members import ArmName
from src.agent.policy import HybridPolicy
from src.agent.session_play import SessionPlayer
from src.evaluation.assembly import AdviceFeed, TableFeed
from src.trading.layout import HOLD, OPINION
from src.trading.session_batch import SessionBatch
from src.trading.tape import Tape


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

    name: str = ArmName.FLAT
    sees_advice = False

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        """HOLD."""
        return np.full(batch.n, HOLD, np.int64)


class RandomLegalArm:
    """Any legal action with equal probability, drawn by seed and bar: other sessions do not affect the draw."""

    name: str = ArmName.RANDOM_LEGAL
    sees_advice = False

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

    name: str = ArmName.ADVISOR_ONLY
    sees_advice = True

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        """The likeliest legal action."""
        assert opinions is not None
        advised = advised_action(opinions, batch.masks)
        return np.where(advised < 0, HOLD, advised)


class PolicyArm:
    """A trained policy's likeliest legal action; one that sees advice reads it in its observation.

    The weights are those the policy has when the arm is made, or `decider`. A policy that `deciding` does not know is
    asked itself.
    """

    def __init__(
        self, name: str, policy: MaskableActorCriticPolicy, sees_advice: bool, decider: Decider | None = None
    ) -> None:
        self.name = name
        self.sees_advice = sees_advice
        self._policy = policy
        self._decider = decider or decider_of(policy)
        policy.set_training_mode(False)

    @property
    def llm_weight(self) -> float:
        """The weight with which the policy pools an opinion; 0 where it does not."""
        return float(self._policy.llm_weight) if isinstance(self._policy, HybridPolicy) else 0.0

    def keep_bars(self, n_bars: int) -> None:
        """Several evaluations of the same sessions follow, on a tape of so many bars: see `Decider.keep_bars`."""
        if self._decider is not None:
            self._decider.keep_bars(n_bars)

    def player(self, tape: Tape) -> SessionPlayer | None:
        """Plays whole sessions on a tape as `act` would; None where the policy's own code decides."""
        if self._decider is None:
            return None
        return SessionPlayer(self._decider, len(tape.flags), sees_advice=self.sees_advice, llm_weight=self.llm_weight)

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        """Argmax of the masked distribution."""
        if self._decider is None:
            return self._asked(batch, opinions).argmax(axis=1)
        logits = self._logits(self._decider, batch, opinions)
        return likeliest(logits, batch.obs[:, OPINION], self.llm_weight, batch.masks)

    def probabilities(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """The masked distribution, float32[n, 6]."""
        if self._decider is None:
            return self._asked(batch, opinions)
        logits = self._logits(self._decider, batch, opinions)
        return masked_shares(logits, batch.obs[:, OPINION], self.llm_weight, batch.masks)

    def _logits(
        self, decider: Decider, batch: SessionBatch, opinions: NDArray[np.float32] | None
    ) -> NDArray[np.float64]:
        batch.obs[:, OPINION] = 0.0 if opinions is None else opinions
        return decider.logits(batch.obs, batch.over, batch.bars())

    def _asked(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """The masked distribution by the policy's own code."""
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
        self, policy: MaskableActorCriticPolicy, name: str = ArmName.HYBRID, table: AdviceTable | None = None
    ) -> None:
        assert isinstance(policy, HybridPolicy)
        super().__init__(name, policy, sees_advice=True)
        self._hybrid = policy
        self.feed: AdviceFeed | None = None if table is None else TableFeed(table)
        self.advice_use = AdviceUse()

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        """Argmax of the masked distribution."""
        assert opinions is not None
        actions, unpooled = self._with_and_without_pool(batch, opinions)
        self.advice_use.count(batch, opinions)
        self.advice_use.changed += int(((actions != unpooled) & ~batch.over).sum())
        return actions

    def _with_and_without_pool(
        self, batch: SessionBatch, opinions: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if self._decider is not None:
            logits = self._logits(self._decider, batch, opinions)
            actions, unpooled = (likeliest(logits, opinions, weight, batch.masks) for weight in (self.llm_weight, 0.0))
            return actions, unpooled
        weight = self.llm_weight
        self._hybrid.set_llm_weight(0.0)
        try:
            unpooled = self._asked(batch, opinions).argmax(axis=1)
        finally:
            self._hybrid.set_llm_weight(weight)
        return self._asked(batch, opinions).argmax(axis=1), unpooled


class FusedArm:
    """Decisions of an RL-only policy and the advisor, fused; never put on top of a hybrid policy."""

    name: str = ArmName.FUSED
    sees_advice = True

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
    rl_arm = PolicyArm(ArmName.RL_ONLY, rl_only, sees_advice=False)
    hybrids = (
        [HybridArm(hybrid)]
        if placebo is None
        else [HybridArm(hybrid), HybridArm(placebo[0], ArmName.PLACEBO, placebo[1])]
    )
    return [FlatArm(), RandomLegalArm(seed), AdvisorArm(), rl_arm, *hybrids, FusedArm(rl_arm, fusion)]


def position_states(batch: SessionBatch, rows: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """What fusion's risk score is made of, by account: losses in a row, share of the drawdown buffer used, win rate."""
    drawdown, win_rate = batch.risks()[rows].T
    losses = batch.accounts["consecutive_losses"][rows].astype(np.float64)
    return dict(zip(RISK_FIELDS, (losses, np.clip(drawdown, 0.0, 1.0), win_rate), strict=True))


def feed_of(arm: Arm) -> AdviceFeed | None:
    """The arm's own advice, if it has any."""
    return arm.feed if isinstance(arm, FedArm) else None


def begin_count(arm: Arm) -> None:
    """Restart the counts of an arm that counts what advice did; results keep earlier counts."""
    if isinstance(arm, AdvisedArm):
        arm.advice_use = AdviceUse()
