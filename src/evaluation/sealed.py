"""Check that nothing is fitted or trained on sessions outside the training part.

The bars after the training part are given another future: features, situations, the list of situations to ask about,
the calibrated advice table and the bars where training begins must stay as they are to the bit. And the record of what
a run read (the sessions its training episodes began in, the sessions its advice list was made of) is compared with
the split.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from src.advisor.mock import MockAdvisor
from src.advisor.settings import LLMSettings
from src.advisor.situations import N_SITUATIONS, UNKNOWN, split_situations
from src.advisor.store import AdviceStore
from src.advisor.table import LABEL_SETS, AdviceTable, Float32, empty_table, situation_order
from src.advisor.tabulation import TabulationRecord, order_hash
from src.agent.advising import tabulate_advice
from src.agent.market import Market, market_of
from src.evaluation.leak_words import SEALED
from src.evaluation.look_ahead import LeakCheck, Maker, World, first_difference, other_future
from src.market.flags import DECISION
from src.market.settings import DataSettings
from src.market.split import ids_of, spans_of
from src.splitmix import mix64
from src.trading import kernel
from src.trading.layout import ACCOUNT, N_SIDES
from src.trading.routes import get_states

_NO_LIMIT_S = 10.0**6


class ProbeAdvisor:
    """Answers by a hash of the situation, each label with a bias of its own: calibration has something to remove."""

    name, identity = "leak probe", hashlib.sha256(b"leak probe").hexdigest()

    def load(self) -> ProbeAdvisor:
        """Itself: there is nothing to load."""
        return self

    def score(self, situations: NDArray[np.int64]) -> Float32:
        """Log-probabilities, float32[k, 6]; -inf outside the side's label set."""
        mixed = np.array([int(mix64(np.uint64(s))) & 0xFFFF for s in situations.tolist()], np.float64)
        phase = mixed[:, np.newaxis] / 0xFFFF + np.arange(LABEL_SETS.shape[1]) / 3.0
        labels = LABEL_SETS[split_situations(situations)[1]]
        return np.where(labels, -(phase % 1.0) * 3.0 - np.arange(LABEL_SETS.shape[1]), -np.inf).astype(np.float32)


def check_sealed(market: Market, data: DataSettings, trading_hours: str, seed: int = 0) -> LeakCheck:
    """Whether features, situations, advice or training starts change with the bars after the training part."""
    checks = 0
    for words in _fits(market, data, trading_hours, seed):
        checks += 1
        if words:
            return LeakCheck(SEALED, checks, words)
    return LeakCheck(SEALED, checks)


def _fits(market: Market, data: DataSettings, trading_hours: str, seed: int) -> Iterator[str]:
    """Yield "" or what was found for each comparison."""
    tables, bars = market.tables, market.tables.bars
    last = int(tables.sessions.end_bar[market.split.train[-1]]) - 1
    rng = np.random.default_rng(seed)
    world = Maker.of(bars, data, trading_hours).world(other_future(bars, np.full(len(bars), last), rng))
    other = market_of(world.tables, data, market.rules, market.params)
    difference = first_difference(
        World(tables, market.situation), World(other.tables, other.situation), slice(0, last + 1)
    )
    yield (
        ""
        if difference is None
        else f"{difference.words(bars)}, in the training part, changes with validation and sealed sessions"
    )
    yield (
        ""
        if market.split.train.tobytes() == other.split.train.tobytes()
        else "which sessions are for training changes with the prices of later ones"
    )
    starts = [each.tape(empty_table()).starts for each in (market, other)]
    yield foreign_sessions("training episodes may begin", bars.session_id[starts[0]], market)
    yield "" if starts[0].tobytes() == starts[1].tobytes() else "where training begins changes with sealed sessions"
    yield _advice(market, other)
    yield check_advice(market, *tabulate_advice(market, MockAdvisor(), LLMSettings(model="mock")))


def _advice(market: Market, other: Market) -> str:
    """Tabulate a probe's advice for both markets: the second store already holds an answer to every situation."""
    with tempfile.TemporaryDirectory(prefix="leaks-") as folder:
        made = []
        for name, each, filled in (("one", market, False), ("other", other, True)):
            path = Path(folder) / f"{name}.sqlite3"
            if filled:
                _fill(path)
            llm = LLMSettings(model="mock", store_path=path, calibrate=True, tabulation_budget_s=_NO_LIMIT_S)
            made.append(tabulate_advice(each, ProbeAdvisor(), llm, say=_silent))
    (table, record), (other_table, other_record) = made
    if record.order_sha256 != other_record.order_sha256:
        return "the list of situations to ask about changes with validation and sealed sessions"
    if table.sha256 != other_table.sha256:
        return (
            "the advice table (its answers or their calibration) changes with validation and sealed sessions, or with "
            "answers in the store that no training session asks for"
        )
    return check_advice(market, table, record)


