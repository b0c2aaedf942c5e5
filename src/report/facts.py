"""report.json of a run: every figure and what it was measured on.

    python -m src.report.facts logs/RUN

makes the run's page again from it, as `python -m src.report.page` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import machine, platform, python_version
from typing import Any

import numpy as np
import torch

from src.advisor.choose import BUNDLED, MOCK
from src.advisor.settings import LLMSettings
from src.advisor.table import AdviceTable, coverage
from src.advisor.tabulation import TabulationRecord
from src.agent.market import Market
from src.agent.settings import HardwareSettings, RunSettings
from src.evaluation.assembly import FeatureAssembly
from src.evaluation.forecast import advice_mix
from src.market.quality import quality_facts
from src.report.model.report import SCHEMA_VERSION as SCHEMA_VERSION
from src.report.targets import GPU_REMEDY, GPU_UTILIZATION, TARGETS, ValidationSettings
from src.shell import run_main
from src.trading.routes import WHY

MET, MISSED, NOT_APPLICABLE = "met", "missed", "not_applicable"
LIBRARIES = ("torch", "stable-baselines3", "sb3-contrib", "gymnasium", "numpy", "numba", "pandas")


def judge_targets(
    validation: ValidationSettings,
    measured: Mapping[str, float | None],
    why_not: Mapping[str, str],
    inapplicable: Collection[str] = (),
) -> dict[str, dict[str, Any]]:
    """Each target with its limit, what was measured and its status.

    `measured` has a value per target of `TARGETS`, None where there was nothing to measure; `why_not` says why. GPU
    utilisation is in percent. A target in `inapplicable` is not required of this run, whatever the settings say.
    """
    return {
        name: judge(
            percent_of(getattr(validation, field)) if name == GPU_UTILIZATION else getattr(validation, field),
            measured.get(name),
            at_most="max" in field,
            required=name in validation.required and name not in inapplicable,
            unset=f"{field} is not set",
            why_not=why_not.get(name, "not measured"),
            remedy=GPU_REMEDY if name == GPU_UTILIZATION else "",
        )
        for name, field in TARGETS.items()
    }


def percent_of(fraction: float | None) -> float | None:
    """A fraction in percent, without the last bits of the product."""
    return None if fraction is None else round(fraction * 100.0, 9)


def judge(
    limit: float | None,
    measured: float | None,
    *,
    at_most: bool,
    required: bool,
    unset: str,
    why_not: str,
    remedy: str = "",
) -> dict[str, Any]:
    """One target: `unset` says that it has no limit, `why_not` why there was nothing to measure, `remedy` what would
    meet it where it is missed."""
    entry: dict[str, Any] = {"target": limit, "measured": measured, "required": required, "at_most": at_most}
    if limit is None or measured is None:
        entry["status"] = NOT_APPLICABLE
        entry["reason"] = unset if limit is None else why_not
    else:
        entry["status"] = MET if (measured <= limit if at_most else measured >= limit) else MISSED
        if remedy and entry["status"] == MISSED:
            entry["remedy"] = remedy
    return entry


def is_passed(targets: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether no required target was missed; a required one that could not be measured counts as missed."""
    return all(target["status"] == MET for target in targets.values() if target["required"])


def run_facts(
    run: RunSettings, hardware: HardwareSettings, folder: Path, threads: int, device: torch.device
) -> dict[str, Any]:
    """What was run, where, and with which libraries."""
    return {
        "name": folder.name,
        "mode": run.mode,
        "market": ", ".join(run.markets),
        "seed": run.seed,
        "quick": run.quick,
        "device": str(device),
        "torch_threads": threads,
        "vec_env": hardware.vec_env,
        "why_vec_env": WHY[hardware.vec_env],
        "versions": versions(),
    }


def data_facts(market: Market, no_trade_bars: int) -> dict[str, Any]:
    """Where the bars come from, how good they are, and which sessions serve what; `no_trade_bars` is the setting."""
    bars, sessions, split = market.tables.bars, market.tables.sessions, market.split
    usable = sessions.usable
    parts = {"train": split.train, "validation": split.validation, "sealed": split.test}
    return {
        "source": bars.source,
        "synthetic": bars.synthetic,
        "fingerprint": bars.fingerprint,
        "bars": len(bars),
        "interval_min": bars.interval_s // 60,
        "repairs": dict(bars.repairs),
        "sessions": len(usable),
        "sessions_usable": int(usable.sum()),
        "sessions_left_out": dict(Counter(sessions.reason[i] for i in np.flatnonzero(~usable))),
        "embargo_sessions": split.embargo,
        "split": {
            name: {"sessions": len(ids), "first": str(sessions.date[ids[0]]), "last": str(sessions.date[ids[-1]])}
            for name, ids in parts.items()
        },
        "quality": quality_facts(market.tables, no_trade_bars),
    }


def rules_facts(market: Market) -> dict[str, Any]:
    """Which rule profile accounts lived under."""
    return {
        "profile": market.rules.name,
        "as_of": str(market.rules.as_of),
        "fingerprint": market.rules.fingerprint,
        "note": "simulated rule check: firms change their rules, and passing here does not mean passing there",
        "automation": market.rules.automation,
        "automation_note": market.rules.automation_note,
        "conflicts": list(market.rules.conflicts),
        "unverified": list(market.rules.unverified),
    }


def advice_facts(market: Market, table: AdviceTable, assembly: FeatureAssembly) -> dict[str, Any]:
    """Who advised, how much was asked, and how often an opinion was at hand when one was looked up."""
    given, asked_for = assembly.opinions_given, assembly.opinion_lookups
    sealed = market.situation[market.bars_of(market.split.test)]
    return {
        "advisor": table.advisor_name,
        "identity": table.advisor_identity,
        "sha256": table.sha256,
        "situations_asked": table.asked,
        "coverage": {
            "train": coverage(table, market.situation[market.bars_of(market.split.train)]),
            "sealed": coverage(table, sealed),
        },
        "by_side": advice_mix(table, sealed),
        "advice_without_model": given / asked_for if asked_for else None,
        "opinion_lookups": asked_for,
    }


def asking_facts(asking: TabulationRecord, llm: LLMSettings) -> dict[str, Any]:
    """How the table came about, and what such advice can be evidence of."""
    notes = {
        BUNDLED: "the bundled model shows almost no market judgement: it makes the tool run out of the box and is no "
        "evidence for LLM trading",
        "tiny": "random weights: for tests only",
        MOCK: "rules of thumb, no language model",
    }
    quantization = None if llm.model == MOCK else llm.quantization
    return {"tabulation": asking.to_dict(), "note": notes.get(asking.model), "quantization": quantization}


def versions() -> dict[str, str]:
    """Versions of Python, the machine and the libraries a result depends on."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    """Read once: they do not change while a process lives."""
    found = {"python": python_version(), "platform": platform(), "machine": machine()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    found["torch_cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    return found


def main(arguments: list[str] | None = None) -> int:
    """Make report.html of a run's folder again; the exit code: 0 written, 2 no report.json that can be read."""
    from src.report.page.__main__ import main as rebuild_page  # no run that writes a report needs the command

    return rebuild_page(arguments, program="python -m src.report.facts")


if __name__ == "__main__":
    run_main(main)
