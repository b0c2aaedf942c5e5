"""Look-ahead and checkpoints: a feature that knows the future is found, and so is every bit that is not restored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from src.agent.checkpoints import CheckpointStore, Loaded
from src.agent.market import Market
from src.checks import training as checks_training
from src.checks.outcome import PASSED
from src.checks.setting import Setting
from src.checks.training import ROUNDS, checkpoint, fills, look_ahead, sealed, warm_up
from src.evaluation.leak_words import FEATURES, FILLS
from src.evaluation.look_ahead import LEAST_ROUNDS, LeakCheck
from src.evaluation.warm_up import TOLERANCE
from src.market import features
from src.market.bars import Bars
from src.market.flags import DECISION
from src.trading.tape import Tape
from tests.checks.settings import assert_failed, small_setting
from tests.planted import plant_context_feature


@pytest.mark.parametrize("quick", [True, False])
def test_the_features_know_nothing_of_the_future_as_far_as_was_looked(quick: bool) -> None:
    outcome = look_ahead(small_setting(quick=quick))
    assert outcome.status == PASSED, outcome
    assert outcome.measured == f"no leak found by these checks ({outcome.figures['checks']:,})"
    assert outcome.figures["features"] >= 200


def test_a_full_validation_rebuilds_the_file_more_often_than_a_quick_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def check(*_: Any, least_rounds: int) -> LeakCheck:
        asked.append(least_rounds)
        return LeakCheck(FEATURES, 1, "bar 7")

    monkeypatch.setattr(checks_training, "check_features", check)
    outcomes = [look_ahead(small_setting(quick=quick)) for quick in (True, False)]
    assert asked == [LEAST_ROUNDS, ROUNDS]
    for outcome in outcomes:
        assert_failed(outcome, "LEAK FOUND: bar 7", "src/market")


def test_orders_fill_from_the_next_bar_on() -> None:
    outcome = fills(small_setting())
    assert outcome.status == PASSED, outcome
    assert outcome.figures[FILLS] > 100


def test_a_fill_that_came_too_early_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the check itself finds one is shown with a changed kernel in tests/evidence/test_planted_leaks.py."""
    monkeypatch.setattr(checks_training, "check_fills", lambda market: LeakCheck(FILLS, 9, "bar 7 filled at its close"))
    assert_failed(fills(small_setting()), "LEAK FOUND: bar 7 filled at its close", "kernel.py")


def test_training_episodes_in_sealed_sessions_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Market.tape

    def everywhere(self: Market, *args: Any) -> Tape:
        tape = real(self, *args)
        return replace(tape, starts=np.flatnonzero(tape.flags & DECISION).astype(np.int32))

    assert sealed(small_setting()).status == PASSED
    monkeypatch.setattr(Market, "tape", everywhere)
    assert_failed(sealed(small_setting()), "sessions that are not for training", "training part of the split")


# ---------------------------------------------------------------- checkpoint


@pytest.fixture
def setting() -> Setting:
    return small_setting(training={"policy_kwargs": {"net_arch": {"pi": [16], "vf": [16]}}})


def test_a_training_that_was_stopped_ends_with_the_same_bits(setting: Setting) -> None:
    outcome = checkpoint(setting)
    assert outcome.status == PASSED, outcome
    assert outcome.figures["compared"] > 30


def with_loaded(monkeypatch: pytest.MonkeyPatch, change: Callable[[Loaded], Loaded | None]) -> None:
    """What is read from the disk is not what was written."""
    real = CheckpointStore.newest
    monkeypatch.setattr(CheckpointStore, "newest", lambda self, say: change(real(self, say)))  # type: ignore[arg-type]


def part_changed(part: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Loaded], Loaded]:
    def changed(loaded: Loaded) -> Loaded:
        tensors = dict(loaded.snapshot.tensors)
        tensors[part] = {name: change(value) for name, value in tensors[part].items()}
        return replace(loaded, snapshot=replace(loaded.snapshot, tensors=tensors))

    return changed


def half(value: torch.Tensor) -> torch.Tensor:
    return value.half().to(value.dtype) if value.is_floating_point() else value


def zero(value: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(value)


@pytest.mark.parametrize(("part", "change"), [("policy", half), ("optimizer", zero)])
def test_weights_that_are_rounded_or_an_optimizer_that_forgets_fail(
    monkeypatch: pytest.MonkeyPatch, setting: Setting, part: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    with_loaded(monkeypatch, part_changed(part, change))
    assert_failed(checkpoint(setting), "resumed is not bitwise", "git status")


def test_random_generators_that_are_not_put_back_fail(monkeypatch: pytest.MonkeyPatch, setting: Setting) -> None:
    real = checks_training.restore

    def forgets(*args: Any) -> list[str]:
        said = real(*args)
        torch.manual_seed(1)
        return said

    monkeypatch.setattr(checks_training, "restore", forgets)
    assert_failed(checkpoint(setting), "resumed is not bitwise", "git status")


def test_a_restore_that_says_itself_it_is_not_exact_fails(monkeypatch: pytest.MonkeyPatch, setting: Setting) -> None:
    real = checks_training.restore
    monkeypatch.setattr(checks_training, "restore", lambda *args: [*real(*args), "The accounts are others."])
    assert_failed(checkpoint(setting), "The accounts are others.", "git status")


def test_a_checkpoint_that_was_damaged_on_the_disk_fails(monkeypatch: pytest.MonkeyPatch, setting: Setting) -> None:
    real = CheckpointStore.save

    def save(self: CheckpointStore, snapshot: Any) -> Any:
        folder = real(self, snapshot)
        file = next(folder.glob("policy*.safetensors"))
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        return folder

    monkeypatch.setattr(CheckpointStore, "save", save)
    assert_failed(checkpoint(setting), "a checkpoint just written is damaged", "disk")


def test_a_feature_that_never_forgets_where_the_history_began_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def signed_volume(bars: Bars, run_start: np.ndarray) -> np.ndarray:
        """On-balance volume: a sum since the first bar."""
        return np.clip(np.cumsum(np.sign(bars.close - bars.open) * np.log1p(bars.volume)) / 200.0, -5.0, 5.0)

    plant_context_feature(monkeypatch, "momentum", signed_volume)
    outcome = warm_up(small_setting(quick=True))
    assert_failed(outcome, "context feature momentum never converges: after ", "Not converging: momentum.")
    assert outcome.figures["warm_up_bars"]["context.momentum"] is None


def test_the_check_says_what_each_feature_needs_and_what_is_not_masked() -> None:
    outcome = warm_up(small_setting(quick=True))
    assert outcome.status == PASSED
    assert outcome.measured.startswith("34 features converge, the slowest (volatility_regime) in ")
    said = "\n".join(outcome.details)
    assert f"within {TOLERANCE:g} of its final value (SYNTHETIC NQ bars, seed 0)" in said
    assert "no entry is allowed in the first 53 bars after a hole, a roll or the file's start." in said
    assert "data.warmup_bars masks more." in said
    assert outcome.figures["warmup_bars"] == 53
    assert set(outcome.figures["warm_up_bars"]) == {
        *(f"window.{name}" for name in features.WINDOW_FEATURES),
        *(f"context.{name}" for name in features.CONTEXT_FEATURES),
        "atr_ticks.atr_ticks",
    }
