"""What changed over a run, small enough for its report: the machine's readings and the learning curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from src.monitoring.hardware import Reading

MOST_SAMPLES = 600
"""A chart is at most some hundred pixels wide; a sample a second of a 16-hour run would be 3 MB."""
MOST_RECORDS = 200

RECORD_FIELDS: Mapping[str, str] = {
    "mean_episode_reward": "mean_episode_reward",
    "explained_variance": "train/explained_variance",
    "approx_kl": "train/approx_kl",
    "clip_fraction": "train/clip_fraction",
    "value_loss": "train/value_loss",
    "steps_per_s": "steps_per_s",
}


def hardware_timeline(history: Sequence[Reading], most: int = MOST_SAMPLES) -> dict[str, Any]:
    """The report's `hardware_timeline` from a monitor's samples in time order, neighbours put together if need be.

    A column's entry is None where no sample of its bucket had the reading: processor and GPU use are means weighted by
    what each sample stands for, memory is the highest. A reading nobody ever had is left out but for the required four.
    """
    size = max(1, -(-len(history) // most))
    buckets = [history[i : i + size] for i in range(0, len(history), size)]
    cores = [_mean_over_time(bucket, "tree_cpu_percent") for bucket in buckets]
    timeline: dict[str, Any] = {
        "elapsed_s": [round(float(bucket[-1]["elapsed_s"] or 0.0), 2) for bucket in buckets],
        "machine_cpu_percent": [_rounded(_mean_over_time(bucket, "machine_cpu_percent"), 1) for bucket in buckets],
        "tree_cores": [_rounded(None if value is None else value / 100.0, 2) for value in cores],
        "tree_rss_gb": [_rounded(_highest(bucket, "tree_rss_gb"), 3) for bucket in buckets],
    }
    gpu = {
        "gpu_percent": [_rounded(_mean_over_time(bucket, "gpu_percent"), 1) for bucket in buckets],
        "gpu_memory_used_gb": [_rounded(_highest(bucket, "gpu_memory_used_gb"), 3) for bucket in buckets],
    }
    timeline |= {name: column for name, column in gpu.items() if any(value is not None for value in column)}
    return {**timeline, "phases": _phases(history)}


def _phases(history: Sequence[Reading]) -> list[dict[str, Any]]:
    """Stretches of one phase: from the last sample before it to its own last one."""
    phases = []
    before = 0.0
    for phase, samples in groupby(history, key=lambda reading: str(reading["phase"])):
        end = float([*samples][-1]["elapsed_s"] or 0.0)
        if phase:
            phases.append({"phase": phase, "begin_s": round(before, 2), "end_s": round(end, 2)})
        before = end
    return phases


def learning_curves(records: Iterable[Mapping[str, Any]], seed: int, most: int = MOST_RECORDS) -> list[dict[str, Any]]:
    """The report's `learning.curves` of one seed from its training records (a line of metrics.jsonl each), by phase.

    Of more than `most` records evenly spread ones are kept, the last always. Entropy is SB3's entropy_loss negated.
    """
    by_phase: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        by_phase.setdefault(str(record["phase"]), []).append(record)
    curves = []
    for phase, all_of_it in by_phase.items():
        step = max(1, -(-len(all_of_it) // most))
        kept = all_of_it[::-step][::-1]
        curve: dict[str, Any] = {
            "phase": phase,
            "seed": seed,
            "timesteps": [int(record["num_timesteps"]) for record in kept],
        }
        columns = {name: [record.get(field) for record in kept] for name, field in RECORD_FIELDS.items()}
        losses = [record.get("train/entropy_loss") for record in kept]
        columns["entropy"] = [None if loss is None else -loss for loss in losses]
        curve |= {name: column for name, column in columns.items() if any(value is not None for value in column)}
        curves.append(curve)
    return curves


def _mean_over_time(bucket: Sequence[Reading], field: str) -> float | None:
    """Mean weighted by each sample's interval; a sample without one counts as one second."""
    read = [(float(value), float(r["interval_s"] or 1.0)) for r in bucket if (value := r[field]) is not None]
    return sum(value * weight for value, weight in read) / sum(weight for _, weight in read) if read else None


def _highest(bucket: Sequence[Reading], field: str) -> float | None:
    return max((float(value) for reading in bucket if (value := reading[field]) is not None), default=None)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