def _fill(path: Path) -> None:
    situations = np.arange(N_SITUATIONS)
    known = situations[split_situations(situations)[0] != UNKNOWN]
    with AdviceStore(path) as store:
        store.put(ProbeAdvisor.identity, known, ProbeAdvisor().score(known))


def _silent(_: str) -> None:
    return None


def check_advice(market: Market, table: AdviceTable, record: TabulationRecord) -> str:
    """What of an advice table does not come from training sessions; "" where all of it does.

    Training bars are found by their session, not by the market's own `bars_of`, which the table was made with.
    """
    tables = market.tables
    bars = np.flatnonzero(np.isin(tables.bars.session_id, market.split.train) & ((tables.flags & DECISION) != 0))
    codes = market.situation[bars]
    covered = np.unique(np.flatnonzero(table.covered) // N_SIDES)
    foreign = np.setdiff1d(covered, codes)
    if len(foreign):
        return f"the advice table answers {len(foreign)} market situations that no training session holds"
    if record.order_sha256 != order_hash(situation_order(codes)):
        return "the list of situations to ask about is not that of the training sessions, most frequent first"
    return foreign_sessions("the advice table was made of bars", ids_of(record.sessions_read), market)


def foreign_sessions(what: str, session_ids: NDArray[Any], market: Market) -> str:
    """`what` in sessions that are not for training, in words; "" where there are none."""
    split, dates = market.split, market.tables.sessions.date
    read = np.unique(session_ids)
    foreign = np.setdiff1d(read, split.train)
    if not len(foreign):
        return ""
    sealed = len(np.intersect1d(foreign, split.test))
    return (
        f"{what} in {len(foreign)} sessions that are not for training ({sealed} of them sealed), the first "
        f"{dates[foreign[0]]}"
    )


# ---------------------------------------------------------------- the sessions that training drew


@dataclass(frozen=True)
class Drawn:
    """The training episodes of an environment: how many, in which sessions, and how many are not explained by draws."""

    episodes: int
    sessions: list[list[int]]
    unexplained: int

    def to_dict(self) -> dict[str, Any]:
        """As it is in the report: `sessions` are spans [first, last] of session ids."""
        return {"episodes": self.episodes, "sessions": self.sessions, "unexplained": self.unexplained}


def drawn_sessions(env: VecEnv, market: Market) -> Drawn | None:
    """The sessions in which every training episode so far began, and those where accounts are now.

    An account's draws depend on its key and its count of episodes alone, so the kernel draws all of them again from
    the account's records; the last one must be where the account began (else it is `unexplained`). This holds for a
    training that was resumed, too. None for a user's own environments, whose draws are not known.
    """
    states = get_states(env)
    if not isinstance(states, np.ndarray) or states.ndim != 2 or states.shape[1] != ACCOUNT.itemsize:
        return None
    accounts = np.ascontiguousarray(states, np.uint8).view(ACCOUNT)[:, 0]
    begun = accounts["episode"].astype(np.int64)
    replayed = accounts.copy()
    replayed["episode"] = 0
    starts = market.tape(empty_table()).starts
    drawn: list[NDArray[np.int32]] = []
    last = np.full(len(accounts), -1, np.int32)
    for number in range(int(begun.max(initial=0))):
        kernel.reset_batch(replayed, starts, market.params)
        rows = begun > number
        drawn.append(replayed["bar"][rows].copy())
        last[rows] = replayed["bar"][rows]
    ids = market.tables.bars.session_id
    standing = accounts["start_bar"], accounts["bar"]
    unexplained = (last != standing[0]) | (ids[standing[0]] != ids[standing[1]])
    bars = np.concatenate([*drawn, *standing])
    return Drawn(int(begun.sum()), spans_of(ids[bars]), int((unexplained & (begun > 0)).sum()))


def check_drawn(market: Market, rows: Sequence[Mapping[str, Any]]) -> str:
    """What trainings drew outside of the training sessions, from their rows of the report; "" for nothing."""
    for row in rows:
        drawn = row.get("sessions_drawn")
        if drawn is None:
            continue
        words = foreign_sessions(f"{row['phase']} training drew episodes", ids_of(drawn["sessions"]), market)
        if not words and drawn["unexplained"]:
            words = (
                f"{drawn['unexplained']} accounts of {row['phase']} training began or are where no training episode "
                f"may begin"
            )
        if words:
            return words
    return ""
