"""Constants of an account, built once from contract, settings and rule profile."""

from __future__ import annotations

from decimal import Decimal

import numpy as np

from src.errors import ConfigError
from src.market.contracts import Contract
from src.trading.layout import PARAMS
from src.trading.rules import RuleProfile
from src.trading.settings import EnvironmentSettings


def commission_cents(settings: EnvironmentSettings, contract: Contract) -> int:
    """Commission per contract and side in whole cents; the market's default unless the settings give one."""
    if settings.commission_usd is None:
        return contract.commission_cents
    cents = Decimal(str(settings.commission_usd)) * 100
    if cents != cents.to_integral_value():
        raise ConfigError(
            f"environment.commission_usd is {settings.commission_usd}, but money is counted in whole cents: "
            f"give at most two decimals, for example {float(round(cents)) / 100:.2f}."
        )
    return int(cents)


def make_params(settings: EnvironmentSettings, contract: Contract, rules: RuleProfile) -> np.ndarray:
    """The kernel's constants: a structured array of `PARAMS`, length 1, read-only.

    Micros count against the profile's limit for micros. Raises ConfigError if the commission is not in whole cents.
    """
    params = np.zeros(1, PARAMS)
    values = {
        "contracts": settings.contracts,
        "tick_value_cents": contract.tick_value_cents,
        "commission_cents": commission_cents(settings, contract),
        "slippage_ticks": contract.slippage_ticks if settings.slippage_ticks is None else settings.slippage_ticks,
        "target_through_ticks": settings.target_through_ticks,
        "max_episode_steps": settings.max_episode_steps,
        "stop_atr": settings.stop_atr,
        "target_r": settings.target_r,
        "trail_atr": settings.trail_atr,
        "reward_scale_cents": settings.reward_scale_usd * 100.0,
        "breach_penalty": settings.breach_penalty,
        "fresh_account_frac": settings.fresh_account_frac,
        "min_buffer_frac": settings.min_buffer_frac,
        **rules.to_params_fields(micro=contract.parent is not None),
    }
    missing = set(PARAMS.names or ()) ^ set(values)
    if missing:
        raise TypeError(f"constants of an account without a value, or values without a constant: {sorted(missing)}")
    for name, value in values.items():
        params[name] = value
    params.setflags(write=False)
    return params
