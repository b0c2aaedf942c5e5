"""What a run keeps in its feature cache, and what its hit rate means.

Two things are expensive: answers of a language model, and features that the user's own environments compute. Rows of
the market's tables are not: reading one takes less time than looking it up.
"""

from __future__ import annotations

from typing import Any

from src.advisor.choose import LanguageModel
from src.runs.bench import Bench


def cache_facts(bench: Bench) -> dict[str, Any]:
    """Section `cache` of the report: counts, the rate (None where nothing was looked up), what it means in words."""
    stats = bench.cache.get_stats()
    return {**stats, "hit_rate": bench.cache_hit_rate(), "words": _words(bench, stats)}


def _words(bench: Bench, stats: dict[str, float]) -> str:
    hits, lookups = int(stats["hits"]), int(stats["hits"] + stats["misses"])
    if not bench.config.performance.cached_llm_features:
        return "not measured: performance.cached_llm_features is false, so nothing is kept"
    if not lookups:
        return f"not measured: nothing expensive was looked up ({_why_nothing(bench)})"
    return (
        f"{hits:,} of {lookups:,} lookups hit: answers that the language model had already given, in this run or an "
        "earlier one, and features that your environments had already computed. A miss asked the model or computed them"
    )


def _why_nothing(bench: Bench) -> str:
    if bench.market is None:
        return "your environments take no feature_cache"
    if isinstance(bench.advisor, LanguageModel):
        return "no situation was tabulated"
    return "rules give the advice, and table rows are read directly"
