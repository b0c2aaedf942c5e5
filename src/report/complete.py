"""From what a run measured to its whole report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from src.files import plain_json
from src.report.answers import answers
from src.report.conclusions import overall
from src.report.model.report import Report
from src.report.schema import check_report
from src.report.verdict import verdict


def complete_report(facts: Mapping[str, Any]) -> Report:
    """The report of these sections with what follows from them: the overall judgement, the answers, the verdict.

    `facts` may hold arrays, tuples and numbers JSON does not have, which become null. ReportError as `check_report`.
    """
    report = check_report(plain_json({**facts, "verdict": []}), "The report")
    return report.model_copy(
        update={"overall": overall(report), "answers": answers(report), "verdict": verdict(report)}
    )
