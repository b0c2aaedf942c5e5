"""Many models of one shape that learn in lockstep on one device, each what it would learn alone.

A member has its own accounts, minibatches, Adam, norm, KL stop, weight of the advice and random streams. Nothing passes
from one member to another but the time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.agent import clock as parts
from src.agent.divergence import LOSSES, raise_if_diverged
from src.agent.learner.coverage import ACTIVATIONS
from src.agent.learner.fused import FusedMaskablePPO
from src.agent.learner.kernels import KL, N_SUMS
from src.agent.learner.population_graphs import Replayed
from src.agent.learner.population_loss import MemberSettings, clipped_step, loss_gradient
from src.agent.learner.population_memory import DeviceMemory
from src.agent.learner.population_network import Precision, Products, StackedWeights, StackedWorkspace
from src.agent.learner.population_rollout import (
    Advice,
    CollectedRollout,
    Collector,
    MinibatchReader,
    RolloutTable,
)
from src.agent.learner.streams import MemberStreams, RolloutShape
from src.agent.policy import FlattenWithoutOpinion, HybridPolicy
from src.agent.ppo import GeneratorStates
from src.errors import TrainingDiverged
from src.trading.layout import ACCOUNT, N_ACTIONS
from src.trading.member_accounts import MemberAccounts, make_member_accounts
from src.trading.member_kernel import N_OWN
from src.trading.vec_env import BatchedTradingVecEnv

NO_CLIP = float("inf")


class Population:
    """The members' weights, accounts and rollouts on the accounts' device.

    Built from models that are ready to learn (built or restored, environments reset), whose accounts `accounts` has or
    takes over; `generators`: what the global generators would be for each. Then, for each rollout, `collect` and
    `update`; `put_back` writes everything back to the models and their environments, and `generator_states` says where
    a member's generators are, so that a checkpoint of a member is as of one that trains alone.

    `precision`: of the products of the update. `graphs`: whether rollouts and epochs are CUDA graphs; None: on CUDA.
    ValueError for models that cannot train together.
    """

    def __init__(
        self,
        models: Sequence[FusedMaskablePPO],
        accounts: MemberAccounts,
        generators: Sequence[GeneratorStates],
        *,
        precision: Precision = "float32",
        graphs: bool | None = None,
    ) -> None:
        self.models, self.accounts, self.device = list(models), accounts, accounts.device
        self.precision = precision
        check_alike(self.models)
        counts = (len(self.models), len(generators), accounts.n_members)
        if len(set(counts)) != 1 or accounts.n_envs != self.models[0].n_envs:
            raise ValueError(
                f"{counts[0]} models of {self.models[0].n_envs} accounts, {counts[1]} generators and "
                f"{counts[2]} x {accounts.n_envs} accounts do not belong together"
            )
        on_cuda = self.device.type == "cuda"
        self._products = Products(precision, self.device)
        memory = DeviceMemory(self.device)
        self._held = held = _Held.make(self.models, memory, self._products)
        self.bytes = memory.bytes
        """Device memory of its tensors, without the accounts'."""
        first = self.models[0]
        self._loss = functools.partial(loss_gradient, settings=held.settings, normalize=first.normalize_advantage)
        gammas = (
            torch.tensor([m.gamma for m in self.models], dtype=torch.float32, device=self.device),
            torch.tensor([m.gamma * m.gae_lambda for m in self.models], dtype=torch.float32, device=self.device),
        )
        self._collector = Collector(accounts, held.table, held.acting, held.advice, gammas)
        self._reader = MinibatchReader(accounts, held.table, held.advice, len(self.models))
        graphs = on_cuda if graphs is None else graphs
        self._play = Replayed(self._collector.play, "a rollout", graphs=graphs)
        self._value = Replayed(self._collector.value, "the advantages", graphs=graphs)
        self._epoch = Replayed(self._train_epoch, "an epoch", graphs=graphs)
        self.streams = MemberStreams(generators, _shape(first), pinned=on_cuda, ahead=on_cuda)
        self._may_stop = any(model.target_kl is not None for model in self.models)
        self._epochs_before = 1
        self._last_ended: NDArray[np.bool_] | None = None
        self._adopt()

    @staticmethod
    def memory_bytes(models: Sequence[FusedMaskablePPO], precision: Precision = "float32") -> int:
        """Device bytes that a population of these models takes, without the market and advice its accounts read.
        Exact for the tensors that are held; what a step of the update takes for its moment is estimated."""
        device = torch.device("meta")
        memory = DeviceMemory(device)
        _Held.make(models, memory, Products(precision, device))
        first, members = models[0], len(models)
        account = 2 * (8 + 4 * N_OWN + N_ACTIONS + ACCOUNT.itemsize) + 5
        # At most ten float64 of each action's, a row's own part and its numbers, gathered.
        row = 10 * 8 * N_ACTIONS + 4 * N_OWN + 100
        return memory.bytes + members * (first.n_envs * account + first.minibatch * row)

    def close(self) -> None:
        """End the thread that draws random numbers."""
        self.streams.close()

    # ---------------------------------------------------------------- to and from the models

    def _adopt(self) -> None:
        """Take over the models' weights, Adams and accounts."""
        steps = self._held.weights.pull()
        self._held.steps.copy_(torch.tensor(steps))
        for member, model in enumerate(self.models):
            self.accounts.set_state(member, _env_of(model).get_state())
        self.accounts.observe()

    def put_back(self) -> None:
        """Give the models their weights and Adams, their environments the accounts, and what they saw last."""
        self._put_back(range(len(self.models)))

    def _put_back(self, members: Sequence[int]) -> None:
        self._held.weights.push(self._held.steps.tolist(), members)
        for member in members:
            model = self.models[member]
            model._last_obs = _env_of(model).set_state(self.accounts.get_state(member))  # type: ignore[assignment]
            if self._last_ended is not None:
                model._last_episode_starts = self._last_ended[member].copy()

    def generator_states(self, member: int) -> GeneratorStates:
        """What the global generators would be now if this member had trained alone."""
        return self.streams.states(member)

    # ---------------------------------------------------------------- learning

    def collect(self) -> CollectedRollout:
        """Play a rollout with every member. Raises TrainingDiverged where a policy's output is not finite."""
        held, clock = self._held, self.models[0].clock
        before = clock.switch(parts.SAMPLING)
        self._fill(held.advice.weight, [_advice_weight(model) for model in self.models])
        held.table.noise.copy_(self.streams.noise(), non_blocking=True)
        self.streams.draw_ahead("orders")
        clock.switch(parts.POLICY)
        self._play()
        collected = self._collector.settle()
        clock.switch(parts.BUFFER)
        self._value()
        self._last_ended = collected.endings[:, -1] != 0
        if collected.not_finite:
            self._diverged(collected.not_finite[0], "acting", self.models[collected.not_finite[0]].logger.name_to_value)
        clock.switch(before)
        return collected

    def update(self, meanwhile: Callable[[], object] | None = None) -> None:
        """Learn from the rollout, and record each member's figures in its model's logger. The models' remaining
        progress is that after the rollout. `meanwhile` is called once, while the device works.

        Raises MemberDiverged where a loss or a weight is not finite.
        """
        held, clock = self._held, self.models[0].clock
        before = clock.switch(parts.BOOKKEEPING)
        self._fill_settings()
        held.orders.copy_(self.streams.orders(), non_blocking=True)
        self.streams.draw_ahead("noise")
        held.active.fill_(True)
        clock.switch(parts.GRADIENTS)
        with self._products.active():
            epochs = self._train_epochs(meanwhile)
        figures = _Figures.read(held, epochs)
        clock.switch(parts.BOOKKEEPING)
        self._epochs_before = max(begun := figures.epochs_begun())
        self.streams.epochs_begun(begun)
        logs = [dict(model.logger.name_to_value) for model in self.models]
        for member, model in enumerate(self.models):
            model._update_learning_rate(model.policy.optimizer)
            figures.log(model, member)
        self._check_finite(figures, logs)
        clock.switch(before)

    def _train_epochs(self, meanwhile: Callable[[], object] | None) -> int:
        """The epochs, until no member goes on; how many there were.

        As many as the last update took are begun before the host waits for the device: where all members stopped
        earlier this time, the rest of them change nothing.
        """
        held, most = self._held, self.models[0].n_epochs
        unasked = min(self._epochs_before, most) if self._may_stop else most
        for epoch in range(most):
            held.order.copy_(held.orders[epoch])
            self._epoch()
            held.all_means[epoch].copy_(held.means)
            held.all_counted[epoch].copy_(held.counted)
            if epoch + 1 >= unasked:
                if meanwhile is not None:
                    meanwhile()
                    meanwhile = None
                if self._may_stop and not bool(held.active.any()):
                    return epoch + 1
        return most

    def _train_epoch(self) -> None:
        """All minibatches of an epoch; only counted where a member is still active."""
        held = self._held
        for index, (begin, end) in enumerate(held.minibatches):
            work = held.training[end - begin]
            self.gradient(held.order[:, begin:end], work, held.means[index])
            held.counted[index] = held.active
            held.active.logical_and_(~(held.means[index, :, KL] > held.settings.kl_limit))
            held.steps.add_(held.active)
            clipped_step(held.weights, held.settings, held.steps, held.active, held.betas, held.eps)

    def gradient(self, rows: Tensor, work: StackedWorkspace, means: Tensor) -> None:
        """Leave the gradients of a minibatch's loss in the weights' `gradient`, the loss's parts in `means` [M, 5]."""
        loss_rows = self._reader.read(rows, work.x)
        work.forward()
        d_logits, d_values, found = self._loss(work.logits, work.values, loss_rows)
        work.d_logits.copy_(d_logits)
        work.d_values.copy_(d_values)
        work.backward()
        means.copy_(found)

    def _fill(self, vector: Tensor, numbers: Sequence[float]) -> None:
        vector.copy_(torch.tensor(numbers, dtype=vector.dtype))

    def _fill_settings(self) -> None:
        settings, losses = self._held.settings, [model._loss_settings() for model in self.models]
        self._fill(settings.clip, [loss.clip for loss in losses])
        self._fill(settings.clip_vf, [NO_CLIP if loss.clip_vf < 0.0 else loss.clip_vf for loss in losses])
        self._fill(settings.ent_coef, [loss.ent_coef for loss in losses])
        self._fill(settings.vf_coef, [loss.vf_coef for loss in losses])
        self._fill(settings.max_grad_norm, [model.max_grad_norm for model in self.models])
        limits = [NO_CLIP if model.target_kl is None else 1.5 * model.target_kl for model in self.models]
        self._fill(settings.kl_limit, limits)
        rates = [float(model.lr_schedule(model._current_progress_remaining)) for model in self.models]
        self._fill(settings.learning_rate, rates)

    # ---------------------------------------------------------------- divergence

    def _check_finite(self, figures: _Figures, logs: Sequence[dict[str, Any]]) -> None:
        for member, model in enumerate(self.models):
            recorded = model.logger.name_to_value
            if not figures.finite[member] or not all(np.isfinite(recorded[name]) for name in LOSSES):
                self._diverged(member, "updating", logs[member])

    def _diverged(self, member: int, while_: Any, log: Any) -> None:
        """Raise what the member alone would have raised, with its number in front."""
        model, table = self.models[member], self._held.table
        self._put_back([member])
        buffer = model.rollout_buffer
        buffer.reset()
        buffer.observations[...] = self._reader.observations(member)
        for name in ("rewards", "values", "advantages"):
            getattr(buffer, name)[...] = getattr(table, name)[member].cpu().numpy()
        try:
            raise_if_diverged(model, while_, log, None)
        except TrainingDiverged as error:
            raise MemberDiverged(member, len(self.models), error) from error
        raise ValueError(f"The output of the policy of member {member} is not finite: no action can be drawn from it.")


