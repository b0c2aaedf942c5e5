"""Training checks: no look-ahead, no sealed sessions, honest fills, exact checkpoints."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.agent.checkpoints import CheckpointStore, Snapshot
from src.agent.market import Market
from src.agent.members import Training
from src.agent.rollout_plan import RolloutPlan, plan_rollouts
from src.agent.settings import HardwareSettings, TrainingSettings
from src.agent.trainer import Trainer
from src.agent.training import train
from src.agent.training_state import capture, restore
from src.checks.outcome import RESTORE, Outcome, failed, passed
from src.checks.setting import Setting
from src.evaluation.decisions import check_decisions, check_fills
from src.evaluation.leak_words import SEALED
from src.evaluation.look_ahead import LEAST_ROUNDS, LeakCheck, check_features
from src.evaluation.sealed import check_drawn, check_sealed, drawn_sessions
from src.evaluation.warm_up import MOST_BARS, TOLERANCE, masked, synthetic_warm_ups, warm_up_lines
from src.runs.resources import machine_facts
from src.testing_framework import BatchedCallback

ROUNDS = 12
"""Rebuilds of the whole file with a changed future, each at a bar in every third session; a quick validation makes as
many as a run."""
DRAWN_ENVS, DRAWN_STEPS = 32, 300
WARM_UP_BARS = 4
"""Bars whose features a quick validation makes again from shorter histories."""
HALF, WHOLE = 2, 4
"""Rollouts before the checkpoint and in all."""
SEED = 0


def look_ahead(setting: Setting) -> Outcome:
    """Change the bars' future and compare everything that earlier decisions read."""
    market, config = setting.market, setting.config
    features = check_features(
        market, config.data, config.environment.trading_hours, least_rounds=LEAST_ROUNDS if setting.quick else ROUNDS
    )
    checks = [features] if not features.passed else [features, check_decisions(market)]
    return _outcome(
        checks,
        "What a decision reads at the close of a bar must use no later bar. Fix what is named here (features and "
        "situations: src/market, src/advisor/situations.py; observation, mask, rule state: src/trading). Models "
        "trained with it have seen the future.",
    )


def warm_up(setting: Setting) -> Outcome:
    """Make features again from shorter histories: the bars each needs, and what the mask of entries leaves inside."""
    market, config = setting.market, setting.config
    found = synthetic_warm_ups(
        market.tables.bars.interval_s // 60,
        config.environment.trading_hours,
        most_bars=WARM_UP_BARS if setting.quick else MOST_BARS,
    )
    figures: dict[str, Any] = {
        "warm_up_bars": {f"{feature.group}.{feature.name}": feature.bars for feature in found.features},
        "longest_history": found.longest,
        "tolerance": TOLERANCE,
    }
    if found.diverging:
        worst = max(found.diverging, key=lambda feature: feature.worst[found.longest])
        return failed(
            f"{worst.group} feature {worst.name} never converges: after {found.longest:,} bars it is still "
            f"{worst.worst[found.longest]:.2f} off ({worst.bar})",
            "A feature must forget where its history began, or a live feed gives the agent other values than it was "
            f"trained on: give it a fixed lookback or an average that decays. Not converging: "
            f"{', '.join(feature.name for feature in found.diverging)}.",
            **figures,
        )
    mask = masked(market.tables, config.data, found)
    inside = {str(needed): count for needed, count in mask.inside.items()}
    figures |= {"entry_bars": mask.entries, "warmup_bars": mask.warmup_bars, "entry_bars_below": inside}
    needed = found.by_bars()
    slowest = max(needed)
    outcome = passed(
        f"{len(found.features)} features converge, the slowest ({needed[slowest][0]}) in {slowest:,} bars", **figures
    )
    return replace(outcome, details=warm_up_lines(found, mask))


def fills(setting: Setting) -> Outcome:
    """Fill orders at known bars in each of the three ways an account is stepped."""
    return _outcome(
        [check_fills(setting.market)],
        "An order decided at the close of a bar fills at the next bar's open: fix the fill in src/trading/kernel.py. "
        "Results measured with it cannot be earned.",
    )


def sealed(setting: Setting) -> Outcome:
    """Change the bars of validation and sealed sessions and fit again; then train briefly and check where its episodes
    began."""
    market, config = setting.market, setting.config
    fits = check_sealed(market, config.data, config.environment.trading_hours)
    checks = [fits] if not fits.passed else [fits, _drawn_by_training(setting, market)]
    return _outcome(
        checks,
        "Fit, calibrate and train on the training part of the split only (src/agent/advising.py). Earlier results on "
        "those sealed sessions are void.",
    )


