"""Every key of the configuration acts: flipped alone, it changes something that a run measures, writes or passes on.

A case says what the key becomes, which figures must differ then, and which must not. What merely repeats the
configuration (config.yaml, the report's names of choices) is no such figure.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from src.advisor import models, scoring
from src.advisor.choose import LanguageModel, make_advisor
from src.advisor.endpoint import EndpointScorer
from src.advisor.endpoint_http import Server
from src.advisor.prompts import load_prompts
from src.agent import trainer as trainers
from src.agent import training
from src.agent.market import prepare_market
from src.agent.rollout_plan import plan_rollouts
from src.agent.trainer import Trainer
from src.agent.training import build_base, resolve_device
from src.configuration import flat_paths
from src.errors import UserError
from src.numba_cache import PROJECT_CACHE
from src.report.facts import judge_targets
from src.runs import executors, resources, run, tracking
from src.runs.ledger import Ledger
from src.runs.phase_targets import phase_targets
from src.runs.tasks import Task
from src.testing_framework import TestConfig
from tests.advisor.fake_model import ORDER
from tests.advisor.odd_server import OddServer
from tests.tiny_runs import (
    LEFT_OUT,
    FailingEnv,
    Seen,
    at,
    bar_files,
    quick_runs,
    tiny_config,
    whole_run,
)

RESULTS = ("report.arms", "report.validation_arms", "weights", "steps", "report.look_ahead", "report.timesteps_total")
TRAINED = ("weights", "metrics")
BASE = ("weights.base", "metrics.base")
"""What base training leaves: nothing of fine-tuning, advice or evaluation may touch it."""
UNTRAINED = ("report.arms.flat", "report.arms.random_legal", "report.arms.advisor_only")
"""Arms without a trained policy: nothing of training may touch them."""

CUDA = {"hardware.device": "cuda"}
SYNTHETIC = {"data.path": None, "data.synthetic_interval_min": 15}
OWN_ENV = {"environment.env_class": "tests.tiny_runs:CountingEnv", "hardware.vec_env": "dummy"}
TINY_MODEL = {"llm.model": "tiny", "llm.llm_threads": 1, "llm.tabulation_budget_s": 1e-3}
"""A language model that is asked a single batch."""
FEW_ASKED = {**TINY_MODEL, "data.train_frac": 0.1}
"""The same on so few training sessions that all of their situations are asked soon."""
SERVED = {"llm.model": "odd", "llm.endpoint": "http://127.0.0.1:1/v1"}
"""A model on a server; its address is that of a server of our own."""
UNREPEATED = {**SERVED, "llm.endpoint_retries": 0}
UNADVISED = (*BASE, "report.arms.flat", "report.arms.rl_only")
"""What no advice may touch."""
TEN_SEALED = {"data.train_frac": 0.1, "data.validation_frac": 0.1, "evidence.pass_max_days": 3}
"""Enough sealed sessions for attempts at the rule profile's evaluation, which are few."""
PIPELINE = {"test_mode.mode": "pipeline"}
OWN_PIPELINE = {**PIPELINE, **OWN_ENV}
"""Base training and nothing besides."""
REALLOCATING = {**OWN_PIPELINE, "pipeline.reallocate_resources": True}
TOGETHER = {"hardware.learner": "population"}
FAILING = {**OWN_PIPELINE, "environment.env_class": "tests.tiny_runs:FailingEnv"}
EVERY_ROLLOUT = {"checkpoint.interval_steps": 32}
BASE_ALONE = (*TRAINED, "steps")
"""What such a pipeline comes to."""
MANY_BREACHES = {"environment.contracts": 60, "environment.min_buffer_frac": 0.01}


# ---------------------------------------------------------------- where a key is observed other than in a whole run


def on_cuda(config: TestConfig) -> Seen:
    """The settings resolved as on a machine with CUDA, none of which is touched."""
    asked: dict[str, Any] = {}

    class Recorder:
        """Stands in for either learner."""

        def __init__(self, policy: object, env: object, **settings: Any) -> None:
            asked["device_of_model"] = settings["device"].type

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share: asked.update(memory_fraction=share))
        for learner in ("TimedMaskablePPO", "FusedMaskablePPO"):
            patch.setattr(training, learner, Recorder)
        device = resolve_device(config.hardware)
        plan = plan_rollouts(128, 4, 32)
        model = build_base(None, config.training, plan, 0, device, config.hardware.mixed_precision)  # type: ignore[arg-type]
    return {**asked, "device": device.type, "bf16_update": model.bf16_update}


def accounts(config: TestConfig) -> Seen:
    """What steps the accounts of a training phase; that all routes give the same is tested with the routes."""
    market = prepare_market(config.data, config.environment, config.test_mode.market, config.test_mode.seed)
    trainer = Trainer(config.training, config.hardware, config.environment, torch.device("cpu"), 0)
    env = trainer.make_env(market)
    try:
        return {"vec_env": type(env).__name__, "n": env.num_envs}
    finally:
        env.close()


