"""The GPU benchmark on the CPU: what it finds, what it stops at, and that it never says more than it measured."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from src.agent.learner import population_network
from src.benchmarks import gpu, gpu_measures, gpu_page
from src.benchmarks.gpu_checks import ACCOUNTS_EACH, PROFILES, WrongFigure, check_accounts, members_to_check
from src.errors import ConfigError, UserError
from src.trading.accounts import AccountBlock
from src.trading.layout import ACCOUNT, ACTIONS, N_OBS
from src.trading.member_accounts import CpuMemberAccounts, MemberAccounts
from tests.advisor.fake_model import FakeModel

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
SOON = 1e9
"""A deadline that is never reached."""


@pytest.fixture(scope="module")
def setting() -> gpu.Setting:
    return gpu.new_setting(CPU, small=True)


@pytest.fixture(scope="module")
def figures(setting: gpu.Setting) -> dict[str, Any]:
    """The parts that learn, at the smallest sizes."""
    said: list[str] = []
    found = gpu.measure(setting, said.append, parts=gpu.PARTS[:4])
    assert said == ["accounts ...", "learner ...", "members ...", "precisions ..."]
    return {**gpu.identity(CPU, small=True), **found}


def broken(setting: gpu.Setting, spoil: Any) -> MemberAccounts:
    """The accounts of the check, of which `spoil(accounts, steps done)` changes something after every step."""
    tapes, constants = members_to_check(setting.market, "NQ")

    class Broken(CpuMemberAccounts):
        steps = 0

        def step(self, actions: torch.Tensor) -> None:
            super().step(actions)
            self.steps += 1
            spoil(self, self.steps)

    return Broken(tapes, constants, ACCOUNTS_EACH)


def test_equal_accounts_are_found_equal_and_episodes_end_within(figures: dict[str, Any]) -> None:
    found = figures["parts"]["accounts"]
    assert (found["accounts"], found["steps"], found["left_out"]) == (65, 64, {})
    assert found["fields"] == len(ACCOUNT.names or ())
    assert found["episodes_ended"] > 0
    assert found["observation_error"] == 0.0


@pytest.mark.parametrize("name", ["stop_ticks", "reward_sum", "target_reached"])
def test_one_wrong_bit_of_one_account_is_found_and_its_input_shows_it(setting: gpu.Setting, name: str) -> None:
    """Fed to a batch of its own, the shown input gives what the check says is right."""
    member, account, step = 2, 7, 5

    def spoil(accounts: Any, steps: int) -> None:
        if steps == step + 1:
            accounts.records[member, account, ACCOUNT.fields[name][1]] ^= 1  # type: ignore[index]

    with pytest.raises(WrongFigure, match=f"account {account} of member {member} .*step {step}: field {name} is") as at:
        check_accounts(CPU, setting.market, 64, SOON, accounts=broken(setting, spoil))
    shown = at.value.shown
    json.dumps(shown)
    tapes, constants = members_to_check(setting.market, "NQ")
    block = AccountBlock(tapes[member], constants[member], 1)
    for field, value in shown["account_before"].items():
        block.accounts[field] = value
    block.observe(np.zeros((1, N_OBS), np.float32))
    chosen = np.array([ACTIONS.index(shown["action"])])
    block.step(chosen, np.zeros((1, N_OBS), np.float32), np.zeros(1, np.float32))
    assert block.accounts[name][0] == shown["cpu"] != shown["device"]
    assert shown["profile"] == PROFILES[member]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda accounts, steps: accounts.own[4, 12, 3].add_(2e-6 * (steps == 3)), "step 2: observation[223] is"),
        (lambda accounts, steps: accounts.masks[0, 0].logical_not_(), "step 0: masks[0] is False"),
        (lambda accounts, steps: accounts.rewards[1, 1].add_(1e-3), "step 0: rewards is"),
        (
            lambda accounts, steps: accounts.last_records.masked_fill_((accounts.endings != 0).unsqueeze(-1), 0),
            "before its reset is",
        ),
    ],
)  # fmt: skip
def test_whatever_else_differs_is_found(setting: gpu.Setting, spoil: Any, said: str) -> None:
    with pytest.raises(WrongFigure) as at:
        check_accounts(CPU, setting.market, 64, SOON, accounts=broken(setting, spoil))
    assert said in str(at.value)


def test_a_rounding_below_the_limit_is_none(setting: gpu.Setting) -> None:
    def spoil(accounts: Any, steps: int) -> None:
        accounts.own[4, 12, 3].add_(4e-7)

    found = check_accounts(CPU, setting.market, 8, SOON, accounts=broken(setting, spoil))
    assert 0 < found["observation_error"] < 1e-6


def test_the_learner_is_right_and_what_tf32_and_bf16_do_is_said(figures: dict[str, Any]) -> None:
    found = figures["parts"]["learner"]
    assert found["members"] == 3
    assert found["output_error"] < 1e-5
    assert found["gradient_error"] < 1e-5
    assert found["update_error"] < 1e-3
    tf32, bf16 = figures["parts"]["precisions"]["rows"]
    assert 1e-5 < tf32["gradient_effect"] < bf16["gradient_effect"] < 0.1


def test_a_wrong_gradient_stops_it_with_the_rows_that_show_it(
    setting: gpu.Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    multiply = population_network.Products.multiply

    def slightly_off(self: Any, left: Any, right: Any, out: Any) -> None:
        multiply(self, left, right, out)
        out.mul_(1.001)

    monkeypatch.setattr(population_network.Products, "multiply", slightly_off)
    found = gpu.measure(setting, lambda line: None, parts=gpu.PARTS[:3])
    assert found["wrong"]["part"] == "learner"
    assert "gradient of" in found["wrong"]["input"]["what"]
    assert len(found["wrong"]["input"]["rows"]) == setting.plan.batch_size
    assert found["parts"]["members"] == {"not_measured": "an earlier figure was wrong"}
    assert not gpu.is_complete(found)


def test_speeds_are_of_whole_rollouts_after_the_warm_up(figures: dict[str, Any], setting: gpu.Setting) -> None:
    rows = figures["parts"]["members"]["sizes"]
    assert [row["members"] for row in rows] == [1, 3]
    size = setting.plan.n_envs * setting.plan.n_steps
    for row in rows:
        assert row["rollouts"] >= 1
        assert row["steps_per_s"] == pytest.approx(row["rollouts"] * row["members"] * size / row["seconds"])
        assert sum(row["parts_s"].values()) <= row["seconds"] * 1.05
        assert (row["gpu_percent"], row["measured_bytes"], row["graphs"]) == (None, None, False)
    assert rows[1]["predicted_bytes"] > 2 * rows[0]["predicted_bytes"]


def test_utilisation_is_of_the_measured_time_alone() -> None:
    timed = gpu_measures._Timed(CPU, 1.0)
    timed._unix_began, timed.began, timed.ended = 100.0, 5.0, 7.0
    monitor = gpu_measures.BackgroundSampling(1.0)
    monitor.metrics_history = [
        {"time": at, "interval_s": 1.0, "gpu_percent": percent}
        for at, percent in ((99, 1), (101, 90), (102, 94), (103, 2))
    ]
    assert timed.utilisation(monitor) == pytest.approx(92.0)


class FakeScorer(FakeModel):
    """Answers at once; the first one made is the device's and `off` by that much in one situation."""

    made, off, batch_size = 0, 0.0, 16
    stats = SimpleNamespace(halvings=0)

    def __init__(self, *_: object) -> None:
        super().__init__()
        type(self).made += 1
        self.is_devices = self.made == 1

    def prompt_bytes(self) -> int:
        return 1000

    def score(self, situations: np.ndarray) -> np.ndarray:
        scores = super().score(situations)
        if self.is_devices:
            scores[3] += self.off
        return scores


