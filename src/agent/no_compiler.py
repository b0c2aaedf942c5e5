"""Keeps torch from importing its compiler in every process when an optimizer is made.

torch asks the compiler for a version of some of the optimizer's methods that it must not compile, and keeps the answer
on the method. Nothing here is compiled by torch, so that answer is the method itself.
"""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

_ANSWER = "__dynamo_disable"


def leave_out_compiler() -> None:
    """Answer for torch's compiler, on those methods of the optimizer that would import it to ask."""
    for method in vars(Optimizer).values():
        asking: Any = getattr(method, "__wrapped__", None)
        if asking is not None and _asks_compiler(method):
            vars(asking).setdefault(_ANSWER, asking)


def _asks_compiler(method: Any) -> bool:
    """Whether this is the wrapper of `torch._disable_dynamo`."""
    code = getattr(method, "__code__", None)
    return code is not None and _ANSWER in code.co_consts
