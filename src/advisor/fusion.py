"""Fusing the decisions of an RL-only policy with the advice: a compiled loop and the plain one it is compared
against.

Both loops take the same arguments, write the same actions and counts, and return the index of the first element they
cannot use (-1 when all are good; nothing is counted then). The rules, per element and in this order:

0. HOLD is the only legal action: fusion is bypassed. An illegal RL action counts as HOLD, an illegal advice as
   abstention.
1. Risk veto. With a risk score above `RISK_VETO_SCORE` each side's risk-increasing proposal is withdrawn. If one was,
   the remaining proposal decides (so that a protective or closing proposal of either side passes), or HOLD if
   none does. HOLD does not inherit the confidence of a withdrawn proposal: it would otherwise crowd out the other
   side's protective one.
2. Abstention of the advice: RL decides.   3. Agreement.
4. Only RL above the confidence threshold: RL.   5. Only the advice above it: the advice.
6. The larger of (1 - w) x RL confidence and w x advice confidence, ties to RL.

Risk-increasing: DISABLE_TRAIL always; BUY unless it closes a short, SELL unless it closes a long; every action but
HOLD when positions are not known. Confidences are compared in float32, so that a confidence equal to the threshold is
not above it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.advisor.settings import FusionSettings, LLMSettings, RiskSettings
from src.trading.layout import BUY, DISABLE_TRAIL, HOLD, N_ACTIONS, SELL

ABSTAIN = -1
RISK_VETO_SCORE = 0.7
RULES = (
    *("risk_veto", "agreement", "rl_confident", "llm_confident"),
    *("weighted_rl", "weighted_llm", "abstained", "bypassed"),
)
RISK_VETO, AGREEMENT, RL_CONFIDENT, LLM_CONFIDENT, WEIGHTED_RL, WEIGHTED_LLM, ABSTAINED, BYPASSED = range(8)
ADVICE_CHANGED = 8
N_COUNTS = 9
"""One count per rule, and last how often the advice changed the action."""

RISK_FIELDS = ("consecutive_losses", "drawdown_current", "win_rate_recent")
NEUTRAL = (0.0, 0.0, float("nan"))
"""What a position state that lacks one of `RISK_FIELDS` counts as: no loss, no drawdown, no recent trade."""

NO_MASKS = np.ones((1, N_ACTIONS), dtype=np.bool_)
NOWHERE = -(2**63)
NO_POSITIONS = np.array([NOWHERE])
"""What the compiled loop takes where masks or positions are not known: one row, and one position nobody holds."""

ALL_USABLE, LENGTHS_DIFFER = -1, -2

Fuse = Callable[..., int]


N_LIMITS = 4


def new_state(settings: FusionSettings, llm_weight: float) -> NDArray[np.float64]:
    """float64[13]: weight of RL, weight of the advice, confidence threshold, risk limit (infinite without a veto); then
    the counts, all 0. One array, because each more costs a call of the compiled loop 0.1 us.

    The first four are rounded to float32 and held as float64, in which products of two of them are exact.
    """
    limit = RISK_VETO_SCORE if settings.risk.enable_risk_veto else np.inf
    limits = np.array([1.0 - llm_weight, llm_weight, settings.confidence_threshold, limit], np.float32)
    return np.concatenate([limits.astype(np.float64), np.zeros(N_COUNTS)])


def fuse_sequential(
    rl_actions: NDArray[np.int64],
    rl_confidences: NDArray[np.float32],
    llm_actions: NDArray[np.int64],
    llm_confidences: NDArray[np.float32],
    risk_scores: NDArray[np.float32],
    masks: NDArray[np.bool_],
    positions: NDArray[np.int64],
    state: NDArray[np.float64],
    actions: NDArray[np.int64],
) -> int:
    """One element after another in plain Python: the path of `vectorized_decision_fusion: false`, the benchmark's
    baseline."""
    n = len(actions)
    limits = tuple(state[:N_LIMITS].tolist())
    rules = [0] * N_COUNTS
    known_masks = masks.tolist() if masks is not NO_MASKS else None
    known_positions = positions.tolist() if positions is not NO_POSITIONS else None
    columns = (rl_actions, rl_confidences, llm_actions, llm_confidences, risk_scores)
    if any(len(column) != n for column in columns):
        return LENGTHS_DIFFER
    # Lists, because reading single numbers out of arrays would take five times as long.
    for i, (rl, p, llm, q, risk) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        if not (HOLD <= rl < N_ACTIONS and ABSTAIN <= llm < N_ACTIONS) or p != p or q != q or risk != risk:
            return i
        if known_masks is not None:
            mask = known_masks[i]
            if not mask[HOLD]:
                return i
            if sum(mask) == 1:
                actions[i] = HOLD
                rules[BYPASSED] += 1
                continue
            if not mask[rl]:
                rl = HOLD
            if llm != ABSTAIN and not mask[llm]:
                llm = ABSTAIN
        position = None if known_positions is None else known_positions[i]
        action, rule, unadvised = _decide(limits, rl, p, llm, q, risk, position)
        actions[i] = action
        rules[rule] += 1
        rules[ADVICE_CHANGED] += action != unadvised
    state[N_LIMITS:] += rules
    return ALL_USABLE


def _decide(
    limits: tuple[float, ...],
    rl: int,
    p: float,
    llm: int,
    q: float,
    risk: float,
    position: int | None,
) -> tuple[int, int, int]:
    """Action, rule, and what the action would have been without advice."""
    rl_weight, llm_weight, confidence_threshold, risk_limit = limits
    if risk > risk_limit:
        rl_vetoed, llm_vetoed = _increases_risk(rl, position), llm != ABSTAIN and _increases_risk(llm, position)
        if rl_vetoed:
            return (HOLD if llm == ABSTAIN or llm_vetoed else llm), RISK_VETO, HOLD
        if llm_vetoed:
            return rl, RISK_VETO, rl
    if llm == ABSTAIN:
        return rl, ABSTAINED, rl
    if rl == llm:
        return rl, AGREEMENT, rl
    rl_confident, llm_confident = p > confidence_threshold, q > confidence_threshold
    if rl_confident and not llm_confident:
        return rl, RL_CONFIDENT, rl
    if llm_confident and not rl_confident:
        return llm, LLM_CONFIDENT, rl
    if rl_weight * p >= llm_weight * q:
        return rl, WEIGHTED_RL, rl
    return llm, WEIGHTED_LLM, rl


def _increases_risk(action: int, position: int | None) -> bool:
    if position is None:
        return action != HOLD
    return action == DISABLE_TRAIL or (action == BUY and position >= 0) or (action == SELL and position <= 0)


def _fuse_elements(
    rl_actions: Any, rl_confidences: Any, llm_actions: Any, llm_confidences: Any, risk_scores: Any,
    masks: Any, positions: Any, state: Any, actions: Any,
) -> Any:  # fmt: skip
    """`fuse_sequential` for numba, compiled by `compiled_fuse`. Flags are 0 or -1 (all bits) and chosen with & and
    |, so that the main loop has no branch and becomes vector instructions: 4 instead of 13 to 20 ns an element. It
    is one function, because numba notices an edit only in its own file."""
    n = len(actions)
    if len(rl_actions) != n or len(rl_confidences) != n or len(llm_actions) != n or len(llm_confidences) != n:
        return -2
    if len(risk_scores) != n or masks.shape[1] != 6:
        return -2
    scratch = np.empty(2 * n + 9, np.int32)
    legal_bits, adding_bits, counts = scratch[:n], scratch[n : 2 * n], scratch[2 * n :]
    good = True
    # What costs single loads is gathered first, a bit per action.
    if len(masks) == n:
        for i in range(n):
            m = np.uint64(i)
            good &= masks[m, 0]
            low = np.int32(1) | np.int32(masks[m, 1]) << 1 | np.int32(masks[m, 2]) << 2
            legal_bits[i] = low | np.int32(masks[m, 3]) << 3 | np.int32(masks[m, 4]) << 4 | np.int32(masks[m, 5]) << 5
    else:
        legal_bits[:] = 63
    if len(positions) == n and not (n == 1 and positions[0] == NOWHERE):
        for i in range(n):
            adding_bits[i] = np.int32(32) | np.int32(positions[i] >= 0) << 1 | np.int32(positions[i] <= 0) << 2
    else:
        adding_bits[:] = 62

    bad, one = np.int32(0), np.int32(1)
    rl_weight, llm_weight = state[0], state[1]
    threshold, risk_limit = np.float32(state[2]), np.float32(state[3])
    for i in range(n):
        p, q, risk = rl_confidences[i], llm_confidences[i], risk_scores[i]
        bad |= np.int32(np.uint64(rl_actions[i]) > 5) | np.int32(np.uint64(llm_actions[i] + 1) > 6)
        bad |= np.int32(p != p) | np.int32(q != q) | np.int32(risk != risk)

        legal = legal_bits[i]
        rl, llm = np.int32(rl_actions[i]), np.int32(llm_actions[i])
        rl &= -((legal >> (rl & 7)) & one)
        # Shifted by one, so that an abstention reads a bit that is never set.
        speaks = -(((legal << 1) >> ((llm + 1) & 7)) & one)
        llm &= speaks

        adding = adding_bits[i] & -np.int32(risk > risk_limit)
        rl_vetoed, llm_vetoed = -((adding >> rl) & one), -((adding >> llm) & one)
        free = ~(rl_vetoed | llm_vetoed)
        unadvised = rl & ~rl_vetoed

        rl_sure, llm_sure = -np.int32(p > threshold), -np.int32(q > threshold)
        weighing = ~(rl_sure ^ llm_sure)
        outweighed = -np.int32(llm_weight * np.float64(q) > rl_weight * np.float64(p))
        to_llm = (llm_sure & ~rl_sure) | (weighing & outweighed)
        # A silent advice is HOLD here, which is also what a vetoed RL action falls back on.
        takes_llm = (free & speaks & to_llm) | (rl_vetoed & ~llm_vetoed)
        action = (llm & takes_llm) | (unadvised & ~takes_llm)
        actions[i] = action

        agreeing = -np.int32(rl == llm)
        rule = 2 + (to_llm & one) + (weighing & 2)
        rule = (rule & ~agreeing) | (agreeing & one)
        rule = ((rule & speaks) | (6 & ~speaks)) & free
        rule |= -np.int32(legal == 1) & 7
        # The bits are used up: what decided and whether advice mattered takes their place.
        legal_bits[i] = rule | np.int32(action != unadvised) << 3

    if bad != 0 or not good:
        for i in range(n):
            p, q, risk = rl_confidences[i], llm_confidences[i], risk_scores[i]
            allowed = 0 <= rl_actions[i] <= 5 and -1 <= llm_actions[i] <= 5 and (len(masks) != n or masks[i, 0])
            if not allowed or p != p or q != q or risk != risk:
                return i
    counts[:] = 0
    for i in range(n):
        counts[np.uint64(legal_bits[i] & 7)] += 1
        counts[8] += legal_bits[i] >> 3
    for j in range(9):
        state[4 + j] += counts[j]
    return -1


@functools.cache
def compiled_fuse() -> Fuse:
    """The compiled loop; the first call in a process compiles it or reads it from numba's cache."""
    from numba import njit, types

    # Declared read-only: a writeable array is accepted as one, so frozen tables need no second compilation.
    ints = types.Array(types.int64, 1, "C", readonly=True)
    floats = types.Array(types.float32, 1, "C", readonly=True)
    masks = types.Array(types.boolean, 2, "C", readonly=True)
    state, actions = types.float64[::1], types.int64[::1]
    signature = types.int64(ints, floats, ints, floats, floats, masks, ints, state, actions)
    return njit(signature, cache=True, nogil=True)(_fuse_elements)


