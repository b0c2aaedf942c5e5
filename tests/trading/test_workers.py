"""Worker processes: light, without a GPU, deaf to Ctrl-C, heard when they die, and gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest
from stable_baselines3.common.vec_env import VecEnv

from src.errors import ConfigError, EnvironmentWorkerError, StopSignal, StuckWorkerError
from src.trading import stuck_worker
from src.trading.own_exit import NoExit
from src.trading.routes import make_custom_vec_env, make_vec_env
from src.trading.stuck_worker import Patience
from src.trading.workers import WorkerVecEnv, load_env_class
from tests.trading import custom_envs
from tests.trading.worlds import make_params, make_tape

ROOT = Path(__file__).resolve().parents[2]
MODULE = "tests.trading.custom_envs"
A_FEW_SECONDS = 8.0


@pytest.fixture(autouse=True)
def _nothing_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """After every test: no worker alive, no zombie, no folder, and the parent's CUDA devices as they were."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    # Not the whole process's temporary folder: the fork server's socket would lie there, too, with too long a path.
    monkeypatch.setattr(tempfile, "TemporaryDirectory", partial(tempfile.TemporaryDirectory, dir=folder))
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    yield
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == devices
    assert not list(folder.iterdir())
    until = time.monotonic() + 2.0
    while (left := workers_alive()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left


def workers_alive() -> list[psutil.Process]:
    """Children of the fork server, zombies included."""
    children = psutil.Process().children(recursive=True)
    servers = {child.pid for child in children if "multiprocessing.forkserver" in " ".join(command_of(child))}
    inner = [child for child in children if child.ppid() in servers]
    return inner + [child for child in children if child.status() == psutil.STATUS_ZOMBIE]


def command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.ZombieProcess, psutil.NoSuchProcess):
        return []


def make(name: str, n: int = 1, route: Any = "subproc", **kwargs: Any) -> VecEnv:
    return make_custom_vec_env(route, f"{MODULE}:{name}", kwargs, n)


def stuck(hangs: bool, stuck_s: float = 0.5) -> VecEnv:
    env = make_custom_vec_env("subproc", f"{MODULE}:StopsOnAction", {"hangs": hangs}, 3, stuck_s)
    env.reset()
    for _ in range(5):
        env.step(np.zeros(3, np.int64))
    return env


def message_of(act: Callable[[], Any], within_s: float = A_FEW_SECONDS) -> str:
    began = time.monotonic()
    with pytest.raises(EnvironmentWorkerError) as caught:
        act()
    assert time.monotonic() - began < within_s
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"), [("RaisesInInit", "no table of contents"), ("NoSpaces", "has no attribute")]
)
def test_a_class_that_cannot_be_made_tells_its_traceback(name: str, words: str) -> None:
    text = message_of(lambda: make(name, 2))
    assert "of 2 ended with exit code 1" in text
    assert words in text
    assert "Traceback (most recent call last)" in text


def test_a_later_worker_that_cannot_be_made_is_named() -> None:
    text = message_of(lambda: WorkerVecEnv([custom_envs.Plain, custom_envs.Plain, custom_envs.RaisesInInit]))
    assert "environment 2 of 3 ended with exit code 1" in text
    assert "no table of contents" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("RaisesInReset", "nothing to begin with"),
        ("RaisesInMasks", "masks fell off"),
        ("RaisesInStep", "divide_by_nothing"),
        ("EndsOfFile", "EOFError: the file of bars was cut short"),
    ],
)
def test_whatever_fails_later_tells_its_traceback(name: str, words: str) -> None:
    env = make(name, 2)

    def play() -> None:
        env.reset()
        env.env_method("action_masks")
        env.step(np.array([0, 0]))

    text = message_of(play)
    assert words in text
    assert custom_envs.__name__.rpartition(".")[2] in text, "the user's own file is not in the traceback"


