"""State the checks share: the options, and what is made from them once: configuration, tables, threads, advisor."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.checks.outcome import Blocked

if TYPE_CHECKING:
    from src.advisor.table import Advisor
    from src.agent.market import Market
    from src.configuration import Configuration
    from src.market.tables import MarketTables

ROOT = Path(__file__).resolve().parents[2]
QUICK_S = 60.0
"""Time limit of a quick validation on two cores."""


@dataclass
class Setting:
    """One validation. Libraries are imported where they are used, so that a check without them cannot fail for the lack
    of one. `failed` names the failed checks, so that each finding is reported once."""

    market_name: str | None = None
    data: Path | str | None = None
    config_file: Path | None = None
    quick: bool = False
    timezone: str | None = None
    stamp: str | None = None
    interval_min: int | None = None
    root: Path = ROOT
    """Where requirements, pyproject.toml and config/ are."""
    failed: set[str] = field(default_factory=set)
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        self._began = self.clock()

    def seconds_left(self) -> float:
        """Time left of a quick validation; infinite in a full one."""
        return QUICK_S - (self.clock() - self._began) if self.quick else float("inf")

    @property
    def overrides(self) -> dict[str, Any]:
        """The options that are keys of the configuration."""
        return {
            "market": self.market_name,
            "data": self.data,
            "timezone": self.timezone,
            "stamp": self.stamp,
            "interval": self.interval_min,
        }

    @property
    def config(self) -> Configuration:
        """The effective configuration. UserErrors for what the user can fix; Blocked once the check `config` has
        reported them."""
        self._unless("config")
        return self._config

    @cached_property
    def _config(self) -> Configuration:
        from src.configuration import build_config, load_config_file
        from src.errors import ConfigError

        values = load_config_file(self.config_file) if self.config_file else {}
        config: Configuration = build_config(
            None, values, self.overrides, source=str(self.config_file or "configuration")
        )
        if config.has_several_markets:
            raise ConfigError(
                f"{self.config_file}: test_mode.market lists {', '.join(config.test_mode.markets)}, but one market is "
                f"checked at a time: name it with --market."
            )
        return config

    @property
    def tables(self) -> MarketTables:
        """The user's bars as tables, else synthetic ones; errors as for `config`, reported by the check `data`."""
        self._unless("data")
        return self._tables

    @cached_property
    def _tables(self) -> MarketTables:
        from src.market.load import load_market

        config = self.config
        return load_market(
            config.data,
            config.test_mode.markets[0],
            trading_hours=config.environment.trading_hours,
            seed=config.test_mode.seed,
        )

    @cached_property
    def market(self) -> Market:
        """The tables ready to trade."""
        from src.agent.market import account_constants, market_of

        config = self.config
        return market_of(self.tables, config.data, *account_constants(config.environment, config.test_mode.markets[0]))

    @cached_property
    def threads(self) -> int:
        """Threads of torch as a run would set them; set from here on."""
        from src.agent.training import set_threads

        return set_threads(self.config.hardware)

    @cached_property
    def advisor(self) -> Advisor:
        """The configured advisor, loaded. ConfigError if it is not available here."""
        from src.advisor.choose import make_advisor
        from src.advisor.mock import MockAdvisor

        advisor = make_advisor(self.config.llm)
        return advisor if isinstance(advisor, MockAdvisor) else advisor.load()

    def forget_advisor(self) -> None:
        """Free the advisor's memory: no later check needs it."""
        self.__dict__.pop("advisor", None)

    def _unless(self, check: str) -> None:
        if check in self.failed:
            raise Blocked(check)
