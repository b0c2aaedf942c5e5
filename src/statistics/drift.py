"""How far the mean of a series may move: the interval of a longer future than the past that was measured.

The speed of a machine drifts: other programs come and go, clock rates and caches change. Its values are not independent
draws, and the standard error of their mean is far too small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit  # type: ignore[import-untyped]

from src.statistics.samples import Float64

FEWEST = 8
"""The fewest values from which drift is estimated. With fewer, the longest scale occurs only once."""


@dataclass(frozen=True)
class Scale:
    """Allan variance of means over `length` values, and how many independent differences of means it rests on."""

    length: int
    variance: float
    freedom: float


@dataclass(frozen=True)
class DriftError:
    """Standard error of a future mean relative to the past one, and the degrees of freedom it was estimated with."""

    standard: float
    freedom: float

    def reach(self, level: float) -> float:
        """Half the width of an interval of the given level."""
        return float(stdtrit(self.freedom, 0.5 + level / 2.0)) * self.standard


def allan_variances(values: Float64) -> list[Scale]:
    """Half the mean squared difference of neighbouring means, for means over 1, 2, 4 ... at most a third of the values.

    Notes: with independent values it falls as 1 / length; where it stops falling, the mean itself moves.

    References: Allan, Statistics of Atomic Frequency Standards, Proceedings of the IEEE 54, 1966; the overlapping
    estimator of Howe, Allan & Barnes, 1981.
    """
    n = len(values)
    total = np.concatenate(([0.0], np.cumsum(values)))
    found, length = [], 1
    while 3 * length <= n:
        moved = (total[2 * length :] - 2.0 * total[length:-length] + total[: -2 * length]) / length
        found.append(Scale(length, 0.5 * float(np.mean(moved**2)), n / length - 1.0))
        length *= 2
    return found


def drift_error(values: Float64, horizon: float) -> DriftError | None:
    """The error of taking the mean of `values` for that of the next `horizon` ones; None for fewer than `FEWEST`.

    Notes: two sources, the larger of which counts. Noise: values vary independently, with the Allan variance s^2 at
    length 1, and the difference of both means has the variance s^2 (1/n + 1/h). Drift: flicker noise, whose Allan
    variance b is the same at every scale, so that a longer future strays further, but only with the logarithm of its
    length; b is the largest Allan variance at the two longest scales seen. With lengths n and h and
    G(x) = x^2 (2 ln x - 3) / 4 the variance is

        b / (2 ln 2) (3 - ln n - ln h + 2 (G(n + h) - G(n) - G(h)) / (n h)),

    2 b for h = n. A change of the machine that lasts longer than the past series leaves no trace in it: no interval
    can contain that.

    Raises: ValueError for a horizon that is not above 0.
    """
    if not horizon > 0.0:
        raise ValueError(f"horizon is {horizon}; it must be above 0")
    n = len(values)
    if n < FEWEST:
        return None
    scales = allan_variances(values)
    noise = scales[0].variance * (1.0 / n + 1.0 / horizon)
    drift = max(scale.variance for scale in scales[-2:]) * _flicker(float(n), horizon)
    return DriftError(math.sqrt(max(noise, drift)), max(2.0, scales[-1].freedom))


def _flicker(n: float, h: float) -> float:
    """Variance of the difference of neighbouring means over n and h, in units of the Allan variance."""

    def g(x: float) -> float:
        return 0.25 * x * x * (2.0 * math.log(x) - 3.0)

    return (3.0 - math.log(n) - math.log(h) + 2.0 * (g(n + h) - g(n) - g(h)) / (n * h)) / (2.0 * math.log(2.0))
