"""Policies as data: they answer as the zips do, load without the repository, and damage is named."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common import save_util

from src.agent import policy_files
from src.agent.export import export_base, export_data, export_hybrid
from src.agent.policy import HybridPolicy
from src.agent.policy_files import PolicyFileError, load_policy
from src.trading.layout import ACTIONS, OPINION
from tests.agent.opinion_env import make_model, random_masks, random_observations

KINDS: dict[str, tuple[type[MaskableActorCriticPolicy], dict[str, Any]]] = {
    "base": (MaskableActorCriticPolicy, {}),
    "hybrid": (HybridPolicy, {"llm_weight": 0.6}),
    "deaf": (HybridPolicy, {"llm_weight": 0.35, "use_opinion_features": False}),
    "unweighted": (HybridPolicy, {"llm_weight": 0.0}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Zips and data of a briefly trained model of each kind."""
    folder = tmp_path_factory.mktemp("policies")
    for name, (policy, extra) in KINDS.items():
        model = make_model(policy, live=policy is HybridPolicy, **extra)
        model.learn(96)
        zipped = (export_hybrid if policy is HybridPolicy else export_base)(model, folder / f"{name}.zip")
        assert [path.name for path in export_data(model, zipped)] == [
            f"{name}.policy.safetensors",
            f"{name}.policy.json",
        ]
    return folder


