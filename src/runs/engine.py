"""Does the tasks of a run: here, or several at a time in worker processes. Results do not depend on which.

Every member trains with its own threads, random sequence and files, so what ran beside it changes no bit. A task that
fails, or whose worker dies, is tried again from what it had saved, while the others go on.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.errors import EnvironmentWorkerError, StopSignal, UserError, WorkerDied
from src.files import NO_SPACE
from src.runs import executors
from src.runs.context import RunContext
from src.runs.executors import Cores, Event
from src.runs.ledger import Ledger, PhaseEntry, Status, TaskEntry, differences
from src.runs.member_work import gather_rows
from src.runs.stopping import Deadline, PhaseTimeout, StopRequest
from src.runs.tasks import Done, Found, Task, find_task, finish_task
from src.runs.watch import WatchHere

logger = logging.getLogger(__name__)

TRIED_AGAIN = (EnvironmentWorkerError, WorkerDied, MemoryError, OSError, RuntimeError)
"""Errors that another try may fix. Invalid input, timeouts and diverged training are not among them."""
POLL_S = 0.2


class TaskFailedForGood(UserError):
    """A task failed on every allowed try."""

    exit_code = 1

    def __init__(self, task: Task, tries: int, error: BaseException) -> None:
        super().__init__(f"{task.title} failed {tries} times. Last failure: {error}")
        self.error = error


class Engine:
    """The tasks of one run, in its folder. `results` are those that are done, by name."""

    def __init__(self, context: RunContext, ledger: Ledger, stop: StopRequest, workers: int) -> None:
        self._context = context
        self._ledger = ledger
        self._stop = stop
        self._workers = workers
        self._cores: Cores | None = None
        self._say = context.display.say
        self._root = ledger.path.parent
        self.results: dict[str, Done] = {}
        self.all_tasks: Sequence[Task] = ()

    @property
    def workers(self) -> int:
        """How many tasks are done at a time."""
        return self._workers

    @contextmanager
    def open(self) -> Iterator[None]:
        """Worker processes end with this, however it ends."""
        try:
            yield
        finally:
            if self._cores is not None:
                self._cores.close()
            self.gather_rows()

    def gather_rows(self) -> None:
        """Write the run's log from its members'."""
        gather_rows(self._root, [task.name for task in self.all_tasks if task.member is not None])

    # What is there

    def found(self, task: Task) -> Found:
        """What lies in a task's folder."""
        return find_task(self._root / task.name)

    def take(self, task: Task) -> bool:
        """Whether a task need not be done: it is finished with the inputs of now, and whole. Then it is a result."""
        if task.name in self.results:
            return True
        if any(need not in self.results for need in task.needs):
            return False
        found = self.found(task)
        if found.done is not None and not self._changed(task, found.inputs):
            self.results[task.name] = found.done
            return True
        return False

    def changes(self, tasks: Sequence[Task]) -> dict[str, list[str]]:
        """Of these tasks those that were made, or are under way, with other inputs than now, and what changed. Tasks
        behind a changed one are not among them: what they will read is not known yet."""
        changed = {}
        for task in tasks:
            if self.take(task) or any(need not in self.results for need in task.needs):
                continue
            entry = self._ledger.tasks.get(task.name)
            recorded = self.found(task).inputs or (entry.inputs if entry is not None else {})
            if words := self._changed(task, recorded):
                changed[task.name] = words
        return changed

    def under_way(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks that were begun and are not finished, and have something to lose."""
        entries = self._ledger.tasks
        return [
            task
            for task in tasks
            if task.member is not None and task.name in entries and entries[task.name].status not in ("pending", "done")
        ]

    def _changed(self, task: Task, recorded: Mapping[str, str]) -> list[str]:
        return differences(recorded, task.inputs(self.results)) if recorded else []

    def forget(self, task: Task) -> None:
        """Begin a task again; what it had made is kept in a folder next to its own."""
        folder = self._root / task.name
        self.results.pop(task.name, None)
        self._ledger.tasks.pop(task.name, None)
        if folder.is_dir():
            aside = next(p for n in itertools.count(1) if not (p := Path(f"{folder}.before-{n}")).exists())
            folder.rename(aside)
            self._say(f"what {task.title} had made is kept in {aside}")

    # Doing

    def run(self, tasks: Sequence[Task], entry: PhaseEntry, deadline: Deadline, tries: int) -> None:
        """Do the tasks in an order that their needs allow, each at most `tries` times; `entry` takes what the report
        says of it. Raises UserErrors that end the run, KeyboardInterrupt for a signal, PhaseTimeout."""
        pending = list(tasks)
        self._context.display.plan(
            (task.member.to_dict(), task.title, task.timesteps) for task in tasks if task.member and not self.take(task)
        )
        failed: dict[str, int] = {}
        try:
            while pending or self._running:
                self._stop.check()
                deadline.check()
                task = self._next(pending)
                if task is not None:
                    pending.remove(task)
                    if self.take(task):
                        continue
                    self._begin(task)
                    if task.here or self._workers == 1:
                        self._here(task, entry, deadline, failed, tries, pending)
                    else:
                        with self._stop.deferred():
                            self._pool().start(task, task.job(self.results))
                elif self._running:
                    with self._stop.deferred():
                        for event in self._pool().wait(POLL_S):
                            self._handle(event, entry, failed, tries, pending)
                else:
                    missing = [t.title for t in pending]
                    raise RuntimeError(f"nothing makes what {', '.join(missing)} need")
        except BaseException as error:
            self._wind_down(entry, error)
            raise

    @property
    def _running(self) -> list[Task]:
        return [] if self._cores is None else self._cores.running

    def _pool(self) -> Cores:
        if self._cores is None:
            config = self._context.config
            self._cores = Cores(self._workers, self._context.market, config.hardware.stuck_worker_s)
        return self._cores

    def _next(self, pending: Sequence[Task]) -> Task | None:
        """The task to begin now: the first that can, those that need the machine for themselves before all others, and
        those of workers before those that keep this process busy."""
        running = self._running
        if len(running) >= self._workers or any(task.alone for task in running):
            return None
        ready = [task for task in pending if all(need in self.results for need in task.needs)]
        ready = [task for task in ready if not (task.alone and running)]
        return min(ready, key=lambda task: (not task.alone, task.here and self._workers > 1), default=None)

    def _begin(self, task: Task) -> None:
        found = self.found(task)
        inputs = dict(task.inputs(self.results))
        if found.done is not None:
            words = "; ".join(differences(found.inputs, inputs))
            self._say(f"{task.title} is done again, because its inputs changed: {words}")
            self.forget(task)
        elif found.why_not:
            self._say(f"{task.title} is done again where it was lost: {found.why_not}")
        entry = self._ledger.tasks.setdefault(task.name, TaskEntry())
        entry.status, entry.inputs, entry.tries = "running", inputs, entry.tries + 1
        self._ledger.save()
        self._context.enter_stage(task.stage)
        self._context.display.begin(task.title, task.what)

    def _here(
        self,
        task: Task,
        entry: PhaseEntry,
        deadline: Deadline,
        failed: dict[str, int],
        tries: int,
        pending: list[Task],
    ) -> None:
        def saved(timesteps: int) -> None:
            self._saved(task, entry, timesteps)

        watch = WatchHere(self._stop, deadline, self._say, self._context.record, saved)
        began = time.perf_counter()
        try:
            facts = task.work(task.job(self.results), self._context.market, watch)
        except TRIED_AGAIN as error:
            self._failed(task, error, entry, failed, tries, pending)
        else:
            self._finished(task, facts, entry, time.perf_counter() - began)

    def _handle(self, event: Event, entry: PhaseEntry, failed: dict[str, int], tries: int, pending: list[Task]) -> None:
        task, kind, payload = event
        if kind == executors.SAY:
            self._say(payload)
        elif kind == executors.RECORD:
            self._context.record(payload)
        elif kind == executors.SAVED:
            self._saved(task, entry, payload)
        elif kind == executors.LOG:
            name, level, text = payload
            logging.getLogger(name).log(level, "%s", text)
        elif kind == executors.DONE:
            self._finished(task, payload, entry, 0.0)
        elif kind == executors.FAILED:
            error, trace = payload
            if trace:
                logger.info("%s failed in its worker:\n%s", task.title, trace)
            self._failed(task, error, entry, failed, tries, pending)

    def _saved(self, task: Task, entry: PhaseEntry, timesteps: int) -> None:
        self._reached(task, entry, timesteps)
        self._context.count_time()

    def _reached(self, task: Task, entry: PhaseEntry, timesteps: int) -> None:
        """Note how far a member is, in the plan's order: which of them was quicker is not in the report."""
        order = [str(each.member) for each in self.all_tasks]
        entry.timesteps[str(task.member)] = timesteps
        entry.timesteps = dict(
            sorted(entry.timesteps.items(), key=lambda of: order.index(of[0]) if of[0] in order else -1)
        )

    def _finished(self, task: Task, facts: Mapping[str, Any], entry: PhaseEntry, seconds: float) -> None:
        files = facts.get("files", ())
        kept = {name: value for name, value in facts.items() if name not in ("files", "released_bytes")}
        of_task = self._ledger.tasks[task.name]
        self.results[task.name] = finish_task(self._root / task.name, of_task.inputs, kept, files)
        of_task.status = "done"
        self._context.released_bytes += facts.get("released_bytes", 0)
        if task.member is not None:
            self._reached(task, entry, facts["row"]["timesteps"])
            entry.not_bitwise += [words for words in facts["not_bitwise"] if words not in entry.not_bitwise]
            self._context.display.ended(task.member.to_dict())
            self.gather_rows()
        self._context.count_time()

    def _failed(
        self,
        task: Task,
        error: BaseException,
        entry: PhaseEntry,
        failed: dict[str, int],
        tries: int,
        pending: list[Task],
    ) -> None:
        of_task = self._ledger.tasks[task.name]
        of_task.status = "failed"
        if not isinstance(error, TRIED_AGAIN):
            raise error
        if self._stop.requested:  # a signal to the whole group reaches the workers as well
            raise KeyboardInterrupt from error
        entry.failures.append(f"{task.title}: {type(error).__name__}: {error}")
        of_task.failures.append(f"{type(error).__name__}: {error}")
        self._ledger.save()
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise error  # no other try helps
        failed[task.name] = failed.get(task.name, 0) + 1
        if failed[task.name] >= tries:
            raise TaskFailedForGood(task, failed[task.name], error) from error
        entry.tries += 1
        self._say(f"{task.title} failed ({_first_line(error)}); trying again from its newest checkpoint")
        pending.insert(0, task)

    def _wind_down(self, entry: PhaseEntry, error: BaseException) -> None:
        """Have the workers save what they have; what ended the run is raised by the caller."""
        gentle = not (isinstance(error, StopSignal) and self._stop.requested)  # a second signal does not wait
        if self._cores is not None and self._cores.running and gentle:
            for task, kind, payload in self._cores.ask_to_stop():
                if kind == executors.SAVED:
                    self._saved(task, entry, payload)
                elif kind == executors.DONE:
                    self._finished(task, payload, entry, 0.0)
        status: Status = "timed_out" if isinstance(error, PhaseTimeout) else "interrupted"
        for of_task in self._ledger.tasks.values():
            if of_task.status == "running":
                of_task.status = status if isinstance(error, KeyboardInterrupt | PhaseTimeout) else "failed"
        self._ledger.save()


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
