"""Where training episodes begin, and with what account: evenly, within stated bounds, whoever stands beside."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from src import splitmix
from src.trading import kernel
from src.trading.accounts import AccountBlock
from src.trading.layout import NO_THRESHOLD_CENTS, TRAIL_END_OF_DAY, TRAIL_LIVE, TRAIL_NONE, TRAIL_STATIC
from src.trading.tape import Tape
from tests.trading.worlds import LIVE_RULES, make_params, make_tape

START = 5_000_000


def tape_of_many_starts(n: int = 3_000) -> Tape:
    """Bars of which every third is a start."""
    return Tape(
        prices=np.full((n, 4), 100),
        flags=np.zeros(n, np.uint8),
        atr_ticks=np.ones(n, np.float32),
        window=np.zeros((n, 11), np.float32),
        context=np.zeros((n, 22), np.float32),
        situation=np.zeros(n, np.int32),
        advice=np.zeros((5, 6), np.float32),
        starts=np.arange(0, n, 3, dtype=np.int32),
    )


def draws(tape: Tape, params: np.ndarray, seeds: list[int], episodes: int) -> np.ndarray:
    """The records of each account at the beginning of its episodes, ACCOUNT[episodes, accounts]."""
    block = AccountBlock(tape, params, len(seeds))
    for index, seed in enumerate(seeds):
        block.seed(index, seed)
    found = []
    for _ in range(episodes):
        kernel.reset_batch(block.accounts, tape.starts, params)
        found.append(block.accounts.copy())
    return np.stack(found)


def discrepancy(places: np.ndarray) -> float:
    """Largest difference between the share of `places` below x and x itself, over x in [0, 1]."""
    x = np.sort(places)
    k = np.arange(1, len(x) + 1)
    return float(max((k / len(x) - x).max(), (x - (k - 1) / len(x)).max()))


@pytest.mark.parametrize("episodes", [32, 128, 512])
def test_the_starts_of_an_account_are_spread_far_more_evenly_than_random_ones(episodes: int) -> None:
    tape = tape_of_many_starts()
    begun = draws(tape, make_params(), list(range(40)), episodes)["bar"]
    spread = [discrepancy(begun[:, i] / len(tape.prices)) for i in range(40)]
    rng = np.random.default_rng(0)
    random = [discrepancy(rng.random(episodes)) for _ in range(40)]
    # Golden-ratio steps stay below 3 log(k) / k or so; random places about 0.87 / sqrt(k).
    assert max(spread) < min(0.5 * np.mean(random), 2.0 * np.log(episodes) / episodes)


def test_the_accounts_begin_at_different_places() -> None:
    tape = tape_of_many_starts()
    first = draws(tape, make_params(), list(range(400)), 1)["bar"][0] / len(tape.prices)
    # 1.95 / sqrt(n) is exceeded once in a thousand samples of a uniform distribution.
    assert discrepancy(first) < 1.95 / np.sqrt(400)
    assert len(set(first)) > 250
    # Neighbouring seeds are no neighbours.
    assert np.abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.2


@given(st.integers(0, 100), st.lists(st.integers(0, 2**63), min_size=1, max_size=20))
def test_starts_are_those_of_the_tape(market: int, seeds: list[int]) -> None:
    tape = make_tape(market, sessions=2, longest=12)
    begun = draws(tape, make_params(**LIVE_RULES), seeds, 20)
    assert np.isin(begun["bar"], tape.starts).all()
    assert np.array_equal(begun["bar"], begun["start_bar"])


def test_a_single_start_is_always_taken() -> None:
    tape = tape_of_many_starts()
    fields: dict[str, Any] = {name: getattr(tape, name) for name in tape.__dataclass_fields__}
    lonely = Tape(**{**fields, "starts": np.array([17], np.int32)})
    assert (draws(lonely, make_params(), [1, 2, 3], 50)["bar"] == 17).all()


@settings(max_examples=30)
@given(st.lists(st.integers(0, 2**40), min_size=2, max_size=30), st.data())
def test_draws_do_not_depend_on_who_stands_beside(seeds: list[int], data: st.DataObject) -> None:
    tape, params = make_tape(1), make_params(**LIVE_RULES)
    together = draws(tape, params, seeds, 12)
    index = data.draw(st.integers(0, len(seeds) - 1))
    assert draws(tape, params, [seeds[index]], 12).tobytes() == together[:, [index]].tobytes()


rules = st.fixed_dictionaries(
    {
        "trail_mode": st.sampled_from([TRAIL_LIVE, TRAIL_END_OF_DAY, TRAIL_STATIC]),
        "trail_cents": st.integers(1, 400_000),
        "lock_mode": st.integers(0, 1),
        # The least that a profile may name: where the threshold of a new account stands.
        "lock_cents": st.integers(START, START + 100_000),
        "target_cents": st.integers(0, 500_000),
        "expiry_days": st.integers(0, 40),
        "fresh_account_frac": st.sampled_from([0.0, 0.25, 1.0]),
        "min_buffer_frac": st.floats(1e-9, 1.0),
    }
)


@given(rules, st.integers(0, 2**40))
def test_every_account_lies_within_the_stated_bounds(chosen: dict[str, Any], seed: int) -> None:
    begun = draws(make_tape(1), make_params(**chosen), list(range(seed, seed + 8)), 6)
    balance, peak, threshold = (begun[name] for name in ("cash_cents", "peak_cents", "threshold_cents"))
    trail, target, days = chosen["trail_cents"], chosen["target_cents"], chosen["expiry_days"]
    assert ((peak >= START) & (peak <= START + target)).all()
    is_static = chosen["trail_mode"] == TRAIL_STATIC
    expected = np.full_like(peak, START - trail) if is_static else peak - trail
    if chosen["lock_mode"] and not is_static:
        expected = np.minimum(expected, chosen["lock_cents"])
    assert np.array_equal(threshold, expected)
    assert (threshold < balance).all()
    assert (balance <= peak).all()
    # A threshold that never moves leaves an account with a profit more than the trailing amount.
    widest = peak - threshold if is_static else np.full_like(peak, trail)
    least = np.minimum(peak, threshold + (chosen["min_buffer_frac"] * widest).astype(np.int64))
    assert (balance >= least).all()
    fresh = (peak == START) & (balance == START)
    assert (fresh | (balance <= threshold + widest)).all()
    left = begun["days_left"]
    assert ((left >= min(1, days)) & (left <= days)).all()
    assert np.array_equal(begun["day_start_cents"], balance)
    assert np.array_equal(begun["start_cash_cents"], balance)
    if chosen["fresh_account_frac"] == 1.0:
        assert fresh.all()
        assert (left == days).all()


@pytest.mark.parametrize("share", [0.0, 0.25, 0.6, 1.0])
def test_the_share_of_new_accounts_is_the_configured_one(share: float) -> None:
    begun = draws(tape_of_many_starts(), make_params(fresh_account_frac=share, **LIVE_RULES), list(range(200)), 50)
    fresh = (begun["peak_cents"] == START) & (begun["cash_cents"] == START) & (begun["days_left"] == 30)
    five_sigma = 5 * np.sqrt(share * (1 - share) / fresh.size)
    assert abs(fresh.mean() - share) <= five_sigma + 1e-9


def test_the_others_fill_their_ranges_evenly() -> None:
    chosen = {**LIVE_RULES, "target_cents": 300_000, "trail_cents": 200_000}
    params = make_params(fresh_account_frac=0.0, min_buffer_frac=0.25, **chosen)
    begun = draws(tape_of_many_starts(), params, list(range(100)), 50)
    peak = (begun["peak_cents"].ravel() - START) / 300_000
    buffer = ((begun["cash_cents"] - begun["threshold_cents"]).ravel() / 200_000 - 0.25) / 0.75
    days = (begun["days_left"].ravel() - 0.5) / 30
    # 1.95 / sqrt(n) once in a thousand; whole days are coarse by half a day.
    limit = 1.95 / np.sqrt(peak.size)
    assert discrepancy(peak) < limit
    assert discrepancy(buffer) < limit
    assert discrepancy(days) < limit + 0.5 / 30
    assert set(begun["days_left"].ravel()) == set(range(1, 31))
    # Drawn apart: neither says anything of another, nor of the place.
    place = begun["bar"].ravel()
    for one, other in ((peak, buffer), (peak, days), (buffer, days), (place, peak), (place, buffer)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(peak.size)
    # Nor of an account's next episodes.
    by_episode = [values.reshape(50, 100) for values in (peak, buffer, days)]
    for one in by_episode:
        for other in by_episode:
            for later in (1, 2, 3):
                together = np.corrcoef(one[:-later].ravel(), other[later:].ravel())[0, 1]
                assert abs(together) < 5 / np.sqrt(peak.size)


def test_without_a_trailing_rule_every_account_is_new() -> None:
    begun = draws(make_tape(1), make_params(trail_mode=TRAIL_NONE, fresh_account_frac=0.0), list(range(20)), 10)
    assert (begun["cash_cents"] == START).all()
    assert (begun["peak_cents"] == START).all()
    assert (begun["threshold_cents"] == NO_THRESHOLD_CENTS).all()


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_the_mixing_is_splitmix64s_and_bits_depend_on_key_and_counter(key: int, counter: int) -> None:
    def mix(value: int) -> int:
        mask = 2**64 - 1
        z = (value + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    assert int(splitmix.mix64(np.uint64(key))) == mix(key)
    assert int(kernel.random_bits(np.uint64(key), np.uint64(counter))) == mix(key ^ mix(counter))


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
@example(2**64 - 1, 2**64 - 1)
def test_scaling_is_exact(bits: int, n: int) -> None:
    assert int(splitmix.scaled(np.uint64(bits), np.uint64(n))) == bits * n >> 64


@given(st.floats(0.0, 1.0))
@example(1.0)
def test_a_fraction_becomes_a_share_of_its_own_value(frac: float) -> None:
    assert int(splitmix.as_share(frac)) == int(Fraction(frac) * 2**63)


def test_the_mixing_gives_the_published_first_numbers() -> None:
    # splitmix64 from state 0 (Vigna's reference implementation): its state grows by the golden constant each time.
    golden = 0x9E3779B97F4A7C15
    numbers = [int(splitmix.mix64(np.uint64(k * golden % 2**64))) for k in range(3)]
    assert numbers == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
