"""Training: no feature knows the future, and a checkpoint is exact."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from src.agent.checkpoints import CheckpointStore, Snapshot
from src.agent.phases import Trainer
from src.agent.rollout_plan import RolloutPlan, plan_rollouts
from src.agent.settings import HardwareSettings, TrainingSettings
from src.agent.training import train
from src.agent.training_state import capture, restore
from src.evidence.look_ahead import check_prefixes
from src.runs.resources import machine_facts
from src.testing_framework import BatchedCallback
from src.validation.outcome import RESTORE, Outcome, failed, passed
from src.validation.setting import Setting

PREFIXES, QUICK_PREFIXES = 12, 2
HALF, WHOLE = 2, 4
"""Rollouts before the checkpoint and in all."""
SEED = 0


def look_ahead(setting: Setting) -> Outcome:
    """Recompute the features on bars that end earlier."""
    tables, config = setting.tables, setting.config
    check = check_prefixes(
        tables, config.data, config.environment.trading_hours, QUICK_PREFIXES if setting.quick else PREFIXES
    )
    if not check.passed:
        return failed(
            f"LEAK FOUND: {check.found}",
            f"A feature at the close of a bar must be made of bars up to it alone: mend the table named here in "
            f"src/market; what was trained with it knows the future. {RESTORE}",
            checks=check.checks,
        )
    return passed(f"no leak found by these checks ({check.checks})", checks=check.checks)


def checkpoint(setting: Setting) -> Outcome:
    """Train, write, read into a model built anew, train on: against the same training left alone."""
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
        return failed("a checkpoint just written does not hold", f"See that the disk of {folder} is sound. {RESTORE}")
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
    """What a training ends with, as bytes by name. `out` gets the snapshot of half-way, or with a `start` to go on from
    what is not as it was."""
    with closing(trainer.make_env(setting.market)) as env:
        model, callbacks = trainer.new_base(env, plan), [BatchedCallback(20)]
        if start is None:

            def keep() -> None:
                if model.num_timesteps == plan.actual * HALF // WHOLE:
                    out.append(capture(model, callbacks))

            model.after_update = keep
        else:
            out += restore(model, callbacks, start)
        train(model, plan, "base", callbacks, resumed=start is not None)
        ended = capture(model, callbacks)
    found = {
        f"{part} {name}": value.numpy().tobytes()
        for part, tensors in ended.tensors.items()
        for name, value in tensors.items()
    }
    return found | {"step": str(ended.step).encode()}
