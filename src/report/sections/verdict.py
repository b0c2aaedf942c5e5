"""Section: the five answers and the sentences of the verdict; the template sets the judgement above them."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from src.report.model.report import Report
from src.report.page.blocks import Answers, Bullets, Heading, Section, given
from src.report.page.drawing import Arrays


def section(report: Report, arrays: Arrays) -> Section:
    """The section."""
    blocks: list[Any] = [Answers(report.answers)] if report.answers else []
    if sentences := [_lead(sentence) for sentence in report.verdict]:
        blocks += [Heading("Details"), Bullets(sentences)] if blocks else [Bullets(sentences)]
    return Section("verdict", "Verdict", blocks, "This run reached no verdict.")


def _lead(sentence: str) -> Markup:
    """Words before the first colon are bold if they are few and contain no figure."""
    lead, colon, rest = sentence.partition(": ")
    if colon and len(lead) <= 32 and not any(word[0].isdigit() for word in lead.split()):
        return Markup("<strong>{}:</strong> {}").format(given(lead), given(rest))
    return given(sentence)
