"""Ask a language model within a time budget, continuing where an earlier or killed run stopped.

The budget becomes a count once: the speed is measured on the first batches, and how far down the ordered list of
situations that reaches is recorded with the list. From then on the count decides and never a clock, so a run that was
killed and resumed makes bitwise the table of one that was not. A later run finds the count and all answers in the store
and asks nothing; it does not even load the model. Only a larger budget, or a wish to extend, asks for more.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from src.advisor.answer_cache import AnswerCache, through_cache
from src.advisor.batches import FEW
from src.advisor.calibration import served_scores
from src.advisor.first_choices import decided_shares, first_choices, undecided, without_answer
from src.advisor.manner import Manner, manner_key
from src.advisor.single_asking import ModelChanged, SingleAsking
from src.advisor.situations import N_SITUATIONS, UNKNOWN, split_situations
from src.advisor.store import AdviceStore, Round
from src.advisor.table import (
    LABEL_MASS_FLOOR,
    AdviceTable,
    Advisor,
    Float32,
    checked_scores,
    freeze_table,
    incomplete,
    label_mass,
    tabulate,
)
from src.errors import UserError
from src.trading.layout import N_ACTIONS
from src.wording import clock_time

Say = Callable[[str], None]
Progress = Callable[[Mapping[str, Any]], None]


class ModelAdvisor(Protocol):
    """An advisor whose model is loaded only when something has to be asked."""

    @property
    def name(self) -> str:
        """What the report calls it."""

    @property
    def identity(self) -> str:
        """Hash of everything its answers depend on, known without loading the model."""

    def load(self) -> Advisor:
        """The advisor, ready to answer; of the same identity."""


@dataclass(frozen=True)
class TabulationRecord:
    """What asking took and where the answers came from. Times in seconds; counts are of situations."""

    model: str
    listed: int
    """Situations of the ordered list: those that occur in the training sessions, with all sides."""
    count_k: int
    """How many of them, from the top, are tabulated: what the budget has become."""
    asked_now: int
    from_store: int
    seconds: float
    """Spent asking, without loading."""
    load_s: float
    advices_per_s: float | None
    """Measured now; None when nothing was asked."""
    budget_s: float
    """Of all rounds together, as recorded."""
    rounds: int
    """The first budget and the extensions so far."""
    batch_size: int
    calibrated: bool
    order_sha256: str
    sha256: str
    """Of the frozen table."""
    full_precision_agreement: float | None = None
    """Of a quantized model: share of the same likeliest labels; None where it was not compared."""
    full_precision_compared: int = 0
    """Situations that both were asked about."""
    full_precision_why_not: str = ""
    """Why a quantized model could not be compared."""
    label_mass: float | None = None
    """Mean probability of a situation's labels together, among all tokens; None for rules and where nothing was
    asked."""
    abstained: int = 0
    """Situations that were asked and whose answer lacks a label: the advice abstains there."""
    no_answer: int = 0
    """Those of them whose answer has none of the labels: it begins with a thought, or with other words."""
    undecided: int = 0
    """Situations in which all labels are alike as they are served: the advice abstains there, too."""
    first_choice: Mapping[str, Any] = field(default_factory=dict)
    """By side, the label that the model most often ranks first, before calibration: see `first_choices`."""
    manner: Mapping[str, Any] | None = None
    """How the model is asked (`Manner`); None for rules, and for answers of a version that did not keep it."""
    scoring: Mapping[str, Any] = field(default_factory=dict)
    """What the scorer counted itself; empty when nothing was asked."""
    sessions_read: list[list[int]] = field(default_factory=list)
    """Sessions whose bars made the ordered list, as spans [first, last] of session ids."""

    def to_dict(self) -> dict[str, Any]:
        """The record as it appears in the report."""
        return asdict(self)


def tabulate_stored(
    advisor: ModelAdvisor,
    store: AdviceStore,
    order: NDArray[np.int64],
    budget_s: float,
    *,
    extend: bool = False,
    batch_size: int | None = FEW,
    calibrate: bool = True,
    say: Say | None = None,
    progress: Progress | None = None,
    cache: AnswerCache | None = None,
) -> tuple[AdviceTable, TabulationRecord]:
    """The frozen table over the first K situations of `order` int64[n] (`situation_order`), asked or from the store.

    K, the batches and their size are those recorded for this advisor and order; with none recorded the budget is
    measured and recorded; `batch_size` None takes the loaded model's own. A larger budget than all recorded ones
    together adds a round with the rest of it, so that a full run continues where a quick one stopped. `extend` adds a
    round with another whole budget, except where an extension was cut short: that one is finished. `say` gets lines
    that stay, `progress` a mapping (fraction_done, advices_per_s, seconds_left) a batch. `cache` keeps the answers of
    the table for whoever asks next in this process: looking up a situation that was answered before is a hit, one that
    was asked now a miss.
    Raises ValueError for a bad list or answer, UserError for a store that cannot be used (what was stored stays).
    """
    order = np.array(order, dtype=np.int64)
    if len(np.unique(order)) != len(order) or (split_situations(order)[0] == UNKNOWN).any():
        raise ValueError("situations to ask about must be distinct and not of the unknown market: use situation_order")
    asking = _Asking(advisor, store, order, say or _ignore, progress or _ignore)
    rounds = store.rounds(advisor.identity, asking.order_sha)
    before = asking.known
    pending = [batch for planned in rounds for batch in asking.pending(planned)]
    extension_was_cut_short = bool(rounds) and rounds[-1].number > 0 and bool(pending)
    if pending:
        asking.resume(pending, rounds[-1])
    if len(order) and (not rounds or (extend and not extension_was_cut_short)):
        rounds = asking.plan(rounds, budget_s, batch_size)
    elif rounds and rounds[-1].count_k < len(order) and (more_s := budget_s - sum(r.budget_s for r in rounds)) > 0:
        rounds = asking.plan(rounds, more_s, batch_size)
    count_k = rounds[-1].count_k if rounds else 0
    recorded = rounds[-1].batch_size if rounds else batch_size or FEW
    asking.fill(order[:count_k], recorded if batch_size is None else batch_size)
    asking.verify()
    if not asking.asked_now:
        asking.say_nothing_was_asked(count_k, rounds)
    situations = np.sort(order[:count_k])
    answers: Mapping[int, Float32] = store.check_holds(advisor.identity, situations)
    if cache is not None:
        answers = through_cache(cache, advisor.identity, answers, before, situations)
    raw = np.array([answers[s] for s in situations.tolist()], np.float32).reshape(-1, N_ACTIONS)
    table, alike = _table(advisor, situations, raw, calibrate)
    mass, abstained = label_mass(raw), int(incomplete(raw).sum())
    asking.say_what_abstains(abstained, alike, len(raw))
    if mass is not None and mass < LABEL_MASS_FLOOR:
        asking.say_little_falls_on_the_labels(mass)
    record = TabulationRecord(
        model=advisor.name,
        listed=len(order),
        count_k=count_k,
        asked_now=asking.asked_now,
        from_store=sum(int(s) in before for s in order[:count_k]),
        seconds=asking.seconds,
        load_s=asking.load_s,
        advices_per_s=asking.speed,
        budget_s=sum(planned.budget_s for planned in rounds),
        rounds=len(rounds),
        batch_size=recorded,
        calibrated=calibrate,
        order_sha256=asking.order_sha,
        sha256=table.sha256,
        label_mass=mass,
        abstained=abstained,
        no_answer=int(without_answer(raw, situations).sum()),
        undecided=alike,
        first_choice=first_choices(raw, situations),
        manner=asking.manner(),
        scoring=asking.scoring,
    )
    return table, record


def tabulate_at_once(advisor: Advisor, order: NDArray[np.int64]) -> tuple[AdviceTable, TabulationRecord]:
    """The whole table from an advisor that answers by rules: no budget, no store, no label bias to remove."""
    began = time.perf_counter()
    table = tabulate(advisor, order)
    seconds = time.perf_counter() - began
    record = TabulationRecord(
        model=advisor.name,
        listed=len(order),
        count_k=len(order),
        asked_now=len(order),
        from_store=0,
        seconds=seconds,
        load_s=0.0,
        advices_per_s=len(order) / seconds,
        budget_s=0.0,
        rounds=0,
        batch_size=FEW,
        calibrated=False,
        order_sha256=order_hash(order),
        sha256=table.sha256,
    )
    return table, record


def order_hash(order: NDArray[np.int64]) -> str:
    """The name of an ordered list in the store."""
    return hashlib.sha256(np.ascontiguousarray(order, dtype="<i8").tobytes()).hexdigest()


class _Asking:
    """One run's asking: batch by batch, each stored before the next is asked."""

    def __init__(
        self, advisor: ModelAdvisor, store: AdviceStore, order: NDArray[np.int64], say: Say, progress: Progress
    ) -> None:
        self._advisor = advisor
        self._store = store
        self._order = order
        self._say = say
        self._progress = progress
        self._scorer: Advisor | None = None
        self.order_sha = order_hash(order)
        self.known = frozenset(store.answers(advisor.identity))
        self.asked_now = 0
        self.seconds = 0.0
        self.load_s = 0.0
        self._singly = bool(getattr(advisor, "asks_singly", False))
        self._single: SingleAsking | None = None
        self._told: Mapping[str, Any] = {}

    def manner(self) -> dict[str, Any] | None:
        """How the model is asked (`Manner`): from the model where it was loaded, and from then on from the store."""
        if (known := getattr(self._advisor, "manner", None)) is not None:
            return asdict(known)
        key = manner_key(self._advisor.identity)
        if kept := self._store.fingerprints(key):
            return asdict(Manner.from_json(kept[0]))
        find = getattr(self._scorer, "manner", None)
        return None if find is None else asdict(Manner.from_json(self._store.add_fingerprint(key, 0, find().to_json())))

    @property
    def speed(self) -> float | None:
        """Advices a second so far; None before the first."""
        return self.asked_now / self.seconds if self.asked_now and self.seconds > 0 else None

    @property
    def scoring(self) -> dict[str, Any]:
        stats = getattr(self._scorer, "stats", None)
        return {} if stats is None else dict(stats if isinstance(stats, Mapping) else asdict(stats))

    def pending(self, planned: Round) -> list[NDArray[np.int64]]:
        """The batches of a round that are not stored whole; each is asked again whole, as it was cut. Of answers that
        come one by one only those that are missing."""
        if self._singly:
            return _batches(
                np.array([s for s in planned.asked.tolist() if s not in self.known], np.int64), planned.batch_size
            )
        return [b for b in _batches(planned.asked, planned.batch_size) if not self.known.issuperset(b.tolist())]

    def resume(self, pending: list[NDArray[np.int64]], planned: Round) -> None:
        """Ask what an earlier run has planned and not finished."""
        n = sum(map(len, pending))
        self._say(
            f"continuing where an earlier run stopped: {n:,} of {planned.count_k:,} situations are still to be asked, "
            f"about {_time_for(n, planned)} at the {planned.advices_per_s:.1f} advices/s measured then"
        )
        self._ask_all(pending)

    def plan(self, rounds: list[Round], budget_s: float, batch_size: int | None) -> list[Round]:
        """Turn the budget into a count, record it, and ask; returns all rounds."""
        begins = rounds[-1].count_k if rounds else 0
        known = self._store.answers(self._advisor.identity).keys()
        is_known = np.array([int(s) in known for s in self._order], dtype=bool)
        unknown = self._order[begins:][~is_known[begins:]]
        if begins == len(self._order):
            self._say(f"all {begins:,} situations of the training sessions are tabulated: nothing is left to ask")
            return rounds
        measured, speed, spent_s = 0, 0.0, 0.0
        if len(unknown):
            self._say(
                f"{len(unknown):,} situations of the training sessions are not tabulated; asking for up to "
                f"{budget_s:.0f} s, most frequent first"
            )
            batch_size = batch_size or self._own_batch_size()
        batch_size = batch_size or FEW
        batches = _batches(unknown, batch_size)
        if batches:
            measured, speed, spent_s = self._measure(batches, budget_s)
        # Whole batches, so that a later extension does not cut them again.
        affordable = measured + int(max(0.0, budget_s - spent_s) * speed) // batch_size
        asked = unknown[: affordable * batch_size]
        count_k = len(self._order)
        if len(asked) < len(unknown):  # known situations right behind the last one asked cost nothing
            count_k = int(np.flatnonzero(self._order == unknown[len(asked)])[0])
        planned = Round(len(rounds), count_k, asked, batch_size, budget_s, speed)
        planned = self._store.add_round(self._advisor.identity, self.order_sha, self._order, planned)
        self.known = frozenset(self._store.answers(self._advisor.identity))
        pending = self.pending(planned)
        if batches:
            n = sum(map(len, pending))
            self._say(
                f"{planned.advices_per_s:.1f} advices/s: the budget is {planned.count_k:,} of {len(self._order):,} "
                f"situations; about {_time_for(n, planned)} to go"
            )
        self._ask_all(pending)
        return [*rounds, planned]

    def fill(self, situations: NDArray[np.int64], batch_size: int) -> None:
        """Ask again about what the store has lost since it was planned."""
        known = self._store.answers(self._advisor.identity).keys()
        lost = np.array([s for s in situations.tolist() if s not in known], dtype=np.int64)
        self._ask_all(_batches(lost, batch_size))

    def _measure(self, batches: list[NDArray[np.int64]], budget_s: float) -> tuple[int, float, float]:
        """How many batches were asked to measure the speed, the speed in advices a second, and the seconds it took.

        The first batch also warms up what the later ones share; where it leaves half of the budget the second counts.
        """
        _, first_s = self._ask(batches[0])
        if len(batches) == 1 or first_s > budget_s / 2:
            return 1, len(batches[0]) / first_s, first_s
        _, second_s = self._ask(batches[1])
        return 2, len(batches[1]) / second_s, first_s + second_s

    def _ask_all(self, pending: list[NDArray[np.int64]]) -> None:
        """Ask batch after batch, but those that another process has stored meanwhile.

        If another process asks the same batches, this one continues from the other end, so that they meet.
        """
        left, from_the_end = deque(pending), False
        total = sum(map(len, pending))
        elsewhere: list[int] = []
        while left:
            batch = left.pop() if from_the_end else left.popleft()
            if self._singly:
                elsewhere += self._ask_singly(batch, wait=False)
                self._tell(sum(map(len, left)), total)
                continue
            if self._store.answers(self._advisor.identity).keys() >= set(batch.tolist()):
                continue
            new, _ = self._ask(batch)
            from_the_end ^= new == 0
            self._tell(sum(map(len, left)), total)
        if elsewhere:
            self._ask_singly(np.array(elsewhere, np.int64), wait=True)

    def _tell(self, to_go: int, total: int) -> None:
        speed = self.speed or 0.0
        self._told = {
            "fraction_done": 1.0 - to_go / total,
            "advices_per_s": speed,
            "seconds_left": to_go / speed if speed else None,
        }
        self._progress(self._told)

    def _ask_singly(self, situations: NDArray[np.int64], *, wait: bool) -> list[int]:
        """Ask about situations one by one; returns those that another process is asking about, unless told to `wait`
        for it."""
        scorer: Any = self._loaded()
        if self._single is None:
            self._single = SingleAsking(scorer, self._store, lambda: self._progress(self._told) if self._told else None)
        began, before = time.perf_counter(), len(self._single.asked)
        try:
            if wait:
                self._single.finish(situations.tolist())
                return []
            return self._single.ask(situations.tolist())
        finally:
            self.seconds += time.perf_counter() - began
            self.asked_now += len(self._single.asked) - before

    def verify(self) -> None:
        """See that what answered is still the model it was; answers of another one are dropped."""
        if self._single is None or not self._single.asked:
            return
        scorer: Any = self._loaded()
        try:
            scorer.verify()
        except ModelChanged:
            self._store.drop(self._advisor.identity, self._single.asked)
            raise
        except UserError as error:
            self._say(f"{self._advisor.name} could not be compared with its fingerprint after the asking: {error}")

    def _ask(self, batch: NDArray[np.int64]) -> tuple[int, float]:
        """Ask one batch and store it: how many of its answers were new, and the seconds it took."""
        if self._singly:
            began = time.perf_counter()
            self._ask_singly(batch, wait=True)
            return len(batch), max(time.perf_counter() - began, 1e-9)
        scorer = self._loaded()
        began = time.perf_counter()
        scores = checked_scores(scorer, batch)
        new = self._store.put(self._advisor.identity, batch, scores.astype(np.float32))
        seconds = max(time.perf_counter() - began, 1e-9)
        self.seconds += seconds
        self.asked_now += len(batch)
        return new, seconds

    def _own_batch_size(self) -> int:
        """How many situations the model wants to be asked at once; `FEW` for one that does not say."""
        return int(getattr(self._loaded(), "batch_size", FEW))

    def _loaded(self) -> Advisor:
        if self._scorer is None:
            began = time.perf_counter()
            self._say(getattr(self._advisor, "loading", f"loading {self._advisor.name}"))
            self._scorer = self._advisor.load()
            self.load_s = time.perf_counter() - began
            if self._scorer.identity != self._advisor.identity:
                raise UserError(
                    f"The language model {self._advisor.name} is not the one it was when this run began: its files or "
                    f"prompts have changed since. Start again."
                )
        return self._scorer

    def say_little_falls_on_the_labels(self, mass: float) -> None:
        """The line about a model that would rather say something else."""
        self._say(
            f"only {mass:.1%} of the probability of {self._advisor.name} falls on the answer labels (floor "
            f"{LABEL_MASS_FLOOR:.0%}): it would usually say something else, so its ranking of the labels means little"
        )

    def say_what_abstains(self, abstained: int, alike: int, n: int) -> None:
        """The lines about answers that are not whole, and those that prefer nothing."""
        for what, count in (
            ("did not tell the log-probability of every label", abstained),
            ("prefers no label", alike),
        ):
            if count:
                self._say(f"{self._advisor.name} {what} in {count:,} of {n:,} situations: the advice abstains there")

    def say_nothing_was_asked(self, count_k: int, rounds: list[Round]) -> None:
        """The line of a run that found everything in the store."""
        line = f"asked the model nothing: {count_k:,} of {len(self._order):,} situations are in the store"
        spent = sum(planned.budget_s for planned in rounds)
        if count_k < len(self._order):
            line += f", the budget of {spent:.0f} s of earlier runs"
            line += "; --extend-advice asks for more"
        self._say(line)


def _table(
    advisor: ModelAdvisor, situations: NDArray[np.int64], raw: Float32, calibrate: bool
) -> tuple[AdviceTable, int]:
    """The answers to these situations, frozen, and how many of them prefer no label."""
    probabilities = np.zeros((N_SITUATIONS, N_ACTIONS), np.float32)
    covered = np.zeros(N_SITUATIONS, bool)
    alike = 0
    if len(situations):
        served = served_scores(raw, situations, calibrate=calibrate)
        alike = int(undecided(served).sum())
        probabilities[situations] = decided_shares(served)
        covered[situations] = True
    return freeze_table(probabilities, covered, advisor.name, advisor.identity), alike


def _batches(situations: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    return [situations[start : start + batch_size] for start in range(0, len(situations), batch_size)]


def _time_for(n: int, planned: Round) -> str:
    return clock_time(n / planned.advices_per_s if planned.advices_per_s else 0.0)


def _ignore(_: Any) -> None:
    return None
