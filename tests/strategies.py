"""Random markets, parameters and actions for property tests of an account.

One generator serves two callers: with hypothesis' own random object every number shrinks (small markets), with a seeded
`random.Random` a walk of hundreds of bars costs nothing to draw (only its seed and sizes shrink).
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from hypothesis import strategies as st

from tests.reference_account import (
    ACTIONS,
    BREAK_AFTER,
    BUY,
    CONTEXT_WIDTH,
    DECISION,
    END_AFTER,
    ENTRY_ALLOWED,
    FLAT_BAR,
    SELL,
    WINDOW_WIDTH,
    ReferenceMarket,
    ReferenceParams,
    float32,
)

SITUATIONS = 4


@dataclass(frozen=True)
class Walk:
    """A market, the accounts' constants and the source of the random actions and resets."""

    market: ReferenceMarket
    params: ReferenceParams
    rng: Random

    def reset_arguments(self) -> tuple[int, int, int, int]:
        """A decision bar with a balance, peak and days left that the rules leave alive (nearly always)."""
        rng, params = self.rng, self.params
        bars = [t for t, flags in enumerate(self.market.flags) if flags & DECISION]
        # Multiples of 250 cents, so that a balance lands exactly on a limit now and then.
        balance = params.start_balance_cents + 250 * rng.randint(-80, 80)
        peak = balance + (rng.randint(0, params.trail_cents) if params.trail_mode else rng.randint(0, 20_000))
        return rng.choice(bars), balance, peak, rng.randint(0, 3)

    def action(self, mask: list[bool]) -> int:
        """Mostly legal and rather trading than waiting; one in eight drawn without looking at the mask."""
        rng = self.rng
        if rng.randint(0, 7) == 0:
            return rng.randint(0, ACTIONS - 1)
        legal = [action for action in range(ACTIONS) if mask[action]]
        if mask[BUY] and mask[SELL] and rng.randint(0, 2):
            return rng.choice([BUY, SELL])
        # In a position the close is the rarest order, or few positions live to see a stop or a target.
        if len(legal) > 2 and rng.randint(0, 3):
            legal = [action for action in legal if action not in (BUY, SELL)]
        return rng.choice(legal)


def session_flags(rng: Random, decisions: int) -> list[int]:
    """One session: bars before it, its decision bars with holes, and one of the three ways in which it may end."""
    flags = [0] * rng.randint(0, 2)
    masked = 0
    for _ in range(decisions - 1):
        bits = DECISION
        if rng.randint(0, 15) == 0:
            bits |= BREAK_AFTER
        if masked == 0 and rng.randint(0, 9):
            bits |= ENTRY_ALLOWED
        # A window that a hole tore apart needs a few bars to be whole again.
        masked = rng.randint(0, 4) if bits & BREAK_AFTER else max(0, masked - 1)
        flags.append(bits)
    last = DECISION | END_AFTER | (ENTRY_ALLOWED if rng.randint(0, 3) == 0 else 0)
    ending = rng.randint(0, 3)
    if ending == 0:
        # The rest of the session is missing, the flat bar included.
        flags.append(last | BREAK_AFTER)
    else:
        # The flat bar follows, now and then beyond a hole; it may itself be the session's last.
        flags.append(last | (BREAK_AFTER if ending == 1 else 0))
        flags.append(FLAT_BAR)
        flags += [0] * rng.randint(0, 2)
        flags[-1] |= BREAK_AFTER
    return flags


