"""What a reader must know of the advisor before believing its advice: its memory, how it is asked, how it answers."""

from __future__ import annotations

from src.advisor.first_choices import ENOUGH_ANSWERS
from src.report.model.advice import Advice, Knowledge, Manner, Skill, Tabulation
from src.wording import percent, signed

SAME_CHOICE = 0.99
"""Share of a side's situations in which the first choice is the same, from which on it counts as one label always."""


def advisor_lines(advice: Advice) -> list[str]:
    """One sentence per finding, each with its counts."""
    asking = advice.tabulation
    lines = [] if advice.knowledge is None else knowledge_lines(advice.knowledge)
    if asking.manner is not None:
        lines += manner_lines(asking.manner)
    return [*lines, *_answer_lines(asking)]


def knowledge_lines(knowledge: Knowledge) -> list[str]:
    """Whether skill on the sealed sessions may be memory, and the skill of the advice before and after the cutoff."""
    n, cutoff = knowledge.sealed_sessions, knowledge.cutoff
    window = f"{knowledge.sealed_first} to {knowledge.sealed_last}"
    sealed = f"the {n:,} sealed sessions ({window})" if n != 1 else f"the sealed session ({knowledge.sealed_first})"
    said = {
        "no memory": "",
        "synthetic": "",
        "unknown": f"cutoff unknown: skill may be memory on {sealed}. State the model's with llm.knowledge_cutoff",
        "before": f"until {cutoff}, after all of {sealed}: skill there may be memory",
        "split": f"until {cutoff}, within {sealed}: {n - knowledge.sealed_after:,} of them are not after it, and skill "
        "there may be memory",
        "after": f"until {cutoff}, before {sealed}: skill there is not memory",
    }[knowledge.sealed]
    if not said:
        return []
    source = f" ({knowledge.source})" if knowledge.source else ""
    lines = [f"Model's knowledge: {said}{source}."]
    if knowledge.before is not None and knowledge.after is not None:
        lines.append(
            f"Skill of the advice {knowledge.horizon} bars ahead (hit rate less chance, points): "
            f"{_skill(knowledge.before)} before the cutoff, {_skill(knowledge.after)} after it{_difference(knowledge)}."
        )
    return lines


def _skill(side: Skill) -> str:
    if side.skill is None:
        return f"none ({side.reason})"
    sessions = f"{side.sessions:,} session{'' if side.sessions == 1 else 's'}"
    if side.low is None or side.high is None:
        return f"{_points(side.skill)} ({sessions}, no interval)"
    return f"{_points(side.skill)} (95% CI {_points(side.low)} to {_points(side.high)}, {sessions})"


def _points(frac: float) -> str:
    """In percentage points."""
    return signed(100.0 * frac, 1)


def _difference(knowledge: Knowledge) -> str:
    if knowledge.difference is None or knowledge.low is None or knowledge.high is None:
        return "; too few sessions on one side to compare them"
    bounds = f"{_points(knowledge.difference)} (95% CI {_points(knowledge.low)} to {_points(knowledge.high)})"
    if knowledge.low > 0.0:
        return f"; it was better before by {bounds}, as memory would be"
    return f"; difference {bounds}: no sign of memory is shown"


def manner_lines(manner: Manner) -> list[str]:
    """What of the way in which the model is asked is not as usual."""
    lines = []
    if manner.prompt == "plain text":
        lines.append(
            'Prompt: the model has no chat template in use, so it is asked in plain text that ends in "Answer:".'
        )
    if manner.closed:
        who = {"model": "the model begins its answers with", "template": "the chat template opens"}.get(
            manner.closed_for, "the model or its template opens"
        )
        closed = " ".join(manner.closed.split())
        lines.append(
            f'Thoughts: {who} a thought or a channel. Prompts end with "{closed}", and the answer is read there.'
        )
    if manner.split_labels:
        share = (
            "how much of its probability continues as the label is not known"
            if manner.whole_frac is None
            else f"in sample situations {percent(manner.whole_frac, 1)} of its probability, on average, continues as "
            "the label"
        )
        lines.append(
            f"Labels: {', '.join(manner.split_labels)} {'are' if len(manner.split_labels) > 1 else 'is'} several "
            f"tokens. The first token that differs stands for the label; {share}."
        )
    return lines


def _answer_lines(asking: Tabulation) -> list[str]:
    lines = []
    always = {
        side: of
        for side, of in asking.first_choice.items()
        if of.answers >= ENOUGH_ANSWERS and of.share_frac >= SAME_CHOICE
    }
    if always:
        said = ", ".join(f"{of.label} on side {side} ({of.answers:,} situations)" for side, of in always.items())
        spread = max(of.spread_nats for of in always.values())
        after = (
            f"Calibration removes that; the advice is what is left, and log-probabilities vary by {spread:.2g} nats"
            if asking.calibrated
            else "Without calibration the advice there says nothing about the market"
        )
        lines.append(f"One label always: before calibration the model's first choice is {said}. {after}.")
    if asking.undecided:
        lines.append(
            f"No preference: in {asking.undecided:,} of {asking.count_k:,} situations all labels are alike, and the "
            f"advice abstains."
        )
    if asking.no_answer:
        lines.append(
            f"No answer: in {asking.no_answer:,} of {asking.count_k:,} situations the model begins with a thought or "
            f"with other words than the labels, and the advice abstains."
        )
    if asking.abstained > asking.no_answer:
        lines.append(
            f"The server told the log-probability of every label in {asking.count_k - asking.abstained:,} of "
            f"{asking.count_k:,} situations; in the others a label is missing, and the advice abstains."
        )
    return lines
