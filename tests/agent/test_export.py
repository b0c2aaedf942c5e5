"""Both zips load with the stock library in a process that knows nothing of this repository."""

from __future__ import annotations

import base64
import json
import os
import pickletools
import subprocess
import sys
import zipfile
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch as th
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy

from src.agent import export
from src.agent.export import export_base, export_hybrid
from src.agent.policy import HybridPolicy
from tests.agent.opinion_env import make_model, random_masks, random_observations

KINDS = ("base", "hybrid")

# Runs under `python -I`: no PYTHONPATH, no current folder on the path.
ELSEWHERE = """
import importlib.util, json, sys
import numpy as np, torch as th
from sb3_contrib import MaskablePPO

assert importlib.util.find_spec("src") is None, "the repository is importable here"
folder = sys.argv[1]
asked = np.load(f"{folder}/asked.npz")
answers, facts = {}, {}
for kind in ("base", "hybrid"):
    model = MaskablePPO.load(f"{folder}/{kind}.zip", device="cpu")
    obs, masks = asked["obs"], asked["masks"]
    answers[f"{kind}_best"], _ = model.predict(obs, deterministic=True, action_masks=masks)
    th.manual_seed(5)
    answers[f"{kind}_drawn"], _ = model.predict(obs, action_masks=masks)
    with th.no_grad():
        tensor = th.as_tensor(obs)
        answers[f"{kind}_logits"] = model.policy.get_distribution(tensor, masks).distribution.logits.numpy()
        answers[f"{kind}_values"] = model.policy.predict_values(tensor).numpy()
    facts[kind] = {
        "policy": type(model.policy).__name__,
        "learning_rate": model.learning_rate,
        "clip_range": model.clip_range(0.5),
        "tensorboard_log": model.tensorboard_log,
        "seed": model.seed,
        "num_timesteps": model.num_timesteps,
        "llm_weight": float(getattr(model.policy, "llm_weight", -1.0)),
    }
    model.save(f"{folder}/{kind}_again.zip")
    again = MaskablePPO.load(f"{folder}/{kind}_again.zip", device="cpu")
    answers[f"{kind}_again"], _ = again.predict(obs, deterministic=True, action_masks=masks)
try:
    MaskablePPO.load(f"{folder}/plain_save.zip", device="cpu")
except ImportError:
    facts["plain_save"] = "needs the repository"
np.savez(f"{folder}/answers.npz", **answers)
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def models() -> dict[str, MaskablePPO]:
    """A trained model of each kind, with everything about it that could not leave the repository."""
    trained = {
        "base": make_model(MaskableActorCriticPolicy, live=False),
        "hybrid": make_model(HybridPolicy, llm_weight=0.6, use_opinion_features=False),
    }
    for model in trained.values():
        model.learn(96)
        model.learning_rate = lambda progress: 1e-3 * progress
        model.clip_range = lambda progress: 0.1 + 0.1 * progress
        model._setup_lr_schedule()
        model.tensorboard_log = "somewhere/on/this/machine"
        model.action_space.seed(3)
        model.observation_space.seed(3)
        model.rollout_s = 1.25
    return trained


@pytest.fixture(scope="module")
def folder(models: dict[str, MaskablePPO], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both exports, a plain save of the hybrid, and 200 observations with their masks."""
    folder = tmp_path_factory.mktemp("export")
    export_base(models["base"], folder / "base.zip")
    export_hybrid(models["hybrid"], folder / "hybrid.zip")
    models["hybrid"].save(folder / "plain_save.zip")
    rng = np.random.default_rng(2)
    masks = random_masks(rng, 200)
    np.savez(folder / "asked.npz", obs=random_observations(rng, masks), masks=masks)
    return folder


