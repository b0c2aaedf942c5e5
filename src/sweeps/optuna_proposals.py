"""Settings that optuna proposes, in batches, each with a sampler of its own seed; its journal is in the sweep's folder.

The journal says what was proposed. A batch is proposed from the scores of the batches before it alone, so neither the
number of workers nor a kill changes what comes next.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from src.errors import UserError
from src.files import keep_aside, read_regular, write_atomically
from src.sweeps.file import SweepFile
from src.sweeps.proposals import Trial, fingerprint
from src.sweeps.space import Dimension, Setting, Space, Values

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

VERSION = 5
INSTALL = "python -m pip install -r requirements-sweep.txt"
JOURNAL = "optuna.journal"


def load_optuna() -> ModuleType:
    """The library. UserError with the command that installs it where it is missing or of another version."""
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            f"method optuna needs optuna {VERSION}, which cannot be imported ({error}): {INSTALL}"
        ) from None
    major = optuna.__version__.partition(".")[0]
    if major != str(VERSION):
        raise UserError(
            f"method optuna needs optuna {VERSION}, but optuna {optuna.__version__} is installed: {INSTALL}"
        )
    return optuna


class OptunaProposals:
    """Proposals of optuna's TPE sampler for one sweep, whose folder this process holds."""

    def __init__(self, file: SweepFile, space: Space, folder: Path) -> None:
        self._optuna = load_optuna()
        self._file = file
        self._space = space
        self._distributions = {of.key: self._distribution(of) for of in space.dimensions}
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        self._study = self._opened(folder / JOURNAL)
        self._trials: dict[int, list[optuna.trial.FrozenTrial]] = {}
        """By number of the setting: those that proposed it and were not told yet."""
        self._known: dict[int, Trial] = {}
        self.repeated = 0
        """Proposals of a setting that was there before."""

    def batches(self) -> Iterator[list[Setting]]:
        """Batches of `batch` proposals, `settings` of them in all; repeated ones are left out."""
        assert self._file.settings is not None
        earlier = self._earlier()
        numbers: dict[str, int] = {}
        for first in range(0, self._file.settings, self._file.batch):
            batch: list[Setting] = []
            for place in range(first, min(first + self._file.batch, self._file.settings)):
                trial = earlier[place] if place < len(earlier) else self._asked(place)
                values = self._values_of(trial)
                text = fingerprint(values)
                if text in numbers:
                    self.repeated += 1
                else:
                    numbers[text] = len(numbers) + 1
                    batch.append(self._space.setting(numbers[text], values))
                self._trials.setdefault(numbers[text], []).append(trial)
            yield batch
            for number in list(self._trials):  # of settings that earlier batches had
                self._tell(number)

    def tell(self, setting: Setting, trial: Trial) -> None:
        """How a setting did, to every proposal of it."""
        self._known[setting.number] = trial
        self._tell(setting.number)

    # Parts

    def _tell(self, number: int) -> None:
        """Tell every open proposal of a setting how it did, unless a process before this one has."""
        trial = self._known[number]
        for proposed in self._trials.pop(number):
            now = self._study.get_trials(deepcopy=False)[proposed.number]
            if now.state.is_finished():
                continue
            open_trial = self._optuna.trial.Trial(self._study, now._trial_id)
            for quarter, score in trial.at_quarters.items():
                if quarter not in now.intermediate_values:
                    open_trial.report(score, quarter)
            if trial.is_stopped:
                self._study.tell(proposed.number, state=self._optuna.trial.TrialState.PRUNED)
            else:
                self._study.tell(proposed.number, trial.score)

    def _asked(self, place: int) -> optuna.trial.FrozenTrial:
        seed = int(np.random.SeedSequence([self._file.seed, place]).generate_state(1)[0])
        self._study.sampler = self._optuna.samplers.TPESampler(seed=seed)
        asked = self._study.ask(self._distributions)
        return self._study.get_trials(deepcopy=False)[asked.number]

    def _earlier(self) -> list[optuna.trial.FrozenTrial]:
        """Proposals of a process before this one. One that it was killed at is none, and is asked for again."""
        found, states = [], self._optuna.trial.TrialState
        for trial in self._study.trials:
            if trial.state == states.FAIL:
                continue
            if trial.params.keys() == self._distributions.keys():
                found.append(trial)
            else:
                self._study.tell(trial.number, state=states.FAIL)
        return found

    def _opened(self, path: Path) -> optuna.Study:
        if path.exists():
            whole = read_regular(path)
            if (kept := whole[: whole.rfind(b"\n") + 1]) != whole:  # a line that a killed process had begun
                write_atomically(path, kept)
            try:
                return self._study_in(path)
            except Exception as error:  # whatever its reader makes of a damaged line
                aside = keep_aside(path)
                logger.warning(
                    "The journal %s cannot be read (%s). It is kept as %s; the same settings are proposed again.",
                    path, type(error).__name__, aside.name,
                )  # fmt: skip
        return self._study_in(path)

    def _study_in(self, path: Path) -> optuna.Study:
        storages = self._optuna.storages
        backend = storages.journal.JournalFileBackend(str(path), lock_obj=NoLock())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._optuna.exceptions.ExperimentalWarning)
            storage = storages.JournalStorage(backend)
        return self._optuna.create_study(
            storage=storage, study_name="sweep", direction="maximize", load_if_exists=True,
            sampler=self._optuna.samplers.TPESampler(seed=0),
        )  # fmt: skip

    def _distribution(self, of: Dimension) -> Any:
        kinds = self._optuna.distributions
        if of.choices:
            return kinds.CategoricalDistribution([json.dumps(choice, sort_keys=True) for choice in of.choices])
        if of.whole:
            return kinds.IntDistribution(int(of.low), int(of.high), log=of.log, step=int(of.step or 1))
        return kinds.FloatDistribution(of.low, of.high, log=of.log, step=of.step)

    def _values_of(self, trial: optuna.trial.FrozenTrial) -> Values:
        return {
            of.key: json.loads(trial.params[of.key]) if of.choices else trial.params[of.key]
            for of in self._space.dimensions
        }


class NoLock:
    """Of a journal that one process at a time writes to: the sweep's folder is locked. A lock file would outlive a
    process that was killed."""

    def acquire(self) -> bool:
        """Nobody else has it."""
        return True

    def release(self) -> None:
        """Nothing to give back."""
