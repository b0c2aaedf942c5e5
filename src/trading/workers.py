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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NoReturn

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import SubprocVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from src.clean_up import CleanUps
from src.errors import BadEnvironmentValue, ConfigError, EnvironmentWorkerError, StuckWorkerError
from src.trading import worker_server
from src.trading.orphans import end_with_fork_server
from src.trading.own_exit import no_exit
from src.trading.stuck_worker import Patience, WatchedPipe, answer_with_stack, state_and_stack

STUCK_S = 60.0
"""The least time without an answer after which a worker counts as stuck."""
PRELOAD = [
    "src.trading.orphans",
    "src.trading.worker_server",
    "stable_baselines3.common.vec_env.subproc_vec_env",
    "src.trading.workers",
]
"""What the fork server imports once for all workers: else each would import the script, torch and gymnasium."""
PRELOAD_LAST = "src.trading.orphans.loaded"

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
        raise ConfigError(f"environment.env_class {name!r} is not a subclass of gymnasium.Env.")
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
        if isinstance(error, BadEnvironmentValue):
            _refusal(record).write_text(str(error), encoding="utf-8")
        record.write_text(traceback.format_exc(), encoding="utf-8")
        raise SystemExit(1) from error


def _refusal(record: Path) -> Path:
    """Where a worker says that its environment broke the rules: a paragraph, which needs no traceback."""
    return record.with_suffix(".refused")


def _stack(record: Path) -> Path:
    return record.with_suffix(".stack")


def _in_worker(make_env: Callable[[], gym.Env], record: Path, index: int) -> Callable[[], gym.Env]:
    own = {name: os.environ.get(name) for name in _SERVER_ONLY}

    def make() -> gym.Env:
        end_with_fork_server()
        # Ctrl-C reaches the whole process group; the parent decides what becomes of the workers.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Here too: a fork server that somebody else has started knows nothing of `server_environment`.
        _set_environ({"CUDA_VISIBLE_DEVICES": "", **own})
        # Forked from one server, all would draw the same from numpy's global generator.
        np.random.seed(index)  # noqa: NPY002
        answer_with_stack(_stack(record))
        with _dying_words(record):
            env = make_env()
            # Read here, where forgetting one is told: SB3 asks for them outside of any wrapper.
            _ = env.observation_space, env.action_space
            return (_MaskedWitness if env.has_wrapper_attr("action_masks") else _Witness)(env, record)

    return make


_SERVER_ONLY = ("PYTHONPATH", "PYTHONSAFEPATH", worker_server.MAIN)


@contextmanager
def server_environment() -> Iterator[None]:
    """The environment variables in which the fork server starts.

    Its children see no CUDA device: a context in each worker would cost hundreds of MB of GPU memory. Its import path
    is that of this process: Python 3.11's server is handed `sys.path` and ignores it, so that what it should import
    once was imported by every worker (32 workers took 17 to 28 s), unless the working folder happened to be on it.
    """
    path = [entry or os.getcwd() for entry in sys.path if os.pathsep not in entry]
    wanted = {
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONSAFEPATH": "1",
        worker_server.MAIN: worker_server.main_of_this_process(),
    }
    before = {name: os.environ.get(name) for name in wanted}
    _set_environ(wanted)
    try:
        yield
    finally:
        _set_environ(before)


