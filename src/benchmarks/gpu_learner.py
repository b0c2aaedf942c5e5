"""What the population learner must compute right before it is timed: gradients, and what a rollout and an update do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from src.advisor.mock import MockAdvisor
from src.advisor.settings import LLMSettings
from src.agent.advising import tabulate_advice
from src.agent.learner.fused import FusedMaskablePPO
from src.agent.learner.population import Population, make_population
from src.agent.learner.population_network import Precision
from src.agent.market import Market
from src.agent.ppo import GeneratorStates, generator_states, global_generators_kept, set_generator_states
from src.agent.rollout_plan import RolloutPlan
from src.agent.settings import TrainingSettings
from src.agent.training import build_base, build_finetuned
from src.benchmarks.gpu_checks import WrongFigure
from src.trading.vec_env import BatchedTradingVecEnv

GRADIENT_LIMIT: Final = 1e-4
"""Of a tensor's gradient: the largest difference over the largest number of it."""
OUTPUT_LIMIT: Final = 1e-4
"""Of log-probabilities and values of the actions that were drawn."""
UPDATE_LIMIT: Final = 0.02
"""Of what an update changes: the length of the difference over the length of the change. Adam divides by its second
moment, so where a gradient is nearly zero rounding decides the direction of a step."""


def members_to_train(
    market: Market, plan: RolloutPlan, settings: TrainingSettings, n: int
) -> tuple[list[FusedMaskablePPO], list[GeneratorStates]]:
    """New base members, each with accounts and a seed of its own, and their generators."""
    tape = market.tape(_advice(market))
    models, generators = [], []
    with global_generators_kept():
        for seed in range(n):
            env = BatchedTradingVecEnv(tape, market.params, plan.n_envs, seed)
            models.append(_ready(build_base(env, settings, plan, seed, torch.device("cpu"), False, "fused")))
            generators.append(generator_states())
    return models, generators


def arms_to_check(
    market: Market, plan: RolloutPlan, settings: TrainingSettings
) -> tuple[list[str], list[FusedMaskablePPO], list[GeneratorStates]]:
    """Fine-tuned members of one base: without advice, with it, and one that pools it without seeing it."""
    heard = {
        "rl_only": None,
        "hybrid": LLMSettings(model="mock"),
        "hybrid that sees no opinion": LLMSettings(model="mock", use_opinion_features=False),
    }
    (base,), _ = members_to_train(market, plan, settings, 1)
    tape = market.tape(_advice(market))
    models, generators = [], []
    with global_generators_kept():
        for seed, llm in enumerate(heard.values(), 1):
            env = BatchedTradingVecEnv(tape, market.params, plan.n_envs, seed)
            model = build_finetuned(base.policy, env, settings, plan, seed, torch.device("cpu"), False, llm, "fused")
            models.append(_ready(model))
            generators.append(generator_states())
    return list(heard), models, generators


def _advice(market: Market) -> Any:
    return tabulate_advice(market, MockAdvisor(), LLMSettings(model="mock"))[0]


def _ready(model: Any) -> FusedMaskablePPO:
    """As `learn` has it before the first rollout."""
    assert isinstance(model, FusedMaskablePPO)
    model._setup_learn(10**9, None, True, "benchmark", False)
    return model


def check_learner(
    device: torch.device, market: Market, plan: RolloutPlan, settings: TrainingSettings
) -> dict[str, Any]:
    """A rollout, a gradient and an update of three arms on the device, against the CPU.

    Outputs and gradients are held against the policy's own, by autograd; the update against the fused learner's, of the
    same rollout and minibatches. Raises WrongFigure at the first that differs by more than its limit.
    """
    names, models, generators = arms_to_check(market, plan, settings)
    population = make_population(models, generators, device)
    try:
        for _ in range(3):  # the first sets libraries up, the second is recorded, and from then on it is replayed
            population.collect()
        rollouts = [_Rollout(population, member) for member in range(len(models))]
        outputs = [_check_outputs(*each) for each in zip(names, models, rollouts, strict=True)]
        rows, found = np.arange(plan.batch_size), gradients(population)
        errors = [
            _check_gradient(name, model, rollout, rows, own)
            for name, model, rollout, own in zip(names, models, rollouts, found, strict=True)
        ]
        changes = _check_update(names, population, rollouts, generators)
    finally:
        population.close()
    return {
        "members": len(models),
        "output_error": max(outputs),
        "gradient_error": max(errors),
        "update_error": max(changes),
    }


def gradient_effects(
    device: torch.device, market: Market, plan: RolloutPlan, settings: TrainingSettings, precisions: Sequence[Precision]
) -> dict[str, float]:
    """How far the gradients of each precision are from float32's on the same device: the largest difference over the
    largest number, of any arm."""
    _, models, generators = arms_to_check(market, plan, settings)
    population = make_population(models, generators, device)
    try:
        population.collect()
        return {precision: max(population.gradient_differences(precision)) for precision in precisions}
    finally:
        population.close()


class _Rollout:
    """A member's rollout on the host, one row a timestep: step x accounts + account."""

    def __init__(self, population: Population, member: int) -> None:
        table = population.rollout

        def read(of: torch.Tensor) -> torch.Tensor:
            return of[member].cpu().reshape(table.shape.rows, *of.shape[3:])

        seen = population.observations(member)
        self.observations = torch.from_numpy(seen.reshape(table.shape.rows, -1))
        self.actions, self.masks = read(table.actions), read(table.masks)
        self.log_probs, self.values = read(table.log_probs), read(table.values)
        self.advantages, self.returns, self.rewards = read(table.advantages), read(table.returns), read(table.rewards)


