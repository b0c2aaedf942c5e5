"""Decision fusion, as the specification calls it: five arrays in, one out."""

from __future__ import annotations

import numpy as np
import pytest

from src.testing_framework import VectorizedDecisionFusion, create_test_config
from tests.specification.python_calls import run

RISK = {
    "max_consecutive_losses": 3, "min_win_rate_threshold": 0.4, "dd_buffer_threshold": 0.2, "enable_risk_veto": True,
}  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [None, {"llm_weight": 0.3, "confidence_threshold": 0.7, "risk": RISK}, create_test_config("pipeline", "ES")],
    ids=["defaults", "mapping", "configuration"],
)
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_the_block_fuses_a_batch(config: object, kind: type) -> None:
    rng = np.random.default_rng(0)
    fusion = VectorizedDecisionFusion(config)
    names, _ = run(
        "fusion", fusion=fusion, rl_actions=rng.integers(0, 6, 16), rl_confidences=rng.random(16).astype(kind),
        llm_actions=rng.integers(0, 6, 16), llm_confidences=rng.random(16).astype(kind),
        risk_scores=rng.random(16).astype(kind),
    )  # fmt: skip
    fused = names["fused_actions"]
    assert (fused.shape, fused.dtype) == ((16,), np.int64)
    risky = names["risk_scores"] > 0.7
    assert risky.any()
    assert not fused[risky].any()
    chosen = (fused == names["rl_actions"]) | (fused == names["llm_actions"])
    assert chosen[~risky].all()
    assert fusion.get_stats()["total"] == 16
