"""The file of a sweep and its space: what is refused, which settings are tried, and how they are proposed again."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from src.agent.quarters import is_quarter
from src.agent.rollout_plan import plan_rollouts
from src.configuration import Configuration, build_config
from src.errors import ConfigError, UserError
from src.sweeps import optuna_proposals
from src.sweeps.conclusions import Tried, kept, sweep_facts
from src.sweeps.file import read_sweep
from src.sweeps.optuna_proposals import JOURNAL, OptunaProposals
from src.sweeps.proposals import listed
from src.sweeps.space import Setting, Space
from src.sweeps.tasks import pauses_of

BASE: Configuration = build_config(None, {}, {"llm_model": "mock", "market": "NQ"})
EXAMPLE = Path(__file__).resolve().parents[2] / "config" / "sweeps" / "learning.yaml"


def space_of(folder: Path, content: Any) -> Space:
    """The space of a file with this content, text or values."""
    path = folder / "sweep.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return Space(read_sweep(path), BASE, "sweep.yaml")


def settings_of(folder: Path, content: Mapping[str, Any]) -> list[Setting]:
    space = space_of(folder, content)
    return listed(read_sweep(folder / "sweep.yaml"), space).settings


GRID = {"method": "grid"}
RANDOM = {"settings": 2}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("settings: 3", "space names no key"),
        ("- a", "holds a list"),
        ("space: {gamma: [0.9, 0.99]}", "method random needs settings"),
        ({**RANDOM, "sapce": {}}, r"no key sapce \(did you mean 'space'\?\)"),
        ({**RANDOM, "method": "bayes", "space": {"gamma": [0.9, 0.99]}}, "method is 'bayes', but must be one of grid"),
        ({**RANDOM, "settings": 1, "space": {"gamma": [0.9, 0.99]}}, "settings is 1, but must be a whole number at le"),
        ({**RANDOM, "settings": True, "space": {"gamma": [0.9, 0.99]}}, "settings is true"),
        ({**GRID, "settings": 4, "space": {"gamma": [0.9, 0.99]}}, "leave settings out"),
        ({**RANDOM, "space": {"training.learning_rat": [1, 2]}}, r"did you mean 'training.learning_rate'\?"),
        ({**RANDOM, "space": {"gamma": 0.9}}, "space.gamma is 0.9, but must be a list of values, or low and high"),
        ({**RANDOM, "space": {"gamma": [0.9]}}, "space.gamma has 1 values, but needs at least 2"),
        ({**RANDOM, "space": {"gamma": [0.9, 1.5]}}, "training.gamma.* is 1.5, but must be a number"),
        ({**RANDOM, "space": {"learning_rate": ["1e-3", 0.001]}}, "lists 0.001 twice"),
        ({**RANDOM, "space": {"gamma": {"low": 0.9}}}, "space.gamma has no high"),
        ({**RANDOM, "space": {"gamma": {"low": 0.9, "high": 0.8}}}, "low must be below high"),
        ({**RANDOM, "space": {"gamma": {"low": 0.9, "high": 2.0}}}, "training.gamma.* is 2.0, but must be"),
        ({**RANDOM, "space": {"gamma": {"low": 0, "high": 1, "log": True}}}, "begins above 0"),
        ({**RANDOM, "space": {"gamma": {"low": 0.9, "high": 1, "setp": 1}}}, r"did you mean 'step'\?"),
        ({**RANDOM, "space": {"gamma": {"low": 0.9, "high": 0.99, "step": 1}}}, "step 1, more than the 0.09"),
        ({**RANDOM, "space": {"n_epochs": {"low": 1.5, "high": 3}}}, "is a whole number, so its low, high"),
        ({**RANDOM, "space": {"policy_kwargs.activation_fn": ["tanh", "relu"]}}, "which is no key of the config"),
        ({**RANDOM, "space": {"training.policy_kwargs.activation_fn": {"low": 0, "high": 1}}}, "is no number"),
        (
            {**RANDOM, "space": {"gamma": [0.9, 0.99], "training.gamma": [0.9, 0.99]}},
            "which set the same key. Leave one out",
        ),
        ({**RANDOM, "space": {"data.train_frac": [0.5, 0.6]}}, "scored on different sessions"),
        ({**RANDOM, "space": {"slippage_ticks": [0, 1]}}, "under different rules or costs"),
        ({**RANDOM, "space": {"test_mode.seed": [0, 1]}}, "a seed is no setting"),
        ({**RANDOM, "space": {"fusion.confidence_threshold": [0.5, 0.6]}}, "changes nothing that the score of hybrid"),
        ({**RANDOM, "arm": "rl_only", "space": {"llm_weight": [0.1, 0.6]}}, "changes nothing that the score of rl_o"),
        ({**RANDOM, "settings": 3, "space": {"gamma": [0.9, 0.99]}}, "has only 2 different ones"),
        ({**GRID, "space": {"gamma": {"low": 0.9, "high": 0.99}}}, "a grid needs every value of training.gamma"),
        ({**GRID, "space": {"gamma": {"low": 0.9, "high": 0.99, "step": 1e-5}}}, "more than 1,000"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_paragraph(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        space_of(tmp_path, content)
    assert refused.value.exit_code == 2
    assert "\n" not in str(refused.value)
    assert "sweep.yaml" in str(refused.value)


def test_a_grid_is_every_combination_and_each_is_a_checked_configuration(tmp_path: Path) -> None:
    found = settings_of(
        tmp_path,
        {
            **GRID,
            "seeds": 2,
            "space": {
                "gamma": [0.9, 0.99],
                "training.policy_kwargs.net_arch": [[8], [16, 8]],
                "environment.stop_atr": {"low": 1, "high": 2, "step": 0.5},
            },
        },
    )
    assert [of.number for of in found] == list(range(1, 13))
    of = [
        (config.training.gamma, config.training.policy_kwargs.net_arch.vf, config.environment.stop_atr)
        for config in (each.config for each in found)
    ]
    assert of == [(g, n, s) for g in (0.9, 0.99) for n in ((8,), (16, 8)) for s in (1.0, 1.5, 2.0)]
    assert {each.config.evidence.seeds for each in found} == {2}
    unchanged = {
        key: value for key, value in found[0].config.to_dict().items() if key not in ("training", "environment")
    }
    assert unchanged == {key: value for key, value in BASE.to_dict().items() if key in unchanged} | {
        "evidence": {**BASE.to_dict()["evidence"], "seeds": 2}
    }


@given(st.integers(0, 2**31), st.integers(2, 12))
@settings(max_examples=4, deadline=None)
def test_random_settings_are_different_within_bounds_and_the_same_again(
    tmp_path_factory: pytest.TempPathFactory, seed: int, number: int
) -> None:
    content = {
        "settings": number,
        "seed": seed,
        "space": {
            "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
            "n_epochs": {"low": 2, "high": 9},
            "gamma": {"low": 0.9, "high": 0.99, "step": 0.03},
            "target_kl": [None, 0.02],
        },
    }
    folder = tmp_path_factory.mktemp("random")
    found = [of.values for of in settings_of(folder, content)]
    assert len({repr(values) for values in found}) == len(found) == number
    for values in found:
        assert 1e-4 <= values["training.learning_rate"] <= 1e-2
        assert values["training.n_epochs"] in range(2, 10)
        assert round((values["training.gamma"] - 0.9) / 0.03, 6) in (0, 1, 2, 3)
        assert values["training.target_kl"] in (None, 0.02)
    assert [of.values for of in settings_of(folder, content)] == found


def test_random_numbers_spread_evenly_over_the_logarithm(tmp_path: Path) -> None:
    content = {**RANDOM, "space": {"learning_rate": {"low": 1e-5, "high": 1e-1, "log": True}}}
    (dimension,), rng = space_of(tmp_path, content).dimensions, np.random.default_rng(0)
    drawn = [dimension.drawn(rng) for _ in range(400)]
    counts = np.histogram(np.log10(drawn), bins=4, range=(-5, -1))[0]
    assert counts.min() > 70  # 100 expected, standard deviation 9


def test_the_example_is_a_sweep(tmp_path: Path) -> None:
    assert len(settings_of(tmp_path, yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")))) == 12


@given(st.integers(1, 20_000), st.integers(1, 16), st.integers(2, 256))
def test_training_pauses_where_a_rollout_reaches_a_quarter(budget: int, n_envs: int, batch: int) -> None:
    plan = plan_rollouts(budget, n_envs, batch)
    rollout = plan.n_envs * plan.n_steps
    reached = [end for end in range(rollout, plan.actual + 1, rollout) if is_quarter(end, rollout, plan.actual)]
    assert pauses_of(plan) == reached


@given(
    st.dictionaries(st.integers(1, 30), st.sampled_from([-5.0, 0.0, 1.0, 2.5, 7.0]), min_size=1),
    st.lists(st.sampled_from([-5.0, 0.0, 1.0, 9.0])),
    st.floats(0.01, 1.0),
)
def test_the_best_share_trains_on_and_ties_with_its_last_do_too(
    scores: dict[int, float], earlier: list[float], keep_frac: float
) -> None:
    going_on = kept(scores, earlier, keep_frac)
    everyone = [*scores.values(), *earlier]
    places = math.ceil(keep_frac * len(everyone) - 1e-9)
    for number, score in scores.items():
        better = sum(other > score for other in everyone)
        assert (number in going_on) == (better < places)


def test_a_better_setting_shows_what_the_best_of_noise_does_not(tmp_path: Path) -> None:
    content = {**GRID, "space": {"gamma": {"low": 0.9, "high": 0.99, "step": 0.01}}}
    space, chosen = space_of(tmp_path, content), settings_of(tmp_path, content)
    rng, found = np.random.default_rng(3), {}
    for kind, better in (("noise", 0.0), ("better", 60.0)):
        nets = rng.normal(0.0, 100.0, (len(chosen), 2, 120))
        nets[6] += better
        tried = [Tried(setting, net, {}, 4) for setting, net in zip(chosen, nets, strict=True)]
        tried[2].quarters = 1
        nets[2] += 1.2 * better  # the best of all, but it was stopped
        found[kind] = sweep_facts(read_sweep(tmp_path / "sweep.yaml"), space, tried, 0, (0, 1))
    noise, better_one = found["noise"], found["better"]
    assert better_one["winner"] == 7
    assert better_one["settings"][2]["score_usd"] > better_one["settings"][6]["score_usd"]
    assert better_one["deflated_sharpe"]["trials"] == better_one["overfitting"]["settings"] == 10
    assert noise["deflated_sharpe"]["probability"] < 0.9 < better_one["deflated_sharpe"]["probability"]
    assert 1 < better_one["track_record_sessions"] < 60


# Optuna

OPTUNA = {
    "method": "optuna",
    "settings": 18,
    "batch": 4,
    "seed": 5,
    "space": {
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "n_epochs": {"low": 1, "high": 3},
        "training.policy_kwargs.net_arch": [[8], [16, 8]],
    },
}


def scored(setting: Setting) -> Any:
    """A score that depends on the setting alone; every third is stopped at its first quarter."""
    score = -abs(math.log10(setting.values["training.learning_rate"]) + 3) * setting.values["training.n_epochs"]
    return SimpleNamespace(score=score, at_quarters={1: score}, is_stopped=setting.number % 3 == 0)


def proposed(folder: Path, space: Space, stop_after: int | None = None) -> list[Any]:
    """The values of all settings, or of those of so many batches, the last of which is not told."""
    proposals = OptunaProposals(read_sweep(folder / "sweep.yaml"), space, folder)
    found = []
    for place, batch in enumerate(proposals.batches()):
        found += [of.values for of in batch]
        if place == stop_after:
            break
        for setting in batch:
            proposals.tell(setting, scored(setting))
    return found


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Space, list[Any], bytes]:
    pytest.importorskip("optuna", reason="needs requirements-sweep.txt")
    folder = tmp_path_factory.mktemp("optuna")
    space = space_of(folder, OPTUNA)
    return space, proposed(folder, space), (folder / JOURNAL).read_bytes()


def test_optuna_is_guided_by_the_scores(uninterrupted: tuple[Space, list[Any], bytes]) -> None:
    _, found, _ = uninterrupted
    rates = [abs(math.log10(values["training.learning_rate"]) + 3) for values in found]
    assert np.mean(rates[12:]) < np.mean(rates[:10])
    assert len({repr(values) for values in found}) == len(found)


@pytest.mark.parametrize("share", [0.0, 0.37, 0.9, 1.0])
def test_settings_are_the_same_wherever_the_journal_was_cut(
    tmp_path: Path, uninterrupted: tuple[Space, list[Any], bytes], share: float
) -> None:
    space, found, journal = uninterrupted
    space_of(tmp_path, OPTUNA)
    (tmp_path / JOURNAL).write_bytes(journal[: int(share * len(journal))])
    assert proposed(tmp_path, space) == found
    assert proposed(tmp_path, space) == found


def test_a_damaged_journal_is_kept_aside(
    tmp_path: Path, uninterrupted: tuple[Space, list[Any], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    space, found, journal = uninterrupted
    space_of(tmp_path, OPTUNA)
    half = len(journal) // 2
    (tmp_path / JOURNAL).write_bytes(journal[:half] + b"\n{no json\n" + journal[half:])
    assert proposed(tmp_path, space) == found
    assert "cannot be read" in caplog.text
    assert len(list(tmp_path.glob("optuna*damaged*"))) == 1


def test_a_batch_depends_on_those_before_it_alone(
    tmp_path: Path, uninterrupted: tuple[Space, list[Any], bytes]
) -> None:
    space, found, _ = uninterrupted
    space_of(tmp_path, OPTUNA)
    assert proposed(tmp_path, space, stop_after=1) == found[:8]
    assert proposed(tmp_path, space) == found


def test_a_setting_that_is_proposed_again_is_tried_once(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="needs requirements-sweep.txt")
    few = {
        **copy.deepcopy(OPTUNA),
        "settings": 8,
        "batch": 3,
        "space": {"n_epochs": [1, 2, 3], "gamma": [0.9, 0.99, 1.0]},
    }
    space = space_of(tmp_path, few)
    proposals = OptunaProposals(read_sweep(tmp_path / "sweep.yaml"), space, tmp_path)
    found: list[Setting] = []
    for batch in proposals.batches():
        found += batch
        for setting in batch:
            proposals.tell(setting, SimpleNamespace(score=1.0, at_quarters={}, is_stopped=False))
    assert proposals.repeated == 8 - len(found)
    assert [of.number for of in found] == list(range(1, len(found) + 1))
    assert len({repr(of.values) for of in found}) == len(found)


def test_another_optuna_is_refused_with_the_command_that_installs_the_right_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    optuna = pytest.importorskip("optuna", reason="needs requirements-sweep.txt")
    monkeypatch.setattr(optuna, "__version__", "4.9.0")
    with pytest.raises(UserError, match=r"optuna 4.9.0 is installed: python -m pip install -r requirements-sweep.txt"):
        optuna_proposals.load_optuna()
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UserError, match=r"cannot be imported .*requirements-sweep.txt") as refused:
        optuna_proposals.load_optuna()
    assert refused.value.exit_code == 2
