"""A language model behind a server: known by a fingerprint, asked situation by situation.

The first contact finds out how the server can be asked and asks it about a fixed set of situations, twice. Route and
answers are kept in the store of advice: they are the fingerprint, and part of the key of every answer. Each later
contact asks the same set again. Another model under the same name then shows, and is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from src.advisor.endpoint_http import Server, ServerLost, ServerRefused
from src.advisor.endpoint_route import Answer, Questions, Route, find_route
from src.advisor.endpoint_url import host_of, is_loopback
from src.advisor.manner import Manner
from src.advisor.prompts import PromptSet, load_prompts
from src.advisor.settings import LLMSettings
from src.advisor.single_asking import ModelChanged
from src.advisor.situations import PROBES as PROBES
from src.advisor.store import AdviceStore, default_store_path
from src.advisor.table import LABEL_SETS, Float32
from src.errors import ConfigError
from src.trading.layout import N_ACTIONS

ENDPOINT_VERSION: Final = 1
"""Raise it with any change of how a server is asked: stored answers are then asked again."""
LEAST_CHANGE: Final = 0.02
"""Mean difference of the fingerprint's log-probabilities that counts as another model, for a server that repeats
itself; for one that does not, JITTERS times what it differs by from one asking to the next."""
JITTERS: Final = 5.0
CHECK_AGAIN_S: Final = 300.0
HEARTBEAT_S: Final = 0.5

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fingerprint:
    """What a model's server was found to be when it was first asked."""

    route: Route
    served: dict[str, Any]
    """What the server's list of models says of it."""
    software: str
    """The server's `system_fingerprint`, which names its build, not its model."""
    jitter: float
    """Mean difference between the two askings."""
    scores: tuple[tuple[float | None, ...], ...]
    """Log-probabilities of each probe, by action; None for what is missing or no label."""

    def to_json(self) -> str:
        """As the store keeps it."""
        return json.dumps({**asdict(self), "route": self.route.to_json()}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Fingerprint:
        """The fingerprint that `to_json` wrote."""
        facts = json.loads(text)
        scores = tuple(tuple(row) for row in facts["scores"])
        route = Route.from_json(facts["route"])
        return cls(route, facts["served"], facts["software"], facts["jitter"], scores)


@dataclass
class EndpointStats:
    """What was asked so far, for the report."""

    route: str = ""
    top_k: int = 0
    asked: int = 0
    situations_incomplete: int = 0
    """Answers that lack a label at least: the advice abstains there."""
    labels_missing: int = 0
    labels_asked_alone: int = 0
    thoughts: int = 0
    """Answers that begin with a thought; all their labels are missing."""
    requests: int = 0
    retries: int = 0
    limited: int = 0
    connections_lost: int = 0


@dataclass(frozen=True)
class EndpointModel:
    """A model on a server, whose fingerprint is known; it is asked nothing yet."""

    name: str
    identity: str
    settings: LLMSettings
    fingerprint: Fingerprint = field(repr=False)
    checked_at: float | None = field(default=None, repr=False, compare=False)
    """When the server was last seen to have it, by the monotonic clock; None: it could not be reached."""
    asks_singly: bool = True
    """Each answer is a request of its own, kept as it arrives."""

    @property
    def on_this_machine(self) -> bool:
        """Whether the server shares this machine's cores."""
        return is_loopback(self.settings.endpoint or "")

    @property
    def manner(self) -> Manner:
        """How the server is asked; what its tokenizer does with labels is known by their pieces alone."""
        route, prompts = self.fingerprint.route, load_prompts()
        words = [dict(prompts.labels(side)) for side in range(len(route.pieces))]
        cut = {
            of[action]: piece
            for of, pieces in zip(words, route.pieces, strict=True)
            for action, piece in pieces.items()
        }
        return Manner(
            prompt="server" if route.kind == "chat" else "plain text" if route.chat is None else "chat template",
            folded=route.chat is not None and route.chat.folded,
            closed="" if route.chat is None else route.chat.closed.strip(),
            closed_for="" if route.chat is None or not route.chat.closed else "either",
            samples=len(PROBES),
            thoughts=sum(all(value is None for value in row) for row in self.fingerprint.scores),
            split_labels=tuple(label for label, piece in cut.items() if piece.text.strip() != label),
        )

    @property
    def loading(self) -> str:
        """What is done first, in words."""
        return f"checking that {host_of(self.settings.endpoint or '')} still has {self.name}"

    def load(self) -> EndpointScorer:
        """Compare the server with the fingerprint, unless that was done just now. ModelChanged where it has another
        model, and as `Server`."""
        scorer = EndpointScorer(self, Server(self.settings), load_prompts())
        if self.checked_at is None or time.monotonic() - self.checked_at > CHECK_AGAIN_S:
            scorer.verify()
        return scorer


class EndpointScorer:
    """An `Advisor` that asks a server. A label that the server does not tell is NaN."""

    may_miss_labels = True

    def __init__(self, model: EndpointModel, server: Server, prompts: PromptSet) -> None:
        self.name, self.identity = model.name, model.identity
        self._model = model
        self._server = server
        self._questions = Questions(server, model.name, prompts, model.fingerprint.route)
        self._verifying = threading.Lock()
        self._verified_at = 0
        route = model.fingerprint.route
        self._stats = EndpointStats(route=route.kind, top_k=0 if route.kind == "prompt" else route.top_k)

    @property
    def stats(self) -> EndpointStats:
        """What was asked so far."""
        for name, count in asdict(self._server.stats).items():
            setattr(self._stats, name, count)
        return self._stats

    def score(self, situations: NDArray[np.int64]) -> Float32:
        """Log-probabilities int64[k] -> float32[k, 6]; NaN for a label that is missing, -inf for what is none."""
        asked = [int(situation) for situation in np.asarray(situations)]
        found = {answer[0]: answer[1] for answer in self.each(sorted(set(asked))) if answer is not None}
        return np.array([found[situation] for situation in asked], np.float32).reshape(-1, N_ACTIONS)

    def each(self, situations: Sequence[int]) -> Iterator[tuple[int, Float32] | None]:
        """Situations with their answers in the order of arrival; None twice a second while none arrives.

        Where the server is lost, the answers that were under way come first, then ServerLost.
        """
        lost: BaseException | None = None
        workers = self._model.settings.endpoint_concurrency
        with self._server.session(), ThreadPoolExecutor(workers, thread_name_prefix="endpoint") as pool:
            left: dict[Future[Answer], int] = {}
            queue = deque(situations)
            try:
                while left or queue:
                    while queue and len(left) < workers:  # so that no more answers than that wait to be stored
                        situation = queue.popleft()
                        left[pool.submit(self._ask, situation)] = situation
                    done, _ = wait(left, timeout=HEARTBEAT_S, return_when=FIRST_COMPLETED)
                    if not done:
                        yield None
                    for future in done:
                        situation = left.pop(future)
                        if (error := future.exception()) is None:
                            yield situation, self._counted(future.result())
                        elif lost is None:
                            lost = error
                            self._server.give_up()
                            queue.clear()
            finally:
                self._server.give_up()
        if lost is not None:
            raise lost

    def verify(self) -> None:
        """Ask the fingerprint's situations again. ModelChanged where the answers differ."""
        with self._server.session():
            _check_same(self._model, self._server, self._questions)

    def _ask(self, situation: int) -> Answer:
        answer = self._questions.ask(situation)
        if self._server.stats.connections_lost != self._verified_at:  # it may have come back with another model
            with self._verifying:
                if (lost := self._server.stats.connections_lost) != self._verified_at:
                    _check_same(self._model, self._server, self._questions)
                    self._verified_at = lost
        return answer

    def _counted(self, answer: Answer) -> Float32:
        missing = int(np.isnan(answer.scores).sum())
        self._stats.asked += 1
        self._stats.labels_missing += missing
        self._stats.situations_incomplete += missing > 0
        self._stats.labels_asked_alone += answer.forced
        self._stats.thoughts += answer.thought
        return answer.scores


def endpoint_model(settings: LLMSettings) -> EndpointModel:
    """The model that `llm.model` names on the server of `llm.endpoint`, compared with what is known of it.

    A server that cannot be reached is no error where the store knows the model: what it has answered can be used.
    ConfigError for a server or a model that cannot be used, ModelChanged for another model under the known name.
    """
    if settings.quantization != "none":
        raise ConfigError(
            f"llm.quantization is {settings.quantization}, but the weights are those of the server at llm.endpoint. "
            f"Leave llm.quantization out, and choose the precision where the server is started."
        )
    prompts = load_prompts()
    key = _name_key(settings, prompts)
    server = Server(settings)
    with AdviceStore(settings.store_path or default_store_path()) as store, server.session():
        known = [Fingerprint.from_json(text) for text in store.fingerprints(key)]
        try:
            served = _served(server, settings.model)
            refuses = settings.endpoint_changed == "refuse"
            for fingerprint in known[-1:] if refuses else reversed(known):
                model = _model(settings, prompts, fingerprint, checked=True)
                try:
                    _check_same(model, server, Questions(server, model.name, prompts, fingerprint.route), served)
                    return model
                except ModelChanged as error:
                    if refuses:
                        raise
                    logger.warning("%s", error)
            taken = _take(server, settings, prompts, served)
        except ServerLost as error:
            if not known:
                raise ConfigError(
                    f"llm.endpoint: {error}. Start the server, or fix the address; llm.endpoint_timeout_s and "
                    f"llm.endpoint_retries say how long it is waited for."
                ) from None
            logger.warning("%s. What %s has answered before is used.", error, settings.model)
            return _model(settings, prompts, known[-1])
        recorded = Fingerprint.from_json(store.add_fingerprint(key, len(known), taken.to_json()))
        return _model(settings, prompts, recorded, checked=recorded == taken)


def _name_key(settings: LLMSettings, prompts: PromptSet) -> str:
    """Under what the store keeps the fingerprints of a name; the address is no part of it, because several servers may
    have the same model."""
    facts = f"{ENDPOINT_VERSION}\0{settings.model}\0{prompts.sha256}\0{settings.endpoint_chat}"
    return hashlib.sha256(facts.encode()).hexdigest()


def _model(
    settings: LLMSettings, prompts: PromptSet, fingerprint: Fingerprint, *, checked: bool = False
) -> EndpointModel:
    facts = (ENDPOINT_VERSION, settings.model, prompts.sha256, LABEL_SETS.astype(int).tolist(), fingerprint.to_json())
    identity = hashlib.sha256("\0".join(map(str, facts)).encode()).hexdigest()
    return EndpointModel(settings.model, identity, settings, fingerprint, time.monotonic() if checked else None)


def _served(server: Server, model: str) -> dict[str, Any]:
    """What the server's list says of the model; {} where it has no list. ConfigError for a model not in it."""

    def read(answer: Any) -> list[dict[str, Any]]:
        return [dict(each) for each in answer["data"]]

    try:
        listed = server.request("/models", None, read, trying=True)
    except ServerRefused as error:
        if error.status in (401, 403) or 300 <= error.status < 400:
            raise
        return {}
    for each in listed:
        if model in (each.get("id"), *(each.get("aliases") or ())):
            meta = each.get("meta") or {}
            facts = {name: meta.get(name) for name in ("n_params", "n_vocab", "size", "ftype")} | {
                "root": each.get("root")
            }
            return {name: value for name, value in facts.items() if isinstance(value, int | float | str)}
    names = ", ".join(str(each.get("id")) for each in listed[:10]) or "none"
    raise ConfigError(
        f"llm.model is {model!r}, which llm.endpoint {host_of(server.url)} does not have. It lists: {names}. Set "
        f"llm.model to one of these names."
    )


def _take(server: Server, settings: LLMSettings, prompts: PromptSet, served: dict[str, Any]) -> Fingerprint:
    """A fingerprint of the server as it is now."""
    logger.info("finding out how %s on %s can be asked", settings.model, host_of(server.url))
    route = find_route(server, settings.model, prompts, PROBES, chat=settings.endpoint_chat)
    questions = Questions(server, settings.model, prompts, route)
    first = [questions.ask(situation) for situation in PROBES]
    second = [questions.ask(situation) for situation in PROBES]
    scores, again = (np.array([answer.scores for answer in answers], np.float64) for answers in (first, second))
    if not np.isfinite(scores).any():
        raise ConfigError(
            f"llm.endpoint {host_of(server.url)} told the log-probability of no answer label in {len(PROBES)} sample "
            f"situations: the answers lie outside the likeliest tokens it returns, or follow a thought. Use a server "
            f"that returns more of them or scores prompts (vLLM, llama.cpp), or another model."
        )
    rows = tuple(tuple(float(v) if np.isfinite(v) else None for v in row) for row in scores)
    jitter, _ = _difference(scores, again)
    logger.info(
        "%s on %s is asked by %s; asked twice, its log-probabilities differ by %.1e", settings.model,
        host_of(server.url), route.kind, jitter,
    )  # fmt: skip
    return Fingerprint(route, served, first[0].fingerprint, jitter, rows)


def _check_same(
    model: EndpointModel, server: Server, questions: Questions, served: Mapping[str, Any] | None = None
) -> None:
    """ModelChanged unless the server answers the probes as recorded."""
    known = model.fingerprint
    served = _served(server, model.name) if served is None else served
    different = {name: value for name, value in served.items() if known.served.get(name, value) != value}
    if different:
        words = ", ".join(f"{name} {known.served[name]} is now {value}" for name, value in different.items())
        raise _changed(model, f"the server's list says that {words}")
    try:
        answers = [questions.ask(situation) for situation in PROBES]
    except ServerRefused as error:
        if error.status in (401, 403):
            raise
        raise _changed(model, f"it no longer answers as it did: {error}") from None
    if answers[0].fingerprint != known.software:
        logger.info("%s: the server's software was %r and is %r", model.name, known.software, answers[0].fingerprint)
    scores = np.array([answer.scores for answer in answers], np.float64)
    recorded = np.array([[np.nan if v is None else v for v in row] for row in known.scores], np.float64)
    difference, share = _difference(recorded, scores)
    limit = max(LEAST_CHANGE, JITTERS * known.jitter)
    if difference > limit:
        raise _changed(model, f"log-probabilities of sample situations differ by {difference:.3f}, at most {limit:.3f}")
    if share < 0.5:
        raise _changed(model, "most answer labels that it told before are outside the tokens it returns now")


def _difference(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[float, float]:
    """Mean difference of the log-probabilities that both have, and how many of those of `one` they are, as a share."""
    known = np.isfinite(one)
    both = known & np.isfinite(other)
    difference = float(np.abs(one[both] - other[both]).mean()) if both.any() else 0.0
    return difference, float(both.sum() / max(1, known.sum()))


def _changed(model: EndpointModel, reason: str) -> ModelChanged:
    return ModelChanged(
        f"The server {host_of(model.settings.endpoint or '')} has another model than before under the name "
        f"{model.name}: {reason}. Serve the earlier model again; or set llm.endpoint_changed to ask_again to ask the "
        f"new one everything (the earlier answers stay); or give it a name of its own."
    )