COLUMNS = ("rl_actions", "rl_confidences", "llm_actions", "llm_confidences", "risk_scores", "masks", "positions")
_INT64, _FLOAT32, _BOOL = np.dtype(np.int64), np.dtype(np.float32), np.dtype(np.bool_)
DTYPES: tuple[np.dtype[Any], ...] = (_INT64, _FLOAT32, _INT64, _FLOAT32, _FLOAT32, _BOOL, _INT64)


def ready(rl: Any, p: Any, llm: Any, q: Any, risk: Any, masks: Any, positions: Any) -> bool:
    """Whether the columns of one batch have `DTYPES`: the common case, checked fast. Shapes are not checked."""
    try:
        return (
            rl.dtype is llm.dtype is positions.dtype is _INT64
            and p.dtype is q.dtype is risk.dtype is _FLOAT32
            and masks.dtype is _BOOL
        )
    except AttributeError:
        return False


def coerce(columns: Sequence[Any]) -> tuple[NDArray[Any], ...]:
    """The columns of one batch as C-contiguous arrays of `DTYPES`; ValueError for another shape or actions that
    are no whole numbers."""
    arrays: list[NDArray[Any]] = []
    for name, dtype, given in zip(COLUMNS, DTYPES, columns, strict=True):
        array = np.asarray(given)
        if dtype == _INT64 and array.size and array.dtype.kind not in "iu":
            raise ValueError(f"{name} must be whole numbers, not {array.dtype}")
        wanted = "(n, 6)" if name == "masks" else "(n,)"
        if array.ndim == 0 or array.shape[1:] != ((N_ACTIONS,) if name == "masks" else ()):
            raise ValueError(f"{name} has shape {array.shape}; {wanted} is needed")
        arrays.append(np.ascontiguousarray(array, dtype))
    return tuple(arrays)


