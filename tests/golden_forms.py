"""What golden files hold: printed text and a report's keys, without what hangs on the machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any


def masked(text: str) -> str:
    """What is printed, without what hangs on the machine: numbers, progress lines, padding, where a line breaks."""
    text = re.sub(r"^\[[\d:]+\]   .*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r" +", " ", re.sub(r" *\n +", " ", text))
    text = re.sub(r"Report: .*", "Report: <path>", text)
    text = re.sub(r"collecting rollouts|the PPO update", "<part>", text)
    text = re.sub(r"[+-]?\d[\d,.:]*%?", "#", text)
    text = re.sub(r"take # (h|min) at", "take # <unit> at", text)
    text = re.sub(r"(?<=#) +- +(?=#)", " # ", text)
    text = re.sub(r"^Advice on the sealed bars, while(.|\n)*?\n\n", _advice_unbroken, text, flags=re.MULTILINE)
    heads = "Trains|Checkpoints|Look-ahead|Production|Evaluation|Learning|Advice|Simulated"
    text = re.sub(rf" ({heads})\b", r"\n\1", text)
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
    elif path.endswith("arms"):
        advised = sorted({key for arm in value.values() for key in key_paths(arm) if key.startswith("advice.")})
        (own,) = {tuple(k for k in key_paths(arm) if not k.startswith("advice.")) for arm in value.values()}
        yield from (f"{path}.<arm>.{key}" for key in (*own, *advised))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from key_paths(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from key_paths(value[0], f"{path}[]")
    else:
        yield path
