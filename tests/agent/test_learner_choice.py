"""Which learner trains: the one asked for or the fastest that can, and a reason where it is not the expected one."""

from __future__ import annotations

import pytest
import torch

from src.agent import learner_choice
from src.agent.learner_choice import choose_learner
from src.agent.settings import HardwareSettings, Learner
from src.errors import ConfigError
from src.trading.settings import EnvironmentSettings

OURS, OWN = EnvironmentSettings(), EnvironmentSettings(env_class="tests.tiny_runs:CountingEnv")
MISSING = "Accounts need numba-cuda"


def chosen(
    asked: Learner | None, device: str, monkeypatch: pytest.MonkeyPatch, *, missing: str = "", own: bool = False,
    vec_env: str = "batched",
) -> tuple[str, str]:  # fmt: skip
    monkeypatch.setattr(learner_choice, "missing", lambda: missing and f"{missing}.")
    hardware = HardwareSettings(learner=asked, vec_env=vec_env)  # type: ignore[arg-type]
    return tuple(choose_learner(hardware, OWN if own else OURS, torch.device(device)))  # type: ignore[return-value]


def test_nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(None, "cpu", monkeypatch, missing=MISSING) == ("fused", "")
    assert chosen(None, "cuda", monkeypatch) == ("population", "")
    assert chosen(None, "cuda", monkeypatch, missing=MISSING) == ("stock", f"members train one by one: {MISSING}")
    learner, words = chosen(None, "cuda", monkeypatch, own=True)
    assert learner == "stock"
    assert "environment.env_class" in words
    assert chosen(None, "cuda", monkeypatch, vec_env="dummy")[0] == "stock"


def test_asked_for_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in ("fused", "stock"):
        assert chosen(asked, "cpu", monkeypatch) == (asked, "")
        assert chosen(asked, "cuda", monkeypatch, missing=MISSING) == ("stock", "")


def test_asked_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen("population", "cuda", monkeypatch) == ("population", "")
    learner, words = chosen("population", "cpu", monkeypatch, missing=MISSING)
    assert learner == "population"
    assert "the default is the fused learner" in words
    for device, how, said in (
        ("cuda", {"missing": MISSING}, MISSING),
        ("cpu", {"own": True}, "environment.env_class names environments of your own"),
        ("cpu", {"vec_env": "subproc"}, "hardware.vec_env is subproc"),
    ):
        with pytest.raises(ConfigError, match=f"cannot train together here: {said}"):
            chosen("population", device, monkeypatch, **how)  # type: ignore[arg-type]