def explain(bad: int, columns: Sequence[NDArray[Any]]) -> str:
    """Why the loops refused a batch: `bad` is what they returned."""
    if bad == LENGTHS_DIFFER:
        coerce(columns)  # says so if it is the shape of one array
        given = [i for i, column in enumerate(columns) if column is not NO_MASKS and column is not NO_POSITIONS]
        return "the arrays of one batch differ in length: " + ", ".join(
            f"{COLUMNS[i]} {len(columns[i])}" for i in given
        )
    rl, p, llm, q, risk, masks, _ = columns
    hold = "masked" if masks is not NO_MASKS and not masks[bad, HOLD] else "legal"
    return (
        f"element {bad} cannot be fused: rl_action {rl[bad]} (allowed 0 to 5), llm_action {llm[bad]} (-1 to 5), "
        f"confidences {p[bad]} and {q[bad]} and risk score {risk[bad]} (any but NaN), HOLD is {hold} (must be legal)"
    )


def read_config(config: object) -> tuple[FusionSettings, float, bool]:
    """Fusion settings, llm_weight and whether the compiled loop is wanted, from a mapping or an object with
    attributes of those names.

    Keys: llm_weight, confidence_threshold, risk or risk_config (mapping or object; its keys may also stand flat beside
    it), vectorized_decision_fusion. Absent keys take the defaults of `FusionSettings` and `LLMSettings`, other keys are
    ignored. A value outside its limits raises pydantic's ValidationError (a ValueError).
    """

    def look_up(source: object, names: Sequence[str]) -> dict[str, Any]:
        if isinstance(source, Mapping):
            return {name: source[name] for name in names if name in source}
        return {name: getattr(source, name) for name in names if hasattr(source, name)}

    risk_names = tuple(RiskSettings.model_fields)
    top = look_up(config, ("llm_weight", "confidence_threshold", "risk", "risk_config", "vectorized_decision_fusion"))
    risk = look_up(config, risk_names)
    for section in ("risk_config", "risk"):
        risk |= look_up(top.pop(section, {}), risk_names)
    llm = LLMSettings(**{name: top.pop(name) for name in ("llm_weight",) if name in top})
    compiled = bool(top.pop("vectorized_decision_fusion", True))
    return FusionSettings(risk=RiskSettings(**risk), **top), llm.llm_weight, compiled


