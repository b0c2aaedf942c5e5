"""Many models of one shape that learn in lockstep on one device, each what it would learn alone.

A member has its own accounts, minibatches, Adam, norm, KL stop, weight of the advice and random streams. Nothing passes
from one member to another but the time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from src.agent import clock as parts
from src.agent.divergence import LOSSES, raise_if_diverged
from src.agent.learner.coverage import ACTIVATIONS
from src.agent.learner.fused import FusedMaskablePPO
from src.agent.learner.kernels import KL
from src.agent.learner.population_graphs import Replayed
from src.agent.learner.population_held import Figures, Held
from src.agent.learner.population_loss import clipped_step, loss_gradient
from src.agent.learner.population_members import accounts_of, advice_weight, check_alike, rollout_shape
from src.agent.learner.population_memory import DeviceMemory
from src.agent.learner.population_network import Precision, Products, StackedWorkspace
from src.agent.learner.population_rollout import CollectedRollout, Collector, MinibatchReader, RolloutTable
from src.agent.learner.streams import MemberStreams
from src.agent.ppo import GeneratorStates
from src.errors import TrainingDiverged
from src.trading.layout import ACCOUNT, N_ACTIONS
from src.trading.member_accounts import MemberAccounts, make_member_accounts
from src.trading.member_kernel import N_OWN

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
        self._held = held = Held.make(self.models, memory, self._products)
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
        self.streams = MemberStreams(generators, rollout_shape(first), pinned=on_cuda, ahead=on_cuda)
        self._may_stop = any(model.target_kl is not None for model in self.models)
        self._epochs_before = 1
        self._last_ended: NDArray[np.bool_] | None = None
        self._unlogged: Figures | None = None
        self._adopt()

    @property
    def rollout(self) -> RolloutTable:
        """The members' last rollout, on the device."""
        return self._held.table

    def observations(self, member: int) -> NDArray[np.float32]:
        """What a member saw in its last rollout, float32[steps, envs, 261]."""
        return self._reader.observations(member)

    @staticmethod
    def memory_bytes(models: Sequence[FusedMaskablePPO], precision: Precision = "float32") -> int:
        """Device bytes that a population of these models takes, without the market and advice its accounts read.
        Exact for the tensors that are held; what a step of the update takes for its moment is estimated."""
        device = torch.device("meta")
        memory = DeviceMemory(device)
        held = Held.make(models, memory, Products(precision, device))
        first, members = models[0], len(models)
        account = 2 * (8 + 4 * N_OWN + N_ACTIONS + ACCOUNT.itemsize) + 5
        # At most ten float64 of each action's, a row's own part and its numbers, gathered; in bf16 the rounded factors
        # of the largest product. Six float32 of each timestep for the advantages. Twice: a graph keeps memory of its
        # own beside that of the first call, which is not recorded.
        row = 10 * 8 * N_ACTIONS + 4 * N_OWN + 100
        if precision == "bf16":
            row += 2 * sum(held.weights.first.weight.shape[1:])
        passing = 2 * (first.minibatch * row + 6 * 4 * held.table.shape.rows)
        return memory.bytes + members * (first.n_envs * account + passing)

    def close(self) -> None:
        """End the thread that draws random numbers, and let go of the device's memory; nothing is learned after it."""
        self.streams.close()
        for replayed in (self._play, self._value, self._epoch):
            replayed.forget()

    # ---------------------------------------------------------------- to and from the models

    def _adopt(self) -> None:
        """Take over the models' weights, Adams and accounts."""
        steps = self._held.weights.pull()
        self._held.steps.copy_(torch.tensor(steps))
        for member, model in enumerate(self.models):
            self.accounts.set_state(member, accounts_of(model).get_state())
        self.accounts.observe()

    def put_back(self) -> None:
        """Give the models their figures, weights and Adams, their environments the accounts, and what they saw last."""
        self.log()
        self._put_back(range(len(self.models)))

    def _put_back(self, members: Sequence[int]) -> None:
        self._held.weights.push(self._held.steps.tolist(), members)
        for member in members:
            model = self.models[member]
            model._last_obs = accounts_of(model).set_state(self.accounts.get_state(member))  # type: ignore[assignment]
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
        self._fill(held.advice.weight, [advice_weight(model) for model in self.models])
        held.table.noise.copy_(self.streams.noise(), non_blocking=True)
        self.streams.draw_ahead("orders")
        clock.switch(parts.POLICY)
        with Products("float32", self.device).active():
            self._play()
            self.log()  # while the device plays
            collected = self._collector.settle()
        clock.switch(parts.BUFFER)
        self._value()
        self._last_ended = collected.endings[:, -1] != 0
        if collected.not_finite:
            self._diverged(collected.not_finite[0], "acting", self.models[collected.not_finite[0]].logger.name_to_value)
        clock.switch(before)
        return collected

    def update(self, meanwhile: Callable[[], object] | None = None) -> None:
        """Learn from the rollout; `log` records the members' figures. The models' remaining progress is that after the
        rollout. `meanwhile` is called once, while the device works.

        Raises MemberDiverged where a loss or a weight is not finite.
        """
        held, clock = self._held, self.models[0].clock
        before = clock.switch(parts.BOOKKEEPING)
        self._fill_settings()
        held.orders.copy_(self.streams.orders(), non_blocking=True)
        self.streams.draw_ahead("noise")
        if not self._may_stop:  # else how many are drawn is known after the update
            self.streams.draw_ahead("orders")
        held.active.fill_(True)
        clock.switch(parts.GRADIENTS)
        with self._products.active():
            epochs = self._train_epochs(meanwhile)
        figures = Figures.read(held, epochs)
        clock.switch(parts.BOOKKEEPING)
        self._epochs_before = max(begun := figures.epochs_begun())
        self.streams.epochs_begun(begun)
        self._unlogged = figures
        if not (figures.finite.all() and np.isfinite(figures.means).all()):
            self.log()
        clock.switch(before)

    def log(self) -> None:
        """Record the members' figures of the last update in their models' loggers, once. `collect` and `put_back` do.

        Raises MemberDiverged where a loss or a weight is not finite.
        """
        figures, self._unlogged = self._unlogged, None
        if figures is None:
            return
        with self.models[0].clock.within(parts.BOOKKEEPING):
            logs = [dict(model.logger.name_to_value) for model in self.models]
            for member, model in enumerate(self.models):
                model._update_learning_rate(model.policy.optimizer)
                figures.log(model, member)
        self._check_finite(figures, logs)

    def _train_epochs(self, meanwhile: Callable[[], object] | None) -> int:
        """Train epochs until no member is active any more; returns how many there were.

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

    def gradients(self, precision: Precision) -> Tensor:
        """Gradients of the members' losses over the first rows of the last rollout, a minibatch of them, with products
        in a precision: float32[M, weights]. Changes nothing that is learned."""
        held, rows = self._held, self.models[0].minibatch
        activation = ACTIVATIONS[self.models[0].policy.activation_fn]
        products = Products(precision, self.device)
        work = StackedWorkspace(held.weights, activation, rows, DeviceMemory(self.device), products, trains=True)
        firsts = torch.arange(len(self.models), device=self.device).unsqueeze(1) * held.table.shape.rows
        chosen = (firsts + torch.arange(rows, device=self.device)).int()
        self._fill_settings()
        with products.active():
            self.gradient(chosen, work, torch.empty_like(held.means[0]))
        return held.weights.gradient.clone()

    def gradient_differences(self, precision: Precision) -> list[float]:
        """The largest difference that a precision makes in any of a member's `gradients`, as a share of the largest of
        them in float32, by member."""
        exact, found = self.gradients("float32"), self.gradients(precision)
        return ((found - exact).abs().amax(1) / exact.abs().amax(1)).tolist()

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

    def _check_finite(self, figures: Figures, logs: Sequence[dict[str, Any]]) -> None:
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
        buffer.observations[...] = self.observations(member)
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
    blocks = [accounts_of(model)._block for model in models]
    tapes, params = [block.tape for block in blocks], [block.params for block in blocks]
    accounts = make_member_accounts(tapes, params, models[0].n_envs, device)
    return Population(models, accounts, generators, precision=precision, graphs=graphs)
