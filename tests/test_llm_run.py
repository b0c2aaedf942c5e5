"""Whole runs advised by a language model, a random one of a million parameters: what advice may touch and what not."""

from __future__ import annotations

import gc
import io
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from src.advisor import models, scoring
from src.advisor.choose import LanguageModel, make_advisor
from src.advisor.situations import N_SITUATIONS
from src.advisor.table import AdviceTable, freeze_table, renormalise
from src.agent import advising
from src.agent.advising import tabulate_advice
from src.agent.market import Market, prepare_market
from src.agent.rollout_plan import plan_rollouts
from src.agent.trainer import Trainer
from src.agent.training import build_finetuned
from src.evaluation.assembly import FeatureAssembly
from src.testing_framework import TestConfig, TestingFramework
from src.trading.layout import CONTEXT, N_ACTIONS, N_OBS, OPINION
from tests.agent.opinion_env import random_masks, random_observations
from tests.tiny_runs import Seen, at, bar_files, every_market_checked_once, quick_calendar, tiny_config, whole_run

TINY_MODEL = {"llm.model": "tiny", "llm.llm_threads": 1, "llm.tabulation_budget_s": 1e-3}
RESULTS = (
    "report.arms",
    "report.validation_arms",
    "weights",
    "metrics",
    "report.advice.sha256",
    "report.timesteps_total",
)


class Runs:
    """Runs on one file of bars, each with the store it names."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._data = str(bar_files(folder)["plain"])

    def config(self, store: str = "shared", **changes: Any) -> TestConfig:
        dotted = {key.replace("__", "."): value for key, value in changes.items()}
        own = {"data.path": self._data, "llm.store_path": str(self.folder / f"{store}.sqlite3")}
        return tiny_config({**TINY_MODEL, **own, **dotted})

    def see(self, store: str = "shared", **changes: Any) -> Seen:
        return whole_run(self.config(store, **changes))

    def console(self, **changes: Any) -> tuple[str, Mapping[str, Any]]:
        """What a run prints, in lines that are not wrapped, and its report."""
        file = io.StringIO()
        framework = TestingFramework(self.config(**changes), Console(file=file, width=1000))
        report = framework.run_hardware_maximized_validation()
        return file.getvalue(), report


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("llm_runs")
    threads = torch.get_num_threads()
    with quick_calendar(), every_market_checked_once(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield Runs(folder)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def first(runs: Runs) -> Seen:
    """A run that asked one batch."""
    return runs.see()


@pytest.fixture(scope="module")
def market(runs: Runs) -> Market:
    config = runs.config()
    return prepare_market(config.data, config.environment, config.test_mode.market, config.test_mode.seed)


def test_the_report_says_who_was_asked_how_much_and_what_that_is_worth(first: Seen) -> None:
    assert first["outcome"] == ""
    advice = first["report"]["advice"]
    asking = advice["tabulation"]
    assert (advice["advisor"], asking["count_k"], asking["asked_now"], asking["from_store"]) == ("tiny", 16, 16, 0)
    assert (asking["rounds"], asking["budget_s"], asking["batch_size"], asking["calibrated"]) == (1, 1e-3, 16, True)
    assert asking["advices_per_s"] > 0
    assert asking["scoring"]["prefill_tokens"] > 0
    assert asking["sha256"] == advice["sha256"]
    assert "tests only" in advice["note"]
    assert any(f"16 of {asking['listed']:,} situations" in line for line in first["report"]["verdict"])


def test_a_second_run_asks_nothing_loads_nothing_and_ends_alike(
    runs: Runs, first: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.advisor.models.load_model", None)
    second = runs.see()
    assert second["outcome"] == ""
    assert at(second, "report.advice.tabulation.asked_now") == 0
    assert [path for path in RESULTS if at(second, path) != at(first, path)] == []
    text, report = runs.console()
    assert "asked the model nothing: 16 of" in text
    assert report["advice"]["tabulation"]["load_s"] == 0.0


def test_the_console_says_what_will_be_asked_before_and_how_far_it_is(runs: Runs) -> None:
    text, _ = runs.console(store="told")
    before, after = text.index("asking for up to"), text.index("advices/s: the budget is 16 of")
    assert text.index("] advice: tiny") < before < text.index("loading tiny") < after


def test_an_extension_reaches_further(runs: Runs, first: Seen) -> None:
    runs.see("extended")
    more = runs.see("extended", llm__extend_advice=True)["report"]["advice"]
    before = first["report"]["advice"]
    assert (more["tabulation"]["count_k"], more["tabulation"]["asked_now"]) == (32, 16)
    assert more["coverage"]["train"] > before["coverage"]["train"]
    assert more["advice_without_model"] > before["advice_without_model"]


def test_coverage_is_of_training_and_of_sealed_sessions_apart(runs: Runs, first: Seen, market: Market) -> None:
    config = runs.config()
    table, _ = tabulate_advice(market, make_advisor(config.llm), config.llm)
    asked = np.flatnonzero(table.covered)
    reported = first["report"]["advice"]["coverage"]
    for part, sessions in (("train", market.split.train), ("sealed", market.split.test)):
        codes = market.situation[market.bars_of(sessions)].tolist()
        by_hand = [np.mean([code * 5 + side in asked for side in range(5)]) for code in codes]
        assert reported[part] == pytest.approx(np.mean(by_hand))
    assert reported["train"] != reported["sealed"]


def test_only_situations_of_the_training_sessions_are_asked_and_calibrate(runs: Runs, market: Market) -> None:
    config = runs.config("everything", llm__tabulation_budget_s=600.0)
    table, record = tabulate_advice(market, make_advisor(config.llm), config.llm)
    trained = set(market.situation[market.bars_of(market.split.train)].tolist()) - {0}
    assert set((np.flatnonzero(table.covered) // 5).tolist()) == trained
    assert record.count_k == record.listed == 5 * len(trained)
    sealed = set(market.situation[market.bars_of(market.split.test)].tolist()) - {0}
    assert sealed - trained, "else this shows nothing"


def test_asking_leaves_threads_and_random_numbers_alone(runs: Runs, market: Market) -> None:
    config = runs.config("undisturbed")
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    before = (torch.get_num_threads(), torch.rand(1), np.random.random())  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    tabulate_advice(market, make_advisor(config.llm), config.llm)
    assert (torch.get_num_threads(), torch.rand(1), np.random.random()) == before  # noqa: NPY002


@pytest.mark.parametrize("what", ["tabulate", "try"])
def test_nothing_holds_the_model_when_its_memory_is_given_back(
    runs: Runs, market: Market, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A GPU's memory goes back before anything trains, so nobody may refer to the model by then."""
    loaded, alive = [], []
    real_load = models.load_model

    def load(*args: Any, **kwargs: Any) -> Any:
        made = real_load(*args, **kwargs)
        loaded.extend(weakref.ref(part) for part in (made.model, next(made.model.parameters())))
        return made

    def given_back() -> None:
        gc.collect()
        alive.extend(ref() is not None for ref in loaded)

    config = runs.config(f"given back {what}")
    monkeypatch.setattr(models, "load_model", load)
    monkeypatch.setattr(advising, "_release_models", given_back)
    if what == "try":
        advising.try_advisor(make_advisor(config.llm), config.llm, say=lambda line: None)
    else:
        tabulate_advice(market, make_advisor(config.llm), config.llm)
    assert alive == [False, False]