def risk_scores(states: object, limits: RiskSettings) -> NDArray[np.float32]:
    """Risk of each account, float32[n] in [0, 1]: 0 far from every limit, 1 at a limit.

    `states`: a sequence of mappings, or a mapping or structured array of columns, with the fields of `RISK_FIELDS`:
    losing trades in a row, fraction of the drawdown buffer used, fraction of recent trades won (NaN: none yet, no
    risk). A missing field takes its value of `NEUTRAL`. ValueError for NaN in one of the first two, columns that
    differ in length, or a mapping of columns that holds none of the fields.

    losses = consecutive_losses_weight x consecutive_losses / max_consecutive_losses,
    drawdown = drawdown_weight x drawdown_current / dd_buffer_threshold, ratios clipped to [0, 1];
    near = max(losses, drawdown);
    short = (min_win_rate_threshold - win_rate_recent) / min_win_rate_threshold, clipped to [0, 1];
    score = near + (1 - near) x win_rate_weight x short. Weights lie in [0, 1], and so does the score. It never falls
    when a loss or drawdown grows or the win rate falls.
    """
    losses, drawdown, win_rate = _risk_columns(states)
    for name, column in ((RISK_FIELDS[0], losses), (RISK_FIELDS[1], drawdown)):
        if np.isnan(column).any():
            raise ValueError(f"{name} of state {int(np.isnan(column).argmax())} is NaN; a number is needed")
    near = np.maximum(
        limits.consecutive_losses_weight * _share(losses, limits.max_consecutive_losses),
        limits.drawdown_weight * _share(drawdown, limits.dd_buffer_threshold),
    )
    least = limits.min_win_rate_threshold
    short = 1.0 - _share(np.nan_to_num(win_rate, nan=least), least) if least > 0.0 else 0.0
    return (near + (1.0 - near) * (limits.win_rate_weight * short)).astype(np.float32)


