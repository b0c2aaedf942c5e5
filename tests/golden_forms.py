"""What golden files hold: printed text and a report's keys, without what depends on the machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEPENDS_ON_FIGURES = (
    (r"(LLM \(\w+\):).*?(?= Advice covers)", r"\1 <said>"),
    (r"(Survival: over # simulated evaluation attempts,).*?(?=\n\n)", r"\1 <said>"),
    (r"(?<=\n)(?:No edge|Cannot say|Worth|Not worth)[^\n]*", "<judgement>"),
    (r"(?<=\n)[^\n ] \w+ (Production\?) [^\n]*", r"<mark> \1 <said>"),  # a short phase may see no memory sample
)
"""Sentences whose words depend on a training's last bits or on the machine, and their placeholders."""
BY_ARM = re.compile(
    r"(arms|deflated_sharpe|interquartile_mean_usd|break_even_ticks|cost_stress\.net_usd_per_session"
    r"|seeds\.net_usd_by_session)$"
)


def golden(path: Path, now: str) -> str:
    """The golden text; with REWRITE_GOLDEN=1 it is first replaced by what was printed now, for review in the diff."""
    if os.environ.get("REWRITE_GOLDEN") == "1":
        path.write_text(now)
    return path.read_text()


def masked(text: str) -> str:
    """What is printed, without what depends on the machine: numbers, progress lines, padding, line breaks."""
    text = re.sub(r"^\[[\d:]+\]   .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r" +", " ", re.sub(r" *\n +", " ", text))
    text = re.sub(r"(Report|Figures): .*", r"\1: <path>", text)
    text = re.sub(r"\brollouts\b|PPO update", "<part>", text)
    text = re.sub(r"[+-]?\$?\d[\d,.:]*%?", "#", text)
    # Which part of so short a training takes most depends on what else the machine does.
    text = re.sub(r"(?i)(bottleneck: )[^()]*\([^()]*\)", r"\1<part> (#)", text)
    text = re.sub(r"Speed: .*?(?=No other settings)", "Speed: <figures> ", text, flags=re.DOTALL)
    text = re.sub(r"take # (h|min|s) \([^()]*\) at", "take # <unit> (<interval>) at", text)
    text = re.sub(r"Energy: .*?(?= (?:Evidence|On)\b)", "Energy: <said>", text)  # few machines let it be read
    text = re.sub(r"(?<=production networks), using # GB of .*?(?=\.\s)", "", text)  # a short phase may see no sample
    text = re.sub(r"(?<=#) +- +(?=#)", " # ", text)
    text = re.sub(r"^Advice on sealed bars while(.|\n)*?\n\n", _advice_unbroken, text, flags=re.MULTILINE)
    for said, masks in DEPENDS_ON_FIGURES:
        text = re.sub(said, masks, text, flags=re.DOTALL)
    heads = "Training|Checkpoints|Speed|Leaks|Production|Energy|Evidence|Learning|Still learning|LLM \\("
    heads += "|Advice|Automation|Simulated|Rules in conflict|Survival"
    text = re.sub(rf" ({heads})(?!\?)", r"\n\1", text)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _advice_unbroken(lines: re.Match[str]) -> str:
    """Each sentence on one line; which rules decided depends on the last bits of a training."""
    text = " ".join(lines[0].split())
    text = re.sub(r" (?=Advice changed|Rules that decided)", "\n", text)
    return re.sub(r"Rules that decided in (\w+): .*", r"Rules that decided in \1: <rules>", text) + "\n\n"


def key_paths(value: Any, path: str = "") -> Iterator[str]:
    """Every key of a report; what stands under a name of the run's own making is one line, and so are like arms."""
    if re.search(
        r"(hardware\.phases|phase_times|sessions_left_out|repairs|failed_readings|failure_reasons|^time\.(run|members\[\])\.(seconds|cpu_s))$",
        path,
    ):
        yield f"{path}.*"
    elif path == "configuration":
        yield path
    elif BY_ARM.search(path) and value:
        yield from _of_like_arms(value, path)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from key_paths(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict) and not path.endswith("trades"):
        yield from key_paths(value[0], f"{path}[]")
    else:
        yield path


def _of_like_arms(arms: dict[str, Any], path: str) -> Iterator[str]:
    """The keys under any name of an arm, those of advice last: not every arm hears any."""
    keys = {name: [*key_paths(arm, f"{path}.<arm>")] for name, arm in arms.items()}
    advice = f"{path}.<arm>.advice"
    (own,) = {tuple(key for key in of if not key.startswith(advice)) for of in keys.values()}
    yield from (*own, *sorted({key for of in keys.values() for key in of if key.startswith(advice)}))
