"""Members that train together in one population, with the files, rows and checkpoints of members that train alone.

Checkpoints of all are taken at the same rollout's end, and the older ones are kept until all have the new one: so at
any instant all of them have a common one, from which the group is resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from src.advisor.table import AdviceTable
from src.agent import clock as parts
from src.agent.checkpoints import Loaded, newest_common
from src.agent.clock import Clock, ShareOfClock
from src.agent.learner.fused import FusedMaskablePPO
from src.agent.learner.population import MemberDiverged, Population
from src.agent.market import Market
from src.agent.members import Training
from src.agent.population_training import train_population
from src.agent.ppo import GeneratorStates, generator_states, set_generator_states
from src.agent.training import TrainingRecord
from src.clean_up import CleanUps
from src.errors import TrainingDiverged
from src.runs.member_work import Advice, MemberJob, OpenTraining, advice_heard, new_model, own_market, sessions_drawn
from src.runs.resources import release_all
from src.runs.watch import Watch


def train_group(
    jobs: Sequence[MemberJob],
    markets: Sequence[Market],
    watches: Sequence[Watch],
    finished: Callable[[int, Mapping[str, Any]], None],
) -> None:
    """Train what is left of members of one shape, each on its market, and call `finished` with the number and the facts
    of each whose files are written.

    A signal or a timeout ends it at a rollout's end, with a checkpoint of each. Raises TrainingDiverged naming the
    member.
    """
    torch.set_num_threads(jobs[0].threads)
    device = jobs[0].trainer.device
    if device.type == "cuda":
        release_all()  # of the group before it, and of a language model
    with CleanUps() as stack:
        group = _Group(jobs, markets, watches, device, stack)
        with CleanUps() as open_logs:
            resumables = group.open(open_logs)
            with watches[0].deferred():
                records = _train(group, resumables, device)
        if device.type == "cuda":
            release_all()  # what comes next is on the CPU
        group.ends()
        for number, record in enumerate(records):
            finished(number, group.facts(number, record))


class _Group:
    """Members that are ready to train, in their order."""

    def __init__(
        self,
        jobs: Sequence[MemberJob],
        markets: Sequence[Market],
        watches: Sequence[Watch],
        device: torch.device,
        stack: CleanUps,
    ) -> None:
        self.jobs = jobs
        self._markets = markets
        self._clock = Clock()
        self._shares = [ShareOfClock(self._clock, len(jobs)) for _ in jobs]
        self._envs: list[Any] = []
        self.trainings: list[OpenTraining] = []
        self.generators: list[GeneratorStates] = []
        together = {"trained together": "; ".join(str(job.member) for job in jobs), "trained on": _name_of(device)}
        tables: dict[Advice, AdviceTable] = {}
        for job, market, share, watch in zip(jobs, markets, self._shares, watches, strict=True):
            # Where the population trains is another matter: the model itself stays here.
            here = replace(job, trainer=replace(job.trainer, device=torch.device("cpu")))
            with self._clock.within(parts.ADVICE):
                heard = _heard(here, tables)
            env = here.trainer.make_env(own_market(job, market), heard)
            stack.call(env.close)
            model, callbacks = new_model(here, env)
            model.products, model.clock, model.population_on = job.products, share, device.type
            self.generators.append(generator_states())
            self._envs.append(env)
            self.trainings.append(OpenTraining(job, model, callbacks, watch, together, len(jobs)))
        self.resumed = False
        self._watch = watches[0]

    @property
    def models(self) -> list[FusedMaskablePPO]:
        """The members' models."""
        found = [training.model for training in self.trainings]
        assert all(isinstance(model, FusedMaskablePPO) for model in found)
        return found  # type: ignore[return-value]

    def open(self, stack: CleanUps) -> list[list[Any]]:
        """Put all members where their newest common checkpoint left them, and open their logs; their callbacks."""
        checkpoints = self._newest()
        self.resumed = checkpoints[0] is not None
        opened = []
        for number, (training, loaded) in enumerate(zip(self.trainings, checkpoints, strict=True)):
            set_generator_states(self.generators[number])
            opened.append(stack.enter(training.opened(loaded)))
            self.generators[number] = generator_states()
        return opened

    def _newest(self) -> Sequence[Loaded | None]:
        if not self.jobs[0].config.checkpoint.enabled:
            return [None] * len(self.jobs)
        stores = [training.store for training in self.trainings]
        found = newest_common(stores, self._watch.say)
        at = 0 if found is None else found[0].snapshot.step
        for training in self.trainings:
            if newer := [step for step in training.store.steps() if step > at]:
                self._watch.say(
                    f"{training.job.member}: its checkpoint of {newer[-1]:,} timesteps is not used, because not all "
                    f"members that train with it have one"
                )
        if found is None:
            return [None] * len(self.jobs)
        ended = at >= self.jobs[0].plan.actual  # nothing is left to round otherwise
        return [replace(loaded, not_bitwise=[]) for loaded in found] if ended else found

    # At a rollout's end

    def rollout_ended(self, population: Population) -> None:
        """Keep what is to be kept of this instant, and stop where the run ends."""

        def save() -> None:
            if any(not training.is_saved for training in self.trainings):
                population.put_back()
                self._save(population)

        first = self.trainings[0]
        if any(training.at_quarter for training in self.trainings):
            population.put_back()
            for training in self.trainings:
                training.look()
        if first.is_due:
            save()
        self._watch.check(save)

    def _save(self, population: Population) -> None:
        for number, training in enumerate(self.trainings):
            set_generator_states(population.generator_states(number))
            training.save(delete_older=False)
        with self._clock.within(parts.CHECKPOINTS):
            for training in self.trainings:
                training.store.delete_surplus(training.model.num_timesteps)

    # At its end

    def ends(self) -> None:
        """The training is over: from now on each member has a clock of its own."""
        for training, share in zip(self.trainings, self._shares, strict=True):
            training.model.clock = share.on_its_own(parts.EXPORTS)

    def facts(self, number: int, record: TrainingRecord) -> dict[str, Any]:
        """Write a trained member's files; what the report and later tasks read of it."""
        training, job = self.trainings[number], self.jobs[number]
        training.model.clock.skip()  # the files of others
        return training.finished(record, sessions_drawn(job, self._envs[number], self._markets[number]))


def _train(group: _Group, callbacks: Sequence[Sequence[Any]], device: torch.device) -> list[TrainingRecord]:
    jobs, hardware = group.jobs, group.jobs[0].config.hardware
    precision = hardware.update_precision(device.type)
    try:
        records = train_population(
            group.models,
            jobs[0].plan,
            [str(job.member.training) for job in jobs],
            callbacks,
            group.generators,
            device=device,
            precision=precision,
            resumed=group.resumed,
            after_rollout=group.rollout_ended,
        )
    except MemberDiverged as error:
        raise TrainingDiverged(f"{jobs[error.member].member}: {error.__cause__}") from error
    return [
        replace(
            record,
            why_learner=f"{training.group} members at once on {device.type}, {precision}",
            group=training.group,
            precision=precision,
        )
        for record, training in zip(records, group.trainings, strict=True)
    ]


def _heard(job: MemberJob, tables: dict[Advice, AdviceTable]) -> AdviceTable | None:
    """The same table for all members that hear it: the device has it once."""
    if job.advice is None or job.member.training == Training.PLACEBO:
        return advice_heard(job)
    if job.advice not in tables:
        table = advice_heard(job)
        assert table is not None
        tables[job.advice] = table
    return tables[job.advice]


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