@pytest.fixture(scope="module")
def elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, dict]:
    """What the loaded models say in a fresh process in another folder: answers and facts."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-I", "-c", ELSEWHERE, str(folder)],
        cwd=tmp_path_factory.mktemp("another_folder"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "answers.npz")), json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_model_answers_elsewhere_as_the_live_one_does_here(
    kind: str, models: dict[str, MaskablePPO], folder: Path, elsewhere: tuple[dict, dict]
) -> None:
    answers, _ = elsewhere
    asked, model = np.load(folder / "asked.npz"), models[kind]
    best, _ = model.predict(asked["obs"], deterministic=True, action_masks=asked["masks"])
    np.testing.assert_array_equal(answers[f"{kind}_best"], best)
    np.testing.assert_array_equal(answers[f"{kind}_again"], best)
    th.manual_seed(5)
    drawn, _ = model.predict(asked["obs"], action_masks=asked["masks"])
    np.testing.assert_array_equal(answers[f"{kind}_drawn"], drawn)
    with th.no_grad():
        obs = th.as_tensor(asked["obs"])
        logits = model.policy.get_distribution(obs, asked["masks"]).distribution.logits.numpy()
        values = model.policy.predict_values(obs).numpy()
    assert answers[f"{kind}_logits"].tobytes() == logits.tobytes()
    assert answers[f"{kind}_values"].tobytes() == values.tobytes()
    assert asked["masks"][np.arange(200), best].all()


def test_only_plain_values_travel(elsewhere: tuple[dict, dict]) -> None:
    _, facts = elsewhere
    common = {"learning_rate": 1e-3, "tensorboard_log": None, "seed": None, "num_timesteps": 96}
    assert facts["base"] == {**common, "clip_range": 0.2, "policy": "MaskableActorCriticPolicy", "llm_weight": -1.0}
    weight = pytest.approx(0.6)
    assert facts["hybrid"] == {**common, "clip_range": 0.2, "policy": "HybridPolicy", "llm_weight": weight}


def test_a_plain_save_would_not_have_loaded_there(elsewhere: tuple[dict, dict]) -> None:
    _, facts = elsewhere
    assert facts["plain_save"] == "needs the repository"


@pytest.mark.parametrize("kind", KINDS)
def test_no_pickle_inside_names_the_repository(kind: str, folder: Path) -> None:
    with zipfile.ZipFile(folder / f"{kind}.zip") as archive:
        entries = json.loads(archive.read("data"))
    pickled = {name: value[":serialized:"] for name, value in entries.items() if ":serialized:" in str(value)}
    assert set(pickled) <= {"policy_class", "policy_kwargs", "observation_space", "action_space"}
    for name, serialized in pickled.items():
        strings = [str(arg) for _, arg, _ in pickletools.genops(base64.b64decode(serialized)) if arg is not None]
        named = [text for text in strings if text.split(".")[0] in ("src", "tests")]
        # Pickled by value, the class still says in which module and package it was written.
        allowed = {"src.agent.policy", "src.agent"} if (kind, name) == ("hybrid", "policy_class") else set()
        assert set(named) <= allowed, name
        assert not any("numpy.random" in text for text in strings), f"{name} holds a random generator"


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_model_trains_on(kind: str, folder: Path) -> None:
    live = make_model(HybridPolicy).get_env()
    model = MaskablePPO.load(folder / f"{kind}.zip", env=live, device="cpu")
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(96, reset_num_timesteps=False)
    assert model.num_timesteps == 192
    assert all(not th.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))


def test_exporting_leaves_the_model_and_the_pickler_as_they_were(
    models: dict[str, MaskablePPO], tmp_path: Path
) -> None:
    model = models["hybrid"]
    before = {name: value for name, value in vars(model).items()}
    state = th.get_rng_state()
    export_hybrid(model, tmp_path / "hybrid.zip")
    assert vars(model) == before
    assert model.action_space._np_random is not None
    assert th.equal(th.get_rng_state(), state)
    assert "src.agent.policy" not in cloudpickle.list_registry_pickle_by_value()


AGAIN = """
import sys, zipfile
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sb3_contrib import MaskablePPO
from src.agent.export import export_hybrid
from src.agent.policy import HybridPolicy
from tests.agent.opinion_env import make_model
model = make_model(HybridPolicy, llm_weight=0.6, use_opinion_features=False)
export_hybrid(model, Path(sys.argv[2]))
"""


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    """This one, and another with other hashes of strings."""
    root = Path(__file__).resolve().parents[2]
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    command = [sys.executable, "-c", AGAIN, str(root), str(tmp_path / "other.zip")]
    subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}, check=True)
    threads = th.get_num_threads()
    th.set_num_threads(1)
    try:
        model = make_model(HybridPolicy, llm_weight=0.6, use_opinion_features=False)
        decide = HybridPolicy.get_distribution
        MaskablePPO.load(export_hybrid(model, tmp_path / "loaded.zip"))
        assert HybridPolicy.get_distribution is decide, "a load changes no class of this process"
        export_hybrid(model, tmp_path / "one.zip")
    finally:
        th.set_num_threads(threads)
    one, other = (zipfile.ZipFile(tmp_path / f"{name}.zip") for name in ("one", "other"))
    assert [name for name in one.namelist() if one.read(name) != other.read(name)] == []
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "other.zip").read_bytes()


def test_a_path_without_a_suffix_gets_one(models: dict[str, MaskablePPO], tmp_path: Path) -> None:
    assert export_base(models["base"], tmp_path / "base") == tmp_path / "base.zip"
    assert [file.name for file in tmp_path.iterdir()] == ["base.zip"]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    models: dict[str, MaskablePPO], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export_base(models["base"], tmp_path / "base.zip")
    old = path.read_bytes()

    def half_a_file(file, **contents) -> None:
        file.write(b"PK")
        raise OSError("no space left")

    monkeypatch.setattr(export, "save_to_zip_file", half_a_file)
    with pytest.raises(OSError, match="no space left"):
        export_base(models["base"], path)
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["base.zip"]


def test_each_export_refuses_the_other_kind(models: dict[str, MaskablePPO], tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="export_hybrid"):
        export_base(models["hybrid"], tmp_path / "base.zip")
    with pytest.raises(TypeError, match="export_base"):
        export_hybrid(models["base"], tmp_path / "hybrid.zip")
    assert not list(tmp_path.iterdir())
