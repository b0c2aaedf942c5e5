"""A machine that is not here, by its cores and the speed of its matrix products."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

SHAPE = "NAME:cores=16,gflops=90"
MOST_CORES, MOST_GFLOPS = 100_000, 1e6
_TEXT = re.compile(r"(?P<name>[^:]{1,60}):(?P<values>.+)", re.DOTALL)


@dataclass(frozen=True)
class OtherMachine:
    """`gflops` are of one core: 10^9 operations a second of a matrix product, as a run's report has them."""

    name: str
    cores: int
    gflops: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `NAME:cores=16,gflops=90`. ValueError with what is wrong."""
        found = _TEXT.fullmatch(text.strip())
        if found is None or not found["name"].strip():
            raise ValueError(f"a machine is written {SHAPE}, not {text!r}")
        values = dict(part.strip().partition("=")[::2] for part in found["values"].split(","))
        if values.keys() != {"cores", "gflops"}:
            raise ValueError(f"a machine has cores and gflops ({SHAPE}), not {found['values']!r}")
        try:
            cores, gflops = int(values["cores"]), float(values["gflops"])
        except ValueError:
            raise ValueError(
                f"cores is a whole number and gflops a number ({SHAPE}), not {found['values']!r}"
            ) from None
        if not (1 <= cores <= MOST_CORES and 0.0 < gflops <= MOST_GFLOPS):
            raise ValueError(
                f"cores must be 1 to {MOST_CORES:,} and gflops above 0, at most {MOST_GFLOPS:,.0f}, "
                f"not {found['values']!r}"
            )
        return cls(found["name"].strip(), cores, gflops)
