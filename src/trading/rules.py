"""Dated rule profiles of prop firms, and what the kernel needs from them.

A profile records what a source said on a given day. Results computed from it are always called a *simulated rule
check*: firms change their rules, and passing here does not mean that a firm allows trading that way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from decimal import Decimal
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

TRAIL_MODES: Final[Mapping[str, int]] = {"none": 0, "live_peak": 1, "end_of_day": 2}


def _no_bool(value: Any) -> Any:
    # YAML reads `yes` as true, and pydantic would accept true as 1.
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Usd = Annotated[Decimal, BeforeValidator(_no_bool), Field(gt=0, max_digits=12, decimal_places=2, allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=10_000)]
Text = Annotated[str, Field(min_length=1)]


class RuleProfile(Section):
    """One account type of one firm on one date; null means no such rule. Money is in US dollars, whole cents."""

    name: Text = Field(description="the file's name without its ending")
    title: Text = Field(description="what a report calls the account")
    as_of: date = Field(description="the day on which the sources said so")
    sources: tuple[Text, ...] = Field(min_length=1, description="where the figures come from")
    caveats: tuple[Text, ...] = Field((), description="what is disputed, assumed or not simulated")
    start_balance_usd: Usd = Field(description="balance of a new account")
    profit_target_usd: Usd | None = Field(None, description="profit that passes the evaluation")
    trail_mode: Literal["none", "live_peak", "end_of_day"] = Field(
        description="what the threshold follows: the live unrealized peak, the end-of-session balance, or nothing"
    )
    trail_usd: Usd | None = Field(None, description="distance of the threshold below that peak")
    lock_usd: Usd | None = Field(None, description="balance at which the threshold stops rising; null: never")
    daily_limit_usd: Usd | None = Field(None, description="loss that pauses the account until the next session")
    max_contracts: Count | None = Field(None, ge=1, description="most contracts of a full-size market held at once")
    micro_contracts: Count | None = Field(None, ge=1, description="most contracts of a micro market held at once")
    expiry_days: Count | None = Field(None, ge=1, description="sessions after which the evaluation expires")
    min_days: Count = Field(0, description="sessions before a pass counts; does not affect the account")

    @model_validator(mode="after")
    def _rules_fit_together(self) -> RuleProfile:
        if (self.trail_usd is None) != (self.trail_mode == "none"):
            raise ValueError("trail_usd must be given exactly when trail_mode is live_peak or end_of_day")
        if self.lock_usd is not None:
            if self.trail_usd is None:
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
        if (self.max_contracts is None) != (self.micro_contracts is None):
            raise ValueError("max_contracts and micro_contracts must be given together")
        if self.max_contracts and self.micro_contracts and self.micro_contracts < self.max_contracts:
            raise ValueError(f"micro_contracts must be at least max_contracts = {self.max_contracts}")
        return self

    def to_params_fields(self, *, micro: bool = False) -> dict[str, int]:
        """The rule constants of an account: money in cents, modes as codes.

        `trail_mode` is 0 none, 1 live peak, 2 end of day; `lock_mode` is 0 none, 1 at `lock_cents`. `micro` selects the
        limit for micro contracts. 0 means no rule, except for `max_contracts` (NO_CONTRACT_LIMIT).
        """
        limit = self.micro_contracts if micro else self.max_contracts
        return {
            "start_balance_cents": _cents(self.start_balance_usd),
            "trail_mode": TRAIL_MODES[self.trail_mode],
            "trail_cents": _cents(self.trail_usd),
            "lock_mode": int(self.lock_usd is not None),
            "lock_cents": _cents(self.lock_usd),
            "daily_limit_cents": _cents(self.daily_limit_usd),
            "target_cents": _cents(self.profit_target_usd),
            "expiry_days": self.expiry_days or 0,
            "max_contracts": NO_CONTRACT_LIMIT if limit is None else limit,
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hex of the rules themselves: name, title, date, sources and caveats aside."""
        facts = [self.to_params_fields(), self.to_params_fields(micro=True), self.min_days]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def summary(self) -> str:
        """One sentence for console and report: the rules, their date, and how the lock is interpreted."""
        rules = [f"start ${self.start_balance_usd:,}"]
        if self.profit_target_usd is not None:
            rules.append(f"target ${self.profit_target_usd:,}")
        if self.trail_usd is not None:
            follows = "the live unrealised peak" if self.trail_mode == "live_peak" else "the balance at a session's end"
            lock = "never stops rising" if self.lock_usd is None else f"stops rising at ${self.lock_usd:,}"
            rules.append(f"threshold ${self.trail_usd:,} below {follows}, which {lock}")
        if self.daily_limit_usd is not None:
            rules.append(f"daily loss limit ${self.daily_limit_usd:,}")
        if self.max_contracts is not None:
            rules.append(f"{self.max_contracts} contracts ({self.micro_contracts} micros)")
        if self.expiry_days is not None:
            rules.append(f"expires after {self.expiry_days} sessions")
        return f"{RESULT_NAME}, {self.title}, as of {self.as_of.isoformat()}: {'; '.join(rules)}"


def available_rule_profiles(folder: Path = PROFILES_FOLDER) -> tuple[str, ...]:
    """Names of the profiles in a folder, sorted."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def load_rule_profile(name: str, folder: Path = PROFILES_FOLDER) -> RuleProfile:
    """Load a profile by name. Raises ConfigError for an unknown name or an invalid file or field."""
    known = available_rule_profiles(folder)
    if name not in known:
        listed = ", ".join(known) if known else "none at all"
        raise ConfigError(
            f"environment.rule_profile is {name!r}, but {folder} has no such rule profile{did_you_mean(name, known)}. "
            f"Available: {listed}. Choose one of them, or add {name}.yaml there."
        )
    path = folder / f"{name}.yaml"
    profile = read_model(path, RuleProfile, "a valid rule profile")
    if profile.name != name:
        raise ConfigError(f"{path}: name is {profile.name!r}, but must match the file name, {name!r}.")
    return profile


def _cents(usd: Decimal | None) -> int:
    return 0 if usd is None else int(usd * 100)
