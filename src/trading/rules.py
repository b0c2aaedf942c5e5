"""Dated rule profiles of prop firms, and what the kernel needs from them.

A profile records what a source said on a given day, and what the sources leave open. Results computed from it are
always called a *simulated rule check*: firms change their rules, and passing here does not mean that a firm allows
trading that way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, model_validator

from src.errors import ConfigError
from src.settings import Section
from src.suggestions import did_you_mean
from src.yaml_files import read_model

RESULT_NAME: Final = "simulated rule check"

PROFILES_FOLDER: Final = Path(__file__).resolve().parents[2] / "config" / "prop_firms"

NO_CONTRACT_LIMIT: Final = 10**9
"""Contract limit of a profile without one: more than any setting allows."""

ALL: Final = "all"
"""In a list of profiles: every one that has a target and that no later profile replaces."""

TRAIL_MODES: Final[Mapping[str, int]] = {"none": 0, "live_peak": 1, "end_of_day": 2, "static": 3}
FOLLOWS: Final[Mapping[str, str]] = {
    "live_peak": "the live unrealised peak",
    "end_of_day": "the balance at a session's end",
    "static": "the starting balance",
}
FORCED_EXIT: Final[Mapping[str, time]] = {"rth": time(15, 59), "globex": time(16, 59)}
"""New York time after which no position is held, by `environment.trading_hours`; earlier on early closes."""
MOST_RUNGS: Final = 4
Automation = Literal["allowed", "restricted", "banned", "unknown"]


def _no_bool(value: Any) -> Any:
    # YAML reads `yes` as true, and pydantic would accept true as 1.
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _clock(value: Any) -> Any:
    """Text, or minutes since midnight: YAML reads an unquoted 16:59 as a sexagesimal number."""
    is_minutes = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 24 * 60
    return time(value // 60, value % 60) if is_minutes else value


Usd = Annotated[Decimal, BeforeValidator(_no_bool), Field(gt=0, max_digits=12, decimal_places=2, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=10_000)]
Share = Annotated[
    Decimal, BeforeValidator(_no_bool), Field(gt=0, le=1, max_digits=5, decimal_places=4, allow_inf_nan=False)
]
Clock = Annotated[time, BeforeValidator(_clock)]
Text = Annotated[str, Field(min_length=1)]


class Rung(Section):
    """A step of a contract ladder."""

    profit_usd: Usd = Field(description="profit at a session's start from which the step holds")
    contracts: Count = Field(ge=1, description="most contracts of a full-size market held at once")
    micros: Count = Field(ge=1, description="most contracts of a micro market held at once")


Ladder = Annotated[tuple[Rung, ...], Field(max_length=MOST_RUNGS)]


class FundedRules(Section):
    """The account after a pass, until its first payout; drawdown and daily limit are those of the evaluation."""

    payout_balance_usd: Usd = Field(description="balance from which a payout may be asked for: the safety net")
    lock_usd: Usd | None = Field(None, description="balance at which the threshold stops rising; null: never")
    consistency_frac: Share | None = Field(None, description="share of the profit that the best day must stay below")
    payout_days: Count = Field(0, description="days that must count before a payout")
    payout_day_usd: Usd | None = Field(None, description="least profit of a day that counts; null: any traded day")
    max_contracts: Count | None = Field(None, ge=1, description="as in the evaluation")
    micro_contracts: Count | None = Field(None, ge=1, description="as in the evaluation")
    ladder: Ladder = Field((), description="as in the evaluation")


class RuleProfile(Section):
    """One account type of one firm on one date; null means no such rule. Money is in US dollars, whole cents."""

    name: Text = Field(description="the file's name without its ending")
    title: Text = Field(description="what a report calls the account")
    family: Text | None = Field(None, description="the firm and plan: profiles of one family differ in their size")
    as_of: date = Field(description="the day on which the sources said so")
    superseded_by: Text | None = Field(None, description="the profile of what the firm sells today")
    sources: tuple[Text, ...] = Field(min_length=1, description="where the figures come from")
    caveats: tuple[Text, ...] = Field((), description="what is disputed, assumed or not simulated")
    conflicts: tuple[Text, ...] = Field((), description="where the sources disagree, and what is used")
    unverified: tuple[Text, ...] = Field((), description="what no source confirms, and what is used")
    automation: Automation | None = Field(None, description="whether the firm lets a program trade; null: no firm")
    automation_note: Text | None = Field(None, description="what the firm says about that")
    start_balance_usd: Usd = Field(description="balance of a new account")
    profit_target_usd: Usd | None = Field(None, description="profit that passes the evaluation")
    trail_mode: Literal["none", "live_peak", "end_of_day", "static"] = Field(
        description="what the threshold follows: the live unrealized peak, the end-of-session balance, the starting "
        "balance alone, or nothing"
    )
    trail_usd: Usd | None = Field(None, description="distance of the threshold below that peak")
    lock_usd: Usd | None = Field(None, description="balance at which the threshold stops rising; null: never")
    daily_limit_usd: Usd | None = Field(None, description="loss that pauses the account until the next session")
    daily_limit_breaches: bool = Field(False, description="the daily limit ends the account instead of pausing it")
    consistency_frac: Share | None = Field(None, description="share of the profit that the best day must stay below")
    max_contracts: Count | None = Field(None, ge=1, description="most contracts of a full-size market held at once")
    micro_contracts: Count | None = Field(None, ge=1, description="most contracts of a micro market held at once")
    ladder: Ladder = Field((), description="more contracts from a profit on, lowest profit first")
    expiry_days: Count | None = Field(None, ge=1, description="sessions after which the evaluation expires")
    expiry_calendar_days: Count | None = Field(None, ge=1, description="calendar days after which it expires")
    min_days: Count = Field(0, description="sessions before a pass counts; does not affect the account")
    min_trading_days: Count = Field(0, description="sessions with a trade before a pass counts")
    min_day_usd: Usd | None = Field(None, description="least profit of a session that counts as a trading day")
    flat_by: Clock | None = Field(None, description="New York time after which the firm allows no position")
    funded: FundedRules | None = Field(None, description="the account after a pass; null: not simulated")

    @model_validator(mode="after")
    def _drawdown_fits_together(self) -> RuleProfile:
        if (self.trail_usd is None) != (self.trail_mode == "none"):
            raise ValueError("trail_usd must be given exactly when trail_mode is live_peak, end_of_day or static")
        if self.lock_usd is not None:
            if self.trail_usd is None or self.trail_mode == "static":
                raise ValueError("lock_usd needs a trailing threshold; set trail_mode or remove it")
            if self.lock_usd < self.start_balance_usd - self.trail_usd:
                lowest = self.start_balance_usd - self.trail_usd
                raise ValueError(
                    f"lock_usd must be at least start_balance_usd - trail_usd = {lowest}, "
                    "the threshold of a new account"
                )
        for key in ("trail_usd", "daily_limit_usd"):
            loss = getattr(self, key)
            if loss is not None and loss >= self.start_balance_usd:
                raise ValueError(f"{key} must be below start_balance_usd = {self.start_balance_usd}")
        return self

    @model_validator(mode="after")
    def _contracts_fit_together(self) -> RuleProfile:
        if (self.max_contracts is None) != (self.micro_contracts is None):
            raise ValueError("max_contracts and micro_contracts must be given together")
        if self.max_contracts and self.micro_contracts and self.micro_contracts < self.max_contracts:
            raise ValueError(f"micro_contracts must be at least max_contracts = {self.max_contracts}")
        if self.ladder and self.max_contracts is None:
            raise ValueError("ladder needs max_contracts and micro_contracts, the contracts of a new account")
        steps = [(Decimal(0), self.max_contracts or 0, self.micro_contracts or 0)]
        steps += [(rung.profit_usd, rung.contracts, rung.micros) for rung in self.ladder]
        for lower, upper in pairwise(steps):
            if upper[0] <= lower[0] or upper[1] < lower[1] or upper[2] < lower[2]:
                raise ValueError("ladder must rise: each step at a higher profit, with no fewer contracts")
        return self

    @model_validator(mode="after")
    def _pass_fits_together(self) -> RuleProfile:
        needs = (
            ("daily_limit_breaches", self.daily_limit_breaches, "daily_limit_usd", self.daily_limit_usd),
            ("consistency_frac", self.consistency_frac, "profit_target_usd", self.profit_target_usd),
            ("min_day_usd", self.min_day_usd, "min_trading_days", self.min_trading_days),
            ("funded", self.funded, "profit_target_usd", self.profit_target_usd),
        )
        for key, value, needed, given in needs:
            if value and not given:
                raise ValueError(f"{key} needs {needed}; set it or remove {key}")
        if self.expiry_days is not None and self.expiry_calendar_days is not None:
            raise ValueError("expiry_days counts sessions and expiry_calendar_days days; give only one of them")
        if (self.automation is None) != (self.automation_note is None):
            raise ValueError("automation and automation_note must be given together")
        if self.funded is not None and self.funded.payout_balance_usd <= self.start_balance_usd:
            raise ValueError(f"funded.payout_balance_usd must be above start_balance_usd = {self.start_balance_usd}")
        return self

    def to_params_fields(self, *, micro: bool = False) -> dict[str, int]:
        """The rule constants of an account: money in cents, shares in basis points, modes as codes.

        `trail_mode` is 0 none, 1 live peak, 2 end of day, 3 static; `lock_mode` is 0 none, 1 at `lock_cents`. `micro`
        selects the limits for micro contracts. 0 means no rule, except for `max_contracts` (NO_CONTRACT_LIMIT).
        """
        limit = self.micro_contracts if micro else self.max_contracts
        steps = [(_cents(rung.profit_usd), rung.micros if micro else rung.contracts) for rung in self.ladder]
        steps += [(0, 0)] * (MOST_RUNGS - len(steps))
        fields = {
            "start_balance_cents": _cents(self.start_balance_usd),
            "trail_mode": TRAIL_MODES[self.trail_mode],
            "trail_cents": _cents(self.trail_usd),
            "lock_mode": int(self.lock_usd is not None),
            "lock_cents": _cents(self.lock_usd),
            "daily_limit_cents": _cents(self.daily_limit_usd),
            "target_cents": _cents(self.profit_target_usd),
            "expiry_days": self.expiry_days or self._sessions_to_expiry,
            "max_contracts": NO_CONTRACT_LIMIT if limit is None else limit,
            "daily_breaches": int(self.daily_limit_breaches),
            "consistency_bp": 0 if self.consistency_frac is None else int(self.consistency_frac * 10_000),
            "needed_days": self.min_trading_days,
            "day_profit_cents": _cents(self.min_day_usd),
        }
        for k, (cents, contracts) in enumerate(steps, start=1):
            fields |= {f"ladder_cents_{k}": cents, f"ladder_contracts_{k}": contracts}
        return fields

    @property
    def _sessions_to_expiry(self) -> int:
        """Weekdays in the calendar days, for training draws; attempts count the exchange's own days."""
        return 0 if self.expiry_calendar_days is None else max(1, self.expiry_calendar_days * 5 // 7)

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex of the rules themselves: name, title, date, sources, caveats and automation aside.

        Rules that came later are in it only where a profile has them: the profiles before keep their fingerprints.
        """
        fields, micro = self.to_params_fields(), self.to_params_fields(micro=True)
        later = {key: [fields.pop(key), micro.pop(key)] for key in list(fields) if key in LATER_FIELDS}
        later |= {key: [self.model_dump(mode="json")[key]] for key in ("expiry_calendar_days", "flat_by", "funded")}
        facts: list[Any] = [fields, micro, self.min_days]
        if new := {key: values for key, values in later.items() if any(values)}:
            facts.append(new)
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def funded_profile(self) -> RuleProfile | None:
        """The funded account as a profile whose target is the first payout; None where its rules are not known."""
        funded = self.funded
        if funded is None:
            return None
        payout = {
            "name": f"{self.name}, funded",
            "title": f"{self.title}, funded account",
            "profit_target_usd": funded.payout_balance_usd - self.start_balance_usd,
            "lock_usd": funded.lock_usd,
            "consistency_frac": funded.consistency_frac,
            "max_contracts": funded.max_contracts,
            "micro_contracts": funded.micro_contracts,
            "ladder": funded.ladder,
            "min_days": 0,
            "min_trading_days": funded.payout_days,
            "min_day_usd": funded.payout_day_usd,
            "expiry_days": None,
            "expiry_calendar_days": None,
            "funded": None,
        }
        return RuleProfile(**{**dict(self), **payout})

    def why_not_flat(self, trading_hours: str) -> str:
        """Why these trading hours break the firm's time to be flat by; empty where they do not."""
        exits = FORCED_EXIT[trading_hours]
        if self.flat_by is None or exits <= self.flat_by:
            return ""
        by, until = (f"{clock:%H:%M}" for clock in (self.flat_by, exits))
        return f"positions must be closed by {by} New York, but {trading_hours} holds them until {until}"

    def summary(self) -> str:
        """One sentence for console and report: the rules, their date, and how the lock is interpreted."""
        rules = [f"start ${self.start_balance_usd:,}"]
        if self.profit_target_usd is not None:
            rules.append(f"target ${self.profit_target_usd:,}")
        if self.trail_usd is not None:
            lock = "never stops rising" if self.lock_usd is None else f"stops rising at ${self.lock_usd:,}"
            lock = "never moves" if self.trail_mode == "static" else lock
            rules.append(f"threshold ${self.trail_usd:,} below {FOLLOWS[self.trail_mode]}, which {lock}")
        if self.daily_limit_usd is not None:
            ends = ", which ends the account" if self.daily_limit_breaches else ""
            rules.append(f"daily loss limit ${self.daily_limit_usd:,}{ends}")
        if self.consistency_frac is not None:
            rules.append(f"best day below {100 * float(self.consistency_frac):g}% of the profit")
        if self.max_contracts is not None:
            rules.append(f"{self.max_contracts} contracts ({self.micro_contracts} micros)")
        rules += [f"{rung.contracts} ({rung.micros}) from ${rung.profit_usd:,}" for rung in self.ladder]
        if self.expiry_days is not None:
            rules.append(f"expires after {self.expiry_days} sessions")
        if self.expiry_calendar_days is not None:
            rules.append(f"expires after {self.expiry_calendar_days} calendar days")
        if self.min_trading_days:
            days = "day" if self.min_trading_days == 1 else "days"
            rules.append(f"at least {self.min_trading_days} trading {days}")
        if self.flat_by is not None:
            rules.append(f"flat by {self.flat_by:%H:%M} New York")
        return f"{RESULT_NAME}, {self.title}, as of {self.as_of.isoformat()}: {'; '.join(rules)}"


LATER_FIELDS: Final = {
    "daily_breaches", "consistency_bp", "needed_days", "day_profit_cents",
    *(f"ladder_{what}_{k}" for what in ("cents", "contracts") for k in range(1, MOST_RUNGS + 1)),
}  # fmt: skip
"""Constants of an account that the first profiles did not have."""


def available_rule_profiles(folder: Path = PROFILES_FOLDER) -> tuple[str, ...]:
    """Names of the profiles in a folder, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def load_rule_profile(name: str, folder: Path = PROFILES_FOLDER, key: str = "environment.rule_profile") -> RuleProfile:
    """Load a profile by name, which `key` of the configuration gave. Raises ConfigError for an unknown name or an
    invalid file or field."""
    known = available_rule_profiles(folder)
    if name not in known:
        listed = ", ".join(known) if known else "none at all"
        raise ConfigError(
            f"{key} is {name!r}, but {folder} has no such rule profile{did_you_mean(name, known)}. "
            f"Available: {listed}. Choose one of them, or add {name}.yaml there."
        )
    path = folder / f"{name}.yaml"
    profile = read_model(path, RuleProfile, "a valid rule profile")
    if profile.name != name:
        raise ConfigError(f"{path}: name is {profile.name!r}, but must match the file name, {name!r}.")
    return profile


def chosen_profiles(names: Sequence[str], folder: Path = PROFILES_FOLDER) -> list[RuleProfile]:
    """The profiles of `evidence.rules`, each once, in the order given; ALL stands for every current one with a target.
    Raises ConfigError as `load_rule_profile`."""
    found: dict[str, RuleProfile] = {}
    for name in names:
        if name == ALL:
            every = (load_rule_profile(known, folder) for known in available_rule_profiles(folder))
            chosen = [of for of in every if of.profit_target_usd is not None and of.superseded_by is None]
        else:
            chosen = [load_rule_profile(name, folder, "evidence.rules")]
        for profile in chosen:
            found.setdefault(profile.name, profile)
    return list(found.values())


def _cents(usd: Decimal | None) -> int:
    return 0 if usd is None else int(usd * 100)
