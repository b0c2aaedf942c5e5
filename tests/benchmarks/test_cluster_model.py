"""The model of clusters against what can be said without it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.benchmarks.cluster_model import Costs, Sweep, breaks_first, simulate

FREE = Costs(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
CALM = Sweep(1, cores=4, members=10, member_s=100.0, node_fails_every_s=math.inf, spread=0.0)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 60), st.integers(1, 7))
@settings(max_examples=50)
def test_without_costs_members_fill_all_cores_in_rows(nodes: int, cores: int, members: int, checkpoints: int) -> None:
    sweep = replace(CALM, nodes=nodes, cores=cores, members=members, checkpoints=checkpoints)
    found = simulate(sweep, FREE)
    assert found.wall_s == pytest.approx(100.0 * math.ceil(members / (nodes * cores)))
    assert (found.own, found.link, found.failures, found.lost_s) == (0.0, 0.0, 0, 0.0)
    assert found.usd == pytest.approx(found.wall_s / 3600.0 * nodes * sweep.node_usd_hour)


def test_each_cost_is_paid_where_it_arises() -> None:
    costs = Costs(1.0, 10.0, 0.0, 0.0, table_bytes=0.0, checkpoint_bytes=0.0, result_bytes=0.0)
    assert simulate(CALM, costs).wall_s == pytest.approx(3 * (100.0 + 1.0) + 10.0), "a process is cold once"
    tables = replace(FREE, table_bytes=CALM.link_bytes_s * 7.0)
    assert simulate(CALM, tables).wall_s == pytest.approx(307.0), "tables go to a node once"


def test_a_server_that_all_share_bounds_the_sweep_and_is_named() -> None:
    sweep = replace(CALM, nodes=16, cores=16, members=2000)
    slow = replace(FREE, own_s=1.0)
    found = simulate(sweep, slow)
    assert found.wall_s == pytest.approx(2000.0, rel=0.1)
    assert found.own > 0.95
    assert "the run's own process: it is full at about" in breaks_first(sweep, found)
    heavy = replace(FREE, checkpoint_bytes=sweep.link_bytes_s * 0.1)
    assert "the network link" in breaks_first(sweep, simulate(sweep, heavy))


def test_where_nodes_fail_every_member_is_done_and_only_work_since_a_checkpoint_is_done_again() -> None:
    sweep = replace(CALM, nodes=4, cores=4, members=400, node_fails_every_s=500.0, node_down_s=50.0, checkpoints=10)
    found = simulate(sweep, FREE)
    assert found.failures > 5
    assert 0.0 < found.lost_s <= found.failures * sweep.cores * sweep.member_s / sweep.checkpoints
    assert found.wall_s > 100.0 * 400 / 16
    assert found == simulate(sweep, FREE)
    assert found.wall_s < simulate(replace(sweep, checkpoints=1), FREE).wall_s
