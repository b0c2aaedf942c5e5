"""How one server is asked for the log-probabilities of labels, found out once by trying.

The routes, best first: *prompt* has the server score the prompt with each label behind it (echo, as vLLM does); *top*
reads the likeliest first tokens of a completion and asks for a label outside them by itself where the server can be
made to say it (llama.cpp); *chat* reads the likeliest first tokens of a chat message. What none of them tells is
missing, NaN, and never zero.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, Final, Literal

import numpy as np

from src.advisor.chat_format import ChatFormat, ChatSource, answering
from src.advisor.encoding import PromptTexts, common_length
from src.advisor.endpoint_answers import FirstTokens, Token, echoed, first_tokens, label_logprobs
from src.advisor.endpoint_http import Server, ServerRefused
from src.advisor.endpoint_url import host_of
from src.advisor.prompts import PromptSet
from src.advisor.table import Float32
from src.errors import ConfigError
from src.trading.layout import N_ACTIONS, N_SIDES

TOP_K: Final = (2000, 100, 20, 5)
"""How many likeliest tokens are asked for: the first number that the server takes."""
TOP_K_CHAT: Final = (20, 5)
FORCED_ALIKE: Final = 0.1
"""A log-probability that is asked for by itself may differ by this much from the one among the likeliest."""
_BIAS: Final = 100
_NO_THOUGHT: Final = {"chat_template_kwargs": {"enable_thinking": False}}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """The token that stands for a label: its text, and its number where the server tells numbers."""

    text: str
    code: int | None = None


Pieces = tuple[dict[int, Piece], ...]
"""By side, the piece of each action's label; an action without one is missing always."""


@dataclass(frozen=True)
class Route:
    """What is asked, and how; it is kept in the store and decides every number that comes back."""

    kind: Literal["prompt", "top", "chat"]
    chat: ChatFormat | None = None
    """Of the prompts; None: plain text, or (route *chat*) the server's own, unseen."""
    top_k: int = 0
    forces: bool = False
    """A label outside the likeliest tokens is asked for by itself."""
    pieces: Pieces = ()
    leads: tuple[str, ...] = ()
    """By side, the text that all labels begin with; it is appended to the prompt."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further fields of each request."""

    def to_json(self) -> str:
        """As the store keeps it."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Route:
        """The route that `to_json` wrote."""
        facts = json.loads(text)
        chat = None if facts["chat"] is None else ChatFormat(**facts["chat"])
        pieces = tuple({int(action): Piece(**piece) for action, piece in side.items()} for side in facts["pieces"])
        return cls(facts["kind"], chat, facts["top_k"], facts["forces"], pieces, tuple(facts["leads"]), facts["extra"])


@dataclass(frozen=True)
class Answer:
    """To one situation: log-probabilities float32[6], NaN for a label that the server did not tell, -inf for what is no
    label of its side."""

    scores: Float32
    fingerprint: str = ""
    thought: bool = False
    """The model began with a thought: all its labels are missing."""
    forced: int = 0
    """Labels that were asked for by themselves."""


class Questions:
    """Asks one server about situations along a route."""

    def __init__(self, server: Server, model: str, prompts: PromptSet, route: Route) -> None:
        self._server = server
        self._model = model
        self._prompts = prompts
        self.route = route
        self._texts = PromptTexts(ChatSource(), prompts, model, known=route.chat)

    @property
    def sha256(self) -> str:
        """Hash of the prompts as they are sent."""
        digest = hashlib.sha256(self._texts.sha256.encode())
        digest.update(json.dumps([self.route.kind, self.route.extra], sort_keys=True).encode())
        return digest.hexdigest()

    def ask(self, situation: int, *, trying: bool = False) -> Answer:
        """The answer to one situation. ServerRefused, ServerLost as `Server.request`; `trying` likewise."""
        if self.route.kind == "prompt":
            return self._by_prompt(situation, trying)
        found = self.first(situation, trying=trying)
        scores = _unknown(self._prompts, situation)
        if found.opens_a_thought:
            return Answer(scores, found.fingerprint, thought=True)
        forced = 0
        for action, piece in self.pieces(situation).items():
            token = token_of(piece, found)
            if token is None and self.route.forces and piece.code is not None:
                token, forced = self.forced(situation, piece.code), forced + 1
            if token is not None:
                scores[action] = token.logprob
        return Answer(scores, found.fingerprint, forced=forced)

    def first(self, situation: int, *, trying: bool = False) -> FirstTokens:
        """The likeliest first tokens of the answer to a situation.

        Where a token can be forced, it is a label's: a server tells nothing of a token that is half a character.
        """
        path, body = self._request(situation, self.route.top_k)
        if self.route.forces:
            first = next(iter(self.pieces(situation).values()))
            body["logit_bias"] = {str(first.code): _BIAS}
        return self._server.request(path, body, first_tokens, trying=trying)

    def forced(self, situation: int, code: int, *, trying: bool = False) -> Token | None:
        """A token by its number, with its log-probability; None where the server generated another one."""
        path, body = self._request(situation, 1)
        body["logit_bias"] = {str(code): _BIAS}
        chosen = self._server.request(path, body, first_tokens, trying=trying).chosen
        return chosen if chosen.code == code else None

    def _by_prompt(self, situation: int, trying: bool) -> Answer:
        labels = self._prompts.labels(situation % N_SIDES)
        texts = self.answered(situation)
        body = {"prompt": texts, "max_tokens": self.route.top_k, "echo": True, "logprobs": 1, **self._always()}

        def read(answer: Any) -> tuple[list[float], str]:
            values = label_logprobs(echoed(answer, len(texts)), texts)
            return values, str(answer.get("system_fingerprint") or "")

        values, fingerprint = self._server.request("/completions", body, read, trying=trying)
        scores = _unknown(self._prompts, situation)
        scores[[action for action, _ in labels]] = values
        return Answer(scores, fingerprint)

    def answered(self, situation: int) -> list[str]:
        """The prompt with each label of its side behind it."""
        space = "" if self.route.chat else " "
        return [
            f"{self._texts.text(situation)}{space}{label}" for _, label in self._prompts.labels(situation % N_SIDES)
        ]

    def text(self, situation: int) -> str:
        """The prompt itself, with what all labels of its side begin with."""
        lead = self.route.leads[situation % N_SIDES] if self.route.leads else ""
        return self._texts.text(situation) + lead

    def pieces(self, situation: int) -> dict[int, Piece]:
        """The token of each label of the situation's side."""
        return self.route.pieces[situation % N_SIDES]

    def _request(self, situation: int, top_k: int) -> tuple[str, dict[str, Any]]:
        if self.route.kind == "chat":
            messages = _messages(self._prompts.system, self._prompts.situation_text(situation))
            asked = {"messages": messages, "max_tokens": 1, "logprobs": True, "top_logprobs": top_k}
            return "/chat/completions", {**asked, **self._always()}
        return "/completions", {"prompt": self.text(situation), "max_tokens": 1, "logprobs": top_k, **self._always()}

    def _always(self) -> dict[str, Any]:
        return {"model": self._model, "temperature": 0, **self.route.extra}