class MemberDiverged(TrainingDiverged):
    """The training of one member diverged, and its group stopped; `member`: which of the group."""

    def __init__(self, member: int, members: int, error: TrainingDiverged) -> None:
        super().__init__(f"Member {member + 1} of the {members} that train together: {error}")
        self.member = member


@dataclass(frozen=True)
class _Held:
    """All tensors of a population."""

    weights: StackedWeights
    advice: Advice
    table: RolloutTable
    acting: StackedWorkspace
    training: dict[int, StackedWorkspace]
    """By rows of a minibatch: whole ones, and the rest where there is one."""
    minibatches: list[tuple[int, int]]
    settings: MemberSettings
    steps: Tensor
    active: Tensor
    orders: Tensor
    order: Tensor
    means: Tensor
    counted: Tensor
    all_means: Tensor
    all_counted: Tensor
    betas: tuple[float, float]
    eps: float

    @classmethod
    def make(cls, models: Sequence[FusedMaskablePPO], memory: DeviceMemory, products: Products) -> _Held:
        """Take the memory."""
        first, members = models[0], len(models)
        shape, size = _shape(first), first.minibatch
        weights = StackedWeights([model.policy for model in models], memory)
        activation = ACTIVATIONS[first.policy.activation_fn]
        exact = Products("float32", memory.device)
        bounds = [(start, min(start + size, shape.rows)) for start in range(0, shape.rows, size)]
        training = {
            rows: StackedWorkspace(weights, activation, rows, memory, products, trains=True)
            for rows in sorted({end - begin for begin, end in bounds})
        }
        group = first.policy.optimizer.param_groups[0]
        sums = (len(bounds), members)
        return cls(
            weights=weights,
            advice=Advice([not _is_blind(model) for model in models], memory),
            table=RolloutTable(members, shape, memory),
            acting=StackedWorkspace(weights, activation, shape.envs, memory, exact, trains=False),
            training=training,
            minibatches=bounds,
            settings=MemberSettings.make(members, memory),
            steps=memory.zeros(members, dtype=torch.int64),
            active=memory.zeros(members, dtype=torch.bool),
            orders=memory.zeros(shape.epochs, members, shape.rows, dtype=torch.int32),
            order=memory.zeros(members, shape.rows, dtype=torch.int32),
            means=memory.zeros(*sums, N_SUMS, dtype=torch.float64),
            counted=memory.zeros(*sums, dtype=torch.bool),
            all_means=memory.zeros(shape.epochs, *sums, N_SUMS, dtype=torch.float64),
            all_counted=memory.zeros(shape.epochs, *sums, dtype=torch.bool),
            betas=group["betas"],
            eps=float(group["eps"]),
        )


