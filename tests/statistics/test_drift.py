"""Drift of a series: Allan variances and what they say of a longer future."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.statistics.drift import FEWEST, _flicker, allan_variances, drift_error


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=40))
def test_allan_variances_are_half_the_mean_square_of_neighbouring_means(values: list[float]) -> None:
    y = np.array(values)
    for scale in allan_variances(y):
        m = scale.length
        moved = [y[i + m : i + 2 * m].mean() - y[i : i + m].mean() for i in range(len(y) - 2 * m + 1)]
        assert scale.variance == pytest.approx(0.5 * np.mean(np.square(moved)), abs=1e-6)
    assert [scale.length for scale in allan_variances(y)] == [m for m in (1, 2, 4, 8, 16) if 3 * m <= len(y)]


@pytest.mark.parametrize(("n", "h"), [(1.0, 1.0), (2.0, 10.0), (5.0, 3.0)])
def test_flicker_noise_is_that_of_its_logarithmic_covariance(n: float, h: float) -> None:
    """With covariance -ln|t - s| the Allan variance is 2 ln 2 at every scale."""

    def mean_log(a: float, b: float, c: float, d: float) -> float:
        t, s = (
            low + (np.arange(3000) + place) * (high - low) / 3000 for low, high, place in ((a, b, 0.3), (c, d, 0.7))
        )
        return float(np.log(np.abs(t[:, np.newaxis] - s)).mean())

    variance = -mean_log(0, n, 0, n) - mean_log(n, n + h, n, n + h) + 2 * mean_log(0, n, n, n + h)
    assert _flicker(n, h) == pytest.approx(variance / (2 * np.log(2)), rel=0.01)


def test_an_error_grows_with_the_horizon_and_few_values_have_none() -> None:
    values = np.random.default_rng(0).normal(size=64)
    reaches = [drift_error(values, horizon).reach(0.9) for horizon in (64, 640, 6400)]  # type: ignore[union-attr]
    assert reaches == sorted(reaches)
    assert drift_error(values[: FEWEST - 1], 10.0) is None
    assert drift_error(np.ones(20), 100.0).reach(0.9) == pytest.approx(0.0)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="horizon is 0"):
        drift_error(values, 0.0)