@pytest.mark.parametrize("off", [0.0, 9.0, np.nan])
def test_advice_is_held_against_float32(monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    monkeypatch.setattr(gpu_measures, "load_model", lambda *args, **kwargs: SimpleNamespace(dtype=torch.bfloat16))
    monkeypatch.setattr(gpu_measures, "LLMScorer", FakeScorer)
    monkeypatch.setattr(FakeScorer, "made", 0)
    monkeypatch.setattr(FakeScorer, "off", off)
    if off == 0.0:
        found = gpu_measures.measure_advice(CPU, "any", 0.0, 20)
        assert (found["difference"], found["same_best"], found["dtype"]) == (0.0, 1.0, "bfloat16")
        assert (found["batch_size"], found["predicted_bytes"], found["measured_bytes"]) == (16, 16_000, None)
        return
    situation = gpu_measures.situations_to_judge(20)[3]
    with pytest.raises(WrongFigure, match=f"off float32 on the CPU, situation {situation}$"):
        gpu_measures.measure_advice(CPU, "any", 0.0, 20)


def test_a_run_that_is_not_done_in_time_or_fails_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "run_hardware_maximized.py"
    monkeypatch.setattr(gpu_measures, "ROOT", tmp_path)
    script.write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(UserError, match="not done after"):
        gpu_measures.measure_run([], 0.2)
    script.write_text("raise SystemExit('no bars')\n")
    with pytest.raises(UserError, match="exit code 1: no bars"):
        gpu_measures.measure_run([], 20.0)


def test_it_takes_no_more_than_its_time_and_says_what_that_left_out(setting: gpu.Setting) -> None:
    def sleeps(of: gpu.Setting, deadline: float) -> dict[str, Any]:
        try:
            time.sleep(30)
        except Exception as error:
            raise AssertionError("the end of the time is nothing to catch") from error
        return {}

    parts = [gpu.Part("first", 9.0, lambda of, deadline: {"figure": 1}), gpu.Part("long", 9.0, sleeps), gpu.PARTS[0]]
    began = time.perf_counter()
    found = gpu.measure(setting, lambda line: None, seconds=0.3, parts=parts)
    assert time.perf_counter() - began < 5.0
    assert found["parts"]["first"]["figure"] == 1
    assert "benchmark were up" in found["parts"]["long"]["not_measured"]
    assert "benchmark were up" in found["parts"]["accounts"]["not_measured"]


def test_a_part_that_fails_is_named_and_only_what_rests_on_it_is_left_out(setting: gpu.Setting) -> None:
    def fails(of: gpu.Setting, deadline: float) -> dict[str, Any]:
        raise RuntimeError("cuLaunchKernel failed")

    def works(of: gpu.Setting, deadline: float) -> dict[str, Any]:
        return {"figure": 2}

    parts = [
        gpu.Part("accounts", 1.0, fails),
        gpu.Part("learner", 1.0, works, ("accounts",)),
        gpu.Part("advice", 1.0, works),
    ]
    found = gpu.measure(setting, lambda line: None, parts=parts)
    assert found["parts"]["accounts"]["not_measured"] == "RuntimeError: cuLaunchKernel failed"
    assert "in fails" in found["parts"]["accounts"]["traceback"]
    assert found["parts"]["learner"]["not_measured"] == "accounts was not checked"
    assert found["parts"]["advice"]["figure"] == 2
    assert not gpu.is_complete(found)


def test_a_size_that_does_not_fit_leaves_the_others(setting: gpu.Setting) -> None:
    def of(size: int, seconds: float) -> dict[str, Any]:
        if size == 256:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"members": size}

    rows, left_out = gpu._in_turns((64, 256), time.perf_counter() + 9.0, 0.5, of)
    assert (rows, left_out) == ([{"members": 64}], {"256": "CUDA out of memory"})
    assert gpu._in_turns((1,), time.perf_counter() - 1.0, 0.5, of) == ([], {"1": "no time was left"})
    with pytest.raises(RuntimeError, match="mat1"):
        gpu._in_turns((1,), time.perf_counter() + 9.0, 0.5, lambda *_: (_ for _ in ()).throw(RuntimeError("mat1")))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_with_one_line_and_code_2() -> None:
    with pytest.raises(ConfigError, match="torch finds no CUDA device") as at:
        gpu.main([])
    assert at.value.exit_code == 2
    assert "\n" not in str(at.value)
    assert "--device cpu --small" in str(at.value)


