"""From what a run measured to its whole report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from src.files import plain_json
from src.report.answers import answers
from src.report.conclusions import overall
from src.report.markets_words import answers_of_markets, overall_of_markets, verdict_of_markets
from src.report.model.report import RunReport
from src.report.schema import check_report
from src.report.verdict import verdict


def complete_report(facts: Mapping[str, Any]) -> RunReport:
    """The report of these sections with what follows from them: the overall judgement, the answers, the verdict.

    `facts` may hold arrays, tuples and numbers JSON does not have, which become null. ReportError as `check_report`.
    """
    report = check_report(plain_json({**facts, "verdict": []}), "The report")
    if (markets := report.markets) is not None:
        return report.model_copy(
            update={
                "overall": overall_of_markets(report, markets),
                "answers": answers_of_markets(report, markets),
                "verdict": verdict_of_markets(report, markets),
            }
        )
    return report.model_copy(
        update={"overall": overall(report), "answers": answers(report), "verdict": verdict(report)}
    )