@dataclass(frozen=True)
class _Figures:
    """What the host learns of an update: means [epochs, minibatches, M, 5] of what was counted, rollouts [M, rows]."""

    means: NDArray[np.float64]
    counted: NDArray[np.bool_]
    values: NDArray[np.float32]
    returns: NDArray[np.float32]
    finite: NDArray[np.bool_]

    @classmethod
    def read(cls, held: _Held, epochs: int) -> _Figures:
        """Wait for the device and copy."""
        finite = torch.isfinite(held.weights.values).all(1)
        table = held.table
        found = (held.all_means[:epochs], held.all_counted[:epochs], table.values, table.returns, finite)
        return cls(*(tensor.cpu().numpy() for tensor in found))

    def epochs_begun(self) -> list[int]:
        """By member."""
        return self.counted[:, 0].sum(0).tolist()

    def log(self, model: FusedMaskablePPO, member: int) -> None:
        """Count and record a member's update as the fused learner does."""
        counted, means = self.counted[:, :, member], self.means[:, :, member]
        begun = int(counted[:, 0].sum())
        model._n_updates += begun
        loss = model._loss_settings()
        kls = means[begun - 1][counted[begun - 1], KL].tolist()
        model._log_update(means[counted], kls, self.values[member].ravel(), self.returns[member].ravel(), loss)