def token_of(piece: Piece, found: FirstTokens) -> Token | None:
    """The piece among the likeliest tokens; by number where both have one, else by text."""
    for token in (*found.likeliest, found.chosen):
        if piece.code is not None and token.code is not None:
            if token.code == piece.code:
                return token
        elif token.text == piece.text:
            return token
    return None


def find_route(server: Server, model: str, prompts: PromptSet, samples: Sequence[int], *, chat: bool) -> Route:
    """The best route that the server can be asked on, tried with the situations `samples` (of every side).

    `chat`: in the server's chat format; False: as plain text. ConfigError where it tells no log-probabilities, where
    the model thinks before it answers, and where its tokens cannot tell the labels apart.
    """
    reasons: list[str] = []

    def questions(route: Route) -> Questions:
        return Questions(server, model, prompts, route)

    format_, fields = _rendered(server, model) if chat else (None, {})
    if format_ is not None or not chat:
        base = Route("prompt", format_, extra=fields)
        for max_tokens in (0, 1):
            route = replace(base, top_k=max_tokens)
            if _works(lambda route=route: questions(route).ask(samples[0], trying=True), reasons, "echo"):  # type: ignore[misc]
                first = questions(replace(base, kind="top", top_k=1)).first(samples[0])
                return _without_thought(route, first) or route
        if (found := _with_likeliest(questions, replace(base, kind="top"), TOP_K, samples, reasons)) is not None:
            return _with_pieces(server, model, prompts, *found, samples)
    if chat:
        for extra in (_NO_THOUGHT, {}):
            route = Route("chat", extra=dict(extra))
            if (found := _with_likeliest(questions, route, TOP_K_CHAT, samples, reasons)) is not None:
                return _with_pieces(server, model, prompts, *found, samples)
    raise ConfigError(
        f"llm.endpoint {host_of(server.url)} tells no log-probabilities of {model}, neither of a prompt nor of first "
        f"tokens ({reasons[-1] if reasons else 'nothing could be tried'}). Use a server that does (vLLM, llama.cpp), "
        f"or switch them on."
    )


