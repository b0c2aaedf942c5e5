"""The table of a GPU benchmark, on the console and in docs/gpu.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from src.wording import NOTHING, duration, percent, plain

NOT_MEASURED: Final = "not measured"
BEGIN: Final = "<!-- figures: written by python -m src.benchmarks.gpu --write-docs docs/gpu.md -->"
END: Final = "<!-- end of the figures -->"
MEMBERS: Final = (1, 4, 16, 64, 256)
GOALS: Final[Mapping[str, str]] = {
    "accounts": "0 differences", "observations": "1e-6", "gradients": "1e-4", "64 members": "1,000,000 at 90%",
    "run": "90%, trainings in 5 s",
}  # fmt: skip
"""What the figures are aimed at or bound by."""
Row = tuple[str, str, str]
"""What, the figure, and its bound or goal."""


def rows_of(parts: Mapping[str, Mapping[str, Any]]) -> Iterator[Row]:
    """The rows of the table, from the parts of the benchmark's JSON; `not measured` where a part or figure is
    missing."""
    accounts, learner = _done(parts, "accounts"), _done(parts, "learner")
    yield "accounts on the GPU against the CPU, every field", _compared(accounts), GOALS["accounts"]
    yield "observations, largest difference", _small(accounts, "observation_error"), GOALS["observations"]
    yield "gradients against autograd on the CPU, float32", _small(learner, "gradient_error"), GOALS["gradients"]
    yield "one update against the CPU's, of its change", _small(learner, "update_error"), "0.02"
    speeds = {row["members"]: row for row in _done(parts, "members").get("sizes", [])}
    for members in sorted({*MEMBERS, *speeds}):
        goal = GOALS.get(f"{members} members", "")
        yield f"timesteps/s, {members} member{'s' if members > 1 else ''}", _speed(speeds.get(members)), goal
    yield "memory of the largest population, predicted and measured", _memory(list(speeds.values())), ""
    precisions = {row["precision"]: row for row in _done(parts, "precisions").get("rows", [])}
    for precision in ("tf32", "bf16"):
        row = precisions.get(precision)
        effect = NOT_MEASURED if row is None else f"{_speed(row)}; gradients differ by {row['gradient_effect']:.1e}"
        yield f"{64 if row is None else row['members']} members in {precision}", effect, ""
    yield "advice a second", _advice(_done(parts, "advice")), ""
    yield "a hardware-maximized run of ES", _run(_done(parts, "run")), GOALS["run"]


def _done(parts: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """A part's figures; none where it was not measured."""
    found = parts.get(name, {})
    return {} if "not_measured" in found else found


def _compared(accounts: Mapping[str, Any]) -> str:
    if not accounts:
        return NOT_MEASURED
    return f"equal: {accounts['accounts']} accounts x {accounts['steps']:,} steps, {accounts['fields']} fields"


def _small(part: Mapping[str, Any], key: str) -> str:
    return f"{part[key]:.1e}" if key in part else NOT_MEASURED


def _speed(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return NOT_MEASURED
    busy = "" if row["gpu_percent"] is None else f" at {row['gpu_percent']:.0f}% utilization"
    return f"{plain(row['steps_per_s'])}{busy}"


def _memory(rows: list[Mapping[str, Any]]) -> str:
    if not rows:
        return NOT_MEASURED
    row = max(rows, key=lambda row: int(row["members"]))
    return f"{_mb(row['predicted_bytes'])} and {_mb(row['measured_bytes'])}, {row['members']} members"


def _mb(n: int | None) -> str:
    return NOT_MEASURED if n is None else f"{plain(n / 1e6)} MB"


def _advice(part: Mapping[str, Any]) -> str:
    if not part:
        return NOT_MEASURED
    memory = f"memory predicted and measured: {_mb(part['predicted_bytes'])} and {_mb(part['measured_bytes'])}"
    return f"{plain(part['advices_per_s'])} ({part['model']}, {part['dtype']}, {part['batch_size']} at once; {memory})"


def _run(part: Mapping[str, Any]) -> str:
    if not part:
        return NOT_MEASURED
    busy = NOTHING if part["gpu_percent"] is None else percent(part["gpu_percent"] / 100.0)
    return (
        f"{duration(part['execution_time_s'])}, {part['trainings']} trainings in {duration(part['training_s'])}, "
        f"utilization {busy} "
        f"({part['targets'].get('gpu_utilization', NOT_MEASURED)}), exit code {part['exit_code']}"
    )


def origin(found: Mapping[str, Any]) -> str:
    """Where and when: card, date, revision, libraries."""
    revision = "unknown" if found["revision"] is None else f"{found['revision'][:12]}{' changed' * found['changed']}"
    return (
        f"{found['card']} (driver {found['driver'] or 'unknown'}), {found['date']}, revision {revision}, torch "
        f"{found['torch']}, numba-cuda {found['numba_cuda'] or NOT_MEASURED}"
    )


def block(found: Mapping[str, Any] | None) -> str:
    """The part of docs/gpu.md between its two marker lines; None for a page on which nothing was measured."""
    said = "Not measured yet." if found is None else f"Measured on {origin(found)}."
    lines = [BEGIN, "", said, "", "| what | figure | bound or goal |", "|---|---|---|"]
    lines += [f"| {what} | {figure} | {goal} |" for what, figure, goal in rows_of(found["parts"] if found else {})]
    if found is not None and found["wrong"]:
        lines += ["", f"It stopped at a wrong figure: {found['wrong']['words']}."]
    return "\n".join([*lines, "", END])


def replaced(page: str, found: Mapping[str, Any]) -> str:
    """The page with the figures of `found`. ValueError for one without the two marker lines, in order."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN!r} and {END!r}, between which the figures are written")
    return before + block(found) + after
