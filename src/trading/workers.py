"""Environments in worker processes: started light, without a GPU, and heard when they die."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import SubprocVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from src.errors import ConfigError, EnvironmentWorkerError
from src.trading.orphans import end_with_fork_server
from src.trading.own_exit import no_exit

PRELOAD = [
    "src.trading.orphans",
    "stable_baselines3.common.vec_env.subproc_vec_env",
    "src.trading.gym_env",
    "src.trading.orphans.loaded",
]
"""What the fork server imports once for all workers."""

_LAST_CHANCE_S = 2.0
_DEAD_PIPE = (EOFError, BrokenPipeError, ConnectionResetError)


def load_env_class(name: str) -> type[gym.Env]:
    """The class named `package.module:Class`; ConfigError when it cannot be imported or is no gymnasium.Env."""
    module_name, _, class_name = name.partition(":")
    if not module_name or not class_name:
        raise ConfigError(f"environment.env_class is {name!r}; write it as package.module:Class.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        with no_exit(name, "when its module was imported"):
            found = getattr(importlib.import_module(module_name), class_name)
    except ConfigError:
        raise
    except Exception as error:  # the module is the user's own: importing it may raise anything
        raise ConfigError(
            f"environment.env_class {name!r} cannot be imported ({type(error).__name__}: {error}); "
            f"it is looked for on the Python path and in the working folder."
        ) from error
    if not (isinstance(found, type) and issubclass(found, gym.Env)):
        raise ConfigError(f"environment.env_class {name!r} is no subclass of gymnasium.Env.")
    return found


class AllLegal(gym.Wrapper):
    """Masks for an environment that has none: every action is legal."""

    def action_masks(self) -> np.ndarray:
        """bool[number of actions], all True."""
        if not isinstance(self.action_space, gym.spaces.Discrete):
            raise ConfigError(f"the environment's action space is {self.action_space}; MaskablePPO needs Discrete.")
        return np.ones(int(self.action_space.n), np.bool_)


class _Witness(gym.Wrapper):
    """Writes what killed its environment where the parent finds it, then ends the worker without a second traceback."""

    def __init__(self, env: gym.Env, record: Path) -> None:
        super().__init__(env)
        self._record = record

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        with _dying_words(self._record):
            return super().reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        with _dying_words(self._record):
            return super().step(action)

    def get_state(self) -> Any:
        """The environment's own; None where it has none."""
        with _dying_words(self._record):
            return self.env.get_wrapper_attr("get_state")() if self.env.has_wrapper_attr("get_state") else None

    def set_state(self, state: Any) -> Any:
        with _dying_words(self._record):
            return self.env.get_wrapper_attr("set_state")(state)


class _MaskedWitness(_Witness):
    """For an environment with masks: they may raise as well."""

    def action_masks(self) -> np.ndarray:
        with _dying_words(self._record):
            return self.env.get_wrapper_attr("action_masks")()


