"""A language model that is none: what a real one does to the code around it, in microseconds.

As a script it tabulates in a process of its own, to be killed, run twice at once, or given too small a disk:

    python tests/advisor/fake_model.py STORE [--pause S] [--file-limit BYTES] [--budget S] [--extend]
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

import numpy as np

from src.advisor.situations import N_SITUATIONS, encode, split_situations
from src.advisor.store import AdviceStore
from src.advisor.table import LABEL_SETS, AdviceTable
from src.advisor.tabulation import TabulationRecord, tabulate_stored
from src.errors import UserError
from src.trading.layout import N_ACTIONS, N_SIDES

N_CODES = 40
ORDER = encode(np.arange(1, N_CODES + 1)[::-1, np.newaxis], np.arange(N_SIDES)).reshape(-1)
"""200 situations: twelve batches of 16, and half a one."""
AMPLE_S = 1e6


class FakeModel:
    """Advisor and loaded model in one; counts what is asked and how often it is loaded.

    As a real model's, its answers to a situation differ by 1e-5 with the batch: enough to round otherwise now and then
    if a batch is ever cut anew. `pause_s` is what a batch takes.
    """

    name = "fake"

    def __init__(self, seed: int = 0, *, pause_s: float = 0.0) -> None:
        self._scores = -5.0 * np.random.default_rng(seed).random((N_SITUATIONS, N_ACTIONS)) - 0.1
        self.pause_s = pause_s
        self.identity = f"fake {seed}"
        self.loads = 0
        self.batches: list[list[int]] = []

    @property
    def asked(self) -> list[int]:
        return [situation for batch in self.batches for situation in batch]

    def load(self) -> FakeModel:
        self.loads += 1
        return self

    def score(self, situations: np.ndarray) -> np.ndarray:
        self.batches.append(situations.tolist())
        time.sleep(self.pause_s)
        wobble = np.random.default_rng(situations).random((len(situations), N_ACTIONS))
        scores = self._scores[situations] + 1e-5 * (wobble - 0.5)
        return np.where(LABEL_SETS[split_situations(situations)[1]], scores, -np.inf).astype(np.float32)


def tabulated(
    path: Path, model: FakeModel | None = None, budget_s: float = AMPLE_S, **options: object
) -> tuple[AdviceTable, TabulationRecord]:
    """A run's advice phase: the store opened, the list tabulated, the store closed."""
    with AdviceStore(path) as store:
        return tabulate_stored(model or FakeModel(), store, ORDER, budget_s, **options)  # type: ignore[arg-type]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--file-limit", type=int)
    parser.add_argument("--budget", type=float, default=AMPLE_S)
    parser.add_argument("--extend", action="store_true")
    args = parser.parse_args()
    logging.basicConfig()
    if args.file_limit:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (args.file_limit, args.file_limit))

    def told(record: object) -> None:
        sys.stdout.write(f"batch {len(model.batches)}\n")
        sys.stdout.flush()

    model = FakeModel(pause_s=args.pause)
    try:
        table, record = tabulated(args.store, model, args.budget, extend=args.extend, progress=told)
    except UserError as error:
        sys.stdout.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(f"{record.asked_now} {record.count_k} {table.sha256}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