def _set_environ(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _explained(env: WorkerVecEnv) -> Iterator[None]:
    try:
        yield
    except _DEAD_PIPE as error:
        env.explain(error)


class WorkerVecEnv(SubprocVecEnv):
    """SB3's SubprocVecEnv whose dead worker is an EnvironmentWorkerError with the worker's own traceback.

    `folder` is what the workers read; it is removed when they have ended. `preload`: modules that the fork server
    imports besides `PRELOAD`, where this is what starts it. A worker that does not answer for `stuck_s` seconds and 60
    times the median step is a StuckWorkerError with its stack; a value that `CheckedEnv` refuses is a
    BadEnvironmentValue.
    """

    def __init__(
        self,
        env_fns: Sequence[Callable[[], gym.Env]],
        folder: tempfile.TemporaryDirectory[str] | None = None,
        *,
        preload: Sequence[str] = (),
        stuck_s: float = STUCK_S,
    ) -> None:
        self._patience = Patience(stuck_s)
        self.closed = False
        self.waiting = False
        self.processes: list[Any] = []
        self.remotes: Sequence[Any] = ()
        self._records = tempfile.TemporaryDirectory(prefix="workers-")
        self._folder = folder
        self._record_of = [Path(self._records.name) / f"{i}.txt" for i in range(len(env_fns))]
        multiprocessing.set_forkserver_preload([*PRELOAD, *preload, PRELOAD_LAST])
        fns = [_in_worker(fn, self._record_of[i], i) for i, fn in enumerate(env_fns)]
        try:
            with _explained(self), server_environment():
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
        self._patience.step_began()
        with _explained(self):
            super().step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """See SubprocVecEnv; rewards as float32, as DummyVecEnv has them."""
        with _explained(self):
            obs, rewards, dones, infos = super().step_wait()
        self._patience.step_ended()
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

    @property
    def remotes(self) -> Sequence[Any]:
        """The workers' pipes; what SB3 assigns is watched."""
        return self._remotes

    @remotes.setter
    def remotes(self, pipes: Sequence[Any]) -> None:
        self._remotes = [WatchedPipe(pipe, self._patience, partial(self._stuck, i)) for i, pipe in enumerate(pipes)]

    def close(self) -> None:
        """End the workers and remove their folders; those in the middle of a step are not waited for.

        A signal while they are asked to end kills them at once and is raised again.
        """
        with CleanUps() as stack:
            if self._folder is not None:
                stack.call(self._folder.cleanup)
            stack.call(self._records.cleanup)
            if not self.closed:
                self.closed = True
                for remote in self.remotes:
                    stack.call(remote.close)
                stack.call(self._end, "kill")
                stack.call(self._end, "terminate")
                if not self.waiting:
                    self._ask_to_close()

    def _end(self, how: str) -> None:
        for process in self.processes:
            getattr(process, how)()
        _join_all(self.processes)

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
        refused = _refusal(record).read_text(encoding="utf-8") if _refusal(record).exists() else ""
        how = f"by signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        if code == -signal.SIGKILL:
            how += " (as the kernel does when memory runs out: try fewer vectorized_envs)"
        self.close()
        if refused:
            raise BadEnvironmentValue(refused) from error
        told = f"; its own traceback:\n{words}" if words else ", leaving no traceback."
        if code == 1 and not words:  # before it had anything to run
            told = (
                " while it started; its output is above. A script that starts workers has its work under `if "
                '__name__ == "__main__":`.'
            )
        raise EnvironmentWorkerError(
            f"The worker process of environment {index} of {len(self.processes)} ended {how}{told}"
        ) from error

    def _stuck(self, index: int, waited_s: float) -> NoReturn:
        """Close, and raise StuckWorkerError for the worker that was waited for."""
        n, what = len(self._record_of), self._patience.words()
        process = self.processes[index]
        state, stack = state_and_stack(process.pid, _stack(self._record_of[index]))
        self.close()
        raise StuckWorkerError(
            f"The worker of environment {index} of {n} ({process.name}, process {process.pid}) has not answered {what} "
            f"for {waited_s:,.0f} s: {state}. Find out what holds it, or raise hardware.stuck_worker_s "
            f"({self._patience.floor_s:g}) if a step may take so long. {stack}"
        )


def _join_all(processes: Sequence[Any]) -> None:
    """Wait for all together, not for each in turn."""
    until = time.monotonic() + _LAST_CHANCE_S
    for process in processes:
        process.join(timeout=max(0.0, until - time.monotonic()))
