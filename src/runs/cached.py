"""What a run keeps in its feature cache, and what its hit rate means.

Two things are expensive: answers of a language model, and features that the user's own environments compute. Rows of
the market's tables are not: reading one takes less time than looking it up.
"""

from __future__ import annotations

from typing import Any

from src.advisor.mock import MockAdvisor
from src.runs.context import RunContext


def cache_facts(context: RunContext) -> dict[str, Any]:
    """Section `cache` of the report: counts, the rate (None where nothing was looked up), what it means in words."""
    stats = context.cache.get_stats()
    return {**stats, "hit_rate": context.cache_hit_rate(), "words": _words(context, stats)}


def _words(context: RunContext, stats: dict[str, float]) -> str:
    hits, lookups = int(stats["hits"]), int(stats["hits"] + stats["misses"])
    if not context.config.performance.cached_llm_features:
        return "not measured: performance.cached_llm_features is false, so nothing is kept"
    if not lookups:
        return f"not measured: nothing expensive was looked up ({_why_nothing(context)})"
    return (
        f"{hits:,} of {lookups:,} lookups hit: answers that the language model had already given, in this run or an "
        "earlier one, and features that your environments had already computed. A miss asked the model or computed them"
    )


def _why_nothing(context: RunContext) -> str:
    if context.market is None:
        return "your environments take no feature_cache"
    if not isinstance(context.advisor, MockAdvisor):
        return "no situation was tabulated"
    return "rules give the advice, and table rows are read directly"
