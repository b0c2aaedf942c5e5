"""How a model's chat template frames instructions and question: three constant pieces of text.

The template is rendered once, in a limited process (`template_worker`), with two marks in the places of the texts. From
then on a prompt is a concatenation. So the template's clock is fixed, the instructions are proven to arrive, and no
situation can make the template behave differently.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from src.errors import ConfigError

WORKER: Final = Path(__file__).with_name("template_worker.py")
CPU_LIMIT_S: Final = 10
WALL_LIMIT_S: Final = 120.0
"""For a machine so busy that ten seconds of processor time take minutes."""
MEMORY_LIMIT_BYTES: Final = 1 << 30
MAX_CHARS: Final = 200_000

_THOUGHTS: Final[tuple[tuple[str, str], ...]] = (
    (r"<(?P<name>[\w:-]*(?:think|thought|reason)[\w:-]*)>", "</{name}>"),
    (r"\[(?P<name>THINK)\]", "[/{name}]"),
    (r"<\|begin_of_(?P<name>thought)\|>", "<|end_of_{name}|>"),
    (r"<\|START_(?P<name>THINKING)\|>", "<|END_{name}|>"),
    (r"◁(?P<name>think)▷", "◁/{name}▷"),
)
"""How templates open a thought, and how the model would close it."""
_HARMONY_FINAL: Final = "<|channel|>final<|message|>"
_CHANNEL_FINALS: Final[tuple[tuple[str, str], ...]] = (
    (r"<\|channel\|>(?:analysis|commentary)<\|message\|>[^<]*$", f"<|end|><|start|>assistant{_HARMONY_FINAL}"),
    (r"<\|channel\|>final<\|message\|>$", ""),
    (r"<\|channel\|>final$", "<|message|>"),
    (r"<\|channel\|>$", "final<|message|>"),
    (r"<\|channel>(?:thought)?\s*$", "<channel|>"),
)
"""How templates open a channel, and what takes the model to the one in which it answers."""


@dataclass(frozen=True)
class ChatSource:
    """A model's chat template and the special tokens it may print, as its files declare them; None without one."""

    template: str | None = None
    tokens: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ChatFormat:
    """before + instructions + between + question + after; the answer follows.

    `folded`: the template has no place for instructions, which stand at the head of the user's message.
    `closed`: what was added to end a thought or a channel that the template opens.
    """

    before: str
    between: str
    after: str
    folded: bool = False
    closed: str = ""

    def text(self, system: str, user: str) -> str:
        """A whole prompt."""
        return f"{self.before}{system}{self.between}{user}{self.after}"


def chat_format(source: ChatSource, model_name: str, samples: Sequence[tuple[str, str]]) -> ChatFormat | None:
    """The format of a template, None without one. `samples`: (instructions, question) to compare with what the template
    itself makes of them.

    Raises ConfigError for a template that cannot be read, does not end, takes too much memory, reaches for what it must
    not touch, loses or changes its texts, or opens a thought that nothing here can close.
    """
    if not source.template:
        return None
    tokens = tuple(sorted(source.tokens.items()))
    found = _rendered(source.template, tokens, tuple(samples), CPU_LIMIT_S)
    if isinstance(found, str):
        raise _unusable(model_name, found)
    return answering(found, source.template, model_name)


@lru_cache(maxsize=32)
def _rendered(
    template: str, tokens: tuple[tuple[str, str], ...], samples: tuple[tuple[str, str], ...], cpu_s: int
) -> ChatFormat | str:
    """What the limited process found: the pieces, or why there are none."""
    mark = hashlib.sha256(template.encode("utf-8", "replace")).hexdigest()[:16]  # no template holds its own hash
    order = {
        "template": template,
        "tokens": dict(tokens),
        "marks": [f"Instructions {mark}.", f"Question {mark}."],
        "samples": samples,
        "cpu_s": cpu_s,
        "memory_bytes": MEMORY_LIMIT_BYTES,
        "max_chars": MAX_CHARS,
    }
    command = [sys.executable, "-P", str(WORKER)]
    try:
        answer = subprocess.run(
            command, input=json.dumps(order), capture_output=True, text=True, encoding="utf-8", timeout=WALL_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return f"it does not end within {WALL_LIMIT_S:.0f} s"
    if answer.returncode < 0:
        return f"it does not end within {cpu_s} s of processor time"
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"it takes more than {MEMORY_LIMIT_BYTES / 2**20:.0f} MiB of memory" if "MemoryError" in last else last
    found: dict[str, Any] = json.loads(answer.stdout)
    return str(found["refused"]) if "refused" in found else ChatFormat(**found)


def answering(found: ChatFormat, template: str, model_name: str) -> ChatFormat:
    """The format with every thought and channel that it opens closed, so that what follows is the answer."""
    after = found.after
    for opening, closing in _THOUGHTS:
        opened = list(re.finditer(opening, after))
        if opened and (end := closing.format(name=opened[-1]["name"])) not in after[opened[-1].end() :]:
            gap = "\n" if after.endswith("\n") else "\n\n"
            return replace(found, after=f"{after}{gap}{end}\n\n", closed=end)
    for opening, closing in _CHANNEL_FINALS:
        if re.search(opening, after):
            return replace(found, after=after + closing, closed=closing)
    if after.endswith("<|start|>assistant") and "<|channel|>" in template:  # the model would choose a channel itself
        return replace(found, after=after + _HARMONY_FINAL, closed=_HARMONY_FINAL)
    channel = re.search(r"<\|?channel\|?>.*$", after, re.DOTALL)
    if channel and not after.rstrip().endswith("<channel|>"):
        raise _unusable(model_name, f"it opens a channel ({channel.group()[:40]!r}) that is not the answer's")
    return found


def closed_thought(text: str) -> str:
    """What an answer that begins with an opened thought is replaced by: the same tag around nothing; "" where the text
    opens none."""
    for opening, closing in _THOUGHTS:
        if found := re.match(rf"\s*({opening})", text):
            return f"{found[1]}\n\n{closing.format(name=found['name'])}\n\n"
    return ""


def may_think(source: ChatSource) -> bool:
    """Whether a template speaks of thoughts at all: a model that has one may begin its answers with a thought."""
    return bool(source.template and re.search("think|thought|reason", source.template, re.IGNORECASE))


def _unusable(model_name: str, reason: str) -> ConfigError:
    return ConfigError(
        f"llm.model {model_name} has a chat template that cannot be used: {reason}. Fix the template "
        f"(chat_template.jinja or tokenizer_config.json), or choose another model."
    )
