"""What the production run would take, in sentences: the same on the console, in the verdict and on the page."""

from __future__ import annotations

from src.report.model.run import Bounds, OtherMachineEstimate, ProductionEstimate
from src.wording import duration, percent, plain, significant


def time_words(estimate: ProductionEstimate) -> str:
    """`9.1 min (90% interval 8.2 min to 10.4 min)`."""
    return _hours(estimate.hours, estimate.low_hours, estimate.high_hours, estimate)


def seeds_words(estimate: ProductionEstimate) -> str:
    """`, 3 seeds, 2 at a time`; empty for one seed."""
    if (estimate.seeds or 1) == 1:
        return ""
    return f" for each of {estimate.seeds} seeds, {estimate.beside} at a time,"


def cost_lines(estimate: ProductionEstimate) -> list[str]:
    """Energy and cost; what another machine would take."""
    lines = []
    if (cost := estimate.cost_usd) is not None:
        lines.append(f"Cost: {_usd(cost)} at ${significant(estimate.price_per_hour_usd)} an hour.")
    energy = estimate.energy_kwh
    if energy is not None and energy.value is not None:
        watts = f"{plain(estimate.power_w)} W ({estimate.power_words})"
        bounds = "" if energy.low is None else f" ({significant(energy.low)} to {significant(energy.high)})"
        lines.append(f"Energy: {significant(energy.value)} kWh{bounds} at {watts}.")
    elif energy is not None:
        lines.append(f"Energy: unknown: {estimate.power_words}.")
    if (other := estimate.other_machine) is not None:
        lines.append(_elsewhere(estimate, other))
    return lines


def _elsewhere(estimate: ProductionEstimate, other: OtherMachineEstimate) -> str:
    """Both machines with their cores and speeds: what the forecast there rests on."""
    there = f"On {other.name} ({other.cores} cores, {significant(other.gflops)} GFLOP/s each"
    if other.hours is None:
        return f"{there}): not forecast: {other.reason}."
    here = f"here {estimate.cores} cores, {significant(estimate.gemm_gflops)} GFLOP/s each"
    time = _hours(other.hours, other.low_hours, other.high_hours, estimate)
    cost = "" if other.cost_usd is None else f"; {_usd(other.cost_usd)}"
    return f"{there}; {here}): {time}{cost}."


def _hours(hours: float, low: float | None, high: float | None, estimate: ProductionEstimate) -> str:
    text = duration(3600.0 * hours)
    if low is None or high is None:
        return text if not estimate.reason else f"{text} (no interval: {estimate.reason})"
    level = percent(estimate.level_frac)
    return f"{text} ({level} interval {duration(3600.0 * low)} to {duration(3600.0 * high)})"


def _usd(cost: Bounds) -> str:
    def dollars(value: float | None) -> str:
        return f"${plain(value, 2)}"

    return dollars(cost.value) + ("" if cost.low is None else f" ({dollars(cost.low)} to {dollars(cost.high)})")
