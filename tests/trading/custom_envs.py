"""A user's own environments, good and bad, importable by name in worker processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Plain(gym.Env[np.ndarray, np.int64]):
    """Three numbers, four actions, no masks; `folder` gets a file named by each worker's process id."""

    def __init__(self, folder: str | None = None) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self.action_space = spaces.Discrete(4)
        self.folder = folder
        if folder is not None:
            (Path(folder) / f"began-{os.getpid()}").touch()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.full(3, 0.5, np.float32), 1.0, False, False, self.report()

    def report(self) -> dict:
        """What a worker sees around it."""
        return {
            "cuda": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "sigint_ignored": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
            "pid": os.getpid(),
        }

    def close(self) -> None:
        if self.folder is not None:
            (Path(self.folder) / f"closed-{os.getpid()}").touch()


class Masked(Plain):
    """Offers its first two actions."""

    def action_masks(self) -> np.ndarray:
        return np.array([True, True, False, False])


class TwoActions(Plain):
    """Not Discrete."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.MultiDiscrete([2, 2])  # type: ignore[assignment]


class NoSpaces(gym.Env[np.ndarray, np.int64]):
    """Forgets to say what it observes."""


class RaisesInInit(Plain):
    def __init__(self) -> None:
        raise RuntimeError("no table of contents")


class RaisesInReset(Plain):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        raise RuntimeError("nothing to begin with")


class RaisesInMasks(Plain):
    def action_masks(self) -> np.ndarray:
        raise RuntimeError("masks fell off")


class RaisesInStep(Plain):
    """Fails in the named step."""

    def __init__(self, step: int = 1) -> None:
        super().__init__()
        self.left = step

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.left -= 1
        if self.left == 0:
            self.divide_by_nothing()
        return super().step(action)

    def divide_by_nothing(self) -> None:
        raise ZeroDivisionError("a bar without volume")


class RaisesOnAction(Plain):
    """Fails when told action 3, so that one worker of several can be chosen."""

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        if action == 3:
            raise ZeroDivisionError("action three")
        return super().step(action)


class ExitsOnAction(Plain):
    """Leaves without a word when told action 3."""

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        if action == 3:
            os._exit(3)
        return super().step(action)


class Leaves(Plain):
    """Ends the program, or says that somebody stopped it: when it is made, or in a step."""

    def __init__(self, how: str, where: str) -> None:
        super().__init__()
        self._error = {"exit": SystemExit(0), "interrupt": KeyboardInterrupt("me")}[how]
        self._where = where
        if where == "made":
            raise self._error

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        raise self._error


class EndsOfFile(Plain):
    """Raises what SB3's worker takes for a closed pipe."""

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        raise EOFError("the file of bars was cut short")


class Sleeps(Plain):
    """A step that takes a minute."""

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        time.sleep(60)
        return super().step(action)


class Slow(Plain):
    """Takes its time for every step; an episode lasts ten."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.steps = seconds, 0

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        time.sleep(self.seconds)
        self.steps += 1
        return np.full(3, 0.5, np.float32), 1.0, self.steps % 10 == 0, False, {}


class Stubborn(Sleeps):
    """Does not listen to SIGTERM either."""

    def __init__(self) -> None:
        super().__init__()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Returns(Plain):
    """Plain, but for what is told: `obs`, `reward`, `flag`, `mask` or the whole `result` of a step, from the second one
    on, by name of `VALUES`."""

    def __init__(self, **given: str) -> None:
        super().__init__()
        self.given = given
        self.steps = 0

    def action_masks(self) -> Any:
        return self.wrong("mask", np.ones(4, np.bool_))

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        if "result" in self.given and self.steps >= 2:
            return VALUES[self.given["result"]]
        obs, reward = self.wrong("obs", np.zeros(3, np.float32)), self.wrong("reward", 1.0)
        return obs, reward, self.wrong("flag", False), False, {}

    def wrong(self, what: str, right: Any) -> Any:
        return VALUES[self.given[what]] if what in self.given and self.steps >= 2 else right


VALUES: dict[str, Any] = {
    "none legal": np.zeros(4, np.bool_),
    "short": np.ones(3, np.bool_),
    "two rows": np.ones((2, 4), np.bool_),
    "nothing": None,
    "text": "all of them",
    "shares": np.full(4, 0.5),
    "four": np.zeros(4, np.float32),
    "nan in it": np.array([0.0, np.nan, 0.0], np.float32),
    "infinity in it": np.array([0.0, 0.0, np.inf]),
    "objects": np.array([None, 1, 2], object),
    "nan": float("nan"),
    "infinite": np.float32(np.inf),
    "row": np.ones(1),
    "four values": (np.zeros(3, np.float32), 1.0, False, {}),
    "integer": 1,
}


class StopsOnAction(Plain):
    """Halts itself when told action 3, as by `kill -STOP`; `hangs` makes it wait in Python instead."""

    def __init__(self, hangs: bool = False) -> None:
        super().__init__()
        self.hangs = hangs

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
        if action == 3:
            self.wait_for_a_lock_nobody_holds()
        return super().step(action)

    def wait_for_a_lock_nobody_holds(self) -> None:
        if self.hangs:
            time.sleep(3600)
        os.kill(os.getpid(), signal.SIGSTOP)


class Draws(Plain):
    """Begins with a number of numpy's global generator."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        return np.full(3, np.random.random(), np.float32), {}  # noqa: NPY002


class DictObservations(Plain):
    """What MlpPolicy cannot read."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Dict({"bars": spaces.Box(-1.0, 1.0, (3,), np.float32)})  # type: ignore[assignment]


def not_a_class() -> None:
    """Found by name, and of no use."""


NUMBER = 7
