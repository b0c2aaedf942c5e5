"""An optimizer is made without torch's compiler, which takes two seconds to import."""

from __future__ import annotations

import sys

import pytest
import torch

import src.agent.training  # noqa: F401


def test_an_optimizer_is_made_and_restored_without_torchs_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("torch._dynamo")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # to import it fails
    optimizer = torch.optim.Adam(torch.nn.Linear(2, 2).parameters())
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    assert len(optimizer.param_groups) == 1
