"""A user's environment that exits or raises KeyboardInterrupt has failed: the program neither ends nor was stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym

from src.errors import ConfigError, StopSignal


class NoExit(gym.Wrapper):
    """Turns an exit of the environment's `reset` and `step` into a ConfigError that names its class."""

    def __init__(self, env: gym.Env, env_class: str) -> None:
        super().__init__(env)
        self._env_class = env_class

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        with no_exit(self._env_class, "in reset"):
            return super().reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        with no_exit(self._env_class, "in step"):
            return super().step(action)


@contextmanager
def no_exit(env_class: str, where: str) -> Iterator[None]:
    """Within, code of a user's class runs. Raises ConfigError for its SystemExit or KeyboardInterrupt, but not for a
    signal."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        if _is_signal(error):
            raise
        kind = f"{type(error).__name__}({error})"
        raise ConfigError(
            f"environment.env_class {env_class!r} raised {kind} {where}: an environment must not end the program. "
            f"Let it raise another exception, or change environment.env_kwargs."
        ) from error


def _is_signal(error: BaseException) -> bool:
    """Ctrl-C and SIGTERM; with Python's own handler in place the two cannot be distinguished."""
    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return isinstance(error, StopSignal) or (isinstance(error, KeyboardInterrupt) and default)