def test_the_worker_that_failed_is_the_one_named_and_soon() -> None:
    env = make("RaisesOnAction", 4)
    env.reset()
    env.step(np.array([0, 1, 2, 0]))
    # A search through the workers one after another would wait for each that lives.
    text = message_of(lambda: env.step(np.array([0, 1, 2, 3])), within_s=3.0)
    assert "environment 3 of 4 ended with exit code 1" in text
    assert "ZeroDivisionError: action three" in text


def test_a_worker_that_just_leaves_tells_its_exit_code() -> None:
    env = make("ExitsOnAction", 3)
    env.reset()
    text = message_of(lambda: env.step(np.array([0, 3, 0])))
    assert "environment 1 of 3 ended with exit code 3, leaving no traceback" in text


def _stop(signum: int, frame: object) -> None:
    raise StopSignal


@pytest.mark.parametrize("where", ["made", "in step"])
@pytest.mark.parametrize("how", ["exit", "interrupt"])
@pytest.mark.parametrize("route", ["subproc", "dummy"])
def test_an_environment_that_exits_or_interrupts_has_failed_itself(
    route: Any, how: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(env: VecEnv) -> None:
        env.reset()
        env.step(np.array([0]))

    before = signal.signal(signal.SIGINT, _stop)  # as a command does
    try:
        with pytest.raises((ConfigError, EnvironmentWorkerError)) as caught:
            play(make("Leaves", 1, route, how=how, where=where))
    finally:
        signal.signal(signal.SIGINT, before)
    text = str(caught.value)
    assert {"exit": "SystemExit(0)", "interrupt": "KeyboardInterrupt(me)"}[how] in text
    assert f"{MODULE}:Leaves" in text
    assert where in text


def test_a_signal_during_a_step_stays_a_signal() -> None:
    class Signalled(custom_envs.Plain):
        def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict]:
            raise StopSignal

    env = NoExit(Signalled(), "mine:Signalled")
    env.reset()
    with pytest.raises(StopSignal):
        env.step(np.int64(0))


@pytest.mark.parametrize(
    "ask",
    [
        lambda env: env.step(np.array([0, 0])),
        lambda env: env.reset(),
        lambda env: env.env_method("action_masks"),
        lambda env: env.has_attr("action_masks"),
        lambda env: env.get_attr("render_mode"),
        lambda env: env.set_attr("x", 1),
        lambda env: env.env_is_wrapped(gym.Wrapper),
    ],
    ids=["step", "reset", "env_method", "has_attr", "get_attr", "set_attr", "env_is_wrapped"],
)
def test_a_killed_worker_tells_its_signal_whatever_is_asked_next(ask: Callable[[VecEnv], Any]) -> None:
    env = make("Plain", 2)
    env.reset()
    victim = env.processes[1]
    os.kill(victim.pid, signal.SIGKILL)
    victim.join(timeout=5)
    text = message_of(lambda: ask(env))
    assert "environment 1 of 2 ended by signal SIGKILL" in text
    assert "memory" in text


def test_a_worker_killed_in_the_middle_of_a_step_is_noticed() -> None:
    env = make("Sleeps", 2)
    env.reset()
    env.step_async(np.array([0, 0]))
    os.kill(env.processes[0].pid, signal.SIGKILL)
    assert "environment 0 of 2 ended by signal SIGKILL" in message_of(env.step_wait)


def test_workers_see_no_gpu_and_ignore_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    env = make("Plain", 2)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    env.reset()
    infos = env.step(np.array([0, 0]))[3]
    assert all(info["cuda"] == "" and info["sigint_ignored"] for info in infos)
    assert {info["pid"] for info in infos} == {process.pid for process in env.processes}
    for process in env.processes:
        os.kill(process.pid, signal.SIGINT)
    assert len(env.step(np.array([0, 0]))[3]) == 2
    env.close()
    monkeypatch.undo()


