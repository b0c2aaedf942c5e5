"""What a finished sweep says: the section `sweep` of the winner's report, and the trials that its settings are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from src.agent.market import Market
from src.agent.quarters import QUARTERS
from src.runs.context import plans_of
from src.runs.evaluations import sealed_fingerprint
from src.runs.inputs import trial_inputs
from src.statistics.overfitting import overfitting
from src.statistics.performance import DeflatedSharpe, deflated_sharpe, minimum_track_record, sharpe_ratio
from src.statistics.samples import Float64
from src.statistics.trials import TrialLedger, configuration_hash
from src.sweeps.file import SweepFile
from src.sweeps.space import Setting, Space


@dataclass
class Tried:
    """A setting, how far it is trained, and what it earned where it was judged last: float64[seeds, sessions]."""

    setting: Setting
    net_usd: Float64 = field(default_factory=lambda: np.zeros((1, 0)))
    at_quarters: dict[int, float] = field(default_factory=dict)
    quarters: int = 0
    """Of base training; 4 once all is trained."""

    @property
    def score(self) -> float:
        """Mean net P&L per session, at the last place where it was judged."""
        return float(self.net_usd.mean())

    @property
    def is_stopped(self) -> bool:
        """Whether it did not train to its end."""
        return self.quarters < QUARTERS

    @property
    def by_session(self) -> Float64:
        """Averaged over seeds, float64[sessions]."""
        return self.net_usd.mean(axis=0)


def winner_of(tried: Sequence[Tried]) -> Tried:
    """The best of those that trained to their end; of equal ones the first."""
    return max((of for of in tried if not of.is_stopped), key=lambda of: (of.score, -of.setting.number))


def sweep_facts(file: SweepFile, space: Space, tried: Sequence[Tried], repeated: int, seeds: Sequence[int]) -> dict:
    """The section, but for what the winner does on fresh seeds."""
    winner = winner_of(tried)
    by_session = np.stack([of.by_session for of in tried], axis=1)
    sharpes = [sharpe_ratio(of.by_session, per_year=1) for of in tried]
    known = np.array([ratio for ratio in sharpes if ratio is not None], np.float64)
    deflated = deflated_sharpe(winner.by_session, trial_sharpes=known, trials=len(tried))
    return {
        "method": file.method,
        "arm": file.arm,
        "seeds": list(seeds),
        "keep_frac": file.keep_frac,
        "repeated": repeated,
        "sessions": by_session.shape[0],
        "space": space.words(),
        "settings": [
            {
                "number": of.setting.number,
                "values": dict(of.setting.values),
                "quarters": of.quarters,
                "score_usd": of.score,
                "sharpe": ratio,
            }
            for of, ratio in zip(tried, sharpes, strict=True)
        ],
        "winner": winner.setting.number,
        "net_usd_by_session": winner.by_session.tolist(),
        "overfitting": asdict(overfitting(by_session, measure="mean")),
        "deflated_sharpe": asdict(deflated),
        "track_record_sessions": _track_record(deflated),
    }


def _track_record(of: DeflatedSharpe) -> int | None:
    if of.sharpe is None or of.skew is None or of.kurtosis is None:
        return None
    needed = minimum_track_record(of.sharpe, 0.0, of.skew, of.kurtosis)
    return None if needed is None else int(np.ceil(needed))


def record_trials(ledger: TrialLedger, market: Market, arm: str, tried: Sequence[Tried]) -> None:
    """Count every setting but the winner as a trial on the sealed sessions, with its ratio on the validation sessions:
    none of them has played the sealed ones. The winner's own run records the winner."""
    sealed, winner = sealed_fingerprint(market), winner_of(tried)
    for of in tried:
        if of is not winner:
            config = of.setting.config
            named = configuration_hash(trial_inputs(config, plans_of(config)))
            net = of.by_session
            ledger.record(sealed, named, arm, sharpe=sharpe_ratio(net, per_year=1), sessions=len(net))


def kept(scores: Mapping[int, float], earlier: Sequence[float], keep_frac: float) -> set[int]:
    """The settings that train on after a quarter, of those with these scores there: the best `keep_frac` of all that
    have reached it, `earlier` ones included, rounded up. Ties with the last of them are kept."""
    ranked = sorted([*scores.values(), *earlier], reverse=True)
    places = max(1, int(np.ceil(keep_frac * len(ranked) - 1e-9)))
    return {number for number, score in scores.items() if score >= ranked[places - 1]}
