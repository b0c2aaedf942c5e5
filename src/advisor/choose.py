"""From the `llm` section to the advisor it names."""

from __future__ import annotations

from src.advisor.mock import MockAdvisor
from src.advisor.settings import LLMSettings
from src.advisor.table import Advisor


def make_advisor(settings: LLMSettings) -> Advisor:
    """The advisor of `llm.model`."""
    return {"mock": MockAdvisor}[settings.model]()
