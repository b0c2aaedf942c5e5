"""State of a training at a rollout boundary: everything another process needs for a bit-identical resume.

At that boundary (`TimedMaskablePPO.after_update`, or after `learn`) no step is pending and the rollout buffer holds
nothing that is read again. A new model built from the same settings, given the state and told to
`learn(total - num_timesteps, reset_num_timesteps=False)`, trains to the same bits on a CPU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import configure_logger

from src.agent.checkpoints import Snapshot
from src.agent.ppo import GeneratorStates, TimedMaskablePPO, generator_states, set_generator_states
from src.errors import UserError
from src.trading.layout import ACCOUNT
from src.trading.plain_state import is_plain, pack, unpack
from src.trading.routes import get_states, set_states

COUNTERS = (
    "num_timesteps",
    "_total_timesteps",
    "_num_timesteps_at_start",
    "_current_progress_remaining",
    "_n_updates",
    "_episode_num",
    "rollout_s",
    "update_s",
    "checkpoint_s",
    "micro_batch",
    "split_updates",
)
"""Numbers on the model. `learn` sets the second and third again; between building and learning they are right too."""
EPISODE_BUFFERS = ("ep_info_buffer", "ep_success_buffer")

Arrays = dict[str, np.ndarray]


def capture(model: TimedMaskablePPO, callbacks: Sequence[BaseCallback]) -> Snapshot:
    """The whole state of the training, copied.

    Callbacks that have `get_state` and `set_state` are kept in their order. Environments of a user's own that cannot
    say how they stand are not; `restore` says so.
    """
    environment, generators = Arrays(), Arrays()
    assert model.env is not None
    state = {
        "device": model.trained_on,
        "n_envs": model.n_envs,
        "learner": model.learner,
        "products": model.products,
        "pace": model.pace.get_state(),
        "counters": {name: getattr(model, name) for name in COUNTERS},
        "clock": model.clock.state(),
        "episodes": {name: _plain_entries(getattr(model, name)) for name in EPISODE_BUFFERS},
        "log": _pending_log(model),
        "learning_rate": model.policy.optimizer.param_groups[0]["lr"],
        "callbacks": [[type(callback).__name__, callback.get_state()] for callback in _kept(callbacks)],
    }
    standing = {
        "states": None if model._last_obs is None else get_states(model.env.unwrapped),
        "last_obs": model._last_obs,
        "last_episode_starts": model._last_episode_starts,
    }
    packed = {
        "training": pack(state),
        "environment": pack(standing, environment, "environment"),
        "generators": pack(_generators(), generators, "generators"),
    }
    tensors = {
        "policy": {name: _copy(value) for name, value in model.policy.state_dict().items()},
        "optimizer": _adam_of(model),
        "environment": {name: torch.from_numpy(array) for name, array in environment.items()},
        "generators": {name: torch.from_numpy(array) for name, array in generators.items()},
    }
    return Snapshot(model.num_timesteps, tensors, packed)


def restore(model: TimedMaskablePPO, callbacks: Sequence[BaseCallback], snapshot: Snapshot) -> list[str]:
    """Put a newly built model, its environments and callbacks where `capture` found them; pass `learn` the remainder.

    Returns a sentence for each thing that is not as it was, so that the training resumes but not bit for bit; none
    otherwise. UserError where networks or the number of environments are others; ValueError for other callbacks.
    """
    state = unpack(snapshot.state["training"])
    _check_fits(model, state, snapshot.tensors["policy"])
    _restore_learner(model, state, snapshot)
    kept = _kept(callbacks)
    names = [type(callback).__name__ for callback in kept]
    if names != [name for name, _ in state["callbacks"]]:
        raise ValueError(f"callbacks {names} cannot take over the state of {[name for name, _ in state['callbacks']]}")
    for callback, (_, own) in zip(kept, state["callbacks"], strict=True):
        callback.set_state(own)
    unlike = _restore_environment(model, unpack(snapshot.state["environment"], _arrays(snapshot, "environment")))
    # Last: building the model reseeded the generators, and restarting episodes may have drawn from them.
    unlike += _restore_generators(model, unpack(snapshot.state["generators"], _arrays(snapshot, "generators")))
    if (learner := state.get("learner", "stock")) != model.learner:
        unlike.append(f"The {learner} learner trained it and the {model.learner} one continues: it rounds otherwise.")
    if state["device"] != model.trained_on:
        unlike.append(
            f"The training was on {state['device']} and continues on {model.trained_on}: it rounds otherwise."
        )
    return unlike


def _kept(callbacks: Sequence[Any]) -> list[Any]:
    return [callback for callback in callbacks if hasattr(callback, "get_state") and hasattr(callback, "set_state")]


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)


def _arrays(snapshot: Snapshot, part: str) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in snapshot.tensors[part].items()}


def _check_fits(model: TimedMaskablePPO, state: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
    if state["n_envs"] != model.n_envs:
        raise UserError(
            f"The checkpoint holds {state['n_envs']} environments, this run has {model.n_envs}: continue with "
            f"hardware.vectorized_envs {state['n_envs']}, or begin a new run."
        )
    had = {name: tuple(value.shape) for name, value in weights.items()}
    has = {name: tuple(value.shape) for name, value in model.policy.state_dict().items()}
    other = sorted(name for name in had.keys() | has.keys() if had.get(name) != has.get(name))
    if other:
        raise UserError(
            f"The checkpoint's policy differs from this run's in {len(other)} tensors, the first {other[0]}: "
            f"{had.get(other[0], 'absent')} there, {has.get(other[0], 'absent')} here. Continue with the networks "
            "(training.policy_kwargs) and the phase it was written with, or begin a new run."
        )


def restore_finished(model: TimedMaskablePPO, snapshot: Snapshot) -> None:
    """Put a newly built model where `capture` found it at the end of its training: weights, optimizer and counters.
    Environments, callbacks and generators are left alone. UserError where the networks are others."""
    state = unpack(snapshot.state["training"])
    _check_fits(model, state, snapshot.tensors["policy"])
    _restore_learner(model, state, snapshot)


def _restore_learner(model: TimedMaskablePPO, state: Mapping[str, Any], snapshot: Snapshot) -> None:
    model.products = state.get("products")  # that of another learner is not used
    model.policy.load_state_dict(snapshot.tensors["policy"])
    _restore_adam(model, snapshot.tensors["optimizer"], state["learning_rate"])
    for name in COUNTERS:
        setattr(model, name, state["counters"][name])
    model.clock.carry(state.get("clock", {}))  # checkpoints of earlier versions have neither
    if "pace" in state:
        model.pace.set_state(state["pace"])
    for name in EPISODE_BUFFERS:
        entries = state["episodes"][name]
        setattr(model, name, None if entries is None else deque(entries, maxlen=model._stats_window_size))
    # Given as if by a user: learn() makes a new one otherwise, and what is pending would be lost.
    logger = configure_logger(model.verbose, model.tensorboard_log, reset_num_timesteps=False)
    for name, value, count, excluded in state["log"]:
        logger.name_to_value[name] = value
        logger.name_to_excluded[name] = excluded
        if count:
            logger.name_to_count[name] = count
    model.set_logger(logger)


def _plain_entries(buffer: deque[Any] | None) -> list[Any] | None:
    """Without what an environment of a user's own reports that only pickling could keep."""
    return None if buffer is None else [entry for entry in buffer if is_plain(entry)]


