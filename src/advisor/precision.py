"""What quantized weights cost: how often they put another label first than the same model in full precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from src.advisor.calibration import agreement
from src.advisor.choose import LanguageModel
from src.advisor.store import AdviceStore
from src.advisor.table import checked_scores
from src.advisor.tabulation import Say
from src.errors import UserError


@dataclass(frozen=True)
class Precision:
    """`share` of `compared` situations with the same likeliest label; None where there were none, and then why."""

    compared: int
    share: float | None
    why_not: str = ""


def measure_agreement(
    quantized: LanguageModel,
    store: AdviceStore,
    situations: NDArray[np.int64],
    sample: int,
    *,
    calibrate: bool,
    say: Say,
) -> Precision:
    """Compare a quantized model's stored answers with those of full precision, over all situations both have.

    Of the first `sample` of the tabulated `situations` int64[k], those that full precision was never asked are asked
    now and stored. That it cannot be loaded or does not fit into memory is a reason, not an error: a model is often
    quantized just because of that.
    """
    full = quantized.in_full_precision()
    known = store.answers(full.identity)
    missing = np.array([s for s in situations[:sample].tolist() if s not in known], dtype=np.int64)
    why_not = ""
    if len(missing):
        say(f"asking {full.name} in full precision about {len(missing):,} situations, to compare")
        try:
            scores = checked_scores(full.load(), missing).astype(np.float32)
        except (UserError, MemoryError, RuntimeError) as error:  # torch's out-of-memory errors are RuntimeErrors
            why_not = f"full precision could not be asked ({str(error).splitlines()[0]})"
            say(why_not)
        else:
            store.put(full.identity, missing, scores)
    compared, share = agreement(store.answers(quantized.identity), store.answers(full.identity), calibrate=calibrate)
    if share is None and not why_not:
        why_not = "llm.full_precision_sample is 0 and full precision was never asked"
    return Precision(compared, share, "" if share is not None else why_not)