@pytest.mark.slow
def test_workers_see_no_gpu_even_where_the_fork_server_was_started_by_somebody_else() -> None:
    code = f"""
import multiprocessing as mp, os
import numpy as np
if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = "0"
    process = mp.get_context("forkserver").Process(target=print)
    process.start()
    process.join()
    from src.trading.routes import make_custom_vec_env
    env = make_custom_vec_env("subproc", "{MODULE}:Plain", {{}}, 1)
    env.reset()
    print("sees", repr(env.step(np.zeros(1, int))[3][0]["cuda"]), "parent", os.environ["CUDA_VISIBLE_DEVICES"])
    env.close()
"""
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert "sees '' parent 0" in answer.stdout, answer.stderr


@pytest.mark.parametrize("name", ["Sleeps", "Stubborn"])
def test_closing_in_the_middle_of_a_step_takes_less_than_five_seconds(name: str) -> None:
    env = make(name, 2)
    env.reset()
    env.step_async(np.array([0, 0]))
    time.sleep(0.2)
    began = time.monotonic()
    env.close()
    assert time.monotonic() - began < 5.0
    env.close()


def test_environments_that_wait_are_closed_and_not_cut_off(tmp_path: Path) -> None:
    env = make("Plain", 3, folder=str(tmp_path))
    pids = sorted(process.pid for process in env.processes)
    env.reset()
    env.step(np.zeros(3, int))
    env.close()
    assert sorted(int(path.name.rpartition("-")[2]) for path in tmp_path.glob("closed-*")) == pids


