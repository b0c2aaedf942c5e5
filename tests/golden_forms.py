"""What golden files hold: printed text and a report's keys, without what hangs on the machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

JUDGEMENT = " (?:No edge|Cannot say|Worth|Not worth)"
HANGS_ON_FIGURES = (
    (r"(LLM \(\w+\):).*?(?= Advice covers)", r"\1 <said>"),
    (rf"(Survival of the simulated rules, # attempts:).*?(?={JUDGEMENT})", r"\1 <said>"),
    (rf"{JUDGEMENT}.*?(?=\n\n)", r"\n<judgement>"),
)
"""Sentences of the verdict whose words depend on a training's last bits, and what stands for them."""
BY_ARM = re.compile(
    r"(arms|deflated_sharpe|interquartile_mean_usd|break_even_ticks|cost_stress\.net_usd_per_session"
    r"|seeds\.net_usd_by_session)$"
)


def masked(text: str) -> str:
    """What is printed, without what hangs on the machine: numbers, progress lines, padding, where a line breaks."""
    text = re.sub(r"^\[[\d:]+\]   .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r" +", " ", re.sub(r" *\n +", " ", text))
    text = re.sub(r"Report: .*", "Report: <path>", text)
    text = re.sub(r"collecting rollouts|the PPO update", "<part>", text)
    text = re.sub(r"[+-]?\d[\d,.:]*%?", "#", text)
    text = re.sub(r"take # (h|min) at", "take # <unit> at", text)
    text = re.sub(r"(?<=its networks), in # GB of .*?(?=\.\s)", "", text)  # a short phase may see no sample
    text = re.sub(r"(?<=#) +- +(?=#)", " # ", text)
    text = re.sub(r"^Advice on the sealed bars, while(.|\n)*?\n\n", _advice_unbroken, text, flags=re.MULTILINE)
    for said, masks in HANGS_ON_FIGURES:
        text = re.sub(said, masks, text, flags=re.DOTALL)
    heads = "Trains|Checkpoints|Leaks|Production|Evidence|Learning|LLM \\(|Advice|Simulated|Survival"
    text = re.sub(rf" ({heads})", r"\n\1", text)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _advice_unbroken(lines: re.Match[str]) -> str:
    """Each sentence on one line; which rules decided hangs on the last bits of a training."""
    text = " ".join(lines[0].split())
    text = re.sub(r" (?=It changed|Who decided)", "\n", text)
    return re.sub(r"Who decided in (\w+): .*", r"Who decided in \1: <rules>", text) + "\n\n"


def key_paths(value: Any, path: str = "") -> Iterator[str]:
    """Every key of a report; what stands under a name of the run's own making is one line, and so are like arms."""
    if re.search(r"(hardware\.phases|phase_times|sessions_left_out|repairs|failed_readings|failure_reasons)$", path):
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