def asked(seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    masks = random_masks(rng, 300)
    return random_observations(rng, masks), masks


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_data_answers_as_the_zip_does_to_the_bit(folder: Path, kind: str, masked: bool) -> None:
    obs, masks = asked()
    given = masks if masked else None
    model, data = MaskablePPO.load(folder / f"{kind}.zip", device="cpu"), load_policy(folder / f"{kind}.policy.json")
    with th.no_grad():
        distribution = model.policy.get_distribution(th.as_tensor(obs), given).distribution
        values = model.policy.predict_values(th.as_tensor(obs)).numpy()[:, 0]
    assert data.logits(obs, given).tobytes() == distribution.logits.numpy().tobytes()
    assert data.probabilities(obs, given).tobytes() == distribution.probs.numpy().tobytes()
    assert data.values(obs).tobytes() == values.tobytes()
    best, _ = model.predict(obs, deterministic=True, action_masks=given)
    np.testing.assert_array_equal(data.act(obs, given), best)
    assert len(set(best.tolist())) > 2, "and not one action throughout"


def test_the_facts_say_what_a_service_must_feed_it(folder: Path) -> None:
    hybrid = json.loads((folder / "hybrid.policy.json").read_text())
    assert hybrid["observation"]["size"] == 261
    assert hybrid["observation"]["columns"]["advice"] == [OPINION.start, OPINION.stop]
    assert tuple(hybrid["actions"]) == ACTIONS
    assert hybrid["advice"] == {
        "weight": float(np.float32(0.6)), "log_p_min": -4.0, "columns": [255, 261], "networks_see_it": True,
    }  # fmt: skip
    assert hybrid["networks"]["policy"] == ["mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2", "action_net"]
    assert json.loads((folder / "base.policy.json").read_text())["advice"] is None


def test_advice_decides_at_its_weight(folder: Path) -> None:
    """Formula by hand: the pooled term is what the file without weight does not have."""
    obs, _ = asked()
    data = load_policy(folder / "deaf.policy.json")
    silent = obs.copy()
    silent[:, OPINION] = 0.0
    p = obs[:, OPINION].astype(np.float64)
    log_p = np.where(p > 0, np.clip(np.log(np.where(p > 0, p, 1.0)), -4.0, 0.0), 0.0)
    mean = log_p.sum(1, keepdims=True) / np.maximum(1, (p > 0).sum(1, keepdims=True))
    expected = data.logits(silent) + 0.35 * np.where(p > 0, log_p - mean, 0.0)
    expected -= np.log(np.exp(expected).sum(1, keepdims=True))
    np.testing.assert_allclose(data.logits(obs), expected, atol=1e-5)


ALONE = """
import sys, numpy as np
sys.path.insert(0, sys.argv[1])
from policy_files import load_policy
given = np.load(f"{sys.argv[1]}/asked.npz")
answer = load_policy(f"{sys.argv[1]}/hybrid.policy.json").probabilities(given["obs"], given["masks"])
loaded = [name for name in ("src", "stable_baselines3", "gymnasium", "cloudpickle") if name in sys.modules]
assert not loaded, loaded
np.save(f"{sys.argv[1]}/answer.npy", answer)
"""


def test_the_loader_works_as_one_copied_file(folder: Path, tmp_path: Path) -> None:
    obs, masks = asked()
    shutil.copy(policy_files.__file__, tmp_path / "policy_files.py")
    for name in ("hybrid.policy.json", "hybrid.policy.safetensors"):
        shutil.copy(folder / name, tmp_path / name)
    np.savez(tmp_path / "asked.npz", obs=obs, masks=masks)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = load_policy(folder / "hybrid.policy.json").probabilities(obs, masks)
    assert np.load(tmp_path / "answer.npy").tobytes() == expected.tobytes()


# Damage


def json_change(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / "hybrid.policy.json"
        facts = json.loads(path.read_text())
        change(facts)
        path.write_text(json.dumps(facts))

    return act


def flip_a_weight(folder: Path) -> None:
    path = folder / "hybrid.policy.safetensors"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "no weights": lambda folder: (folder / "hybrid.policy.safetensors").unlink(),
    "a flipped weight": flip_a_weight,
    "half a json": lambda folder: (folder / "hybrid.policy.json").write_text("{"),
    "a list": lambda folder: (folder / "hybrid.policy.json").write_text("[]"),
    "bytes": lambda folder: (folder / "hybrid.policy.json").write_bytes(b"\xff\xfe"),
    "a pickle": lambda folder: (folder / "hybrid.policy.json").write_bytes(pickle.dumps({"format": 1})),
    "another format": json_change(lambda facts: facts.update(format="x")),
    "a future version": json_change(lambda facts: facts.update(version=2)),
    "an unknown activation": json_change(lambda facts: facts["networks"].update(activation="gelu")),
    "a layer that is not there": json_change(lambda facts: facts["networks"]["policy"].insert(0, "x")),
    "a layer too few": json_change(lambda facts: facts["networks"]["policy"].pop(1)),
    "another width": json_change(lambda facts: facts["observation"].update(size=260)),
    "an action too many": json_change(lambda facts: facts["actions"].append("WAIT")),
    "columns elsewhere": json_change(lambda facts: facts["advice"].update(columns=[256, 262])),
    "a weight that is no number": json_change(lambda facts: facts["advice"].update(weight="nan")),
    "a negative weight": json_change(lambda facts: facts["advice"].update(weight=-1)),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_is_one_error_naming_the_file(folder: Path, tmp_path: Path, how: str) -> None:
    for name in ("hybrid.policy.json", "hybrid.policy.safetensors"):
        shutil.copy(folder / name, tmp_path / name)
    DAMAGES[how](tmp_path)
    with pytest.raises(PolicyFileError, match=r"hybrid\.policy\.json cannot be loaded \("):
        load_policy(tmp_path / "hybrid.policy.json")


def test_observations_of_another_shape_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 260\).*\(k, 261\)"):
        load_policy(folder / "base.policy.json").act(np.zeros((3, 260), np.float32))


def test_what_the_format_does_not_hold_is_not_written(tmp_path: Path) -> None:
    model = make_model(MaskableActorCriticPolicy, live=False)
    model.action_space = spaces.MultiDiscrete([2, 3])
    assert export_data(model, tmp_path / "base.zip") == ()
    assert list(tmp_path.iterdir()) == []


# The zips under a loader that resolves named classes only, which stable-baselines3 is about to make its default

DATA_CLASSES = {
    ("sb3_contrib.common.maskable.policies", "MaskableActorCriticPolicy"),
    ("torch.nn.modules.activation", "Tanh"),
    ("gymnasium.spaces.box", "Box"),
    ("gymnasium.spaces.discrete", "Discrete"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.core.numeric", "_frombuffer"),
}
"""What the data of an export may name: classes of the libraries it is made for, and arrays."""


@pytest.fixture
def restricted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """stable-baselines3 unpickles with an allowlist; names that were refused."""
    refused: list[str] = []

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) not in DATA_CLASSES:
                refused.append(f"{module}.{name}")
                raise RuntimeError(f"{module}.{name} is not allowed")
            return super().find_class(module, name)

    def loads(raw: bytes) -> Any:
        return Restricted(io.BytesIO(raw)).load()

    monkeypatch.setattr(save_util.cloudpickle, "loads", loads)
    return refused


def test_base_zip_loads_under_an_allowlist_of_classes(folder: Path, restricted: list[str]) -> None:
    obs, masks = asked()
    best, _ = MaskablePPO.load(folder / "base.zip", device="cpu").predict(obs, deterministic=True, action_masks=masks)
    assert restricted == []
    np.testing.assert_array_equal(best, load_policy(folder / "base.policy.json").act(obs, masks))


def test_hybrid_zip_needs_its_class_given_under_an_allowlist(folder: Path, restricted: list[str]) -> None:
    """It carries its class as code, which is what such a loader is there to refuse."""
    obs, masks = asked()
    with pytest.warns(UserWarning, match="policy_class"), pytest.raises(KeyError):
        MaskablePPO.load(folder / "hybrid.zip", device="cpu")
    assert restricted == ["cloudpickle.cloudpickle._make_skeleton_class"]
    restricted.clear()
    given = {"policy_class": HybridPolicy}
    model = MaskablePPO.load(folder / "hybrid.zip", device="cpu", custom_objects=given)
    best, _ = model.predict(obs, deterministic=True, action_masks=masks)
    assert restricted == []
    np.testing.assert_array_equal(best, load_policy(folder / "hybrid.policy.json").act(obs, masks))
