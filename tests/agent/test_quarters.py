"""Weights at the quarters of a training: which rollouts reach one, and what a checkpoint of them gives back."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from src.agent.quarters import QuarterWeights, weights_by_timesteps


@given(st.integers(1, 60), st.integers(1, 5000), st.integers(0, 60))
def test_kept_are_the_first_rollouts_at_or_past_each_quarter_also_across_a_resume(rollouts: int, size: int, stop: int):
    planned = rollouts * size
    ends = [size * i for i in range(1, rollouts + 1)]
    wanted = {min(end for end in ends if end >= math.ceil(k * planned / 4)) for k in (1, 2, 3)} - {planned}
    quarters = QuarterWeights(planned)
    for number, end in enumerate(ends):
        if number == stop:  # a process begins from a checkpoint
            resumed = QuarterWeights(planned)
            resumed.restore({name: value.clone() for name, value in quarters.tensors().items()})
            quarters = resumed
        weights = {"of layer": torch.full((2, 3), float(end))}
        quarters.look(end, size, weights)
        weights["of layer"].zero_()  # the next update changes them in place
    found = weights_by_timesteps(quarters.tensors())
    assert list(found) == sorted(wanted)
    assert all(torch.equal(of["of layer"], torch.full((2, 3), float(end))) for end, of in found.items())
