"""Report section `still_learning`: net P&L on validation sessions at the quarters of training, and its trend.

A run that trains a tenth of production says little about production if its policies are still improving when it ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from src.agent.members import Training
from src.report.conclusions import ENOUGH_TIMESTEPS
from src.statistics.samples import Float64
from src.statistics.trend import Change, over_sessions_and_seeds, slopes
from src.wording import usd_per_session

RISING: Final = "still rising"
FALLING: Final = "falling"
FLAT: Final = "flat"
CANNOT_TELL: Final = "cannot tell"

SMALL_EFFECT = 0.2
"""Standard deviations of a session's net P&L below which a change over the whole training counts as none.

References: Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, section 2.2."""


def still_learning_facts(by_seed: Mapping[int, Mapping[str, Mapping[str, Any]]], *, seed: int) -> dict[str, Any]:
    """The section by its name; nothing where no training was finished for all seeds.

    `by_seed` has for each training `timesteps` [k] and `net_usd` [k, sessions], the same k.
    """
    first = next(iter(by_seed.values()))
    trained_before, trainings, sessions = 0, {}, 0
    for training, of_first in first.items():
        if not all(training in of_seed for of_seed in by_seed.values()):
            continue
        steps, sessions = of_first["timesteps"], len(of_first["net_usd"][-1])
        net = np.array([of_seed[training]["net_usd"] for of_seed in by_seed.values()], np.float64)
        trainings[training] = _training_facts(steps, net, trained_before, seed)
        if training == Training.BASE:
            trained_before = steps[-1]
    section = {"sessions": sessions, "seeds": list(by_seed), "trainings": trainings}
    return {"still_learning": section} if trainings else {}


def _training_facts(steps: Sequence[int], net: Float64, trained_before: int, seed: int) -> dict[str, Any]:
    """Of one training: `net` is float64[seeds, k, sessions]."""
    trained = trained_before + steps[-1]
    shares = np.array(steps, np.float64) / steps[-1]
    if len(steps) < 3:
        slope = Change(None, None, None, 0.95, f"{len(steps)} of 4 quarters end at different rollouts")
    elif trained < ENOUGH_TIMESTEPS:
        slope = Change(None, None, None, 0.95, f"{trained:,} timesteps are too few to learn")
    else:
        slope = over_sessions_and_seeds(slopes((4.0 * shares).tolist(), net), seed=seed)
    # From the first quarter to the end, in which the slope is worth so many quarters.
    verdict = trend(slope, 4.0 * float(shares[-1] - shares[0]), float(net[:, -1].mean(axis=0).std()))
    return {
        "timesteps": list(steps),
        "net_usd_per_session": net.mean(axis=(0, 2)).tolist(),
        "seed_net_usd_per_session": net.mean(axis=2).tolist(),
        "slope_usd": slope.mean,
        "low_usd": slope.low,
        "high_usd": slope.high,
        "level_frac": slope.level,
        "reason": slope.reason,
        "verdict": verdict,
        "words": trend_words(verdict, slope),
    }


def trend(slope: Change, quarters: float, sd_usd: float) -> str:
    """What a slope in US dollars a session and quarter, over so many quarters, allows to be said."""
    if slope.low is None or slope.high is None:
        return CANNOT_TELL
    if slope.low > 0.0:
        return RISING
    if slope.high < 0.0:
        return FALLING
    return FLAT if quarters * max(-slope.low, slope.high) <= SMALL_EFFECT * sd_usd else CANNOT_TELL


def trend_words(verdict: str, slope: Change) -> str:
    """The verdict with its figures: `still rising, +$12/session (95% CI +$3 to +$21) per quarter of training`."""
    if slope.mean is None or slope.low is None or slope.high is None:
        return f"{verdict} ({slope.reason})"
    bounds = usd_per_session(slope.mean, slope.low, slope.high, slope.level)
    return f"{verdict}, {bounds} per quarter of training"