def _works(attempt: Callable[[], Any], reasons: list[str], what: str) -> bool:
    try:
        attempt()
    except ServerRefused as error:
        if error.status in (401, 403) or 300 <= error.status < 400:
            raise
        reasons.append(str(error))
        logger.info("the server has no route by %s: %s", what, error)
        return False
    return True


def _rendered(server: Server, model: str) -> tuple[ChatFormat | None, dict[str, Any]]:
    """The server's chat format as three pieces of text, and what a request in it needs besides; None where the server
    does not render (then only its chat route knows it)."""
    marks = [hashlib.sha256(name.encode()).hexdigest()[:16] for name in ("instructions", "question")]
    messages = _messages(*marks)

    def prompt(answer: Any) -> str:
        if not isinstance(answer["prompt"], str):
            raise ValueError("no text")
        return answer["prompt"]

    def llama_cpp() -> str:
        return server.request("/apply-template", {"messages": messages}, prompt, native=True, trying=True)

    def vllm() -> str:
        body = {"model": model, "messages": messages, "add_generation_prompt": True}
        tokens = server.request("/tokenize", body, lambda answer: list(answer["tokens"]), native=True, trying=True)
        body = {"model": model, "tokens": tokens}
        return server.request("/detokenize", body, prompt, native=True, trying=True)

    for render, extra in ((llama_cpp, {}), (vllm, {"add_special_tokens": False})):
        found: list[str] = []
        if _works(lambda render=render, found=found: found.append(render()), [], "its own chat format"):  # type: ignore[misc]
            (text,) = found
            if any(text.count(mark) != 1 for mark in marks) or text.index(marks[0]) > text.index(marks[1]):
                raise ConfigError(
                    f"llm.endpoint {host_of(server.url)}: the chat template of {model} loses or changes the "
                    f"instructions or the question. Give the server another template, or set llm.endpoint_chat to "
                    f"false."
                )
            before, rest = text.split(marks[0])
            between, after = rest.split(marks[1])
            return answering(ChatFormat(before, between, after), text, model), extra
    return None, {}


def _with_likeliest(
    questions: Callable[[Route], Questions],
    route: Route,
    top_ks: Sequence[int],
    samples: Sequence[int],
    reasons: list[str],
) -> tuple[Route, int] | None:
    """The route with the largest number of likeliest tokens that the server takes, and a sample that it answered so."""
    for top_k in top_ks:
        route = replace(route, top_k=top_k)
        for sample in samples:
            before = len(reasons)
            if _works(partial(questions(route).first, sample, trying=True), reasons, route.kind):
                return route, sample
            if not reasons[before:] or "HTTP" in reasons[-1]:
                break  # it does not take the request; another sample would not help
    return None


def _with_pieces(
    server: Server, model: str, prompts: PromptSet, route: Route, answered: int, samples: Sequence[int]
) -> Route:
    """The route with the token of each label, the sample `answered` being one that the server answers on it.

    ConfigError for a model that thinks before it answers.
    """
    questions = Questions(server, model, prompts, route)
    cut = _tokenized(server, model, prompts, questions, samples) if route.kind == "top" else None
    if cut is not None:
        route = replace(route, pieces=cut[0], leads=cut[1])
        route = replace(route, forces=_forces(Questions(server, model, prompts, route), samples))
        questions = Questions(server, model, prompts, route)
    seen: dict[int, FirstTokens] = {}
    for sample in samples:
        _works(lambda sample=sample: seen.update({sample: questions.first(sample, trying=True)}), [], route.kind)  # type: ignore[misc]
    if all(found.opens_a_thought for found in seen.values()):
        if (closed := _without_thought(route, seen[answered])) is not None:
            return _with_pieces(
                server, model, prompts, replace(closed, pieces=(), leads=(), forces=False), answered, samples
            )
        raise ConfigError(
            f"{model} on {host_of(server.url)} begins every answer with a thought "
            f"({seen[answered].likeliest[0].text!r}), so its first token is no answer. Start the server with thinking "
            f"switched off, or choose a model that answers at once."
        )
    if cut is None:
        space = "" if route.chat or route.kind == "chat" else " "
        route = replace(route, pieces=_seen_pieces(prompts, seen, space))
    return route


def _without_thought(route: Route, found: FirstTokens) -> Route | None:
    """The route with an empty thought at the end of the prompt, where the model would begin with one; None where it
    would not, where the thought is closed already, or nothing here can close it."""
    tag = re.fullmatch(r"\s*<(\w*(?:think|thought|reason)\w*)>\s*", found.likeliest[0].text if found.likeliest else "")
    if route.chat is None or route.chat.closed or tag is None:
        return None
    closed = f"<{tag[1]}>\n\n</{tag[1]}>\n\n"
    return replace(route, chat=replace(route.chat, after=route.chat.after + closed, closed=closed))


