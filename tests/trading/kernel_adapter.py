"""The compiled kernel behind the surface of the reference account."""

from __future__ import annotations

from typing import Any

import numpy as np

from src.trading import account_rules, kernel
from src.trading.accounts import AccountBlock
from src.trading.layout import N_OBS, PARAMS
from src.trading.tape import Tape
from tests.reference_account import ReferenceMarket, ReferenceParams, StepResult


def tape_of(market: ReferenceMarket, starts: list[int] | None = None) -> Tape:
    """The kernel's arrays of a reference market."""
    return Tape(
        prices=np.array([market.open, market.high, market.low, market.close], np.int32).T,
        flags=np.array(market.flags, np.uint8),
        atr_ticks=np.array(market.atr, np.float32),
        window=np.array(market.window, np.float32),
        context=np.array(market.context, np.float32),
        situation=np.array(market.situation, np.int32),
        advice=np.array(market.advice, np.float32),
        starts=np.array([0] if starts is None else starts, np.int32),
    )


def params_of(params: ReferenceParams) -> np.ndarray:
    """The kernel's constants; those only a training reset reads are filled with the fresh account."""
    record = np.zeros(1, PARAMS)
    for name in PARAMS.names or ():
        record[name] = getattr(params, name, 1.0)
    return record


class KernelAccount:
    """`reset`, `action_mask`, `step`, `observation` and every field, as the reference account has them."""

    def __init__(self, market: ReferenceMarket, params: ReferenceParams) -> None:
        self._block = AccountBlock(tape_of(market), params_of(params), 1)
        self._obs = np.zeros((1, N_OBS), np.float32)

    def __getattr__(self, name: str) -> Any:
        """A field of the account record as a plain Python number."""
        return self._block.accounts[0][name].item()

    def reset(self, bar: int, balance_cents: int, peak_cents: int, days_left: int) -> None:
        block = self._block
        kernel.reset_account(block.accounts[0], bar, balance_cents, peak_cents, days_left, block.params[0])

    def begin_next_session(self, bar: int) -> None:
        self._block.carry_on(self._block.accounts, [bar])

    def may_pass(self) -> bool:
        return bool(account_rules.may_pass(self._block.accounts[0], self._block.params[0]))

    def action_mask(self) -> list[bool]:
        block, tape = self._block, self._block.tape
        kernel.write_action_mask(block.accounts[0], tape.prices, tape.flags, block.params[0], block.masks[0])
        return [bool(legal) for legal in block.masks[0]]

    def step(self, action: int) -> StepResult:
        self.action_mask()
        block, tape = self._block, self._block.tape
        reward, ending = kernel.step_account(
            block.accounts[0],
            action,
            tape.prices,
            tape.flags,
            tape.atr_ticks,
            block.distances,
            block.params[0],
            block.masks[0],
        )
        return StepResult(float(reward), ending == kernel.TERMINATED, ending == kernel.TRUNCATED)

    def observation(self) -> list[float]:
        self._block.observe(self._obs)
        return [float(x) for x in self._obs[0]]