@pytest.mark.parametrize("options", [["--device", "cpu"], ["--small", "--device", "cpu", "--write-docs", "page.md"]])
def test_figures_of_a_cpu_are_never_taken_for_a_gpus(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(options)


# The page


def measured(**parts: Any) -> dict[str, Any]:
    """A benchmark's JSON, as of a card."""
    return {
        "device": "cuda", "card": "NVIDIA H200", "driver": "570.1", "date": "2026-11-27", "revision": "0c3ded3a" * 5,
        "changed": False, "torch": "2.11.0", "numba_cuda": "0.30.4", "parts": parts, "wrong": None,
    }  # fmt: skip


def test_the_page_says_not_measured_or_card_date_and_revision() -> None:
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    begin, end = page.index(gpu_page.BEGIN), page.index(gpu_page.END)
    written = page[begin : end + len(gpu_page.END)]
    assert written == gpu_page.block(None) or ("Measured on " in written and ", revision " in written)


def test_a_figure_appears_where_it_was_measured_and_nowhere_else() -> None:
    row = {
        "members": 64,
        "precision": "float32",
        "steps_per_s": 1.5e6,
        "gpu_percent": 93.4,
        "predicted_bytes": 2e9,
        "measured_bytes": None,
    }
    found = measured(
        members={"sizes": [row], "left_out": {"256": "CUDA out of memory"}}, advice={"not_measured": "no model"}
    )
    before = "# Page\n\n" + gpu_page.block(None) + "\n\nAfter.\n"
    page = gpu_page.replaced(before, found)
    assert "Measured on NVIDIA H200 (driver 570.1), 2026-11-27, revision 0c3ded3a0c3d, torch 2.11.0" in page
    assert "| timesteps/s, 64 members | 1,500,000 at 93% utilization | 1,000,000 at 90% |" in page
    assert "| 2,000 MB and not measured, 64 members |" in page
    assert page.count("not measured") == before.count("not measured") - 2 + 1
    assert page.startswith("# Page\n")
    assert page.endswith("\n\nAfter.\n")
    with pytest.raises(ValueError, match="has no lines"):
        gpu_page.replaced("# Page\n", found)


@pytest.mark.long
def test_the_whole_command_runs_on_a_cpu(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "src.benchmarks.gpu",
        "--device",
        "cpu",
        "--small",
        "--output",
        str(tmp_path / "f.json"),
    ]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert answer.returncode == 0, answer.stderr + answer.stdout
    found = json.loads(answer.stdout.splitlines()[-1])
    assert found == json.loads((tmp_path / "f.json").read_text())
    assert found["device"] == "cpu"
    assert set(found["parts"]) == {part.name for part in gpu.PARTS}
    assert found["parts"]["run"]["exit_code"] in (0, 1)