def _pending_log(model: TimedMaskablePPO) -> list[tuple[str, Any, int, tuple[str, ...]]]:
    """What was recorded and not dumped, in its order: SB3 dumps train/* an iteration late, we never."""
    logger = getattr(model, "_logger", None)
    if logger is None:
        return []
    counts, excluded = logger.name_to_count, logger.name_to_excluded
    return [
        (name, value, counts.get(name, 0), excluded.get(name, ("",))) for name, value in logger.name_to_value.items()
    ]


def _adam_of(model: TimedMaskablePPO) -> dict[str, torch.Tensor]:
    """Adam's tensors as `key parameter`; none before the first update."""
    state = model.policy.optimizer.state
    return {
        f"{key} {name}": _copy(value)
        for name, parameter in model.policy.named_parameters()
        for key, value in state.get(parameter, {}).items()
    }


def _restore_adam(model: TimedMaskablePPO, tensors: Mapping[str, torch.Tensor], learning_rate: float) -> None:
    optimizer = model.policy.optimizer
    index = {name: i for i, (name, _) in enumerate(model.policy.named_parameters())}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for label, tensor in tensors.items():
        key, _, name = label.partition(" ")
        # The optimizer would take the tensor itself, and results change with the alignment of another's memory.
        state.setdefault(index[name], {})[key] = tensor.clone()
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": [{**group, "lr": learning_rate} for group in groups]})


def _generators() -> dict[str, Any]:
    states = generator_states()
    version, words, gauss = states.python
    return {
        "python": (version, np.array(words, np.uint32), gauss),
        "numpy": states.numpy,
        "torch": states.torch.numpy(),
        "cuda": [state.numpy() for state in states.cuda],
    }


def _restore_generators(model: TimedMaskablePPO, states: Mapping[str, Any]) -> list[str]:
    version, words, gauss = states["python"]
    on_gpu = model.device.type == "cuda"
    cuda = [torch.from_numpy(state) for state in states["cuda"]] if on_gpu else []
    same_gpus = on_gpu and len(cuda) == torch.cuda.device_count()
    set_generator_states(
        GeneratorStates(
            (version, tuple(words.tolist()), gauss),
            states["numpy"],
            torch.from_numpy(states["torch"]),
            cuda if same_gpus else [],
        )
    )
    if on_gpu and not (cuda and same_gpus):
        return ["The checkpoint has no random state for the GPUs of this machine: actions will differ."]
    return []


def _restore_environment(model: TimedMaskablePPO, standing: Mapping[str, Any]) -> list[str]:
    """Where the environments stood, and what the model saw last."""
    assert model.env is not None
    env, states, seen = model.env.unwrapped, standing["states"], standing["last_obs"]
    if seen is None:
        return []  # nothing had begun: learn() resets them
    model._last_episode_starts = standing["last_episode_starts"]
    other_version = isinstance(states, np.ndarray) and states.shape[1] != ACCOUNT.itemsize
    if states is None or other_version:
        # Seeded by the step: with the run's own seed every restart would play the same first episodes again.
        env.seed(int(np.random.SeedSequence([model.seed or 0, model.num_timesteps]).generate_state(1)[0] >> 1))
        model._last_obs = model.env.reset()  # type: ignore[assignment]
        model._last_episode_starts = np.ones(model.n_envs, np.bool_)
        if other_version:
            return ["The checkpoint's accounts are of another version of this toolkit: their episodes restarted."]
        return [
            "The environments cannot be put back (they have no get_state and set_state, or a state that is not made "
            "of arrays and plain values): their episodes restarted."
        ]
    if not isinstance(states, np.ndarray):
        model.env.reset()
        set_states(env, states)
        model._last_obs = seen
        return []
    # The seeds that building the model left for the first reset: that reset is long past.
    env._reset_seeds()
    obs = set_states(env, states)
    assert isinstance(obs, np.ndarray)
    model._last_obs = obs
    if np.array_equal(obs, seen):
        return []
    return [
        "The accounts see something else than when the checkpoint was written: the bars, their features or the advice "
        "are others."
    ]