def bar_prices(rng: Random, n: int, widths: list[int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """A random walk in ticks: stretches of bars of one width (0: without any range), and gaps between bars."""
    opens, highs, lows, closes = [], [], [], []
    close, width, left = 20_000, 0, 0
    for _ in range(n):
        if left == 0:
            width = rng.choice(widths)
            left = rng.randint(1, 12)
        left -= 1
        gap = rng.randint(0, 7)
        far = 2 * width + max(widths) // 4 + 2
        jump = rng.randint(-far, far) if gap == 0 else rng.randint(-1, 1) if width else 0
        open_ = close + jump
        close = open_ + rng.randint(-width, width)
        opens.append(open_)
        highs.append(max(open_, close) + rng.randint(0, width))
        lows.append(min(open_, close) - rng.randint(0, width))
        closes.append(close)
    return opens, highs, lows, closes


def advice_row(rng: Random) -> list[float]:
    """Probabilities over the six actions: unanswered, all on one action, or spread; not always on a legal one."""
    kind = rng.randint(0, 3)
    if kind == 0:
        return [0.0] * ACTIONS
    if kind == 1:
        certain = rng.randint(0, ACTIONS - 1)
        return [0.9995 if action == certain else 0.0001 for action in range(ACTIONS)]
    weights = [rng.randint(0, 1000) for _ in range(ACTIONS)]
    total = sum(weights) or 1
    return [weight / total for weight in weights]


def market_of(rng: Random, sessions: int, longest: int) -> ReferenceMarket:
    """Sessions one after another, every list as long as the bars.

    Half of the markets move by a few ticks only: there opens, extremes and closes often lie exactly on a stop, a target
    or a limit, where `<` and `<=` part.
    """
    fine = rng.randint(0, 1)
    flags: list[int] = []
    for _ in range(sessions):
        flags += session_flags(rng, rng.randint(1, longest))
    n = len(flags)
    opens, highs, lows, closes = bar_prices(rng, n, [0, 1, 2, 3] if fine else [0, 2, 4, 12, 12, 60])
    # A feature row is one number repeated with steps: cheap to draw, and every cell of the observation still differs.
    window, context = [], []
    for _ in range(n):
        base = rng.randint(-4_000, 4_000) / 1_000
        window.append([float32(base + column / 64) for column in range(WINDOW_WIDTH)])
        context.append([float32(base - column / 32) for column in range(CONTEXT_WIDTH)])
    return ReferenceMarket(
        opens,
        highs,
        lows,
        closes,
        flags,
        atr=[0.0 if rng.randint(0, 30) == 0 else rng.randint(3, 30 if fine else 300) / 10 for _ in range(n)],
        window=window,
        context=context,
        situation=[rng.randint(0, SITUATIONS - 1) for _ in range(n)],
        advice=[advice_row(rng) for _ in range(5 * SITUATIONS)],
    )


def params_of(rng: Random) -> ReferenceParams:
    """Every rule mode, with buffers of a few trades so that breaches and pauses are frequent."""
    start_balance_cents = 5_000_000
    return ReferenceParams(
        contracts=rng.randint(1, 5),
        tick_value_cents=rng.choice([10, 50, 125, 500, 500, 1250]),
        commission_cents=rng.choice([0, 37, 225, 250, 250]),
        slippage_ticks=rng.randint(0, 3),
        # One in four so wide that positions live for dozens of bars and meet the account's rules first.
        stop_atr=rng.randint(1, 40) / (10 if rng.randint(0, 3) else 0.2),
        target_r=rng.randint(1, 40) / 10,
        trail_atr=rng.randint(1, 40) / 10,
        target_through_ticks=rng.randint(0, 2),
        reward_scale_cents=rng.choice([100.0, 10_000.0, 12_345.6]),
        breach_penalty=rng.choice([0.0, 0.3, 10.0]),
        max_episode_steps=rng.choice([0, 0, 0, 5, 25]),
        start_balance_cents=start_balance_cents,
        trail_mode=rng.randint(0, 3),
        trail_cents=rng.choice([rng.randint(500, 60_000), 250 * rng.randint(2, 40), 500_000]),
        lock_mode=rng.randint(0, 1),
        lock_cents=start_balance_cents + rng.choice([-30_000, 0, 10_000]),
        daily_limit_cents=rng.choice([0, rng.randint(500, 40_000), 250 * rng.randint(2, 40)]),
        target_cents=rng.choice([0, rng.randint(100, 30_000), 250 * rng.randint(1, 40)]),
        expiry_days=rng.choice([0, 30, 30]),
        max_contracts=rng.choice([0, 2, 6, 6, 6, 6]),
        daily_breaches=rng.randint(0, 1),
        consistency_bp=rng.choice([0, 3_000, 4_000, 5_000]),
        needed_days=rng.choice([0, 0, 1, 3]),
        day_profit_cents=rng.choice([0, 250, 5_000]),
        **ladder_of(rng),
    )


def ladder_of(rng: Random) -> dict[str, int]:
    """No ladder, or one of up to four rungs that rise by a few trades' profit."""
    fields, cents, contracts = {}, 0, 0
    for k in range(1, rng.choice([0, 0, 1, 2, 4]) + 1):
        cents, contracts = cents + 250 * rng.randint(1, 20), contracts + rng.randint(1, 3)
        fields |= {f"ladder_cents_{k}": cents, f"ladder_contracts_{k}": contracts}
    return fields


def walk_of(rng: Random, sessions: int, longest: int) -> Walk:
    """A market with its parameters, and `rng` left over for the actions."""
    return Walk(market_of(rng, sessions, longest), params_of(rng), rng)


@st.composite
def small_walks(draw: st.DrawFn) -> Walk:
    """A few bars, every number drawn by hypothesis: what it finds, it can shrink."""
    rng = draw(st.randoms(use_true_random=False))
    return walk_of(rng, draw(st.integers(1, 2)), draw(st.integers(1, 5)))


@st.composite
def long_walks(draw: st.DrawFn) -> Walk:
    """Hundreds of bars from one seed."""
    rng = Random(draw(st.integers(0, 2**32)))
    return walk_of(rng, draw(st.integers(1, 8)), draw(st.integers(1, 60)))
