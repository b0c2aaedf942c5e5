"""Which members of a run train together, where the population learner trains them.

Groups follow the plan, not what is left of it: a run that was killed and resumed trains the same members together.
"""

from __future__ import annotations

from collections.abc import Sequence

from src.runs.tasks import Task


class Groups:
    """The members of a plan in groups of at most `size`, of one shape each. A size of 0: every task is done alone."""

    def __init__(self, tasks: Sequence[Task], size: int) -> None:
        by_shape: dict[object, list[Task]] = {}
        for task in tasks:
            if size and task.together is not None:
                by_shape.setdefault(task.together, []).append(task)
        self._groups = [
            [task.name for task in alike[start : start + size]]
            for alike in by_shape.values()
            for start in range(0, len(alike), size)
        ]
        self._of = {name for group in self._groups for name in group}

    def __contains__(self, task: Task) -> bool:
        """Whether a task is done with others."""
        return task.name in self._of

    def next(self, ready: Sequence[Task], pending: Sequence[Task]) -> list[Task]:
        """The tasks to do together now, of those that are `ready`: those of the first group that waits for no other
        pending task; where each waits for one that cannot be done, the ready ones of the first group with any."""
        of = {task.name: task for task in ready if task in self}
        waiting = {task.name for task in pending}
        parts = [([of[name] for name in group if name in of], waiting & set(group)) for group in self._groups]
        found = [part for part, left in parts if part and len(part) == len(left)]
        return next(iter(found), next((part for part, _ in parts if part), []))

    def halve(self, tasks: Sequence[Task]) -> None:
        """Two groups of these tasks, which did not fit into memory together."""
        names = [task.name for task in tasks]
        half = len(names) // 2
        at = next(number for number, group in enumerate(self._groups) if names[0] in group)
        rest = [name for name in self._groups[at] if name not in names]
        self._groups[at : at + 1] = [group for group in (rest, names[:half], names[half:]) if group]
