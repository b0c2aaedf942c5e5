"""A small market, a policy trained for a moment on it, and finished runs, each made once for all tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.console import Console

from src.advisor.mock import MockAdvisor
from src.advisor.settings import LLMSettings
from src.advisor.table import AdviceTable
from src.advisor.tabulation import TabulationRecord
from src.agent.advising import tabulate_advice
from src.agent.market import Market, market_of
from src.agent.ppo import TimedMaskablePPO
from src.agent.rollout_plan import RolloutPlan, plan_rollouts
from src.agent.settings import HardwareSettings, NetArch, PolicySettings, TrainingSettings
from src.agent.trainer import Trainer
from src.market.contracts import get_contract
from src.market.load import build_tables
from src.market.settings import DataSettings
from src.market.synthetic import synthetic_bars
from src.market.tables import MarketTables
from src.testing_framework import TestConfig, TestingFramework, create_test_config
from src.trading.params import make_params
from src.trading.rules import load_rule_profile
from src.trading.settings import EnvironmentSettings

SMALL_NETS = PolicySettings(net_arch=NetArch(pi=(16,), vf=(16,)))
TRAINING = TrainingSettings(policy_kwargs=SMALL_NETS, n_epochs=2)
HARDWARE = HardwareSettings(device="cpu", vectorized_envs=4, batch_size=64, torch_threads=1)
LIVE = LLMSettings(model="mock")
OFF = LLMSettings(model="mock", llm_weight=0.0, use_opinion_features=False)

_kept = TemporaryDirectory(prefix="small-runs-")

# One thread, as every run that must repeat another to the bit; small nets; two minibatches a rollout of 128.
SMALL: Mapping[str, Any] = {
    "vectorized_envs": 4,
    "batch_size": 64,
    "torch_threads": 1,
    "device": "cpu",
    "timesteps": 512,
    "training": {
        "policy_kwargs": {"net_arch": {"pi": [16], "vf": [16]}},
        "n_epochs": 2,
        "production_net_arch": [12],
    },
    "data": {"synthetic_interval_min": 15},
    "mock_llm": True,
    "log_interval": 20,
    "hardware_interval_s": 0.2,
    "evidence": {
        "seeds": 1,
        "stress_slippage_ticks": [0, 1],
        "chart_sessions": 1,
        "pass_attempts": 200,
        "pass_max_days": 10,
        "trials_path": f"{_kept.name}/trials.jsonl",
    },
    "validation": {"max_peak_memory_gb": 1000.0},
}


@cache
def tables() -> MarketTables:
    """Sixty synthetic sessions of NQ in 15-minute bars."""
    return build_tables(synthetic_bars("NQ", 60, 15, 0), DataSettings(), trading_hours="rth")


@cache
def market(symbol: str = "MNQ", profile: str = "none") -> Market:
    """A micro's accounts over those bars: one lost trade of 15-minute NQ bars ends a day under the usual rules."""
    environment = EnvironmentSettings(rule_profile=profile)
    rules = load_rule_profile(profile)
    return market_of(tables(), DataSettings(), rules, make_params(environment, get_contract(symbol), rules))


@cache
def asked() -> tuple[AdviceTable, TabulationRecord]:
    """The mock advisor's answers for that market's training sessions, and how they came about."""
    return tabulate_advice(market(), MockAdvisor(), LLMSettings(model="mock"))


def advice() -> AdviceTable:
    """The mock advisor's answers for that market's training sessions."""
    return asked()[0]


def trainer(seed: int = 0, **training: Any) -> Trainer:
    """A trainer of small nets on the CPU."""
    torch.set_num_threads(1)
    settings = TRAINING.model_copy(update=training)
    return Trainer(settings, HARDWARE, EnvironmentSettings(), torch.device("cpu"), seed)


def plan(rollouts: int) -> RolloutPlan:
    """Whole rollouts of 4 accounts x 32 bars, two minibatches each."""
    made = plan_rollouts(128 * rollouts, 4, 64, 32)
    assert made.rollouts == rollouts
    return made


def train_base(seed: int = 0, rollouts: int = 2, **training: Any) -> TimedMaskablePPO:
    """A base policy trained from scratch."""
    made = trainer(seed, **training)
    return made.base(made.make_env(market()), plan(rollouts), [])[0]


@cache
def base() -> TimedMaskablePPO:
    """The base policy of seed 0; not to be trained on."""
    return train_base()


def fine_tuned(llm: LLMSettings | None, *, rollouts: int = 2, seed: int = 0, advised: bool = True) -> TimedMaskablePPO:
    """Phase 3 from `base()`; the observation holds live advice where `advised`."""
    made = trainer(seed)
    env = made.make_env(market(), advice() if advised else None)
    return made.finetune(base(), env, plan(rollouts), [], llm)[0]


def state_of(model: TimedMaskablePPO) -> dict[str, np.ndarray]:
    """Every parameter of the policy; the pool weight of a hybrid one is no parameter."""
    return {name: value.detach().numpy().copy() for name, value in model.policy.named_parameters()}


def same_bits(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    """Whether two sets of arrays are equal to the bit."""
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


@dataclass(frozen=True)
class FinishedRun:
    """A whole run in this process: what it returned, wrote and printed."""

    config: TestConfig
    framework: TestingFramework
    report: dict[str, Any]
    folder: Path
    printed: str

    @property
    def written(self) -> dict[str, Any]:
        """report.json as it stands."""
        return json.loads((self.folder / "report.json").read_text(encoding="utf-8"))


def small_config(folder: Path, **overrides: Any) -> TestConfig:
    """The configuration of a small run that writes below `folder`."""
    return create_test_config("hardware_maximized", "NQ", **{**SMALL, "output_dir": str(folder), **overrides})


def run_small(folder: Path, **overrides: Any) -> FinishedRun:
    """Run it on synthetic bars."""
    config = small_config(folder, **overrides)
    console = Console(file=StringIO(), width=80)
    framework = TestingFramework(config, console)
    report = framework.run_hardware_maximized_validation()
    assert framework.run_folder is not None
    return FinishedRun(config, framework, report, framework.run_folder, console.file.getvalue())


@cache
def finished(name: str) -> FinishedRun:
    """The runs several tests look at: `plain`, and the same run in other ways.

    `unassisted` has every shortcut of `performance` off; `dummy` and `subproc` step their accounts by another route.
    """
    different: dict[str, dict[str, Any]] = {
        "plain": {},
        "unassisted": {
            "cached_llm_features": False,
            "vectorized_decision_fusion": False,
            "batched_logging": False,
            "environment_state_pooling": False,
        },
        "dummy": {"vec_env": "dummy"},
        "subproc": {"vec_env": "subproc"},
    }
    return run_small(Path(_kept.name) / name, **different[name])


def with_rules(profile: str) -> Market:
    """The small market under other rules."""
    return replace(market("NQ", profile))


def with_vec_env(trainer: Trainer, route: str) -> Trainer:
    """The same trainer over another route."""
    return replace(trainer, hardware=trainer.hardware.model_copy(update={"vec_env": route}))
