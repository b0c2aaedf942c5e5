"""How far a language model's knowledge may reach: the last day that its training data may cover.

A model may have read about any bar up to that day. Skill on such bars may be memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Final

from src.advisor.choose import BUNDLED, MOCK
from src.advisor.settings import LLMSettings

TINY: Final = "tiny"


@dataclass(frozen=True)
class Cutoff:
    """The last day that training data may cover, and how it is known."""

    day: date
    source: str


KNOWN: Final[Mapping[str, Cutoff]] = {
    # https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, folder runs/Oct31_10-14-22_ip-26-0-174-36: the last
    # event of the log is of Unix time 1730376056, 2024-10-31 12:00 UTC. The model card names no cutoff. Its web data
    # (FineWeb-Edu, DCLM) is older, so this is an upper bound: nothing later can be in the weights.
    BUNDLED: Cutoff(date(2024, 10, 31), "its training ended on that day, by the log published with its weights"),
}
"""Of the models that come with this toolkit."""


def has_memory(llm: LLMSettings) -> bool:
    """Whether the advisor was trained on anything: rules and random weights were not."""
    if llm.model == MOCK:
        return False
    return llm.endpoint is not None or llm.model != TINY or llm.knowledge_cutoff is not None


def cutoff_of(llm: LLMSettings) -> Cutoff | None:
    """The cutoff of `llm.model`: as the user states it, or as it is known; None where neither is so."""
    if not has_memory(llm):
        return None
    if llm.knowledge_cutoff is not None:
        return Cutoff(llm.knowledge_cutoff, "llm.knowledge_cutoff")
    return None if llm.endpoint is not None else KNOWN.get(llm.model)
