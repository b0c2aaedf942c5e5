"""VectorizedDecisionFusion: the rules one by one, both loops against a reference that spells the rules out."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from src.testing_framework import VectorizedDecisionFusion, create_test_config

HOLD, BUY, SELL, MOVE_TO_BE, ENABLE_TRAIL, DISABLE_TRAIL = range(6)
SILENT = -1
CONFIG = {"llm_weight": 0.5, "confidence_threshold": 0.6}
RULES = (
    "risk_veto",
    "agreement",
    "rl_confident",
    "llm_confident",
    "weighted_rl",
    "weighted_llm",
    "abstained",
    "bypassed",
)


@pytest.fixture(params=["compiled", "sequential"])
def make(request: pytest.FixtureRequest):
    def build(**changes: Any) -> VectorizedDecisionFusion:
        return VectorizedDecisionFusion(CONFIG | changes, sequential=request.param == "sequential")

    return build


def one(fusion: VectorizedDecisionFusion, rl, p, llm, q, risk=0.0, mask=None, position=None) -> tuple[int, str]:
    """The action of a batch of one and the rule that was counted for it."""
    before = dict(fusion.get_stats())
    masks = None if mask is None else [[action in mask for action in range(6)]]
    positions = None if position is None else [position]
    actions = fusion.fuse_batch([rl], [p], [llm], [q], [risk], masks, positions)
    assert actions.dtype == np.int64
    after = fusion.get_stats()
    assert after["total"] == before["total"] + 1
    (rule,) = [name for name in RULES if after[name] != before[name]]
    return int(actions[0]), rule


# ---------------------------------------------------------------- the rules, worked by hand


@pytest.mark.parametrize(
    ("rl", "p", "llm", "q", "expected"),
    [
        (BUY, 0.1, BUY, 0.9, (BUY, "agreement")),
        (BUY, 0.7, SELL, 0.6, (BUY, "rl_confident")),  # 0.6 is not above 0.6
        (BUY, 0.6, SELL, 0.61, (SELL, "llm_confident")),
        (BUY, 0.8, SELL, 0.9, (SELL, "weighted_llm")),
        (BUY, 0.9, SELL, 0.8, (BUY, "weighted_rl")),
        (BUY, 0.5, SELL, 0.5, (BUY, "weighted_rl")),  # ties to RL
        (BUY, 0.2, SELL, 0.3, (SELL, "weighted_llm")),
        (BUY, 0.0, SILENT, 0.0, (BUY, "abstained")),
        (HOLD, 0.0, SILENT, 0.0, (HOLD, "abstained")),
    ],
)
def test_without_risk_the_rules_decide_in_their_order(make, rl, p, llm, q, expected) -> None:
    assert one(make(), rl, p, llm, q) == expected


def test_the_weight_tips_the_scale(make) -> None:
    assert one(make(llm_weight=0.0), BUY, 0.0, SELL, 0.5) == (BUY, "weighted_rl")
    assert one(make(llm_weight=1.0), BUY, 0.5, SELL, 0.01) == (SELL, "weighted_llm")
    # 0.7 x 0.3 against 0.3 x 0.7 is a tie although neither product is exact in binary.
    assert one(make(llm_weight=0.3), BUY, 0.3, SELL, 0.7, 0.0)[1] == "llm_confident"
    assert one(make(llm_weight=0.3, confidence_threshold=0.9), BUY, 0.3, SELL, 0.7) == (BUY, "weighted_rl")


@pytest.mark.parametrize("action", [BUY, SELL, MOVE_TO_BE, ENABLE_TRAIL, DISABLE_TRAIL])
def test_without_positions_high_risk_turns_every_action_into_hold(make, action) -> None:
    assert one(make(), action, 0.9, action, 0.9, risk=0.71) == (HOLD, "risk_veto")
    assert one(make(), action, 0.9, SILENT, 0.0, risk=0.71) == (HOLD, "risk_veto")
    assert one(make(), action, 0.9, action, 0.9, risk=0.7) == (action, "agreement")  # 0.7 is not above 0.7


FLAT, LONG, SHORT = 0, 2, -1


@pytest.mark.parametrize(
    ("position", "adds"),
    [
        (FLAT, {BUY, SELL, DISABLE_TRAIL}),
        (LONG, {BUY, DISABLE_TRAIL}),
        (SHORT, {SELL, DISABLE_TRAIL}),
    ],
)
def test_with_positions_only_what_adds_risk_is_vetoed(make, position, adds) -> None:
    for action in range(6):
        found = one(make(), action, 0.9, SILENT, 0.0, risk=0.9, position=position)
        assert found == ((HOLD, "risk_veto") if action in adds else (action, "abstained"))


def test_a_vetoed_side_leaves_the_decision_to_the_others_protective_proposal(make) -> None:
    assert one(make(), DISABLE_TRAIL, 1.0, MOVE_TO_BE, 0.1, risk=0.9, position=LONG) == (MOVE_TO_BE, "risk_veto")
    assert one(make(), DISABLE_TRAIL, 1.0, SELL, 0.1, risk=0.9, position=LONG) == (SELL, "risk_veto")
    assert one(make(), SELL, 0.1, DISABLE_TRAIL, 1.0, risk=0.9, position=LONG) == (SELL, "risk_veto")
    assert one(make(), DISABLE_TRAIL, 1.0, BUY, 1.0, risk=0.9, position=LONG) == (HOLD, "risk_veto")
    assert one(make(), HOLD, 0.1, BUY, 1.0, risk=0.9, position=FLAT) == (HOLD, "risk_veto")


def test_the_veto_can_be_switched_off(make) -> None:
    fusion = make(risk={"enable_risk_veto": False})
    assert one(fusion, BUY, 0.9, BUY, 0.9, risk=1.0) == (BUY, "agreement")


def test_an_illegal_advice_is_an_abstention_and_an_illegal_rl_action_is_hold(make) -> None:
    flat = {HOLD, BUY, SELL}
    assert one(make(), BUY, 0.1, MOVE_TO_BE, 1.0, mask=flat) == (BUY, "abstained")
    assert one(make(), MOVE_TO_BE, 1.0, BUY, 0.1, mask=flat) == (HOLD, "rl_confident")
    assert one(make(), MOVE_TO_BE, 1.0, HOLD, 0.1, mask=flat) == (HOLD, "agreement")


def test_with_one_legal_action_fusion_is_bypassed(make) -> None:
    fusion = make()
    assert one(fusion, BUY, 1.0, BUY, 1.0, risk=1.0, mask={HOLD}) == (HOLD, "bypassed")
    assert fusion.get_stats()["advice_changed"] == 0


def test_it_counts_how_often_advice_changed_the_action(make) -> None:
    fusion = make()
    fusion.fuse_batch(
        [BUY, BUY, BUY, DISABLE_TRAIL, DISABLE_TRAIL],
        [0.1, 0.9, 0.1, 0.9, 0.9],
        [SELL, SELL, BUY, MOVE_TO_BE, SILENT],
        [0.9, 0.1, 0.9, 0.1, 0.0],
        [0, 0, 0, 1, 1],
        None,
        [0, 0, 0, 1, 1],
    )
    stats = fusion.get_stats()
    assert stats["advice_changed"] == 2  # the first, and MOVE_TO_BE in place of HOLD
    assert stats["advice_changed_rate"] == 0.4
    assert stats["rates"]["risk_veto"] == 0.4
    assert stats["total"] == 5 == sum(stats[rule] for rule in RULES)
    json.dumps(stats)


# ---------------------------------------------------------------- a reference that shares nothing with the code


def slow_reference(rl, p, llm, q, risk, mask, position, weight, threshold, veto) -> tuple[int, str, bool]:
    """One element from what an account may do, by sets and lists; action, rule, and whether advice changed it."""
    p, q, risk = np.float32(p), np.float32(q), np.float32(risk)
    legal = set(range(6)) if mask is None else {a for a in range(6) if mask[a]}
    if legal == {HOLD}:
        return HOLD, "bypassed", False
    rl = rl if rl in legal else HOLD
    llm = llm if llm in legal else None
    if position is None:
        adding = {BUY, SELL, MOVE_TO_BE, ENABLE_TRAIL, DISABLE_TRAIL}
    else:
        closing = {1: {SELL}, -1: {BUY}, 0: set()}[int(np.sign(position))]
        adding = {BUY, SELL, DISABLE_TRAIL} - closing
    high = veto and risk > np.float32(0.7)
    forbidden = adding if high else set()
    alone = HOLD if rl in forbidden else rl
    proposals = [action for action in (rl, llm) if action is not None]
    if any(action in forbidden for action in proposals):
        standing = [action for action in proposals if action not in forbidden] or [HOLD]
        assert len(standing) == 1
        return standing[0], "risk_veto", standing[0] != alone
    if llm is None:
        return rl, "abstained", False
    if rl == llm:
        return rl, "agreement", False
    confident = [p > np.float32(threshold), q > np.float32(threshold)]
    if confident == [True, False]:
        return rl, "rl_confident", False
    if confident == [False, True]:
        return llm, "llm_confident", True
    rl_weighs = float(np.float32(1 - weight)) * float(p)
    llm_weighs = float(np.float32(weight)) * float(q)
    return (rl, "weighted_rl", False) if rl_weighs >= llm_weighs else (llm, "weighted_llm", True)


# Values at and beside the limits come up as often as any others.
scores = st.one_of(st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.7, 0.71, 1.0]), st.floats(0, 1, width=32))
elements = st.tuples(
    st.integers(0, 5),
    scores,
    st.integers(-1, 5),
    scores,
    scores,
    st.lists(st.booleans(), min_size=5, max_size=5).map(lambda rest: [True, *rest]),
    st.integers(-2, 2),
)


@settings(max_examples=300)
@given(
    batch=st.lists(elements, max_size=20),
    with_masks=st.booleans(),
    with_positions=st.booleans(),
    weight=scores,
    threshold=scores,
    veto=st.booleans(),
)
def test_both_loops_follow_the_reference_in_actions_and_counts(
    batch, with_masks, with_positions, weight, threshold, veto
) -> None:
    config = {"llm_weight": weight, "confidence_threshold": threshold, "risk": {"enable_risk_veto": veto}}
    rl, p, llm, q, risk, masks, positions = map(list, zip(*batch, strict=True)) if batch else [[] for _ in range(7)]
    masks = np.array(masks, dtype=bool).reshape(-1, 6) if with_masks else None
    positions = positions if with_positions else None
    expected = [
        slow_reference(
            *(rl[i], p[i], llm[i], q[i], risk[i]),
            None if masks is None else masks[i],
            None if positions is None else positions[i],
            *(weight, threshold, veto),
        )
        for i in range(len(batch))
    ]
    for sequential in (False, True):
        fusion = VectorizedDecisionFusion(config, sequential=sequential)
        actions = fusion.fuse_batch(rl, p, llm, q, risk, masks, positions)
        assert actions.tolist() == [action for action, _, _ in expected]
        stats = fusion.get_stats()
        for rule in RULES:
            assert stats[rule] == sum(found == rule for _, found, _ in expected)
        assert stats["advice_changed"] == sum(changed for _, _, changed in expected)


def random_batch(n: int, seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    masks = rng.random((n, 6)) < 0.5
    masks[:, HOLD] = True
    return (
        rng.integers(0, 6, n),
        rng.random(n, dtype=np.float32),
        rng.integers(-1, 6, n),
        rng.random(n, dtype=np.float32),
        rng.random(n, dtype=np.float32),
        masks,
        rng.integers(-1, 2, n),
    )


def test_no_action_is_illegal_and_none_adds_risk_under_veto(make) -> None:
    batch = random_batch(2000, seed=1)
    risk, masks, positions = batch[4:]
    actions = make().fuse_batch(*batch)
    assert masks[np.arange(2000), actions].all()
    high = risk > 0.7
    assert high.sum() > 100
    opening = ((actions == BUY) & (positions >= 0)) | ((actions == SELL) & (positions <= 0))
    adding = opening | (actions == DISABLE_TRAIL)
    assert not adding[high].any()
    assert adding[~high].any()
    closing = ((actions == SELL) & (positions > 0)) | ((actions == BUY) & (positions < 0))
    assert closing[high].any()


def test_a_batch_gives_what_its_elements_give_one_by_one(make) -> None:
    batch = random_batch(70, seed=2)
    whole, single = make(), make()
    actions = whole.fuse_batch(*batch)
    parts = [single.fuse_batch(*(column[i : i + 1] for column in batch))[0] for i in range(70)]
    assert actions.tolist() == parts
    assert whole.get_stats() == single.get_stats()


# ---------------------------------------------------------------- what it takes and what it refuses


def test_other_types_layouts_and_frozen_arrays_give_the_same_actions(make) -> None:
    batch = random_batch(50, seed=3)
    expected = make().fuse_batch(*batch).tolist()
    frozen = [column.copy() for column in batch]
    for column in frozen:
        column.setflags(write=False)
    strided = [np.repeat(column, 2, axis=0)[::2] for column in batch]
    variants = {
        "lists": [column.tolist() for column in batch],
        "narrow": [
            column.astype(t) for column, t in zip(batch, ["i1", "f8", "i2", "f8", "f8", "u1", "i4"], strict=True)
        ],
        "frozen": frozen,
        "strided": strided,
        "fortran masks": [*batch[:5], np.asfortranarray(batch[5]), batch[6]],
    }
    for name, columns in variants.items():
        assert make().fuse_batch(*columns).tolist() == expected, name


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, 6, "rl_action 6"),
        (0, -1, "rl_action -1"),
        (2, -2, "llm_action -2"),
        (2, 6, "llm_action 6"),
        (1, np.nan, "confidences nan"),
        (3, np.nan, "and nan"),
        (4, np.nan, "risk score nan"),
    ],
)
def test_an_element_that_cannot_be_fused_is_named_and_nothing_is_counted(make, column, value, message) -> None:
    batch = list(random_batch(9, seed=4))
    batch[column] = batch[column].copy()
    batch[column][[5, 7]] = value
    fusion = make()
    with pytest.raises(ValueError, match=rf"element 5 cannot be fused.*{message}"):
        fusion.fuse_batch(*batch)
    assert fusion.get_stats()["total"] == 0


def test_a_mask_without_hold_is_refused(make) -> None:
    batch = random_batch(4, seed=5)
    batch[5][2, HOLD] = False
    with pytest.raises(ValueError, match=r"element 2 .*HOLD is masked"):
        make().fuse_batch(*batch)


@pytest.mark.parametrize("column", range(7))
def test_arrays_of_unequal_length_are_refused(make, column) -> None:
    for n, cut in ((5, 1), (5, 4), (5, 0)):
        batch = list(random_batch(n, seed=6))
        batch[column] = batch[column][:cut]
        with pytest.raises(ValueError, match="differ in length"):
            make().fuse_batch(*batch)


def test_wrong_shapes_and_fractions_are_refused(make) -> None:
    batch = list(random_batch(5, seed=7))
    with pytest.raises(ValueError, match=r"masks has shape \(5, 5\)"):
        make().fuse_batch(*batch[:5], batch[5][:, :5])
    with pytest.raises(ValueError, match=r"risk_scores has shape \(5, 1\)"):
        make().fuse_batch(*batch[:4], batch[4][:, None])
    with pytest.raises(ValueError, match="rl_actions must be whole numbers"):
        make().fuse_batch(batch[0] + 0.5, *batch[1:])
    with pytest.raises(ValueError, match=r"rl_actions has shape \(\)"):
        make().fuse_batch(1, 0.5, 1, 0.5, 0.0)


def test_an_empty_batch_gives_an_empty_answer(make) -> None:
    assert make().fuse_batch([], [], [], [], []).shape == (0,)


# ---------------------------------------------------------------- configuration


def test_a_mapping_and_an_object_are_read_alike_and_unknown_keys_ignored() -> None:
    risk = {"max_consecutive_losses": 4, "enable_risk_veto": False, "colour": "red"}
    nested = {"llm_weight": 0.2, "confidence_threshold": 0.8, "risk": risk, "learning_rate": 3}
    flat = SimpleNamespace(llm_weight=0.2, confidence_threshold=0.8, **risk)
    half = SimpleNamespace(llm_weight=0.2, confidence_threshold=0.8, risk=SimpleNamespace(**risk), seed=1)
    for config in (nested, flat, half):
        fusion = VectorizedDecisionFusion(config)
        assert (fusion.llm_weight, fusion.confidence_threshold) == (0.2, 0.8)
        assert (fusion.risk.max_consecutive_losses, fusion.risk.enable_risk_veto) == (4, False)
        assert fusion.risk.dd_buffer_threshold == VectorizedDecisionFusion({}).risk.dd_buffer_threshold


def test_the_config_can_ask_for_the_sequential_loop() -> None:
    assert not VectorizedDecisionFusion({}).sequential
    assert VectorizedDecisionFusion({"vectorized_decision_fusion": False}).sequential
    assert VectorizedDecisionFusion(SimpleNamespace(vectorized_decision_fusion=False)).sequential
    assert not VectorizedDecisionFusion({"vectorized_decision_fusion": False}, sequential=False).sequential


@pytest.mark.parametrize(
    "config", [{"llm_weight": 1.5}, {"confidence_threshold": -1}, {"risk": {"dd_buffer_threshold": 0}}]
)
def test_a_value_outside_its_limits_is_refused(config) -> None:
    with pytest.raises(ValidationError):
        VectorizedDecisionFusion(config)


# ---------------------------------------------------------------- risk scores

LIMITS = {"max_consecutive_losses": 4, "min_win_rate_threshold": 0.5, "dd_buffer_threshold": 0.8}


def state(losses=0.0, drawdown=0.0, win_rate=1.0) -> dict[str, float]:
    return {"consecutive_losses": losses, "drawdown_current": drawdown, "win_rate_recent": win_rate}


@pytest.mark.parametrize(
    ("given_state", "score"),
    [
        (state(), 0.0),
        (state(losses=4), 1.0),
        (state(losses=9), 1.0),
        (state(losses=2), 0.5),
        (state(drawdown=0.8), 1.0),
        (state(drawdown=0.2), 0.25),
        (state(losses=1, drawdown=0.4), 0.5),  # the nearer limit counts
        (state(win_rate=0.5), 0.0),
        (state(win_rate=0.0), 0.4),  # alone it never reaches the veto
        (state(losses=2, win_rate=0.25), 0.6),  # 0.5 + 0.5 x 0.4 x 0.5
        (state(win_rate=float("nan")), 0.0),  # no trade yet
        (state(drawdown=-0.1), 0.0),
    ],
)
def test_risk_scores_worked_by_hand(given_state, score) -> None:
    fusion = VectorizedDecisionFusion({"risk": LIMITS})
    scores = fusion.calculate_risk_scores([given_state])
    assert scores.dtype == np.float32
    assert scores.tolist() == pytest.approx([score])


states = st.builds(state, st.integers(0, 12), st.floats(-0.5, 2), st.floats(0, 1))


@settings(max_examples=200)
@given(
    given_state=states,
    more_losses=st.integers(0, 5),
    more_drawdown=st.floats(0, 1),
    fewer_wins=st.floats(0, 1),
    least=st.floats(0, 1),
    used=st.floats(0.01, 1),
    losses=st.integers(1, 10),
)
def test_risk_lies_in_0_to_1_and_never_falls_when_an_account_gets_worse(
    given_state, more_losses, more_drawdown, fewer_wins, least, used, losses
) -> None:
    fusion = VectorizedDecisionFusion(
        {"risk": {"max_consecutive_losses": losses, "min_win_rate_threshold": least, "dd_buffer_threshold": used}},
        sequential=True,
    )
    worse = [
        given_state,
        given_state | {"consecutive_losses": given_state["consecutive_losses"] + more_losses},
        given_state | {"drawdown_current": given_state["drawdown_current"] + more_drawdown},
        given_state | {"win_rate_recent": given_state["win_rate_recent"] * fewer_wins},
    ]
    scores = fusion.calculate_risk_scores(worse)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (scores >= scores[0] - 1e-6).all()


@given(given_states=st.lists(states, max_size=6))
def test_dicts_columns_and_structured_arrays_score_alike(given_states) -> None:
    fusion = VectorizedDecisionFusion({"risk": LIMITS}, sequential=True)
    names = list(state())
    columns = {name: np.array([s[name] for s in given_states]) for name in names}
    table = np.zeros(len(given_states), dtype=[(name, "f8") for name in names])
    for name in names:
        table[name] = columns[name]
    expected = fusion.calculate_risk_scores(given_states).tolist()
    assert len(expected) == len(given_states)
    assert fusion.calculate_risk_scores(columns).tolist() == expected
    assert fusion.calculate_risk_scores(table).tolist() == expected


@given(
    given_states=st.lists(states, min_size=1, max_size=4),
    known=st.sets(st.sampled_from(["consecutive_losses", "drawdown_current", "win_rate_recent"]), min_size=1),
)
def test_a_missing_field_adds_no_risk(given_states, known) -> None:
    fusion = VectorizedDecisionFusion({"risk": LIMITS}, sequential=True)
    neutral = {"consecutive_losses": 0.0, "drawdown_current": 0.0, "win_rate_recent": float("nan")}
    partly = [{name: value for name, value in s.items() if name in known} for s in given_states]
    columns = {name: [s[name] for s in given_states] for name in sorted(known)}
    table = np.zeros(len(given_states), dtype=[(name, "f8") for name in columns])
    for name, column in columns.items():
        table[name] = column
    expected = fusion.calculate_risk_scores([neutral | s for s in partly]).tolist()
    for given_partly in (partly, columns, table):
        assert fusion.calculate_risk_scores(given_partly).tolist() == expected
    assert fusion.calculate_risk_scores([{}]).tolist() == [0.0]
    with pytest.raises(ValueError, match=r"\['drawdown'\]; known are .*drawdown_current"):
        fusion.calculate_risk_scores({"drawdown": [0.1]})


@given(
    given_states=st.lists(states, min_size=1, max_size=5),
    weights=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
)
def test_weights_scale_what_each_limit_adds_and_the_score_stays_in_0_to_1(given_states, weights) -> None:
    names = ("consecutive_losses_weight", "drawdown_weight", "win_rate_weight")
    risk = LIMITS | dict(zip(names, weights, strict=True))
    scores = VectorizedDecisionFusion({"risk": risk}, sequential=True).calculate_risk_scores(given_states)
    assert ((scores >= 0) & (scores <= 1)).all()
    for score, s in zip(scores, given_states, strict=True):
        losses = weights[0] * min(s["consecutive_losses"] / 4, 1)
        drawdown = weights[1] * min(max(s["drawdown_current"], 0) / 0.8, 1)
        win_rate = weights[2] * max(0, (0.5 - s["win_rate_recent"]) / 0.5)
        near = max(losses, drawdown)
        assert score == pytest.approx(near + (1 - near) * win_rate, abs=1e-6)


def test_the_config_and_the_risk_settings_in_effect_can_be_read() -> None:
    config = {"llm_weight": 0.2, "risk_config": {"max_consecutive_losses": 3}}
    fusion = VectorizedDecisionFusion(config)
    assert fusion.config is config
    assert fusion.risk_config.get("max_consecutive_losses") == fusion.risk.max_consecutive_losses == 3
    assert fusion.risk_config["dd_buffer_threshold"] == 0.8
    with pytest.raises(TypeError):
        fusion.risk_config["max_consecutive_losses"] = 9  # type: ignore[index]  # it would change nothing
    both = {"risk_config": {"max_consecutive_losses": 3}, "risk": {"max_consecutive_losses": 2}}
    assert VectorizedDecisionFusion(both).risk.max_consecutive_losses == 2


def test_states_that_hold_nan_are_refused() -> None:
    fusion = VectorizedDecisionFusion({}, sequential=True)
    with pytest.raises(ValueError, match="drawdown_current of state 1 is NaN"):
        fusion.calculate_risk_scores([state(), state(drawdown=float("nan"))])
    with pytest.raises(ValueError, match="differ in length"):
        fusion.calculate_risk_scores({name: np.zeros(2 + i) for i, name in enumerate(state())})


def test_the_test_configuration_reaches_every_setting() -> None:
    config = create_test_config(
        llm_weight=0.25,
        confidence_threshold=0.75,
        vectorized_decision_fusion=False,
        fusion={"risk": {"enable_risk_veto": False, "max_consecutive_losses": 9}},
    )
    fusion = VectorizedDecisionFusion(config)
    assert (fusion.llm_weight, fusion.confidence_threshold, fusion.sequential) == (0.25, 0.75, True)
    assert (fusion.risk.enable_risk_veto, fusion.risk.max_consecutive_losses) == (False, 9)


def sum_of_steps(losses: np.ndarray, drawdown: np.ndarray, win_rate: np.ndarray) -> np.ndarray:
    """The score of docs/trading.md's comparison, under the limits of our defaults."""
    steps = np.where(losses >= 5, 0.4, 0.2 * losses / 5) + 0.3 * (drawdown > 0.8) + 0.3 * (win_rate < 0.3)
    return np.minimum(steps, 1.0)


def test_the_documented_shares_of_vetoed_random_states() -> None:
    rng, n = np.random.default_rng(0), 100_000
    losses, drawdown, win_rate = rng.integers(0, 11, n), rng.random(n), rng.random(n)
    random_states = {"consecutive_losses": losses, "drawdown_current": drawdown, "win_rate_recent": win_rate}
    near_the_limit = drawdown >= 0.8
    ours = VectorizedDecisionFusion(sequential=True).calculate_risk_scores(random_states)
    assert (ours[near_the_limit] > 0.7).all()
    assert (sum_of_steps(losses, drawdown, win_rate)[near_the_limit] > 0.7).mean() == pytest.approx(0.22, abs=0.01)
    carried_over = {"max_consecutive_losses": 3, "dd_buffer_threshold": 0.2, "min_win_rate_threshold": 0.4}
    scores = VectorizedDecisionFusion({"risk": carried_over}, sequential=True).calculate_risk_scores(random_states)
    assert (scores > 0.7).mean() == pytest.approx(0.97, abs=0.01)