def make_population(
    models: Sequence[FusedMaskablePPO],
    generators: Sequence[GeneratorStates],
    device: torch.device | str,
    *,
    precision: Precision = "float32",
    graphs: bool | None = None,
) -> Population:
    """A population with accounts over the tapes of the models' environments. ValueError as for `Population`."""
    check_alike(models)
    blocks = [_env_of(model)._block for model in models]
    tapes, params = [block.tape for block in blocks], [block.params for block in blocks]
    accounts = make_member_accounts(tapes, params, models[0].n_envs, device)
    return Population(models, accounts, generators, precision=precision, graphs=graphs)


def check_alike(models: Sequence[FusedMaskablePPO]) -> None:
    """ValueError where models cannot train together: no fused learner trains one, its accounts are no batch, or its
    shapes are others than the first's."""
    for member, model in enumerate(models):
        why = None
        if not isinstance(model, FusedMaskablePPO):
            why = f"it is a {type(model).__name__}, not a FusedMaskablePPO"
        elif model.why_stock is not None:
            why = model.why_stock
        elif type(model.env.unwrapped if model.env is not None else None) is not BatchedTradingVecEnv:
            why = "its environment is not one batch of trading accounts (hardware.vec_env batched)"
        if why is not None:
            raise ValueError(f"member {member} cannot train in a population: {why}")
        if (mine := _alike(model)) != (theirs := _alike(models[0])):
            name = next(name for name in mine if mine[name] != theirs[name])
            raise ValueError(
                f"member {member} cannot train with member 0: its {name} is {mine[name]}, not {theirs[name]}"
            )


def _alike(model: FusedMaskablePPO) -> dict[str, Any]:
    """What members of a population must have in common."""
    group = model.policy.optimizer.param_groups[0]
    return {
        "rollout": _shape(model),
        "minibatch": model.minibatch,
        "normalize_advantage": model.normalize_advantage,
        "networks": {name: tuple(p.shape) for name, p in model.policy.named_parameters()},
        "activation": model.policy.activation_fn.__name__,
        "Adam's betas and eps": (tuple(group["betas"]), group["eps"]),
        "timesteps": model.num_timesteps,
    }


def _shape(model: FusedMaskablePPO) -> RolloutShape:
    return RolloutShape(model.n_steps, model.n_envs, N_ACTIONS, model.n_epochs)


def _env_of(model: FusedMaskablePPO) -> BatchedTradingVecEnv:
    assert model.env is not None
    env = model.env.unwrapped
    assert isinstance(env, BatchedTradingVecEnv)
    return env


def _advice_weight(model: FusedMaskablePPO) -> float:
    return float(model.policy.llm_weight) if isinstance(model.policy, HybridPolicy) else 0.0


def _is_blind(model: FusedMaskablePPO) -> bool:
    return type(model.policy.features_extractor) is FlattenWithoutOpinion