def workers(config: TestConfig) -> Seen:
    """What makes the accounts' worker processes is asked for; none is started."""
    asked: dict[str, Any] = {}
    trainer = Trainer(config.training, config.hardware, config.environment, torch.device("cpu"), 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            trainers, "make_custom_vec_env", lambda route, name, kwargs, n, stuck_s: asked.update(s=stuck_s, n=n)
        )
        trainer.make_env(None)
    return asked


def worker_processes(config: TestConfig) -> Seen:
    """A run, how many worker processes it starts, and how many there are at once."""
    at_once: list[int] = []
    start = executors.Cores.start

    def counted(cores: executors.Cores, task: Task, job: Any) -> None:
        start(cores, task, job)
        at_once.append(len(cores.running))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executors.Cores, "start", counted)
        seen = whole_run(config)
    return {**seen, "started": len(at_once), "at_once": max(at_once, default=0)}


def connected(config: TestConfig) -> Seen:
    """A run, and what cluster of how many cores it wants; Ray itself is not started."""
    asked: dict[str, Any] = {"cluster": None, "n": config.hardware.workers}

    def refused(address: str, *, cores: int, **sizes: Any) -> None:
        asked.update(cluster=address, n=cores)
        raise UserError("no cluster")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "check_ray", lambda address: None)
        patch.setattr(run, "Cluster", refused)
        with suppress(UserError):
            whole_run(config)
    return asked


def judged(config: TestConfig) -> Seen:
    """The targets of a run on a GPU that was used half of the time."""
    targets = judge_targets(config.validation, {"gpu_utilization": 50.0}, {})
    return {name: target["status"] for name, target in targets.items()}


def language_model(config: TestConfig) -> Seen:
    """What a language model is named and loaded with; none is."""
    asked: dict[str, Any] = {}

    def identity_of(name: str, prompts: object, **settings: Any) -> str:
        asked["named"] = settings
        return "identity"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "identity_of", identity_of)
        patch.setattr(scoring, "LLMScorer", lambda loaded, prompts, batch_size: None)
        patch.setattr(models, "load_model", lambda name, **settings: asked.update(loaded=settings))
        advisor = make_advisor(config.llm)
        assert isinstance(advisor, LanguageModel)
        advisor.load()
    return asked


def served(config: TestConfig, fault: str = "500") -> Seen:
    """A server that fails once, and how it is asked about five situations; where no server is named, nothing is."""
    if config.llm.endpoint is None:
        return {"asked": 0, "name": config.llm.model}
    with OddServer("vllm") as odd, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ODD_KEY", "open-sesame")
        patch.setattr("src.advisor.endpoint_http.FIRST_PAUSE_S", 0.01)
        store = {"store_path": Path("served") / f"{time.time_ns()}.sqlite3", "endpoint": odd.url}
        settings = config.llm.model_copy(update=store)
        advisor = make_advisor(settings.model_copy(update={"endpoint_timeout_s": 60.0}))
        began, how = len(odd.seen), "answered"
        odd.faults, odd.work_s, odd.slow_s = [fault], 0.1, 2.5
        try:
            EndpointScorer(replace(advisor, settings=settings), Server(settings), load_prompts()).score(ORDER[:5])
            odd.use_model(seed=1)
            make_advisor(settings)
        except UserError as error:
            how = type(error).__name__
        asked = odd.seen[began:]
        times = np.diff([when for place, _, when in asked[:5]])
        return {
            "asked": len(odd.asked), "name": advisor.name, "how": how, "most_at_once": odd.most_at_once,
            "key": {headers.get("Authorization") for _, headers, _ in asked}, "is_paced": bool((times > 0.15).all()),
            "has_chat": any(place == "/detokenize" for place, _, _ in odd.seen),
        }  # fmt: skip


def served_late(config: TestConfig) -> Seen:
    """A server that is late once."""
    return served(config, "slow")


def second_run(config: TestConfig) -> Seen:
    """A run after one that has tabulated the first budget."""
    whole_run(config.model_copy(update={"llm": config.llm.model_copy(update={"extend_advice": False})}))
    return whole_run(config)


def stores(config: TestConfig) -> Seen:
    """Where a run leaves its answers: here, or in the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(Path("cache").absolute()))
        seen = whole_run(config)
    folders = (Path(), Path("cache") / PROJECT_CACHE)
    found = [str(path) for folder in folders for path in sorted(folder.glob("*.sqlite3"))]
    for name in found:
        Path(name).unlink()
    return {**seen, "stores": found}


def trial_ledgers(config: TestConfig) -> Seen:
    """Where a run records its trials: here, or in the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(Path("ledgers").absolute()))
        seen = whole_run(config)
    found = [name for name in ("mine.jsonl", f"ledgers/{PROJECT_CACHE}/trials.jsonl") if Path(name).exists()]
    for name in found:
        Path(name).unlink()
    return {**seen, "ledgers": found}