def test_a_quantized_model_is_compared_with_full_precision(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether bitsandbytes is here or not: the tiny model in full precision plays its own quantized version."""

    def load(self: LanguageModel) -> Any:
        scorer = make_advisor(self.settings.model_copy(update={"quantization": "none"})).load()  # type: ignore[union-attr]
        scorer.identity = self.identity
        return scorer

    def identity_of(name: str, prompts: object, *, quantization: str = "none", device: str = "auto") -> str:
        return real_identity(name, prompts, device=device) + ("" if quantization == "none" else quantization)  # type: ignore[arg-type]

    real_identity = scoring.identity_of
    real_load = LanguageModel.load
    monkeypatch.setattr(scoring, "identity_of", identity_of)
    monkeypatch.setattr(
        LanguageModel, "load", lambda self: real_load(self) if self.settings.quantization == "none" else load(self)
    )
    alone = runs.see("quantized", llm__quantization="int8", llm__full_precision_sample=0)["report"]
    assert alone["advice"]["tabulation"]["full_precision_agreement"] is None
    assert any("int8 weights:" in line and "full_precision_sample is 0" in line for line in alone["verdict"])
    both = runs.see("quantized", llm__quantization="int8", llm__full_precision_sample=9)["report"]
    tabulation = both["advice"]["tabulation"]
    assert (tabulation["asked_now"], tabulation["full_precision_compared"]) == (0, 9)
    assert tabulation["full_precision_agreement"] == 1.0
    assert any("100% of 9 situations" in line for line in both["verdict"])
    in_full = runs.see("quantized")["report"]
    assert in_full["advice"]["tabulation"]["from_store"] == 9, "what was compared need not be asked again"
    assert not any("int8 weights:" in line for line in in_full["verdict"])


# The switches


def test_with_both_switches_off_phase_3_is_rl_only_to_the_bit(runs: Runs, first: Seen) -> None:
    off = runs.see(llm__llm_weight=0.0, llm__use_opinion_features=False)
    for part in ("arms", "validation_arms"):
        hybrid, rl_only = dict(off["report"][part]["hybrid"]), dict(off["report"][part]["rl_only"])
        hybrid.pop("advice", None)
        assert hybrid == rl_only
    rows = {name: [{**row, "phase": ""} for row in off["metrics"][name]] for name in ("hybrid", "rl_only")}
    assert rows["hybrid"] == rows["rl_only"]
    assert first["report"]["arms"]["hybrid"]["actions"] != first["report"]["arms"]["rl_only"]["actions"]


@pytest.mark.parametrize("part", ["weights", "adam"])
def test_with_both_switches_off_weights_and_adam_are_those_of_rl_only(runs: Runs, market: Market, part: str) -> None:
    config = runs.config(llm__llm_weight=0.0, llm__use_opinion_features=False, training__n_epochs=3)
    trainer, plan, base = trained_base(config, market)
    table, _ = tabulate_advice(market, make_advisor(config.llm), config.llm)
    states = []
    for llm in (None, config.llm):
        env = trainer.make_env(market, None if llm is None else table)
        model, _ = trainer.finetune(base, env, plan, [], llm)
        env.close()
        if part == "weights":
            states.append([v for name, v in model.policy.state_dict().items() if name != "llm_weight"])
        else:
            states.append([v for state in model.policy.optimizer.state.values() for v in state.values()])
    assert len(states[0]) == len(states[1]) > 0
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("use_opinion_features", [True, False])
def test_with_weight_zero_phase_3_begins_as_base_under_any_advice(
    runs: Runs, market: Market, seed: int, use_opinion_features: bool
) -> None:
    config = runs.config(llm__llm_weight=0.0, llm__use_opinion_features=use_opinion_features)
    trainer, plan, base = trained_base(config, market)
    rng = np.random.default_rng(seed)
    anything = freeze_table(
        rng.dirichlet(np.full(N_ACTIONS, 0.3), N_SITUATIONS), np.ones(N_SITUATIONS, bool), "any", ""
    )
    env = trainer.make_env(market, anything)
    model = build_finetuned(base.policy, env, config.training, plan, 0, torch.device("cpu"), False, config.llm)
    masks = random_masks(rng, 200)
    advised = random_observations(rng, masks)
    unadvised = advised.copy()
    unadvised[:, OPINION] = 0.0
    assert (advised != unadvised).any()
    with torch.no_grad():
        of_base = base.policy.get_distribution(torch.as_tensor(unadvised), masks).distribution
        of_hybrid = model.policy.get_distribution(torch.as_tensor(advised), masks).distribution
        assert torch.equal(of_hybrid.probs, of_base.probs)
        values = [p.predict_values(torch.as_tensor(o)) for p, o in ((base.policy, unadvised), (model.policy, advised))]
        assert torch.equal(*values)
    actions = [
        m.predict(o, action_masks=masks, deterministic=True)[0] for m, o in ((base, unadvised), (model, advised))
    ]
    np.testing.assert_array_equal(*actions)
    env.close()


def trained_base(config: TestConfig, market: Market) -> tuple[Trainer, Any, Any]:
    trainer = Trainer(config.training, config.hardware, config.environment, torch.device("cpu"), 0)
    plan = plan_rollouts(128, config.vectorized_envs, config.batch_size, None)
    env = trainer.make_env(market)
    base, _ = trainer.base(env, plan, [])
    env.close()
    return trainer, plan, base


# The two counters


class Standing:
    """Accounts that stand at bars in situations, as feature assembly sees a `SessionBatch`."""

    def __init__(self, bars: list[int], situations: list[int], over: list[bool]) -> None:
        self.n = len(bars)
        self.over = np.array(over)
        self.masks = np.ones((self.n, N_ACTIONS), bool)
        self.obs = np.zeros((self.n, N_OBS), np.float32)
        self._bars, self._situations = np.array(bars), np.array(situations)

    def bars(self) -> np.ndarray:
        return self._bars

    def situations(self) -> np.ndarray:
        return self._situations


def table_of(situations: list[int]) -> AdviceTable:
    probabilities = np.zeros((N_SITUATIONS, N_ACTIONS), np.float32)
    probabilities[situations, :3] = [0.5, 0.25, 0.25]
    covered = np.zeros(N_SITUATIONS, bool)
    covered[situations] = True
    return freeze_table(probabilities, covered, "two", "")


def test_the_counters_count_what_they_are_named_for() -> None:
    context = np.arange(22 * 10, dtype=np.float32).reshape(10, 22)
    table = table_of([50, 55])
    assembly = FeatureAssembly(context, table)
    # Four accounts, the last one's session is over; bar 3 twice; situations 50 and 55 are covered, 60 is not.
    batch: Any = Standing([3, 3, 4, 9], [50, 60, 55, 55], [False, False, False, True])
    assembly.write_context(batch)
    np.testing.assert_array_equal(batch.obs[:3, CONTEXT], context[[3, 3, 4]])
    opinions = assembly.opinions(batch)
    np.testing.assert_array_equal(opinions[0], renormalise(table.probabilities[[50]], batch.masks[:1])[0])
    assert not opinions[[1, 3]].any()
    # An abstention is no advice: two of three look-ups were answered from the table.
    assert (assembly.opinion_lookups, assembly.opinions_given) == (3, 2)
    assembly.opinions(batch)
    assert (assembly.opinion_lookups, assembly.opinions_given) == (6, 4)


def test_a_run_reports_both_counters(first: Seen) -> None:
    report = first["report"]
    assert report["cache_hit_rate"] == report["cache"]["hits"] / (report["cache"]["hits"] + report["cache"]["misses"])
    assert 0.0 < report["advice"]["advice_without_model"] < 1.0
