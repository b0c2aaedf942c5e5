"""What a trained hybrid policy does when its advice is corrupted in evaluation: a diagnostic of reliance.

It shows how much the policy relies on the advice, not whether the advice is worth anything. A policy trained with good
advice plays worse with bad advice; so does one trained with worthless advice that it got used to.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy

from src.advisor.table import AdviceTable, empty_table, renormalise
from src.agent.deciding import Decider, decider_of
from src.agent.members import ArmName
from src.evaluation.arms import AdviceUse, PolicyArm
from src.evaluation.assembly import AdviceFeed, TableFeed
from src.evaluation.placebo import constant_table, placebo_table
from src.evaluation.settings import LATE_DECISIONS
from src.trading.session_batch import SessionBatch


class LateFeed:
    """The advice from `decisions` decisions earlier in the same session and account; none before that.

    It is the row of the earlier situation, side included, restricted to the actions that are legal now; if it says
    nothing about those, it abstains.
    """

    def __init__(self, table: AdviceTable, decisions: int = LATE_DECISIONS) -> None:
        if decisions < 1:
            raise ValueError(f"decisions must be at least 1, not {decisions}")
        self.table = table
        self._decisions = decisions
        self._seen = np.empty((0, 0), np.int64)

    def situations(self, batch: SessionBatch) -> NDArray[np.int64]:
        """Record the accounts' situations and return the earlier ones; -1 in a session's first decisions."""
        slots = self._decisions + 1
        if self._seen.shape != (slots, batch.n):
            self._seen = np.full((slots, batch.n), -1, np.int64)
        # By the account's own count of decisions, which restarts with each session.
        made, columns = batch.accounts["steps"].astype(np.int64), np.arange(batch.n)
        self._seen[made % slots, columns] = batch.situations()
        return np.where(made >= self._decisions, self._seen[(made - self._decisions) % slots, columns], -1)


class RelianceArm(PolicyArm):
    """A hybrid policy given other advice than it was trained on.

    It decides twice: `changed` counts decisions that would differ with its own advice, `own`, in the same state.
    """

    def __init__(
        self,
        name: str,
        policy: MaskableActorCriticPolicy,
        feed: AdviceFeed,
        own: AdviceTable,
        decider: Decider | None = None,
    ) -> None:
        super().__init__(name, policy, sees_advice=True, decider=decider)
        self.feed: AdviceFeed | None = feed
        self._own = own
        self.advice_use = AdviceUse()

    def act(self, batch: SessionBatch, opinions: NDArray[np.float32] | None) -> NDArray[np.int64]:
        """Argmax of the masked distribution."""
        assert opinions is not None
        faithful = super().act(batch, renormalise(self._own.probabilities[batch.situations()], batch.masks))
        actions = super().act(batch, opinions)
        self.advice_use.count(batch, opinions)
        self.advice_use.changed += int(((actions != faithful) & ~batch.over).sum())
        return actions


def reliance_arms(
    hybrid: MaskableActorCriticPolicy,
    table: AdviceTable,
    seed: int,
    *,
    late_decisions: int = LATE_DECISIONS,
    name: str = ArmName.HYBRID,
) -> Mapping[str, RelianceArm]:
    """The trained policy by the advice it gets instead of `table`, its own.

    none: no advice; shuffled: the placebo of this seed; late: the advice from several decisions earlier; constant: the
    mean advice for the account's side. Arms are named `hybrid_late` and so on.
    """
    feeds: dict[str, AdviceFeed] = {
        "none": TableFeed(empty_table()),
        "shuffled": TableFeed(placebo_table(table, seed)),
        "late": LateFeed(table, late_decisions),
        "constant": TableFeed(constant_table(table)),
    }
    decider = decider_of(hybrid)
    return {fed: RelianceArm(f"{name}_{fed}", hybrid, feed, table, decider) for fed, feed in feeds.items()}
