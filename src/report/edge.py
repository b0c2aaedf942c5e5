"""Report section `edge`: does RL alone know anything about the market, and is it costs that hide it?

After costs an arm beats random trading by trading less, whatever it knows. Before costs it does not. So the contrast
with random trading is taken both ways, and what would have to change is computed: costs, sessions, timesteps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from src.agent.members import ArmName, Training
from src.evaluation.seeds import SeededResults
from src.report.conclusions import EXPLORATORY, contrast_entry
from src.report.model.arms import Contrast
from src.report.model.edge import Edge
from src.statistics.intervals import paired_interval
from src.statistics.samples import DETECTABLE, sessions_needed
from src.wording import percent, plain, signed_usd, usd, usd_per_session

EARNS: Final = "earns"
LOSES_TO_COSTS: Final = "loses to costs"
TOO_LITTLE: Final = "learns too little"
SAVES_COSTS: Final = "saves costs"
NOTHING_SHOWN: Final = "learns nothing"
CANNOT_TELL: Final = "cannot tell"


def before_costs(sealed: SeededResults, seed: int) -> dict[str, Any]:
    """RL alone less random trading before commission and slippage, as a contrast; not adjusted for the others."""
    difference = sealed.gross_usd(ArmName.RL_ONLY) - sealed.gross_usd(ArmName.RANDOM_LEGAL)
    found = paired_interval(difference, seed=seed)
    return contrast_entry(ArmName.RL_ONLY, ArmName.RANDOM_LEGAL, EXPLORATORY, found)


@dataclass(frozen=True)
class Trend:
    """The base policy along its training, on validation sessions: timesteps trained, and US dollars a session more with
    each quarter of them; `low` and `high` are None where there is no interval."""

    timesteps: int
    slope_usd: float
    low_usd: float | None = None
    high_usd: float | None = None


def trend_of(still_learning: Mapping[str, Any] | None) -> Trend | None:
    """From the section of the report; None where it has no slope of the base training."""
    base = ((still_learning or {}).get("trainings") or {}).get(Training.BASE)
    if base is None or base["slope_usd"] is None:
        return None
    return Trend(base["timesteps"][-1], base["slope_usd"], base["low_usd"], base["high_usd"])


def edge_facts(
    before: Mapping[str, Any], after: Mapping[str, Any], gross_usd: float, net_usd: float, trend: Trend | None
) -> dict[str, Any]:
    """The section: both contrasts with random trading, RL alone's means per session before and after costs, the cause,
    and what would have to change."""
    is_better_before = Contrast(**before).sign > 0
    is_better_after = Contrast(**after).sign > 0
    if before["low_usd"] is None:
        cause = CANNOT_TELL
    elif is_better_before:
        cause = EARNS if net_usd > 0.0 else LOSES_TO_COSTS if gross_usd > 0.0 else TOO_LITTLE
    else:
        cause = SAVES_COSTS if is_better_after else NOTHING_SHOWN
    mean, detectable = before["mean_usd"], before["minimum_detectable_usd"]
    needed = None
    if mean is not None and mean > 0.0 and detectable:
        needed = sessions_needed(mean, detectable * before["sessions"] ** 0.5 / DETECTABLE)
    return {
        "cause": cause,
        "before_costs": dict(before),
        "gross_usd_per_session": gross_usd,
        "net_usd_per_session": net_usd,
        "costs_factor": gross_usd / (gross_usd - net_usd) if gross_usd > 0.0 and gross_usd > net_usd else None,
        "sessions_needed": needed,
        "timesteps_more": timesteps_more(net_usd, trend),
        "trend": None
        if trend is None
        else {"timesteps": trend.timesteps, "slope_usd": trend.slope_usd, "low_usd": trend.low_usd}
        | {"high_usd": trend.high_usd},
    }


def timesteps_more(net_usd: float, trend: Trend | None) -> int | None:
    """Base timesteps after which a loss per session would be gone if each quarter of the training went on adding the
    same; None without a loss or a rise."""
    if net_usd >= 0.0 or trend is None or trend.slope_usd <= 0.0:
        return None
    return math.ceil(-net_usd / trend.slope_usd * trend.timesteps / 4.0)


def edge_words(edge: Edge) -> str:
    """The cause in a sentence, with its figures."""
    contrast = edge.before_costs
    gross, net = edge.gross_usd_per_session, edge.net_usd_per_session
    means = f"It makes {usd(gross)}/session before costs of {usd(gross - net)}, {usd(net)} after them"
    if contrast.mean_usd is None or contrast.low_usd is None or contrast.high_usd is None:
        return f"cannot tell ({contrast.reason}). {means}"
    bounds = usd_per_session(contrast.mean_usd, contrast.low_usd, contrast.high_usd, contrast.level_frac)
    said = {
        EARNS: "it learns and earns: rl_only picks better trades than random_legal",
        LOSES_TO_COSTS: "it learns but loses to costs: rl_only picks better trades than random_legal",
        TOO_LITTLE: "it learns too little: rl_only picks better trades than random_legal, but no good ones",
        SAVES_COSTS: "it saves costs and nothing else is shown: rl_only trades less than random_legal, not better",
        NOTHING_SHOWN: "no learning is shown: rl_only picks no better trades than random_legal",
    }
    return f"{said[edge.cause]} ({bounds} before costs). {means}"


def change_words(edge: Edge) -> str:
    """What would have to change for RL alone to earn after costs, each with how much; "" where it earns."""
    if edge.cause == EARNS:
        return ""
    return "; ".join([_costs_words(edge), _sessions_words(edge), _timesteps_words(edge)])


def _costs_words(edge: Edge) -> str:
    gross, paid = edge.gross_usd_per_session, edge.gross_usd_per_session - edge.net_usd_per_session
    if edge.costs_factor is None:
        loses = f"it makes {usd(gross)}/session before them"
        return f"costs: no cut is enough, {loses}"
    if edge.costs_factor >= 1.0:
        return f"costs: none, they could rise by {percent(edge.costs_factor - 1.0)}"
    return f"costs: down by {percent(1.0 - edge.costs_factor)}, from {usd(paid)} to {usd(gross)}/session"


def _sessions_words(edge: Edge) -> str:
    contrast = edge.before_costs
    if edge.sessions_needed is None:
        return f"sessions: more would confirm no edge, the observed one is {signed_usd(contrast.mean_usd)} before costs"
    observed = f"the observed {signed_usd(contrast.mean_usd)} before costs"
    if edge.sessions_needed <= contrast.sessions:
        return f"sessions: {plain(contrast.sessions)} are enough for {observed}"
    return (
        f"sessions: about {plain(edge.sessions_needed)} to confirm {observed}, {plain(contrast.sessions)} were sealed"
    )


def _timesteps_words(edge: Edge) -> str:
    trend = edge.trend
    if trend is None:
        return "timesteps: no slope was measured"
    slope = f"{signed_usd(trend.slope_usd)}/session"
    if trend.low_usd is not None and trend.high_usd is not None:
        slope = usd_per_session(trend.slope_usd, trend.low_usd, trend.high_usd)
    slope = f"the slope is {slope} per quarter of {plain(trend.timesteps)}"
    if edge.timesteps_more is None:
        return (
            f"timesteps: none would help, {slope}" if trend.slope_usd <= 0.0 else f"timesteps: no more needed, {slope}"
        )
    shown = "" if trend.low_usd is not None and trend.low_usd > 0.0 else " (not shown to be above zero)"
    return f"timesteps: about {plain(edge.timesteps_more)} more if {slope} and stays so{shown}"


def means_of(sealed: SeededResults) -> tuple[float, float]:
    """RL alone's mean P&L per session over seeds, before and after costs."""
    return float(sealed.gross_usd(ArmName.RL_ONLY).mean()), float(sealed.net_usd(ArmName.RL_ONLY).mean())
