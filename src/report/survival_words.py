"""The survival table in sentences: where it passes, what fits, what the firms allow."""

from __future__ import annotations

from collections.abc import Sequence

from src.agent.members import ArmName
from src.report.model.accounts import Survival, SurvivalArm, SurvivalRow
from src.report.model.report import Report
from src.wording import percent, plain, usd


def automation_lines(report: Report) -> list[str]:
    """Whether the firm of the run's own profile lets a program trade; nothing where there is no firm."""
    rules = report.rules
    if rules is None or rules.automation is None:
        return []
    meaning = {
        "banned": " A pass in this simulation would not allow this agent to trade there.",
        "restricted": " Check the firm's conditions before you rely on a pass.",
        "unknown": " Ask the firm before you rely on a pass.",
    }.get(rules.automation, "")
    word = "BANNED" if rules.automation == "banned" else rules.automation
    return [f"Automation: {word} under {rules.profile}: {rules.automation_note}.{meaning}"]


def open_lines(report: Report) -> list[str]:
    """What the sources of the run's own profile leave open."""
    rules = report.rules
    if rules is None:
        return []
    lines = [f"Rules in conflict: {text}" for text in rules.conflicts]
    return [*lines, *(f"Rules unverified: {text}" for text in rules.unverified)]


def shown_arm(row: SurvivalRow) -> SurvivalArm | None:
    """The arm that tables and sentences show: the hybrid, or the first there is."""
    return row.arms.get(ArmName.HYBRID) or next(iter(row.arms.values()), None)


def survival_lines(survival: Survival) -> list[str]:
    """The table in sentences."""
    tried = [(row, arm) for row in survival.rows if (arm := shown_arm(row)) is not None]
    left = [row for row in survival.rows if not row.arms]
    lines = []
    if tried:
        best, arm = max(tried, key=lambda pair: pair[1].passed_frac)
        banned = sum(row.automation == "banned" for row, _ in tried)
        free = [pair for pair in tried if pair[0].automation != "banned"]
        lines.append(
            f"Survival over {len(tried)} rule profiles: best is {best.profile}, passed in {percent(arm.passed_frac)} "
            f"of attempts{between(arm.passed_low_frac, arm.passed_high_frac)} and breached in "
            f"{percent(arm.breached_frac)}; {banned} of them ban automation."
        )
        if best.automation == "banned" and free:
            row, arm = max(free, key=lambda pair: pair[1].passed_frac)
            lines.append(
                f"Best without a ban: {row.profile}, {percent(arm.passed_frac)} pass"
                f"{between(arm.passed_low_frac, arm.passed_high_frac)}, automation {row.automation}."
            )
        lines += size_lines([row for row, _ in tried])
        lines += [line for row, arm in tried for line in payout_lines(row, arm)]
    return lines + [f"Not simulated: {row.profile}: {row.reason}." for row in left]


def size_lines(rows: Sequence[SurvivalRow]) -> list[str]:
    """For each plan that comes in several sizes, the one that is passed most often, and whether that is shown."""
    families: dict[str, list[tuple[SurvivalRow, SurvivalArm]]] = {}
    for row in rows:
        if row.family is not None and (arm := shown_arm(row)) is not None:
            families.setdefault(row.family, []).append((row, arm))
    return [_size_line(family, of) for family, of in families.items() if len(of) > 1]


def _size_line(family: str, rows: Sequence[tuple[SurvivalRow, SurvivalArm]]) -> str:
    ranked = sorted(rows, key=lambda pair: -pair[1].passed_frac)
    (best, top), *others = ranked
    sizes = "; ".join(f"{_size(row)} {percent(arm.passed_frac)}" for row, arm in others)
    said = f"{_size(best)} is passed most often ({percent(top.passed_frac)}; {sizes})"
    if top.passed_frac == 0.0:
        return f"Account size, {family}: none of {', '.join(_size(row) for row, _ in rows)} is passed."
    low = top.passed_low_frac
    apart = [low is not None and high is not None and high < low for high in (a.passed_high_frac for _, a in others)]
    shown = "" if all(apart) else "; the intervals overlap, so no size is shown to fit better"
    return f"Account size, {family}: {said}{shown}."


def _size(row: SurvivalRow) -> str:
    return f"{plain(row.start_balance_usd / 1000)}K"


def payout_lines(row: SurvivalRow, arm: SurvivalArm) -> list[str]:
    """How likely a first payout is, for a firm whose funded phase is known."""
    if (payout := arm.payout) is None:
        return []
    days = "" if payout.days_to_payout is None else f", after a median of {plain(payout.days_to_payout[1])} sessions"
    return [
        f"First payout, {row.profile}: {percent(payout.first_frac)} of attempts"
        f"{between(payout.first_low_frac, payout.first_high_frac)}; a funded account reaches it in "
        f"{percent(payout.funded_frac)}{days}, and breaches before in {percent(payout.breached_frac)}."
    ]


def between(low: float | None, high: float | None) -> str:
    """` (95% CI 10% to 45%)`, or nothing."""
    return "" if low is None or high is None else f" (95% CI {percent(low)} to {percent(high)})"


def size_words(row: SurvivalRow) -> str:
    """`$50,000, target $3,000`."""
    return f"{usd(row.start_balance_usd)}, target {usd(row.profit_target_usd)}"
