"""Does the tasks of a run: here, or several at a time in worker processes. Results do not depend on which.

Every member trains with its own threads, random sequence and files, so what ran beside it changes no bit. A task that
fails, or whose worker dies, is tried again from what it had saved, while the others go on.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from src.clean_up import CleanUps
from src.errors import EnvironmentWorkerError, StopSignal, UserError, WorkerDied, is_out_of_memory, memory_words
from src.files import NO_SPACE, read_regular
from src.runs import executors
from src.runs.context import RunContext
from src.runs.executors import Cores, Event, Executor
from src.runs.group_work import train_group
from src.runs.groups import Groups
from src.runs.ledger import Ledger, PhaseEntry, TaskEntry, differences
from src.runs.member_work import gather_rows
from src.runs.spaced import Spaced
from src.runs.stopping import Deadline, PhaseTimeout, StopRequest
from src.runs.tasks import Done, Found, Task, find_task, finish_task
from src.runs.time_account import WORKED, worked
from src.runs.watch import WatchHere

logger = logging.getLogger(__name__)

TRIED_AGAIN = (EnvironmentWorkerError, WorkerDied, MemoryError, OSError, RuntimeError)
"""Errors that another try may fix. Invalid input, timeouts and diverged training are not among them."""
POLL_S = 0.2


class TaskFailedForGood(UserError):
    """A task failed on every allowed try."""

    exit_code = 1

    def __init__(self, text: str, error: BaseException | None = None) -> None:
        super().__init__(text)
        self.last_failure = "" if error is None else _words(error)


class Engine:
    """The tasks of one run, in its folder. `results` are those that are done, by name. Up to `group` members train
    together, in this process; 0: each is a task like any other."""

    def __init__(self, context: RunContext, ledger: Ledger, stop: StopRequest, workers: int, group: int = 0) -> None:
        self._context = context
        self._ledger = ledger
        self._stop = stop
        self._workers = workers
        self._group = group
        self._groups = Groups((), 0)
        self._cores: Executor | None = None
        self._say = context.display.say
        self._root = ledger.path.parent
        self.results: dict[str, Done] = {}
        self.all_tasks: Sequence[Task] = ()
        self._left: dict[str, Done] = {}
        """Of tasks that failed for good: what others can do with."""
        self._partial = False
        self._failed_for_good: list[TaskFailedForGood] = []
        self._gather_soon = Spaced(self.gather_rows)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Worker processes end with this, however it ends."""
        with CleanUps() as stack:  # what ended the run is to be heard, not a failing clean-up
            stack.call(self.gather_rows)
            stack.call(self._end_workers)
            yield

    def _end_workers(self) -> None:
        if self._cores is not None:
            self._cores.close()

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
        if not self._has_needs(task):
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
            if self.take(task) or not self._has_needs(task):
                continue
            entry = self._ledger.tasks.get(task.name)
            recorded = self.found(task).inputs or (entry.inputs if entry is not None else {})
            if words := self._changed(task, recorded):
                changed[task.name] = words
        return changed

    def under_way_but_changed(self, changed: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Titles of the trainings that were begun and not finished, and whose inputs, or those of a task they build on,
        are among the `changed` ones; of each the name of that task. A member of another first seed is one, too."""
        under_way = {name for name, of in self._ledger.tasks.items() if of.status not in ("pending", "done")}
        origins: dict[str, str] = {}
        for task in self.all_tasks:  # a task comes behind those it needs
            origin = next((name for name in (*task.needs, task.name) if name in origins or name in changed), None)
            if origin is not None:
                origins[task.name] = origins.get(origin, origin)
        found = {
            task.title: origins[task.name]
            for task in self.all_tasks
            if task.member is not None and task.name in under_way & origins.keys()
        }
        of_seed = next(
            (name for name, words in changed.items() if any(text.startswith("test_mode.seed ") for text in words)), None
        )
        others = sorted(name for name in under_way - {task.name for task in self.all_tasks} if "members/" in name)
        return found if of_seed is None else found | dict.fromkeys(others, of_seed)

    def _changed(self, task: Task, recorded: Mapping[str, str]) -> list[str]:
        return differences(recorded, task.inputs(self._at_hand)) if recorded else []

    @property
    def _at_hand(self) -> dict[str, Done]:
        return {**self._left, **self.results}

    def _has_needs(self, task: Task) -> bool:
        return all(need in self.results or need in self._left for need in task.needs)

    def forget(self, task: Task) -> None:
        """Begin a task again; what it had made is kept in a folder next to its own."""
        folder = self._root / task.name
        self.results.pop(task.name, None)
        self._ledger.tasks.pop(task.name, None)
        if folder.is_dir():
            aside = next(p for n in itertools.count(1) if not (p := Path(f"{folder}.before-{n}")).exists())
            folder.rename(aside)
            for kept in aside.glob(f"{folder.name}.*"):  # copies a user would take for those of now
                name = f"{task.member.models if task.member else ''}{kept.name}"
                if (copy := self._root / name).is_file() and read_regular(copy) == read_regular(kept):
                    copy.unlink()
                    self._ledger.files.pop(name, None)
            self._say(f"what {task.title} had made is kept in {aside}")

    # Doing

    def run(
        self, tasks: Sequence[Task], entry: PhaseEntry, deadline: Deadline, tries: int, *, partial: bool = False
    ) -> None:
        """Do the tasks in an order that their needs allow, each at most `tries` times; `entry` takes what the report
        says of it. With `partial`, where one fails for good, those that can do without it are done before this raises.

        Raises TaskFailedForGood and other UserErrors that end the run, KeyboardInterrupt for a signal, PhaseTimeout.
        """
        pending = list(tasks)
        self._groups = Groups(self.all_tasks, self._group)
        self._partial, self._failed_for_good = partial, []
        self._context.display.plan(
            (task.member.to_dict(), task.title, task.timesteps) for task in tasks if task.member and not self.take(task)
        )
        failed: dict[str, int] = {}
        with self._context.account.engaged(self._workers):
            self._do(pending, entry, deadline, failed, tries)

    def _do(
        self, pending: list[Task], entry: PhaseEntry, deadline: Deadline, failed: dict[str, int], tries: int
    ) -> None:
        try:
            while pending or self._running:
                self._stop.check()
                deadline.check()
                if tasks := self._next(pending):
                    pending[:] = [task for task in pending if task not in tasks]
                    for task in [task for task in tasks if self.take(task)]:
                        self._credit(task, entry)
                        tasks.remove(task)
                    if tasks:
                        self._start(tasks, entry, deadline, failed, tries, pending)
                elif self._running:
                    with self._stop.deferred():
                        for event in self._pool().wait(POLL_S):
                            self._handle(event, entry, failed, tries, pending)
                else:
                    break
            if pending or self._failed_for_good:
                raise next(iter(self._failed_for_good), self._lacking(pending))
        except BaseException as error:
            self._wind_down(entry, error)
            raise

    def _start(
        self,
        tasks: list[Task],
        entry: PhaseEntry,
        deadline: Deadline,
        failed: dict[str, int],
        tries: int,
        pending: list[Task],
    ) -> None:
        """Begin a task, or members that train together."""
        first = tasks[0]
        for task in tasks:
            self._prepare(task)
        self._ledger.save_soon()
        self._context.enter_stage(first.stage)
        title, what = (first.title, first.what) if len(tasks) == 1 else _together(tasks)
        self._context.display.begin(title, what)
        if first.here or first in self._groups or (self._workers == 1 and self._context.cluster is None):
            self._here(tasks, entry, deadline, failed, tries, pending)
        else:
            with self._stop.deferred():
                self._context.account.begins(first)
                self._pool().start(first, first.job(self._at_hand))

    @property
    def _running(self) -> list[Task]:
        return [] if self._cores is None else self._cores.running

    def _pool(self) -> Executor:
        if self._cores is None:
            config, cluster, markets = self._context.config, self._context.cluster, self._context.markets
            stuck_s = config.hardware.stuck_worker_s
            if cluster is None:
                self._cores = Cores(self._workers, markets, stuck_s)
            else:
                from src.runs.cluster.executor import RayTasks

                keep_last = config.checkpoint.keep_last
                self._cores = RayTasks(cluster, self._workers, markets, stuck_s, self._root, self._say, keep_last)
        return self._cores

    def _next(self, pending: Sequence[Task]) -> list[Task]:
        """The task to begin now: the first that can, those that need the machine for themselves before all others.
        Members that train together come last, so that as many as possible are ready, and with nothing beside them."""
        running = self._running
        if len(running) >= self._workers or any(task.alone for task in running):
            return []
        ready = [task for task in pending if self._has_needs(task)]
        single = [task for task in ready if task not in self._groups and not (task.alone and running)]
        if single:
            return [min(single, key=lambda task: not task.alone)]
        return [] if running else self._groups.next(ready, pending)

    def _prepare(self, task: Task) -> None:
        found = self.found(task)
        inputs = dict(task.inputs(self._at_hand))
        begun = self._ledger.tasks.get(task.name)
        recorded = found.inputs or (begun.inputs if begun is not None else {})
        if words := self._changed(task, recorded):  # by a task before it: the user's own changes were refused
            self._say(f"{task.title} is done again, because its inputs changed: {'; '.join(words)}")
            self.forget(task)
        elif found.why_not:
            self._say(f"{task.title} is done again where it was lost: {found.why_not}")
        entry = self._ledger.tasks.setdefault(task.name, TaskEntry())
        entry.status, entry.inputs, entry.tries = "running", inputs, entry.tries + 1

    def _here(
        self,
        tasks: list[Task],
        entry: PhaseEntry,
        deadline: Deadline,
        failed: dict[str, int],
        tries: int,
        pending: list[Task],
    ) -> None:
        """Do a task, or train members together, in this process. What is not finished is done again together."""
        watches = [
            WatchHere(self._stop, deadline, self._say, self._context.record, partial(self._saved, task, entry))
            for task in tasks
        ]
        first, account = tasks[0], self._context.account
        account.begins(first)
        began, cpu_before = time.perf_counter(), time.process_time()
        try:
            if first in self._groups:
                spent = self._train_together(tasks, watches, entry)
            else:
                market = self._context.markets.get(first.market)
                facts = first.work(first.job(self._at_hand), market, watches[0])
        except PhaseTimeout:
            raise
        except Exception as error:
            account.ended(first, None, None)
            self._failed(
                [task for task in tasks if task.name not in self.results], error, entry, failed, tries, pending
            )
        else:
            if first in self._groups:
                account.ended(first, worked(began, cpu_before), spent)
            else:
                self._finished(first, {**facts, WORKED: worked(began, cpu_before)}, entry)

    def _train_together(
        self, tasks: Sequence[Task], watches: Sequence[WatchHere], entry: PhaseEntry
    ) -> dict[str, dict[str, float]]:
        """Train members together, each sealed once its files are written; what all of them have spent, by part."""
        spent: dict[str, Counter[str]] = {"seconds": Counter(), "cpu_s": Counter()}

        def finished(number: int, facts: Mapping[str, Any]) -> None:
            for kind, of_kind in spent.items():
                of_kind.update(facts["spent"][kind])
            self._seal(tasks[number], facts, entry)

        markets = [self._context.markets[task.market] for task in tasks]
        train_group([task.job(self._at_hand) for task in tasks], markets, watches, finished)
        return {kind: dict(of_kind) for kind, of_kind in spent.items()}

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
            self._finished(task, payload, entry)
        elif kind == executors.FAILED:
            self._context.account.ended(task, None, None)
            error, trace = payload
            if trace:
                logger.info("%s failed in its worker:\n%s", task.title, trace)
            self._failed([task], error, entry, failed, tries, pending)

    def _saved(self, task: Task, entry: PhaseEntry, timesteps: int) -> None:
        self._reached(task, entry, timesteps)
        self._context.count_time()

    def _reached(self, task: Task, entry: PhaseEntry, timesteps: int) -> None:
        """Note how far a member is, in the plan's order: which of them was quicker is not in the report."""
        if (title := str(task.member)) not in entry.timesteps:
            entry.timesteps[title] = timesteps
            order = {str(each.member): place for place, each in enumerate(self.all_tasks)}
            entry.timesteps = dict(sorted(entry.timesteps.items(), key=lambda of: order.get(of[0], -1)))
        entry.timesteps[title] = timesteps

    def _credit(self, task: Task, entry: PhaseEntry) -> None:
        """Note what a finished member says for its phase, whose entry may have been begun again without it."""
        if task.member is not None:
            facts = self.results[task.name].facts
            self._reached(task, entry, facts["row"]["timesteps"])
            entry.not_bitwise += [words for words in facts["not_bitwise"] if words not in entry.not_bitwise]

    def _finished(self, task: Task, facts: Mapping[str, Any], entry: PhaseEntry) -> None:
        self._context.account.ended(task, facts[WORKED], facts.get("spent"))
        self._seal(task, facts, entry)

    def _seal(self, task: Task, facts: Mapping[str, Any], entry: PhaseEntry) -> None:
        """Mark a task as done, on disk and here."""
        files = facts.get("files", ())
        of_process = ("files", "released_bytes", "spent", WORKED)
        kept = {name: value for name, value in facts.items() if name not in of_process}
        of_task = self._ledger.tasks[task.name]
        self.results[task.name] = finish_task(self._root / task.name, of_task.inputs, kept, files)
        of_task.status = "done"
        self._context.released_bytes += facts.get("released_bytes", 0)
        if task.member is not None:
            self._credit(task, entry)
            self._context.display.ended(task.member.to_dict())
            self._gather_soon()
        self._context.count_time()

    def _failed(
        self,
        tasks: list[Task],
        error: BaseException,
        entry: PhaseEntry,
        failed: dict[str, int],
        tries: int,
        pending: list[Task],
    ) -> None:
        """Have a task that failed, or members that failed together, done again, or raise what ends the run."""
        if not tasks:
            raise error
        title = ", ".join(task.title for task in tasks)
        for task in tasks:
            self._ledger.tasks[task.name].status = "failed"
        if not isinstance(error, TRIED_AGAIN):
            raise error
        if self._stop.requested:  # a signal to the whole group reaches the workers as well
            raise KeyboardInterrupt from error
        entry.failures.append(f"{title}: {type(error).__name__}: {error}")
        for task in tasks:
            self._ledger.tasks[task.name].failures.append(f"{type(error).__name__}: {error}")
        self._ledger.save()
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise error  # no other try helps
        if len(tasks) > 1 and is_out_of_memory(error):
            self._groups.halve(tasks)
            self._say(f"{title} do not fit into memory together ({_first_line(error)}); trying again in two groups")
            entry.tries += 1
            pending[:0] = tasks
            return
        failed.update({task.name: failed.get(task.name, 0) + 1 for task in tasks})
        if max(failed[task.name] for task in tasks) >= tries:
            times = "once" if tries == 1 else f"{tries} times"
            for_good = TaskFailedForGood(f"{title} failed {times}", error)
            if not self._partial:
                raise for_good from error
            self._failed_for_good.append(for_good)
            for task in tasks:
                if task.left is not None and (facts := task.left(task.job(self._at_hand), self._say)) is not None:
                    self._left[task.name] = Done(self._root / task.name, facts)
            return
        entry.tries += 1
        its = "its" if len(tasks) == 1 else "their"
        self._say(f"{title} failed ({_first_line(error)}); trying again from {its} newest checkpoint")
        pending[:0] = tasks

    def _lacking(self, pending: Sequence[Task]) -> TaskFailedForGood:
        """Why none of these can be done."""
        known = {task.name: task.title for task in self.all_tasks}
        made = {*self._at_hand, *(task.name for task in pending)}
        lacking = dict.fromkeys(known[need] for task in pending for need in task.needs if need not in made)
        return TaskFailedForGood(
            f"{', '.join(task.title for task in pending)} cannot be done without {', '.join(lacking)}, which left no "
            f"checkpoint"
        )

    def _wind_down(self, entry: PhaseEntry, error: BaseException) -> None:
        """Have the workers save what they have; what ended the run is raised by the caller."""
        gentle = not (isinstance(error, StopSignal) and self._stop.requested)  # a second signal does not wait
        if self._cores is not None and self._cores.running and gentle:
            for task, kind, payload in self._cores.ask_to_stop():
                if kind == executors.SAVED:
                    self._saved(task, entry, payload)
                elif kind == executors.DONE:
                    self._finished(task, payload, entry)
        for of_task in self._ledger.tasks.values():
            if of_task.status == "running":
                of_task.status = "timed_out" if isinstance(error, PhaseTimeout) else "interrupted"
        self._ledger.save()


def _together(tasks: Sequence[Task]) -> tuple[str, str]:
    """Title of members that train together, and what each does."""
    numbers = Counter(str(task.member.training) for task in tasks if task.member is not None)
    title = ", ".join(name if n == 1 else f"{n} x {name}" for name, n in numbers.items())
    return title, f"{len(tasks)} members together, each {tasks[0].what}"


def _first_line(error: BaseException) -> str:
    return _words(error).splitlines()[0]


def _words(error: BaseException) -> str:
    return memory_words(error) if is_out_of_memory(error) else str(error) or type(error).__name__
