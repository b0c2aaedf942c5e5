"""Every reading of a file's times with its score: zones and stamps that give the same instants are one reading."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.errors import BarDataError
from src.market.files.clock_candidates import UTC, Zone, every_zone, offsets_min, parse_zone, rank
from src.market.files.clock_evidence import Cycles, Evidence, MinuteGrid, cycles_near, evidence_of
from src.market.files.reading import Candidate
from src.market.files.rows import NO_TIME, ClockClaim, FileRows, Stamp
from src.market.sessions import schedule_around
from src.market.units import DAY_NS, MINUTE_NS, MOST_VOLUME

STAMPS: tuple[Stamp, Stamp] = ("open", "close")
PROMISED = 3.0
"""What a dialect's promise of a zone or of a stamp counts for, in units of log likelihood."""
OFFSETS_GIVEN = 6.0
"""What an offset in the times counts for."""

_LONGEST_SPAN_NS = 20 * 366 * DAY_NS
_MARGIN_NS = 400 * DAY_NS
_OUTSIDE = np.iinfo(np.int64).min
_MANY_CYCLES, _FEWEST_KEPT, _HOPELESS = 600, 12, 100.0

Leads = Mapping[bytes, NDArray[np.int64]]
"""Lead per cycle of each zone and stamp, by its bytes."""


@dataclass(frozen=True, eq=False)
class Measured:
    """A file's bars, as far as they tell the time."""

    label: str
    claim: ClockClaim
    interval_min: int
    grid: MinuteGrid
    cycles: Cycles
    bars: int
    solid_frac: float
    """Share of steps from one time to the next that are an interval long: how few bars are missing between bars."""


@dataclass(frozen=True, eq=False)
class Scored:
    """One reading: the zones and stamps that give these instants, and the evidence for it."""

    names: tuple[tuple[Zone, Stamp], ...]
    """The first one names the reading."""
    lead: NDArray[np.int64]
    """Minutes that a time is ahead of the bar's open in UTC, per cycle."""
    evidence: float
    prior: float
    bars: int
    closed: int
    days: int
    """Sessions with bars."""
    bad_days: int
    """Sessions with bars in the closed hours before, inside or after them."""
    step: float | None

    @property
    def total(self) -> float:
        return self.evidence + self.prior

    @property
    def zone(self) -> Zone:
        return self.names[0][0]

    @property
    def stamp(self) -> Stamp:
        return self.names[0][1]

    def holds(self, zone: str | None, stamp: Stamp | None) -> bool:
        """Whether this zone and stamp (None: any) are among the names."""
        return any(zone in (None, z.name) and stamp in (None, s) for z, s in self.names)

    def candidate(self) -> Candidate:
        return Candidate(self.zone.name, self.stamp, self.bars, self.closed, self.step)


def measured(rows: Sequence[FileRows], interval_ns: int | None) -> Measured:
    """Collect the times and volumes of tables that share a claim. Raises BarDataError if there are none."""
    label = rows[0].label + (f" and {len(rows) - 1} more" if len(rows) > 1 else "")
    times = np.concatenate([one.time_ns for one in rows])
    volume = np.concatenate([one.volume for one in rows])
    known = times != NO_TIME
    times, volume = times[known], volume[known]
    volume = np.where((volume > 0) & (volume <= MOST_VOLUME), volume, 0.0)
    if times.size == 0:
        raise BarDataError(f"{label}: none of its rows has a readable time. Export the file again.")
    bars = len(times)
    if (volume > 0).any():
        # Bars without a trade may be filled in, closed hours included.
        times, volume = times[volume > 0], volume[volume > 0]
    if int(times.max()) - int(times.min()) > _LONGEST_SPAN_NS:
        near = _of_one_era(times)
        times, volume = times[near], volume[near]
    # Ticks are counted where quotes change, which is not where contracts trade: their steps prove nothing.
    traded = all(one.volume_kind == "contracts" for one in rows)
    grid = MinuteGrid(times, volume if traded and volume.any() else None)
    usual_ns, solid_frac = _usual_step(times, interval_ns)
    return Measured(
        label=label,
        claim=rows[0].claim,
        interval_min=max(1, round(usual_ns / MINUTE_NS)),
        grid=grid,
        cycles=cycles_near(schedule_around(times), grid),
        bars=bars,
        solid_frac=solid_frac,
    )


