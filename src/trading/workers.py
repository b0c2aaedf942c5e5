"""Environments in worker processes: started light, without a GPU, and heard when they die."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import SubprocVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from src.errors import ConfigError, EnvironmentWorkerError

PRELOAD = ["stable_baselines3.common.vec_env.subproc_vec_env", "src.trading.gym_env"]
"""What the fork server imports once for all workers."""


def load_env_class(name: str) -> type[gym.Env]:
    """The class named `package.module:Class`; ConfigError when it cannot be imported or is no gymnasium.Env."""
    module_name, _, class_name = name.partition(":")
    if not module_name or not class_name:
        raise ConfigError(f"environment.env_class is {name!r}; write it as package.module:Class.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"environment.env_class {name!r} cannot be imported ({error}); "
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


@contextmanager
def _dying_words(record: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        record.write_text(traceback.format_exc(), encoding="utf-8")
        raise SystemExit(1) from error


def _in_worker(make_env: Callable[[], gym.Env], record: Path) -> Callable[[], gym.Env]:
    def make() -> gym.Env:
        # Ctrl-C reaches the whole process group; the parent decides what becomes of the workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with _dying_words(record):
            return _Witness(make_env(), record)

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


class WorkerVecEnv(SubprocVecEnv):
    """SB3's SubprocVecEnv whose dead worker is an EnvironmentWorkerError with the worker's own traceback."""

    def __init__(self, env_fns: Sequence[Callable[[], gym.Env]]) -> None:
        self._records = tempfile.TemporaryDirectory(prefix="workers-")
        records = [Path(self._records.name) / f"{i}.txt" for i in range(len(env_fns))]
        self._record_of = records
        # Without the preload 32 workers took 44 s and 5.0 GiB to start, with it 2.2 s and 0.36 GiB.
        multiprocessing.set_forkserver_preload(PRELOAD)
        fns = [_in_worker(fn, record) for fn, record in zip(env_fns, records, strict=True)]
        try:
            with _without_gpu():
                super().__init__(fns, start_method="forkserver")
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self._explain(error)

    def reset(self) -> VecEnvObs:
        """See SubprocVecEnv."""
        try:
            return super().reset()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self._explain(error)

    def step_async(self, actions: np.ndarray) -> None:
        """See SubprocVecEnv."""
        try:
            super().step_async(actions)
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self._explain(error)

    def step_wait(self) -> VecEnvStepReturn:
        """See SubprocVecEnv; rewards as float32, as DummyVecEnv has them."""
        try:
            obs, rewards, dones, infos = super().step_wait()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self._explain(error)
        return obs, np.asarray(rewards, np.float32), dones, infos

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """See SubprocVecEnv."""
        try:
            return super().env_method(method_name, *method_args, indices=indices, **method_kwargs)
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self._explain(error)

    def close(self) -> None:
        """End the workers, those in the middle of a step too."""
        if not self.closed:
            for process in self.processes:
                process.terminate()
            for process in self.processes:
                process.join(timeout=5)
            for remote in self.remotes:
                remote.close()
            self.closed = True
        self._records.cleanup()

    def _explain(self, error: Exception) -> NoReturn:
        for process in self.processes:
            process.join(timeout=2)
            if not process.is_alive():
                break
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