def gradients(population: Population) -> list[dict[str, torch.Tensor]]:
    """The gradient of every member's loss over the first minibatch of its rollout, in float32, by tensor, on the
    host."""
    flat = population.gradients("float32").cpu()
    places = population._held.weights.places
    return [{name: row[place : place + shape.numel()].view(shape) for name, shape, place in places} for row in flat]


def _check_outputs(name: str, model: FusedMaskablePPO, rollout: _Rollout) -> float:
    """The largest difference of log-probabilities and values from the policy's own."""
    with torch.no_grad():
        values, log_probs, _ = model.policy.evaluate_actions(
            rollout.observations, rollout.actions, action_masks=rollout.masks
        )
    largest = 0.0
    for what, found, wanted in (
        ("log-probability", rollout.log_probs, log_probs), ("value", rollout.values, values.flatten()),
    ):  # fmt: skip
        off = (found - wanted).abs()
        largest = max(largest, float(off.max()))
        if not float(off.max()) <= OUTPUT_LIMIT:
            at = int(off.nan_to_num(torch.inf).argmax())
            raise WrongFigure(
                f"{name}, timestep {at}: the {what} is {float(found[at]):.8g} on the device and "
                f"{float(wanted[at]):.8g} on the CPU",
                {
                    "what": what, "member": name, "timestep": at, "action": int(rollout.actions[at]),
                    "device": float(found[at]), "cpu": float(wanted[at]),
                    "observation": rollout.observations[at].tolist(),
                },
            )  # fmt: skip
    return largest


def _check_gradient(
    name: str, model: FusedMaskablePPO, rollout: _Rollout, rows: NDArray[np.int64], found: dict[str, torch.Tensor]
) -> float:
    """The largest error of a tensor's gradient."""
    loss = _loss(model, rollout, torch.from_numpy(rows))
    parameters = {key: value for key, value in model.policy.named_parameters() if key in found}
    wanted = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))
    errors = {key: _error(found[key], wanted[key]) for key in parameters}
    worst = max(errors, key=lambda key: errors[key] if errors[key] == errors[key] else np.inf)
    if not errors[worst] <= GRADIENT_LIMIT:
        off = (found[worst] - wanted[worst]).abs().flatten()
        at = int(off.nan_to_num(torch.inf).argmax())
        raise WrongFigure(
            f"{name}: the gradient of {worst} is {errors[worst]:.1e} of its largest number off the CPU's",
            {
                "what": f"gradient of {worst}", "member": name, "place": at, "error": errors[worst],
                "device": float(found[worst].flatten()[at]), "cpu": float(wanted[worst].flatten()[at]),
                "rows": rows.tolist(),
            },
        )  # fmt: skip
    return errors[worst]


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference over the largest number; 0 where both are all zeros."""
    largest, off = float(wanted.abs().max()), float((found - wanted).abs().max())
    return off / largest if largest else off


def _loss(model: FusedMaskablePPO, rollout: _Rollout, rows: torch.Tensor) -> torch.Tensor:
    """The loss of the library's `train` over a minibatch, with a graph for autograd."""
    settings = model._loss_settings()
    advantages = rollout.advantages[rows]
    if settings.normalize:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    values, log_probs, entropy = model.policy.evaluate_actions(
        rollout.observations[rows], rollout.actions[rows], action_masks=rollout.masks[rows]
    )
    ratio = torch.exp(log_probs - rollout.log_probs[rows])
    clipped = advantages * torch.clamp(ratio, 1 - settings.clip, 1 + settings.clip)
    value_loss = torch.nn.functional.mse_loss(rollout.returns[rows], values.flatten())
    policy_loss = -torch.min(advantages * ratio, clipped).mean()
    assert entropy is not None
    return policy_loss - settings.ent_coef * entropy.mean() + settings.vf_coef * value_loss


def _check_update(
    names: Sequence[str], population: Population, rollouts: Sequence[_Rollout], generators: Sequence[GeneratorStates]
) -> list[float]:
    """Each member's update on the device against the fused learner's on the CPU."""
    before = [_weights(model) for model in population.models]
    wanted = []
    with global_generators_kept():
        for model, rollout, states in zip(population.models, rollouts, generators, strict=True):
            _fill(model, rollout)
            set_generator_states(states)
            model.train()
            wanted.append(_weights(model))
    population.update()
    population.put_back()
    errors = []
    for name, model, was, want in zip(names, population.models, before, wanted, strict=True):
        change = (want - was).norm()
        errors.append(float((_weights(model) - want).norm() / change))
        if not errors[-1] <= UPDATE_LIMIT:
            raise WrongFigure(
                f"{name}: after one update the weights are {errors[-1]:.1e} of their change off the CPU's",
                {"what": "weights after an update", "member": name, "error": errors[-1], "change": float(change)},
            )
    return errors


def _weights(model: FusedMaskablePPO) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.policy.parameters()])


def _fill(model: FusedMaskablePPO, rollout: _Rollout) -> None:
    """Make the rollout the model's own."""
    buffer: Any = model.rollout_buffer
    buffer.reset()
    names = {"action_masks": "masks"}
    for name in ("observations", "actions", "action_masks", "log_probs", "values", "advantages", "returns", "rewards"):
        kept = getattr(buffer, name)
        kept[...] = getattr(rollout, names.get(name, name)).numpy().reshape(kept.shape)
    buffer.pos, buffer.full = buffer.buffer_size, True