def _of_one_era(times: NDArray[np.int64]) -> NDArray[np.bool_]:
    """All but a few damaged times decades away, bool[n]: the calendar and zones of every year between would be read."""
    last = len(times) - 1
    places = (last // 100, last // 2, last - last // 100)
    low, middle, high = np.partition(times, places)[list(places)]
    edges = max(low, middle - _LONGEST_SPAN_NS) - _MARGIN_NS, min(high, middle + _LONGEST_SPAN_NS) + _MARGIN_NS
    return (times >= edges[0]) & (times <= edges[1])


def _usual_step(times: NDArray[np.int64], interval_ns: int | None) -> tuple[int, float]:
    """The interval in nanoseconds and the share of steps that have its length.

    The interval is the commonest step of whole seconds unless it is given; a minute if there is but one time.
    """
    steps = np.diff(times)
    if (steps < 0).any():
        steps = np.diff(np.sort(times))
    seconds = steps // 1_000_000_000
    counts = np.bincount(seconds[(seconds > 0) & (seconds < 86_400)], minlength=1)
    usual_s = int(counts.argmax()) if interval_ns is None else interval_ns // 1_000_000_000
    if usual_s == 0:
        return MINUTE_NS, 1.0
    equal = counts[usual_s] if usual_s < len(counts) else 0
    return usual_s * 1_000_000_000, float(equal / max(1, counts.sum()))


def score_readings(file: Measured, zone: Zone | None, stamp: Stamp | None) -> list[Scored]:
    """Every reading by its total, the best first; only those of `zone` and of `stamp` if given."""
    zones = _zones(file.claim) if zone is None else (zone,)
    stamps = STAMPS if stamp is None else (stamp,)
    paths: dict[bytes, list[tuple[Zone, Stamp]]] = {}
    for one in zones:
        offset = offsets_min(one, file.cycles.cash_open * MINUTE_NS)
        for each in stamps:
            lead = offset + (file.interval_min if each == "close" else 0)
            paths.setdefault(lead.tobytes(), []).append((one, each))
    leads: Leads = {key: np.frombuffer(key, dtype=np.int64) for key in paths}
    if len(file.cycles) > _MANY_CYCLES:
        leads = _promising(file, leads)
    everything = evidence_of(file.grid, file.cycles, _distinct(leads.values()), file.interval_min)
    naming = _naming(file.claim)
    groups: dict[bytes, Scored] = {}
    for key, lead in leads.items():
        names = paths[key]
        same_instants = np.where(everything.bars[everything.at(lead)] > 0, lead, _OUTSIDE).tobytes()
        if same_instants in groups:
            names = [*groups[same_instants].names, *names]
        groups[same_instants] = _scored(file, everything, lead, tuple(sorted(names, key=naming)))
    return sorted(groups.values(), key=lambda one: (-round(one.total, 6), *naming(one.names[0])))


def _promising(file: Measured, leads: Leads) -> Leads:
    """The readings worth scoring on every session of a long file: those not far behind on every eleventh one.

    Eleven, because five would sample one weekday.
    """
    sample = np.arange(0, len(file.cycles), 11)
    cycles = _of(file.cycles, sample)
    found = evidence_of(file.grid, cycles, _distinct([lead[sample] for lead in leads.values()]), file.interval_min)
    scores = np.array([found.score[found.at(lead[sample])].sum() for lead in leads.values()])
    keep = scores >= min(scores.max() - _HOPELESS, np.sort(scores)[-min(_FEWEST_KEPT, len(scores))])
    return {key: lead for (key, lead), kept in zip(leads.items(), keep, strict=True) if kept}


def _of(cycles: Cycles, chosen: NDArray[Any]) -> Cycles:
    return replace(cycles, **{name: getattr(cycles, name)[chosen] for name in vars(cycles)})


def _zones(claim: ClockClaim) -> tuple[Zone, ...]:
    promised = () if claim.zone is None else (parse_zone(claim.zone),)
    return tuple({one.name: one for one in (*promised, *every_zone())}.values())


def _distinct(paths: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.unique(np.concatenate([np.unique(path) for path in paths]))


def _naming(claim: ClockClaim) -> Callable[[tuple[Zone, Stamp]], tuple[float, bool, tuple[int, int, str]]]:
    """Sort key of a reading's names: what is promised, then opens, then the likeliest zone."""

    def key(name: tuple[Zone, Stamp]) -> tuple[float, bool, tuple[int, int, str]]:
        return (-_prior(claim, *name), name[1] == "close", rank(name[0].name))

    return key


def _prior(claim: ClockClaim, zone: Zone, stamp: Stamp) -> float:
    if claim.instant:
        promise = OFFSETS_GIVEN if zone.name == UTC else 0.0
    else:
        promise = PROMISED if claim.zone is not None and zone == parse_zone(claim.zone) else 0.0
    return promise + (PROMISED if stamp == claim.stamp else 0.0)


def _scored(file: Measured, found: Evidence, lead: NDArray[np.int64], names: tuple[tuple[Zone, Stamp], ...]) -> Scored:
    at = found.at(lead)
    closed, bars, steps = found.closed[at], found.bars[at], found.step[at]
    return Scored(
        names=names,
        lead=lead,
        evidence=float(found.score[at].sum()),
        prior=_prior(file.claim, *names[0]),
        bars=file.bars,
        closed=int(closed.sum()),
        days=int((bars > 0).sum()),
        bad_days=int((closed > 0).sum()),
        step=float(np.nanmedian(steps)) if np.isfinite(steps).any() else None,
    )


@dataclass(frozen=True)
class ChangedWeek:
    """A week whose bars fit only if the clock is shifted against that of the rest."""

    monday: str
    shift_min: int
    """Minutes the clock of the week is ahead of the rest's."""


_SUSPICIOUS, _BETTER = -2.0, 6.0
_SHIFT_HOURS = range(-14, 15)


def changed_weeks(file: Measured, reading: Scored) -> list[ChangedWeek]:
    """The weeks in which another clock explains the bars far better than the reading does."""
    own = evidence_of(file.grid, file.cycles, _distinct([reading.lead]), file.interval_min)
    day_score = own.score[own.at(reading.lead)]
    monday = file.cycles.date - ((file.cycles.date.astype(np.int64) + 3) % 7).astype("timedelta64[D]")
    weeks, week = np.unique(monday, return_inverse=True)
    bad = np.bincount(week, weights=day_score) <= _SUSPICIOUS
    if not bad.any():
        return []
    keep = bad[week]
    cycles = _of(file.cycles, keep)
    lead, week, day_score = reading.lead[keep], week[keep], day_score[keep]
    shifts = sorted(
        {60 * h + s for h in _SHIFT_HOURS for s in (-file.interval_min, 0, file.interval_min)} - {0}, key=abs
    )
    other = evidence_of(file.grid, cycles, _distinct([lead + shift for shift in shifts]), file.interval_min)
    gains = [
        np.bincount(week, weights=other.score[other.at(lead + s)] - day_score, minlength=len(weeks)) for s in shifts
    ]
    gain = np.array(gains)
    best, most = gain.argmax(axis=0), gain.max(axis=0)
    own_score = np.bincount(week, weights=day_score, minlength=len(weeks))
    changed = bad & (most >= _BETTER) & (own_score + most > _SUSPICIOUS)
    return [ChangedWeek(str(weeks[k]), shifts[best[k]]) for k in np.flatnonzero(changed)]
