"""The markets and their money."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.errors import MarketError
from src.market.contracts import CONTRACTS, get_contract

# Cents a tick, from the exchange's own tables (not computed here).
TICK_CENTS = {"NQ": 500, "ES": 1250, "YM": 500, "RTY": 500, "MNQ": 50, "MES": 125, "MYM": 50, "M2K": 50}


def test_the_eight_markets_have_the_exchange_s_tick_values():
    assert {symbol: contract.tick_value_cents for symbol, contract in CONTRACTS.items()} == TICK_CENTS


@pytest.mark.parametrize("symbol", [symbol for symbol in TICK_CENTS if CONTRACTS[symbol].parent])
def test_a_micro_is_a_tenth_of_its_parent_on_the_same_tick_grid(symbol):
    micro = get_contract(symbol)
    parent = get_contract(micro.parent)
    assert parent.parent is None
    assert micro.tick_size == parent.tick_size
    assert micro.tick_value_cents * 10 == parent.tick_value_cents


def test_every_contract_carries_a_source_and_says_that_its_costs_are_assumed():
    for contract in CONTRACTS.values():
        assert contract.symbol in contract.source
        assert "assumption" in contract.source
        assert contract.slippage_ticks == 1
        assert (50 <= contract.commission_cents <= 70) if contract.parent else (200 <= contract.commission_cents <= 250)


def test_symbols_are_found_in_lower_case_too():
    assert get_contract(" nq ") is CONTRACTS["NQ"]


def test_an_unknown_market_is_answered_with_the_list_and_the_nearest_name():
    with pytest.raises(MarketError) as caught:
        get_contract("MNQU")
    assert all(symbol in str(caught.value) for symbol in CONTRACTS)
    assert "Did you mean MNQ?" in str(caught.value)


@given(st.text(max_size=12))
def test_any_text_is_a_known_market_or_a_market_error_in_one_paragraph(text):
    if text.strip().upper() in CONTRACTS:
        assert get_contract(text).symbol == text.strip().upper()
    else:
        with pytest.raises(MarketError, match=re.escape("NQ, ES, YM")) as caught:
            get_contract(text)
        assert "\n" not in str(caught.value)
