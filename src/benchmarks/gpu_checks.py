"""What must be right before a GPU is measured: its accounts are the CPU's to the bit, its observations to 1e-6."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from src.advisor.mock import MockAdvisor
from src.advisor.settings import LLMSettings
from src.advisor.table import empty_table
from src.agent.advising import tabulate_advice
from src.agent.market import Market, account_constants
from src.trading.accounts import AccountBlock
from src.trading.layout import ACCOUNT, ACTIONS, N_ACTIONS, N_OBS
from src.trading.member_accounts import MemberAccounts, make_member_accounts
from src.trading.settings import EnvironmentSettings
from src.trading.tape import Tape

PROFILES: Final = (
    "topstep_50k_2026_11",
    "apex_50k_eod_2026_03",
    "apex_50k_intraday_2026_03",
    "apex_50k_legacy",
    "none",
)
"""Rule profile of each member: consistency and a lock, at the end of a day with a daily limit, live twice, no rule."""
ACCOUNTS_EACH: Final = 13
"""5 x 13 = 65 accounts: a warp of threads more than two, and one over."""
OBSERVATION_LIMIT: Final = 1e-6
ILLEGAL_SHARE: Final = 0.05
"""Of the actions: those are counted and treated as HOLD."""


class WrongFigure(Exception):
    """A check that failed: what differs, and `shown`, the input that shows it."""

    def __init__(self, words: str, shown: Mapping[str, Any]) -> None:
        super().__init__(words)
        self.shown = dict(shown)


@dataclass
class _Reference:
    """The accounts of one member on the CPU."""

    profile: str
    block: AccountBlock
    obs: NDArray[np.float32] = field(init=False)
    rewards: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.block.accounts)
        self.obs, self.rewards = np.zeros((n, N_OBS), np.float32), np.zeros(n, np.float32)


def members_to_check(market: Market, symbol: str) -> tuple[list[Tape], list[NDArray[np.void]]]:
    """Tapes and constants of the members: every profile, the last with blank advice."""
    advice, _ = tabulate_advice(market, MockAdvisor(), LLMSettings(model="mock"))
    tables = [advice] * (len(PROFILES) - 1) + [empty_table()]
    constants = [account_constants(EnvironmentSettings(rule_profile=name), symbol)[1] for name in PROFILES]
    return [market.tape(table) for table in tables], constants


def check_accounts(
    device: torch.device, market: Market, steps: int, deadline: float, seed: int = 0, accounts: Any = None
) -> dict[str, Any]:
    """Step the same accounts on the device and on the CPU and compare everything after every step.

    Actions are drawn among the legal ones, some among all. `deadline` (time.perf_counter) ends it sooner; the result
    says how many steps were compared. `accounts` replaces the device's. Raises WrongFigure at the first difference.
    """
    tapes, constants = members_to_check(market, "NQ")
    found: MemberAccounts = accounts or make_member_accounts(tapes, constants, ACCOUNTS_EACH, device)
    references = []
    for m, (tape, params) in enumerate(zip(tapes, constants, strict=True)):
        reference = _Reference(PROFILES[m], AccountBlock(tape, params, ACCOUNTS_EACH))
        for i in range(ACCOUNTS_EACH):
            reference.block.seed(i, seed + 100 * m + i)
        reference.block.begin_training_episodes(reference.obs)
        found.seed(m, seed + 100 * m)
        references.append(reference)
    found.begin()
    compared = _Comparison(found, references)
    compared.now(-1, None, None)
    rng = np.random.default_rng(seed)
    done = 0
    while done < steps and time.perf_counter() < deadline:
        actions = np.stack([_actions(reference.block.masks, rng) for reference in references])
        before = [reference.block.accounts.copy() for reference in references]
        found.step(torch.from_numpy(actions).to(found.device))
        for reference, chosen in zip(references, actions, strict=True):
            reference.block.step(chosen, reference.obs, reference.rewards)
        compared.now(done, actions, before)
        done += 1
    return {
        "accounts": len(references) * ACCOUNTS_EACH,
        "steps": done,
        "left_out": {} if done == steps else {f"steps {done} to {steps}": "no time was left"},
        "fields": len(ACCOUNT.names or ()),
        "episodes_ended": compared.ended,
        "observation_error": compared.observation_error,
    }


def _actions(masks: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """An action for every account, int64[n]: legal, but for some."""
    ranked = rng.random(masks.shape) + masks
    free = rng.integers(0, N_ACTIONS, len(masks))
    return np.where(rng.random(len(masks)) < ILLEGAL_SHARE, free, ranked.argmax(axis=1))


class _Comparison:
    """Compares accounts on a device with references on the CPU."""

    def __init__(self, found: MemberAccounts, references: list[_Reference]) -> None:
        self.ended, self.observation_error = 0, 0.0
        self._found, self._references = found, references
        self._whole = torch.zeros((found.n_members, found.n_envs, N_OBS), device=found.device)

    def now(self, step: int, actions: NDArray[np.int64] | None, before: list[NDArray[np.void]] | None) -> None:
        """Compare the accounts as they are. `actions` and `before` led here; they are shown where something differs."""
        found = self._found
        self._step, self._actions, self._before = step, actions, before
        self._records(found.records, [reference.block.accounts for reference in self._references], None)
        self._arrays("masks", found.masks, [reference.block.masks for reference in self._references], None)
        self._observations(found.bars, found.own, [reference.obs for reference in self._references], None)
        if actions is None:
            return
        endings = [reference.block.endings for reference in self._references]
        self._arrays("rewards", found.rewards, [reference.rewards for reference in self._references], None)
        self._arrays("endings", found.endings, endings, None)
        where = np.stack(endings) != 0
        if not where.any():
            return
        self.ended += int(where.sum())
        blocks = [reference.block for reference in self._references]
        self._records(found.last_records, [block.last_accounts for block in blocks], where)
        self._arrays("last masks", found.last_masks, [block.last_masks for block in blocks], where)
        self._observations(found.last_bars, found.last_own, [block.last_obs for block in blocks], where)

    def _records(self, found: torch.Tensor, wanted: list[NDArray[np.void]], where: NDArray[np.bool_] | None) -> None:
        raw, want = found.cpu().numpy(), np.stack(wanted)
        unlike = (raw != want.view(np.uint8).reshape(raw.shape)).any(axis=-1)
        if not (unlike if where is None else unlike & where).any():
            return
        have = raw.view(ACCOUNT)[..., 0]
        for name in ACCOUNT.names or ():
            # By bytes: a NaN equals itself, and -0.0 is not 0.0.
            bits = f"V{ACCOUNT[name].itemsize}"
            differ = np.ascontiguousarray(have[name]).view(bits) != np.ascontiguousarray(want[name]).view(bits)
            self._raise_at(f"field {name}", differ, have[name], want[name], where)

    def _arrays(self, name: str, found: torch.Tensor, wanted: list[Any], where: NDArray[np.bool_] | None) -> None:
        have, want = found.cpu().numpy(), np.stack(wanted)
        self._raise_at(name, have != want, have, want, where)

    def _observations(
        self, bars: torch.Tensor, own: torch.Tensor, wanted: list[Any], where: NDArray[np.bool_] | None
    ) -> None:
        self._found.expand(bars, own, self._whole)
        have, want = self._whole.cpu().numpy(), np.stack(wanted)
        off = np.abs(have.astype(np.float64) - want)
        if where is not None:
            off = np.where(where[..., np.newaxis], off, 0.0)
        self._raise_at("observation", ~(off <= OBSERVATION_LIMIT), have, want, where)
        self.observation_error = max(self.observation_error, float(off.max()))

    def _raise_at(
        self, name: str, differ: NDArray[np.bool_], have: NDArray[Any], want: NDArray[Any],
        where: NDArray[np.bool_] | None,
    ) -> None:  # fmt: skip
        if where is not None:
            differ = differ & where.reshape(where.shape + (1,) * (differ.ndim - 2))
        if not differ.any():
            return
        at = tuple(int(i) for i in np.argwhere(differ)[0])
        member, account = at[:2]
        reference = self._references[member]
        place = f"{name}{list(at[2:]) if at[2:] else ''}"
        when = "" if where is None else " before its reset"
        shown: dict[str, Any] = {
            "what": f"{place}{when}", "step": self._step, "member": member, "account": account,
            "profile": reference.profile, "device": _plain(have[at]), "cpu": _plain(want[at]),
        }  # fmt: skip
        if self._actions is not None and self._before is not None:
            record = self._before[member][account]
            bar = int(record["bar"])
            tape = reference.block.tape
            shown |= {
                "action": ACTIONS[int(self._actions[member, account])],
                "account_before": {field: _plain(record[field]) for field in ACCOUNT.names or ()},
                "prices": tape.prices[bar : bar + 2].tolist(),
                "flags": tape.flags[bar : bar + 2].tolist(),
                "atr_ticks": float(tape.atr_ticks[bar]),
            }
        raise WrongFigure(
            f"account {account} of member {member} (rules {reference.profile}), step {self._step}: {place}{when} is "
            f"{shown['device']} on {self._found.device} and {shown['cpu']} on the CPU",
            shown,
        )


def _plain(value: Any) -> Any:
    """A number of numpy's as JSON has it."""
    return value.item() if isinstance(value, np.generic) else value