def on_cuda_by_phase(config: TestConfig) -> Seen:
    """A pipeline that believes CUDA to be there when it shares out the machine, and nowhere else."""
    shares: list[float] = []
    cuda = SimpleNamespace(
        is_available=lambda: True,
        set_per_process_memory_fraction=shares.append,
        memory_allocated=lambda: 0,
        memory_reserved=lambda: 0,
        empty_cache=lambda: None,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(resources, "torch", SimpleNamespace(cuda=cuda, set_num_threads=torch.set_num_threads))
        seen = whole_run(config)
    return {**seen, "shares": dict(zip(("phase1", "phase2", "phase3"), shares, strict=True))}


def judged_phases(config: TestConfig) -> Seen:
    """The targets of phases during which a GPU was used half of the time."""
    ledger = Ledger(Path(), ("phase1", "phase2", "phase3"))
    for entry in ledger.phases.values():
        entry.gpu_utilization = 0.5
    return {name: target["status"] for name, target in phase_targets(config, ledger).items()}


def tracker(config: TestConfig) -> Seen:
    """What a run says before it begins where MLflow is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "find_spec", lambda name: None)
        try:
            tracking.check_tracker(config.monitoring)
        except UserError as error:
            return {"refused": str(error)}
    return {"refused": ""}


def pausing(config: TestConfig) -> Seen:
    """A run, and the seconds it would sleep."""
    slept: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", slept.append)
        seen = whole_run(config)
    return {**seen, "slept": slept}


def runs_after_one_that_stopped(config: TestConfig) -> Seen:
    """How many runs two begin: one that stops after its first phase, and the same again."""
    folder = Path("two_runs") / str(config.checkpoint.auto_resume)
    run = config.test_mode.model_copy(update={"output_dir": str(folder)})
    stops = config.pipeline.model_copy(update={"auto_advance": False})
    whole_run(config.model_copy(update={"test_mode": run, "pipeline": stops}))
    whole_run(config.model_copy(update={"test_mode": run}))
    return {"outcome": "", "runs": len(list(folder.glob("pipeline_*/ledger.json")))}


def failing_once(config: TestConfig) -> Seen:
    """A run of an environment that fails a single time."""
    FailingEnv.failures_left = 1
    return whole_run(config)


def failing_always(config: TestConfig) -> Seen:
    """A run of an environment that fails whenever it is tried."""
    FailingEnv.failures_left = 1_000
    return whole_run(config)


# ---------------------------------------------------------------- one case a key


@dataclass(frozen=True)
class Case:
    """`key` becomes `to`, `base` being what both runs set besides; `moves` must differ, `keeps` must be the same."""

    to: Any
    moves: tuple[str, ...]
    keeps: tuple[str, ...] = ()
    base: Mapping[str, Any] = field(default_factory=dict)
    observe: Callable[[TestConfig], Seen] = whole_run


def trained(to: Any, base: Mapping[str, Any] | None = None) -> Case:
    """A key of the learner: all three phases learn otherwise; what needs no training stays."""
    return Case(to, ("weights.base", "metrics.base", "metrics.rl_only", "metrics.hybrid"), UNTRAINED, base or {})


def shaped(to: Any, part: str) -> Case:
    return Case(to, (f"weights.base.{part}", "weights.hybrid"), UNTRAINED)


def budget(to: Any, base: Mapping[str, Any]) -> Case:
    without = {"training.timesteps": None, "training.production_timesteps": 1000, **base}
    return Case(to, ("steps.0.timesteps",), UNTRAINED, without)


def finetuned(to: Any, *moves: str, base: Mapping[str, Any] | None = None) -> Case:
    return Case(to, moves, (*BASE, *UNTRAINED), base or {})


def fused(to: Any, base: Mapping[str, Any] | None = None) -> Case:
    keeps = (*TRAINED, *UNTRAINED, "report.arms.rl_only", "report.arms.hybrid")
    return Case(to, ("report.fusion", "report.arms.fused"), keeps, base or {})


def traded(to: Any, *moves: str, base: Mapping[str, Any] | None = None) -> Case:
    """A key of the account itself: a policy that nothing has taught fares otherwise."""
    moves = moves or ("report.arms.random_legal.net_usd_by_session", "metrics.base")
    return Case(to, moves, ("report.data", "report.advice.identity"), base or {})


def episodes(to: Any, base: Mapping[str, Any] | None = None) -> Case:
    """A key of training episodes: evaluation is of whole sessions with new accounts, in dollars."""
    return Case(to, ("metrics.base", "weights.base"), UNTRAINED, base or {})


def bars(to: Any, *moves: str, base: Mapping[str, Any] | None = None) -> Case:
    return Case(to, (*moves, "report.arms.random_legal"), (), base or {})


def attempts(to: Any, *moves: str, base: Mapping[str, Any]) -> Case:
    """A key of the simulated attempts; they are made after everything else."""
    return Case(to, moves, (*RESULTS, *TRAINED), {**TEN_SEALED, **base})


def target(to: Any, name: str, *moves: str, base: Mapping[str, Any] | None = None) -> Case:
    return Case(to, (f"report.targets.{name}.status", *moves), RESULTS, base or {})


def used(key: str, to: Any) -> Case:
    """What one phase may use of the machine: nothing of the others."""
    own, others = key.partition(".")[0], {"phase1", "phase2", "phase3"} - {key.partition(".")[0]}
    kept = tuple(f"ledger.{phase}.torch_threads" for phase in sorted(others))
    return Case(to, (f"ledger.{own}.torch_threads",), kept, REALLOCATING)


def shared(phase: str) -> Case:
    others = tuple(f"shares.{other}" for other in ("phase1", "phase2", "phase3") if other != phase)
    base = {**REALLOCATING, "hardware.device": "auto"}
    return Case(0.5, (f"shares.{phase}",), (*others, *BASE_ALONE), base, on_cuda_by_phase)


def of_a_phase(phase: str) -> dict[str, Case]:
    """The keys every phase has; environments of our own have no training in phases 1 and 3, and it does not matter."""
    utilization = f"{phase}.gpu_utilization_target"
    duration = (f"report.targets.{phase}_duration.status", "report.validation_passed")
    return {
        f"{phase}.estimated_duration": Case(1e-9, duration, BASE_ALONE, OWN_PIPELINE),
        f"{phase}.timeout": Case(1e-9, ("outcome", f"ledger.{phase}.status"), base=OWN_PIPELINE),
        utilization: Case(
            0.4, (f"{phase}_gpu_utilization",), (f"{phase}_duration",), {**PIPELINE, utilization: 0.9}, judged_phases
        ),
        f"{phase}.gpu_usage": used(phase, {"torch_threads": 2}),
        f"{phase}.gpu_usage.torch_threads": used(phase, 2),
        f"{phase}.gpu_usage.memory_fraction": shared(phase),
    }


CASES: Mapping[str, Case] = {
    # test_mode
    "test_mode.mode": Case(
        "pipeline",
        ("steps.0.n_envs", "report.training.0.batch_size", "files.name", "report.test_name"),
        UNTRAINED,
        {"hardware.vectorized_envs": LEFT_OUT, "hardware.batch_size": LEFT_OUT, "training.timesteps": 256},
    ),
    "test_mode.market": Case("NQ", ("report.arms.random_legal.net_usd", "weights.base"), ("report.data.split",)),
    "test_mode.seed": Case(7, ("weights.base", "metrics.base", "report.arms.random_legal"), ("report.data",)),
    "test_mode.output_dir": Case("elsewhere", ("files.folder",), (*RESULTS, *TRAINED)),
    "test_mode.quick": budget(True, {}),
    "test_mode.quick_frac": budget(0.2, {"test_mode.quick": True}),
    # hardware
    "hardware.device": Case("cpu", ("device", "device_of_model"), base={"hardware.device": "auto"}, observe=on_cuda),
    "hardware.vec_env": Case("dummy", ("vec_env",), ("n",), observe=accounts),
    "hardware.vectorized_envs": Case(8, ("steps.0.n_envs", "weights.base"), UNTRAINED),
    "hardware.batch_size": Case(16, ("report.training.0.batch_size", "weights.base"), UNTRAINED),
    "hardware.memory_fraction": Case(0.5, ("memory_fraction",), ("device",), CUDA, on_cuda),
    "hardware.mixed_precision": Case(True, ("bf16_update",), ("device",), CUDA, on_cuda),
    "hardware.optimize_memory": Case(True, ("report.memory_released_mb",), (*RESULTS, *TRAINED)),
    "hardware.torch_threads": Case(2, ("threads",), UNTRAINED),
    "hardware.workers": Case(
        2, ("started", "at_once", "report.run.workers"), (*RESULTS, *TRAINED), {"hardware.workers": 1}, worker_processes
    ),
    "hardware.ray": Case("local", ("cluster",), ("n",), {"hardware.workers": 2}, connected),
    "hardware.memory_limit_gb": Case(0.01, ("outcome",)),
    "hardware.learner": Case(
        "stock", ("report.training.0.learner", "report.training.0.why_learner", "weights.base"), UNTRAINED
    ),
    "hardware.precision": Case("bf16", ("report.training.0.precision", "weights.base"), UNTRAINED, TOGETHER),
    "hardware.group": Case(
        2,
        ("report.training.1.group", "report.memory.group"),
        ("report.arms", "steps", "report.training.0.group"),
        TOGETHER,
    ),
    "hardware.price_per_hour": Case(
        2.0, ("report.production_estimate.price_per_hour_usd",), (*RESULTS, *TRAINED), {"hardware.price_per_hour": 1.0}
    ),
    "hardware.other_machine": Case(
        "big:cores=16,gflops=90", ("report.production_estimate.other_machine",), (*RESULTS, *TRAINED)
    ),
    "hardware.stuck_worker_s": Case(5.0, ("s",), ("n",), OWN_ENV, workers),
    # training
    "training.production_timesteps": Case(
        2000, ("steps.0.timesteps", "report.production_estimate.timesteps"), UNTRAINED,
        {"training.timesteps": None, "training.production_timesteps": 1000},
    ),
    "training.production_net_arch": Case(
        [8], ("report.production_estimate.net_arch",), (*RESULTS, *TRAINED), {"training.production_net_arch": [4]}
    ),
    "training.production_seeds": Case(3, ("report.production_estimate.seeds",), (*RESULTS, *TRAINED)),
    "training.timesteps_reduction": budget(0.2, {}),
    "training.timesteps": Case(256, ("steps.0.timesteps", "weights.base"), UNTRAINED),
    "training.learning_rate": trained(1e-2),
    "training.n_steps": Case(16, ("steps.0.n_steps", "weights.base"), UNTRAINED),
    "training.n_epochs": trained(3),
    "training.gamma": trained(0.5),
    "training.gae_lambda": trained(0.2),
    "training.clip_range": trained(0.001, {"training.n_epochs": 4, "training.learning_rate": 1e-2}),
    "training.ent_coef": trained(0.5),
    "training.vf_coef": trained(5.0),
    "training.max_grad_norm": trained(0.01),
    "training.target_kl": Case(1e-9, ("weights.base",), UNTRAINED, {"training.n_epochs": 4}),
    "training.finetune_frac": finetuned(1.0, "steps.1.timesteps", "steps.2.timesteps", "weights.hybrid"),
    "training.finetune_learning_rate": finetuned(1e-2, "metrics.rl_only", "metrics.hybrid", "weights.hybrid"),
    "training.finetune_target_kl": finetuned(1e-9, "weights.hybrid", base={"training.n_epochs": 4}),
    "training.weight_ramp_rollouts": finetuned(
        0, "weights.hybrid", "metrics.hybrid", base={"training.finetune_frac": 2.0}
    ),
    "training.policy_kwargs": shaped({"activation_fn": "tanh", "net_arch": {"pi": [4], "vf": [4]}}, "action_net"),
    "training.policy_kwargs.net_arch": shaped({"pi": [4], "vf": [4]}, "action_net"),
    "training.policy_kwargs.net_arch.pi": shaped([4], "action_net"),
    "training.policy_kwargs.net_arch.vf": shaped([4], "value_net"),
    "training.policy_kwargs.activation_fn": trained("relu"),
    # performance: a shortcut shows in its counter and changes no result
    "performance.cached_llm_features": Case(
        False, ("report.cache.misses", "report.cache.size", "report.cache_hit_rate", "report.cache.words"),
        (*RESULTS, *TRAINED), TINY_MODEL
    ),
    "performance.vectorized_decision_fusion": Case(False, ("report.fusion.loop",), (*RESULTS, *TRAINED)),
    "performance.batched_logging": Case(False, ("report.log_writes", "metrics"), RESULTS),
    "performance.environment_state_pooling": Case(
        False, ("report.env_pool.built", "report.env_pool.temporary"), (*RESULTS, *TRAINED)
    ),
    "performance.env_pool_size": Case(2, ("report.env_pool.built", "report.env_pool.temporary"), (*RESULTS, *TRAINED)),
    # llm
    "llm.model": Case(
        "tiny", ("report.advice.identity", "report.advice.sha256", "weights.hybrid"), UNADVISED,
        {**TINY_MODEL, "llm.model": "mock"},
    ),
    "llm.knowledge_cutoff": Case(
        "2024-10-31", ("report.advice.knowledge",), (*RESULTS, *TRAINED, "report.advice.sha256"), TINY_MODEL
    ),
    "llm.endpoint": Case("http://127.0.0.1:1/v1", ("asked",), ("name",), {**SERVED, "llm.endpoint": None}, served),
    "llm.endpoint_key_env": Case("ODD_KEY", ("key",), ("asked", "how"), SERVED, served),
    "llm.endpoint_chat": Case(False, ("has_chat",), ("asked", "how"), SERVED, served),
    "llm.endpoint_timeout_s": Case(1.5, ("how",), ("name",), UNREPEATED, served_late),
    "llm.endpoint_retries": Case(1, ("how",), ("name",), UNREPEATED, served),
    "llm.endpoint_concurrency": Case(1, ("most_at_once",), ("asked", "how"), SERVED, served),
    "llm.endpoint_requests_per_min": Case(300.0, ("is_paced",), ("asked", "how"), SERVED, served),
    "llm.endpoint_changed": Case("ask_again", ("how",), ("asked", "name"), SERVED, served),
    "llm.quantization": Case(
        "int8", ("named.quantization", "loaded.quantization"), ("named.device",), TINY_MODEL, language_model
    ),
    "llm.full_precision_sample": Case(
        5,
        ("report.advice.tabulation.full_precision_compared",),
        (*RESULTS, *TRAINED),
        {**TINY_MODEL, "llm.quantization": "int8"},
    ),
    "llm.llm_device": Case(
        "cpu", ("named.device", "loaded.device"), ("named.quantization",), TINY_MODEL, language_model
    ),
    "llm.llm_threads": Case(2, ("loaded.threads",), ("named.device", "loaded.device"), TINY_MODEL, language_model),
    "llm.tabulation_budget_s": Case(60.0, ("report.advice.situations_asked", "weights.hybrid"), UNADVISED, FEW_ASKED),
    "llm.quick_budget_s": Case(
        60.0, ("report.advice.situations_asked", "weights.hybrid"), UNADVISED,
        {**FEW_ASKED, "llm.tabulation_budget_s": 60.0, "llm.quick_budget_s": 1e-3, "test_mode.quick": True},
    ),
    "llm.extend_advice": Case(
        True, ("report.advice.situations_asked", "weights.hybrid"), UNADVISED, TINY_MODEL, second_run
    ),
    "llm.advice_batch_size": Case(8, ("report.advice.situations_asked",), UNADVISED, TINY_MODEL),
    "llm.calibrate": Case(
        False, ("report.advice.sha256", "weights.hybrid"), (*UNADVISED, "report.advice.situations_asked"), TINY_MODEL
    ),
    "llm.store_path": Case(
        "mine.sqlite3", ("stores",), ("report.advice.sha256", "weights"), {**TINY_MODEL, "llm.store_path": None}, stores
    ),
    "llm.llm_weight": finetuned(0.0, "weights.hybrid", "metrics.hybrid", "report.fusion"),
    "llm.use_opinion_features": finetuned(False, "weights.hybrid", "metrics.hybrid"),
    "llm.cache_size": Case(5, ("report.cache.size",), (*RESULTS, *TRAINED), TINY_MODEL),
    # fusion
    # The policy of a tiny run is sure of nothing: with equal weights the advice would decide in any case.
    "fusion.confidence_threshold": fused(0.1, {"llm.llm_weight": 0.0}),
    "fusion.risk": fused({"enable_risk_veto": False}),
    "fusion.risk.max_consecutive_losses": fused(1),
    "fusion.risk.min_win_rate_threshold": fused(1.0),
    "fusion.risk.dd_buffer_threshold": fused(0.05),
    "fusion.risk.consecutive_losses_weight": fused(0.0),
    "fusion.risk.drawdown_weight": fused(0.0, {"fusion.risk.dd_buffer_threshold": 0.05}),
    "fusion.risk.win_rate_weight": fused(1.0),
    "fusion.risk.enable_risk_veto": fused(False),
    # environment
    "environment.trading_hours": Case("globex", ("report.arms.flat.actions", "metrics.base")),
    "environment.contracts": traded(2),
    "environment.stop_atr": traded(0.3),
    "environment.target_r": traded(0.2),
    "environment.trail_atr": traded(0.1),
    "environment.target_through_ticks": traded(100, base={"environment.target_r": 0.5}),
    "environment.slippage_ticks": traded(9),
    "environment.commission_usd": traded(20.0),
    "environment.rule_profile": traded(
        "none", "report.arms.random_legal.sessions_daily_locked", "metrics.base", base={"environment.contracts": 60}
    ),
    "environment.reward_scale_usd": episodes(1000.0),
    "environment.breach_penalty": episodes(100.0, MANY_BREACHES),
    "environment.fresh_account_frac": episodes(1.0),
    "environment.min_buffer_frac": episodes(1.0),
    "environment.max_episode_steps": episodes(3),
    "environment.env_class": Case(
        OWN_ENV["environment.env_class"], ("steps", "weights.base", "report.arms"), base={"hardware.vec_env": "dummy"}
    ),
    "environment.env_kwargs": Case({"reward": 9.0}, ("metrics.base", "weights.base"), ("steps",), OWN_ENV),
    # data
    "data.path": bars("other", "report.data.fingerprint", "weights.base"),
    "data.repair": bars(True, "outcome", "report.data.repairs", base={"data.path": "defective"}),
    "data.interval_min": bars(15, "report.data.bars", base={"data.path": "short"}),
    "data.timezone": Case("America/Chicago", ("outcome",), base={"data.path": "zoneless"}),
    "data.stamp": Case("close", ("outcome",)),
    "data.adjusted": bars("accept", "outcome", base={"data.path": "adjusted"}),
    "data.no_trade_bars": bars(
        5, "report.data.sessions_usable", base={"data.path": "gappy", "data.max_hole_bars": 4}
    ),
    "data.max_hole_bars": bars(4, "report.data.sessions_left_out", base={"data.path": "gappy"}),
    "data.warmup_bars": bars(100, "report.data.sessions_usable"),
    "data.train_frac": bars(0.5, "report.data.split.train", "weights.base"),
    "data.validation_frac": bars(0.3, "report.data.split.validation", "report.validation_arms"),
    "data.embargo_sessions": bars(1, "report.data.split.validation"),
    "data.synthetic_sessions": bars(61, "report.data.sessions", base=SYNTHETIC),
    "data.synthetic_interval_min": bars(12, "report.data.bars", base=SYNTHETIC),
    # evidence
    "evidence.seeds": Case(
        2, ("report.seeds", "report.arms.hybrid", "steps.4", "metrics.base, seed 1"), (*BASE, "report.arms.flat")
    ),
    "evidence.walk_forward": Case(
        1,
        ("report.walk_forward", "metrics.base, fold 1", "report.look_ahead"),
        (*(path for path in RESULTS if path != "report.look_ahead"), *BASE, "report.fusion"),
    ),
    "evidence.pass_budget_s": attempts(
        600.0, "report.pass_simulation.arms.rl_only.attempts",
        base={"evidence.pass_attempts": 400, "evidence.pass_budget_s": 1e-6},
    ),
    "evidence.pass_attempts": attempts(
        201, "report.pass_simulation.arms.rl_only.attempts", base={"evidence.pass_budget_s": 600.0}
    ),
    "evidence.pass_max_days": attempts(
        2, "report.pass_simulation.arms.rl_only.fan", base={"environment.rule_profile": "apex_50k_legacy"}
    ),
    "evidence.rules": attempts(("topstep_50k_2026_11",), "report.survival", base={}),
    "evidence.stress_slippage_ticks": Case(
        (0, 9), ("report.statistics.cost_stress.net_usd_per_session.rl_only",), (*RESULTS, *TRAINED)
    ),
    "evidence.late_decisions": Case(1, ("report.reliance.rows",), (*RESULTS, *TRAINED)),
    "evidence.chart_sessions": Case(2, ("report.sessions",), (*RESULTS, *TRAINED)),
    "evidence.trials_path": Case(
        "mine.jsonl", ("ledgers",), (*RESULTS, *TRAINED), {"evidence.trials_path": None}, trial_ledgers
    ),
    # checkpoint: what is kept changes no result
    "checkpoint.enabled": Case(False, ("checkpoints",), BASE_ALONE, OWN_PIPELINE),
    "checkpoint.strategy": Case("phase_based", ("checkpoints",), BASE_ALONE, {**OWN_PIPELINE, **EVERY_ROLLOUT}),
    "checkpoint.interval_steps": Case(64, ("checkpoints",), BASE_ALONE, OWN_PIPELINE),
    "checkpoint.auto_resume": Case(True, ("runs",), base=OWN_PIPELINE, observe=runs_after_one_that_stopped),
    "checkpoint.keep_last": Case(1, ("checkpoints",), BASE_ALONE, {**OWN_PIPELINE, **EVERY_ROLLOUT}),
    # pipeline
    "pipeline.auto_advance": Case(False, ("ledger.phase2.status", "report.test_name"), base=OWN_PIPELINE),
    "pipeline.reallocate_resources": Case(
        True,
        ("ledger.phase2.torch_threads",),
        ("ledger.phase1.torch_threads",),
        {**OWN_PIPELINE, "phase2.gpu_usage.torch_threads": 2},
    ),
    "pipeline.pause_between_phases": Case(5.0, ("slept",), BASE_ALONE, OWN_PIPELINE, pausing),
    "pipeline.max_retries_per_phase": Case(
        0, ("outcome", "ledger.phase2.status", "ledger.phase2.tries"), base=FAILING, observe=failing_once
    ),
    "pipeline.continue_on_failure": Case(
        True, ("outcome", "ledger.phase3.status"), base=FAILING, observe=failing_always
    ),
    # phases
    **of_a_phase("phase1"),
    **of_a_phase("phase2"),
    **of_a_phase("phase3"),
    "phase2.total_timesteps": Case(256, ("steps.0.timesteps", "weights.base"), UNTRAINED, PIPELINE),
    "phase3.total_timesteps": Case(
        256, ("steps.1.timesteps", "steps.2.timesteps", "weights.hybrid"), (*BASE, *UNTRAINED), PIPELINE
    ),
    # monitoring
    "monitoring.monitor_gpu": Case(False, ("report.hardware.gpu_reason",), (*RESULTS, *TRAINED)),
    "monitoring.hardware_interval_s": Case(
        0.05, ("files.hardware_rows", "report.hardware.samples"), (*RESULTS, *TRAINED)
    ),
    "monitoring.log_interval": Case(5, ("report.log_writes", "metrics.base"), RESULTS),
    "monitoring.settings_trial_s": Case(0.1, ("report.time.settings.rounds",), (*RESULTS, *TRAINED)),
    "monitoring.exports": Case(["csv"], ("files.exports",), (*RESULTS, *TRAINED)),
    "monitoring.mlflow": Case("store", ("refused",), observe=tracker),
    "monitoring.tensorboard": Case(True, ("files.tensorboard",), (*RESULTS, *TRAINED)),
    # validation
    "validation.gpu_utilization_target": Case(0.4, ("gpu_utilization",), observe=judged),
    "validation.max_execution_time_s": target(1e-3, "execution_time", "report.validation_passed"),
    "validation.cache_hit_rate_target": target(0.0, "cache_hit_rate", base=TINY_MODEL),
    "validation.max_peak_memory_gb": target(1e-3, "peak_memory", "report.validation_passed"),
    "validation.min_steps_per_s": target(1e-3, "steps_per_s"),
    "validation.required": Case(
        [], ("report.validation_passed",), RESULTS, {"validation.max_execution_time_s": 1e-3}
    ),
}  # fmt: skip

# ---------------------------------------------------------------- the tests


class Runs:
    """Observations by observer and configuration, each made once: most cases share their base."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files
        self._made: dict[str, Seen] = {}

    def see(self, changes: Mapping[str, Any], observe: Callable[[TestConfig], Seen]) -> Seen:
        name = f"{observe.__name__} {sorted(changes.items())}"
        if name not in self._made:
            self._made[name] = self.see_again(changes, observe)
        return self._made[name]

    def see_again(self, changes: Mapping[str, Any], observe: Callable[[TestConfig], Seen]) -> Seen:
        path = changes.get("data.path", "plain")
        # A store of its own: what another run has asked would change how much this one asks.
        # So with the ledger of trials.
        run = len(self._made)
        own = {"llm.store_path": f"stores/{run}.sqlite3", "evidence.trials_path": f"trials/{run}.jsonl"}
        own["checkpoint.auto_resume"] = False  # nor is another case's unfinished run this one's
        return observe(tiny_config({**own, **changes, "data.path": None if path is None else str(self._files[path])}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("every_key")
    threads = torch.get_num_threads()
    with quick_runs(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # the default output folder, and no data/ here: bars without a path are synthetic
        patch.setattr(sys, "path", [*sys.path])  # loading an env_class adds the working folder
        yield Runs(bar_files(folder))
    torch.set_num_threads(threads)


def test_every_key_has_a_case_and_every_case_a_key() -> None:
    keys = {".".join(path) for paths in flat_paths().values() for path in paths}
    assert keys - CASES.keys() == set(), "a new key needs a case here: what changes when it does?"
    assert CASES.keys() - keys == set(), "no such key"


@pytest.mark.parametrize("key", CASES)
def test_a_flipped_key_shows(runs: Runs, key: str) -> None:
    case = CASES[key]
    before = runs.see(case.base, case.observe)
    after = runs.see({**case.base, key: case.to}, case.observe)
    same = [path for path in case.moves if at(before, path) == at(after, path)]
    assert not same, f"{key} acts on nothing here; still {[at(after, path) for path in same]}"
    if not (before.get("outcome") or after.get("outcome")):
        changed = [path for path in case.keeps if at(before, path) != at(after, path)]
        assert not changed, f"{key} has no business there"
        assert all(at(before, path) is not None for path in case.keeps), "nothing stands there in either run"


@pytest.mark.parametrize("base", [{}, PIPELINE, OWN_PIPELINE], ids=["", "pipeline", "own_pipeline"])
def test_what_is_observed_repeats_when_nothing_is_flipped(runs: Runs, base: Mapping[str, Any]) -> None:
    """Else a difference would tell nothing about the key."""
    before, after = runs.see(base, whole_run), runs.see_again(base, whole_run)
    cases = [case for case in CASES.values() if case.observe is whole_run]
    paths = {path for case in cases for path in (*case.moves, *case.keeps)}
    assert [path for path in sorted(paths) if at(before, path) != at(after, path)] == []
    assert before["outcome"] == ""


def test_with_all_shortcuts_off_the_results_are_the_same(runs: Runs) -> None:
    off = {key: case.to for key, case in CASES.items() if key.startswith("performance.") and case.to is False}
    assert len(off) == 4
    # With a language model: rules are faster than the cache, and nothing of theirs is kept.
    before, after = runs.see(TINY_MODEL, whole_run), runs.see({**TINY_MODEL, **off}, whole_run)
    assert [path for path in RESULTS if at(before, path) != at(after, path)] == []
    counters = [path for key in off for path in CASES[key].moves]
    assert [path for path in counters if at(before, path) == at(after, path)] == []


def test_every_case_says_what_moves() -> None:
    assert [key for key, case in CASES.items() if not case.moves] == []