def _tokenized(
    server: Server, model: str, prompts: PromptSet, questions: Questions, samples: Sequence[int]
) -> tuple[Pieces, tuple[str, ...]] | None:
    """The first token in which each label differs from the others, with its number, and by side what the labels share
    before it, as the server cuts prompt and label; None where it does not tell."""

    def read(answer: Any) -> list[Piece]:
        return [Piece(str(each["piece"]), int(each["id"])) for each in answer["tokens"]]

    def cut(text: str) -> list[Piece]:
        body = {"model": model, "content": text, "with_pieces": True, "add_special": True, "parse_special": True}
        return server.request("/tokenize", body, read, native=True, trying=True)

    by_side: list[dict[int, Piece]] = []
    leads: list[str] = []
    try:
        for side in range(N_SIDES):
            situation = next(situation for situation in samples if situation % N_SIDES == side)
            text, labels = questions.text(situation), prompts.labels(side)
            alone = cut(text)
            answers = [cut(answered) for answered in questions.answered(situation)]
            shared = common_length(answers)
            lead = "".join(piece.text for piece in answers[0][len(alone) : shared])
            first = [tokens[shared] if len(tokens) > shared else None for tokens in answers]
            reaches_back = common_length([alone, *answers]) < len(alone)
            if reaches_back or None in first or len(set(first)) < len(first):
                raise ConfigError(
                    f"the tokenizer of {model} on {host_of(server.url)} cannot tell the answers "
                    f"{', '.join(label for _, label in labels)} apart by a token. Choose another model, or change the "
                    f"words in config/prompts/{prompts.name}.yaml."
                )
            if cut(text + lead) != answers[0][:shared]:
                return None
            leads.append(lead)
            by_side.append({action: piece for (action, _), piece in zip(labels, first, strict=True) if piece})
    except ServerRefused as error:
        logger.info("the server does not cut texts into tokens: %s", error)
        return None
    return tuple(by_side), tuple(leads)


def _seen_pieces(prompts: PromptSet, seen: Mapping[int, FirstTokens], space: str) -> Pieces:
    """Each label's token from what the samples were answered with: the longest one that the label, and no other label
    of its side, begins with."""
    by_side: list[dict[int, Piece]] = []
    for side in range(N_SIDES):
        words = {label for _, label in prompts.labels(side)}
        texts = {
            token.text
            for situation, found in seen.items()
            if {label for _, label in prompts.labels(situation % N_SIDES)} == words
            for token in found.likeliest
            if token.text.strip()
        }
        pieces = {}
        for action, label in prompts.labels(side):
            others = [f"{space}{other}" for other in words - {label}]
            fitting = [
                text
                for text in texts
                if f"{space}{label}".startswith(text) and not any(other.startswith(text) for other in others)
            ]
            if fitting:
                pieces[action] = Piece(max(fitting, key=len))
        by_side.append(pieces)
    if not any(by_side):
        raise ConfigError(
            "None of the answer labels is among the likeliest first tokens of any sample situation, so their "
            "log-probabilities cannot be read. Use a server that returns more of them (top_logprobs) or scores prompts "
            "(vLLM, llama.cpp), or another model."
        )
    return tuple(by_side)


def _forces(questions: Questions, samples: Sequence[int]) -> bool:
    """Whether a token asked for by itself comes back with the log-probability that it has among the likeliest."""
    for sample in samples:
        seen: list[FirstTokens] = []
        if not _works(lambda sample=sample, seen=seen: seen.append(questions.first(sample, trying=True)), [], "top"):  # type: ignore[misc]
            continue  # that one cannot be compared: its likeliest token is half a character
        known = {token.code: token.logprob for token in seen[0].likeliest[1:] if token.code is not None}
        codes = [piece.code for piece in questions.pieces(sample).values() if piece.code in known] or list(known)
        if not codes or codes[0] is None:
            return False
        found: list[Token | None] = []
        attempt = partial(questions.forced, sample, codes[0], trying=True)
        if not _works(lambda attempt=attempt, found=found: found.append(attempt()), [], "a forced token"):  # type: ignore[misc]
            return False
        return found[0] is not None and abs(found[0].logprob - known[codes[0]]) <= FORCED_ALIKE
    return False


def _messages(system: str, user: str) -> list[Mapping[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _unknown(prompts: PromptSet, situation: int) -> Float32:
    scores = np.full(N_ACTIONS, -np.inf, np.float32)
    scores[[action for action, _ in prompts.labels(situation % N_SIDES)]] = np.nan
    return scores