def _share(column: NDArray[np.float64], limit: float) -> NDArray[np.float64]:
    """column / limit, clipped to [0, 1] beforehand: a tiny limit would overflow."""
    return column.clip(0.0, limit) / limit


def _risk_columns(states: Any) -> NDArray[np.float64]:
    """float64[3, n]: the columns of RISK_FIELDS."""
    if isinstance(states, np.ndarray) and states.dtype.names is not None:
        given = {name: states[name] for name in RISK_FIELDS if name in states.dtype.names}
        n = states.size
    elif isinstance(states, Mapping):
        given = {name: states[name] for name in RISK_FIELDS if name in states}
        if not given:
            raise ValueError(f"the columns of position states are {list(states)}; known are {', '.join(RISK_FIELDS)}")
        n = np.size(next(iter(given.values())))
    else:
        rows = [[state.get(name, value) for name, value in zip(RISK_FIELDS, NEUTRAL, strict=True)] for state in states]
        return np.array(rows, dtype=np.float64).reshape(-1, len(RISK_FIELDS)).T
    columns = [
        np.atleast_1d(np.asarray(given[name], dtype=np.float64)) if name in given else np.full(n, value)
        for name, value in zip(RISK_FIELDS, NEUTRAL, strict=True)
    ]
    if len({column.shape for column in columns}) != 1:
        raise ValueError(f"columns of position states differ in length: {[column.shape for column in columns]}")
    return np.stack(columns)