def _drawn_by_training(setting: Setting, market: Market) -> LeakCheck:
    """The sessions in which episodes of the configured accounts begin, over DRAWN_STEPS steps of random actions."""
    config = setting.config
    trainer = Trainer(
        config.training,
        HardwareSettings(device="cpu", vectorized_envs=DRAWN_ENVS),
        config.environment.model_copy(update={"env_class": None}),
        torch.device("cpu"),
        SEED,
    )
    rng = np.random.default_rng(SEED)
    with closing(trainer.make_env(market)) as env:
        env.seed(SEED)
        env.reset()
        for _ in range(DRAWN_STEPS):
            masks = np.stack(env.env_method("action_masks"))
            env.step((rng.random(masks.shape) * masks).argmax(axis=1))
        drawn = drawn_sessions(env, market)
    assert drawn is not None
    return LeakCheck(
        SEALED, drawn.episodes, check_drawn(market, [{"phase": Training.BASE, "sessions_drawn": drawn.to_dict()}])
    )


def _outcome(checks: Sequence[LeakCheck], remedy: str) -> Outcome:
    figures = {check.name: check.checks for check in checks}
    count = sum(check.checks for check in checks)
    found = next((check for check in checks if not check.passed), None)
    if found is not None:
        return failed(f"LEAK FOUND: {found.found}", f"{remedy} {RESTORE}", checks=count, check=found.name, **figures)
    return passed(f"no leak found by these checks ({count:,})", checks=count, **figures)


def checkpoint(setting: Setting) -> Outcome:
    """Train, write a checkpoint, resume from it; compare with the same training without a break."""
    config, threads = setting.config, setting.threads
    hardware = HardwareSettings(device="cpu", vectorized_envs=8, batch_size=128)
    training = TrainingSettings(n_epochs=2, policy_kwargs=config.training.policy_kwargs)
    trainer = Trainer(
        training, hardware, config.environment.model_copy(update={"env_class": None}), torch.device("cpu"), SEED
    )
    plan = plan_rollouts(256 * WHOLE, 8, 128, 32)
    kept: list[Snapshot] = []
    whole = _trained(setting, trainer, plan, kept, None)
    machine = machine_facts(threads)
    with tempfile.TemporaryDirectory(prefix="validate-") as folder:
        CheckpointStore(Path(folder), {}, machine=machine).save(kept[0])
        loaded = CheckpointStore(Path(folder), {}, machine=machine).newest(lambda _: None)
    if loaded is None:
        return failed("a checkpoint just written is damaged", f"Check the disk of {folder}. {RESTORE}")
    said: list[str] = list(loaded.not_bitwise)
    resumed = _trained(setting, trainer, plan, said, loaded.snapshot)
    differing = sorted(name for name in whole.keys() | resumed.keys() if whole.get(name) != resumed.get(name))
    if differing or said:
        what = f"{len(differing)} of {len(whole)} differ, first {differing[0]}" if differing else said[0]
        return failed(f"resumed is not bitwise: {what}", RESTORE, differing=differing, said=said)
    return passed(f"{len(whole)} tensors alike after {plan.actual:,} steps", compared=len(whole))


def _trained(
    setting: Setting, trainer: Trainer, plan: RolloutPlan, out: list[Any], start: Snapshot | None
) -> Mapping[str, bytes]:
    """Final state of a training, as bytes by name. `out` receives the half-way snapshot or, with a `start` to resume
    from, what differs from it."""
    with closing(trainer.make_env(setting.market)) as env:
        model, callbacks = trainer.new_base(env, plan), [BatchedCallback(20)]
        if start is None:

            def keep() -> None:
                if model.num_timesteps == plan.actual * HALF // WHOLE:
                    out.append(capture(model, callbacks))

            model.after_update = keep
        else:
            out += restore(model, callbacks, start)
        train(model, plan, Training.BASE, callbacks, resumed=start is not None)
        ended = capture(model, callbacks)
    found = {
        f"{part} {name}": value.numpy().tobytes()
        for part, tensors in ended.tensors.items()
        for name, value in tensors.items()
    }
    return found | {"step": str(ended.step).encode()}
