"""Errors a user can fix, and how a run ends. The lowest layer: it imports nothing of the project."""

from __future__ import annotations

EXIT_OK = 0
EXIT_TARGET_MISSED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 3


class UserError(Exception):
    """Bad usage, configuration or data: its text is one paragraph saying what, where, which value and the remedy."""

    exit_code = EXIT_BAD_INPUT


class BarDataError(UserError):
    """A file of bars that cannot be used as it is."""


class MarketError(UserError):
    """A market the toolkit does not know."""


class ConfigError(UserError):
    """A configuration file, key or value that cannot be used."""


_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cublas_status_alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: torch's allocators and cuBLAS raise RuntimeErrors that only their text tells apart."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in _OUT_OF_MEMORY)


def memory_words(error: BaseException) -> str:
    """What to do where memory ran out."""
    said = f" ({error})" if str(error) else ""
    return (
        f"Out of memory{said}. Free memory that other programs use, raise the limit (ulimit -v, the container's), or "
        f"take fewer --vectorized-envs or a smaller --batch-size."
    )


class EnvironmentWorkerError(UserError):
    """An environment's worker process died; the text ends with the worker's own traceback."""


class StuckWorkerError(EnvironmentWorkerError):
    """An environment's worker process no longer answers; the text ends with its stack."""

    exit_code = EXIT_TARGET_MISSED


class BadEnvironmentValue(UserError):
    """A user's own environment returned what training cannot use; the text names environment, step and value."""


class ThreadDied(UserError):
    """A thread of the run died; the text says which and of what."""

    exit_code = EXIT_TARGET_MISSED


class TrainingDiverged(UserError):
    """A loss or a weight is no longer finite; the text says what, where and what may help."""

    exit_code = EXIT_TARGET_MISSED


class WorkerDied(UserError):
    """The worker process of a task died; the text says which and how."""

    exit_code = EXIT_TARGET_MISSED


class TaskFailed(RuntimeError):
    """An error of a task in a worker that cannot be sent as it is; the text says its type and what it says."""


class StopSignal(KeyboardInterrupt):
    """SIGINT or SIGTERM, as opposed to a KeyboardInterrupt raised by a user's own environment."""


class InterruptedRun(Exception):
    """The user stopped the run; the text says what was kept."""

    exit_code = EXIT_INTERRUPTED