_KILLED = """
import sys
import numpy as np
from src.trading import workers
from src.trading.routes import make_custom_vec_env
if __name__ == "__main__":
    if sys.argv[1] == "starting":
        workers.PRELOAD.insert(-1, "slow_module")
    env = make_custom_vec_env("subproc", "tests.trading.custom_envs:Sleeps", {}, 2)
    env.reset()
    env.step_async(np.zeros(2, int))
    open("stepping", "w").close()
    env.step_wait()
"""
_SLOW = "import time; open('starting', 'w').close(); time.sleep(60)"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
@pytest.mark.parametrize("instant", ["starting", "stepping"])
def test_kill_9_of_a_run_leaves_no_fork_server_and_no_worker(instant: str, tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(_KILLED)
    (tmp_path / "slow_module.py").write_text(_SLOW)
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    run = subprocess.Popen([sys.executable, "run.py", instant], cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    while not (tmp_path / instant).exists():
        assert run.poll() is None
        time.sleep(0.01)
    family = psutil.Process(run.pid).children(recursive=True)
    if instant == "stepping":
        assert len(family) == 4  # the resource tracker, the fork server, two workers
        os.kill(family[-1].pid, signal.SIGSTOP)  # one worker is in a step of a minute, the other is stopped
    run.kill()
    run.wait()
    until = time.monotonic() + 20.0  # the fork server has imported torch, and takes seconds to end
    while (left := [command for process in family if (command := command_of(process))]) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == []


def test_a_failure_while_starting_cleans_up() -> None:
    class Unpicklable:
        def __reduce__(self) -> Any:
            raise TypeError("stays where it is")

        def __call__(self) -> gym.Env:
            raise AssertionError("never reached")

    with pytest.raises(TypeError, match="stays where it is"):
        WorkerVecEnv([custom_envs.Plain, Unpicklable()])


def test_a_failing_tape_worker_takes_the_tape_folder_with_it() -> None:
    env = make_vec_env("subproc", make_tape(0), make_params(), 2)
    env.reset()
    os.kill(env.processes[0].pid, signal.SIGKILL)
    assert "SIGKILL" in message_of(lambda: env.step(np.zeros(2, int)))


@pytest.mark.parametrize("route", ["subproc", "dummy", "batched"])
def test_masks_are_the_environments_own_or_all_true(route: Any) -> None:
    for name, expected in (("Plain", [True] * 4), ("Masked", [True, True, False, False])):
        env = make(name, 2, route)
        env.reset()
        masks = np.stack(env.env_method("action_masks"))
        assert masks.dtype == np.bool_
        assert masks.tolist() == [expected] * 2
        assert env.has_attr("action_masks")
        env.close()


@pytest.mark.parametrize("route", ["subproc", "dummy"])
def test_actions_that_are_not_discrete_are_refused(route: Any) -> None:
    with pytest.raises(ConfigError, match=r"TwoActions.*MultiDiscrete.*needs Discrete"):
        make("TwoActions", 1, route)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Plain", "write it as package.module:Class"),
        (":Plain", "write it as package.module:Class"),
        (f"{MODULE}:", "write it as package.module:Class"),
        (f"{MODULE}:Nowhere", "Nowhere"),
        ("no.such.module:Env", "No module named"),
        ("..trading:Env", "TypeError"),
        ("broken_module:Env", "SyntaxError"),
        ("failing_module:Env", "ValueError: on the way in"),
        ("leaving_module:Env", "SystemExit(0) when its module was imported"),
        (f"{MODULE}:not_a_class", "is not a subclass of gymnasium.Env"),
        (f"{MODULE}:NUMBER", "is not a subclass of gymnasium.Env"),
        ("pathlib:Path", "is not a subclass of gymnasium.Env"),
    ],
)
def test_a_class_that_cannot_be_used_is_said_in_one_paragraph(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_module.py").write_text("class Env(:\n")
    (tmp_path / "leaving_module.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "failing_module.py").write_text("raise ValueError('on the way in')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as caught:
        make_custom_vec_env("subproc", name, {}, 1)
    text = str(caught.value)
    assert reason in text
    assert repr(name) in text
    assert "environment.env_class" in text
    assert "\n" not in text


def test_a_class_in_the_working_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_market.py").write_text("from tests.trading.custom_envs import Masked as Mine\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    assert load_env_class("my_own_market:Mine") is custom_envs.Masked
    env = make_custom_vec_env("subproc", "my_own_market:Mine", {}, 1)
    assert env.env_method("action_masks")[0].tolist() == [True, True, False, False]
    env.close()
    sys.modules.pop("my_own_market", None)


@pytest.mark.parametrize("hangs", [False, True], ids=["stopped", "waiting"])
def test_a_stuck_worker_is_named_with_its_state_and_stack(hangs: bool) -> None:
    env = stuck(hangs)
    pid = env.processes[1].pid
    text = message_of(lambda: env.step(np.array([0, 3, 0])))
    assert f"environment 1 of 3 ({env.processes[1].name}, process {pid})" in text
    assert "has not answered a step (median " in text
    assert ("it is sleeping" if hangs else "it is stopped (as by SIGSTOP") in text
    assert "hardware.stuck_worker_s (0.5)" in text
    assert "in wait_for_a_lock_nobody_holds" in text, "the Python stack"
    assert "custom_envs.py" in text
    assert not psutil.pid_exists(pid)


def test_a_stuck_worker_ends_a_run_with_exit_code_1() -> None:
    env = stuck(hangs=True)
    with pytest.raises(StuckWorkerError) as caught:
        env.step(np.array([3, 0, 0]))
    assert caught.value.exit_code == 1


def test_without_a_python_stack_the_kernel_says_where_it_waits(tmp_path: Path) -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        os.kill(process.pid, signal.SIGSTOP)
        until = time.monotonic() + 2.0
        while stuck_worker._state(process.pid) != "T" and time.monotonic() < until:
            time.sleep(0.01)
        state, stack = stuck_worker.state_and_stack(process.pid, tmp_path / "none")
        assert state == "it is stopped (as by SIGSTOP or Ctrl-Z)"
        assert stack.startswith("It gives no Python stack; it waits in the kernel at ")
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("call", ["reset", "env_method"])
def test_also_a_call_that_is_no_step_is_waited_for_only_so_long(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stuck_worker, "START_FLOORS", 2)
    env = make_custom_vec_env("subproc", f"{MODULE}:Plain", {}, 2, 1.0)
    env.reset()
    os.kill(env.processes[1].pid, signal.SIGSTOP)
    text = message_of(env.reset if call == "reset" else lambda: env.env_method("action_masks"))
    assert "environment 1 of 2" in text
    assert "has not answered a call for 2 s" in text


def test_sixty_median_steps_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(stuck_worker.time, "monotonic", lambda: now)
    patience = Patience(60.0)
    assert patience.limit_s() == 600.0, "nothing is known of the first step"
    for seconds in (1.0, 3.0, 400.0):
        patience.step_began()
        now += seconds
        patience.step_ended()
    patience.step_began()
    assert patience.limit_s() == 180.0
    for _ in range(10):
        patience.step_began()
        now += 0.01
        patience.step_ended()
    patience.step_began()
    assert patience.limit_s() == 60.0


def test_a_slow_step_is_waited_for() -> None:
    env = make_vec_env("subproc", make_tape(0), make_params(), 2)
    env.reset()
    env._patience.floor_s = 0.01
    env._patience._steps.extend([0.1] * 5)  # sixty times that are six seconds
    os.kill(env.processes[0].pid, signal.SIGSTOP)
    env.step_async(np.zeros(2, np.int64))
    threading.Timer(1.0, os.kill, (env.processes[0].pid, signal.SIGCONT)).start()
    assert len(env.step_wait()[3]) == 2
    env.close()


def test_workers_draw_different_numbers_from_numpys_global_generator() -> None:
    env = make("Draws", 3)
    draws = env.reset()
    env.close()
    assert len(np.unique(draws[:, 0])) == 3


def test_a_signal_while_closing_leaves_no_worker() -> None:
    env = make("Stubborn", 2)
    env.reset()
    env.step_async(np.array([0, 0]))
    before = signal.signal(signal.SIGALRM, lambda *_: signal.default_int_handler(signal.SIGINT, None))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)  # in the middle of the two seconds given to SIGTERM
        with pytest.raises(KeyboardInterrupt):
            env.close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert not any(psutil.pid_exists(process.pid) for process in env.processes)


@pytest.mark.slow
def test_the_fork_server_has_imported_what_workers_need_wherever_it_is_started(tmp_path: Path) -> None:
    """The script lies elsewhere and puts the project on sys.path itself; the working folder is elsewhere, too."""
    script = tmp_path / "script.py"
    script.write_text(f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
imported_by = os.getpid()

def make():
    # Before anything of it could be imported here.
    found = sorted(name for name in ("src.trading.workers", "torch") if name in sys.modules)
    from src.trading.kernel import step_account
    from tests.trading.custom_envs import Plain
    class Told(Plain):
        def action_masks(self):
            by_server = sys.modules["__main__"].imported_by == os.getppid()
            return [*found, len(step_account.signatures), os.environ.get("PYTHONPATH"), by_server]
    return Told()

if __name__ == "__main__":
    from src.trading.workers import WorkerVecEnv
    env = WorkerVecEnv([make, make], preload=["src.trading.warm_worker"])
    print(*env.env_method("action_masks"), sep="\\n")
    env.close()
""")
    answer = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    expected = str(["src.trading.workers", "torch", 1, None, True])
    assert answer.stdout.splitlines() == [expected, expected], answer.stderr


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from src.trading.routes import make_custom_vec_env
make_custom_vec_env("subproc", "{MODULE}:Plain", {{}}, 1)
""")
    answer = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 1
    assert 'its work under `if __name__ == "__main__":`' in answer.stderr


def test_a_trading_environment_runs_without_torch() -> None:
    code = """
import sys
from tests.trading.worlds import make_params, make_tape
from src.trading.gym_env import TradingEnv
env = TradingEnv(make_tape(0), make_params())
env.reset()
env.step(0)
wrong = {"torch", "stable_baselines3", "pandas", "pandas_market_calendars"} & set(sys.modules)
assert not wrong, wrong
"""
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