@contextmanager
def _dying_words(record: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        record.write_text(traceback.format_exc(), encoding="utf-8")
        raise SystemExit(1) from error


def _in_worker(make_env: Callable[[], gym.Env], record: Path) -> Callable[[], gym.Env]:
    def make() -> gym.Env:
        end_with_fork_server()
        # Ctrl-C reaches the whole process group; the parent decides what becomes of the workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Here too: a fork server that somebody else has started knows nothing of `_without_gpu`.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        with _dying_words(record):
            env = make_env()
            # Read here, where forgetting one is told: SB3 asks for them outside of any wrapper.
            _ = env.observation_space, env.action_space
            return (_MaskedWitness if env.has_wrapper_attr("action_masks") else _Witness)(env, record)

    return make


@contextmanager
def _without_gpu() -> Iterator[None]:
    """Children started here see no CUDA device: a context in each worker would cost hundreds of MB of GPU memory."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


@contextmanager
def _explained(env: WorkerVecEnv) -> Iterator[None]:
    try:
        yield
    except _DEAD_PIPE as error:
        env.explain(error)


class WorkerVecEnv(SubprocVecEnv):
    """SB3's SubprocVecEnv whose dead worker is an EnvironmentWorkerError with the worker's own traceback.

    `folder` is what the workers read; it is removed when they have ended.
    """

    def __init__(
        self, env_fns: Sequence[Callable[[], gym.Env]], folder: tempfile.TemporaryDirectory[str] | None = None
    ) -> None:
        self.closed = False
        self.waiting = False
        self.processes: list[Any] = []
        self.remotes: Sequence[Any] = ()
        self._records = tempfile.TemporaryDirectory(prefix="workers-")
        self._folder = folder
        self._record_of = [Path(self._records.name) / f"{i}.txt" for i in range(len(env_fns))]
        # Without the preload 32 workers took 44 s and 5.0 GiB to start, with it 2.2 s and 0.36 GiB.
        multiprocessing.set_forkserver_preload(PRELOAD)
        fns = [_in_worker(fn, record) for fn, record in zip(env_fns, self._record_of, strict=True)]
        try:
            with _explained(self), _without_gpu():
                super().__init__(fns, start_method="forkserver")
        except BaseException:
            self.close()
            raise

    def reset(self) -> VecEnvObs:
        """See SubprocVecEnv."""
        with _explained(self):
            return super().reset()

    def step_async(self, actions: np.ndarray) -> None:
        """See SubprocVecEnv."""
        with _explained(self):
            super().step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """See SubprocVecEnv; rewards as float32, as DummyVecEnv has them."""
        with _explained(self):
            obs, rewards, dones, infos = super().step_wait()
        return obs, np.asarray(rewards, np.float32), dones, infos

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """See SubprocVecEnv."""
        with _explained(self):
            return super().env_method(method_name, *method_args, indices=indices, **method_kwargs)

    def has_attr(self, attr_name: str) -> bool:
        """See SubprocVecEnv."""
        with _explained(self):
            return super().has_attr(attr_name)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """See SubprocVecEnv."""
        with _explained(self):
            return super().get_attr(attr_name, indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """See SubprocVecEnv."""
        with _explained(self):
            super().set_attr(attr_name, value, indices)

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """See SubprocVecEnv."""
        with _explained(self):
            return super().env_is_wrapped(wrapper_class, indices)

    def close(self) -> None:
        """End the workers and remove their folders; those in the middle of a step are not waited for."""
        if not self.closed:
            self.closed = True
            if not self.waiting:
                self._ask_to_close()
            for end in ("terminate", "kill"):
                for process in self.processes:
                    getattr(process, end)()
                _join_all(self.processes)
            for remote in self.remotes:
                remote.close()
        self._records.cleanup()
        if self._folder is not None:
            self._folder.cleanup()

    def _ask_to_close(self) -> None:
        """Let environments that wait for a command close what they hold."""
        for remote in self.remotes:
            with suppress(OSError):
                remote.send(("close", None))
        _join_all(self.processes)

    def explain(self, error: Exception) -> NoReturn:
        """Close, and raise EnvironmentWorkerError for the worker whose pipe broke."""
        wait([process.sentinel for process in self.processes], timeout=_LAST_CHANCE_S)
        dead = [i for i, process in enumerate(self.processes) if not process.is_alive()]
        index = dead[0] if dead else 0
        code = self.processes[index].exitcode
        record = self._record_of[index]
        words = record.read_text(encoding="utf-8").rstrip() if record.exists() else ""
        how = f"by signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        if code == -signal.SIGKILL:
            how += " (as the kernel does when memory runs out: try fewer vectorized_envs)"
        self.close()
        told = f"; its own traceback:\n{words}" if words else ", leaving no traceback."
        raise EnvironmentWorkerError(
            f"The worker process of environment {index} of {len(self.processes)} ended {how}{told}"
        ) from error


def _join_all(processes: Sequence[Any]) -> None:
    """Wait for all together, not for each in turn."""
    until = time.monotonic() + _LAST_CHANCE_S
    for process in processes:
        process.join(timeout=max(0.0, until - time.monotonic()))
