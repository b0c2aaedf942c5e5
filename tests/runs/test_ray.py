"""Runs whose tasks Ray does: the bits of a run without it, whatever dies; nothing lost, done twice or left behind."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.agent.learner_choice import choose_learner
from src.agent.settings import LOCAL, HardwareSettings
from src.errors import EXIT_BAD_INPUT, ConfigError, UserError
from src.runs.cluster import connection
from src.runs.cluster.nodes import RayNodes, ray_nodes
from src.runs.cluster.parcels import NewFiles, inside, moved, paths_in, write_at, write_files
from src.runs.engine import Engine
from src.runs.ledger import Ledger
from src.runs.preflight import gpu_share
from src.trading.settings import EnvironmentSettings
from tests.runs.pipeline_runs import ROLLOUT, Ended, Pipelines, differing, pipelines_in, run_of

LONG = {"training.timesteps": 32 * ROLLOUT, "test_mode.mode": "hardware_maximized", "validation.required": []}
"""Trainings of a second or two, so that what strikes meets them on their way."""
PHASES = ("run",)
ROOT = Path(__file__).resolve().parents[2]


def _why_not() -> str:
    """Why Ray cannot be used here; "" where it can."""
    try:
        connection.check_ray(LOCAL)
    except ConfigError as error:
        return str(error)
    return ""


needs_ray = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "Ray is there")


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipelines]:
    with pipelines_in(tmp_path_factory.mktemp("ray")) as made:
        yield made


@pytest.fixture(scope="module")
def left_alone(pipelines: Pipelines) -> Path:
    """The home of a run done in this process."""
    home = pipelines.new_home()
    ended = pipelines.run(home, {**LONG, "hardware.workers": 1})
    assert ended.error is None, ended.why
    return home


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with ray_nodes() as made:
        yield made


@contextmanager
def struck(training: str, strike: Callable[[Any], None]) -> Iterator[list[Any]]:
    """Strike the place at which a training is done, once it has saved two rollouts; the places that were struck."""
    places: list[Any] = []
    whole = Engine._saved

    def saved(self: Engine, task: Any, entry: Any, timesteps: int) -> None:
        if str(task.member.training) == training and timesteps >= 2 * ROLLOUT and not places:
            places.append(self._cores._workers[task.name].place)  # type: ignore[union-attr]
            strike(places[0])
        whole(self, task, entry, timesteps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "_saved", saved)
        yield places
    assert places, f"{training} was over before"


def tries_of(home: Path) -> dict[str, int]:
    """Of tasks that were begun more than once."""
    tasks = Ledger.read(run_of(home), PHASES).tasks
    assert {of.status for of in tasks.values()} == {"done"}
    return {name: of.tries for name, of in tasks.items() if of.tries != 1}


def listening_elsewhere(processes: list[psutil.Process]) -> list[str]:
    """Addresses other than loopback on which any of these processes listens."""
    pids = {process.pid for process in processes}
    return [
        f"{of.laddr.ip}:{of.laddr.port}"
        for of in psutil.net_connections("inet")
        if of.pid in pids
        and of.status == psutil.CONN_LISTEN
        and of.laddr.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    ]


def assert_continued(ended: Ended, home: Path, left_alone: Path, training: str, failure: str) -> None:
    """It ended as a run left alone, and only the training that was struck was begun twice, from its checkpoint."""
    assert ended.error is None, ended.why
    assert differing(left_alone, home) == []
    name = f"members/seed-0/{training}"
    assert tries_of(home) == {name: 2}
    (why,) = Ledger.read(run_of(home), PHASES).tasks[name].failures
    assert why.startswith("WorkerDied: The task of ")
    assert failure in why
    assert ended.said.count("resuming from") == 1


@needs_ray
@pytest.mark.slow
def test_on_a_local_ray_the_bits_are_those_of_this_process_also_where_a_worker_was_killed(
    pipelines: Pipelines, left_alone: Path
) -> None:
    handlers = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    children = {process.pid for process in psutil.Process().children(recursive=True)}
    heard: list[str] = []
    rays: list[psutil.Process] = []

    def strike(place: Any) -> None:
        rays.extend(p for p in psutil.Process().children(recursive=True) if p.pid not in children)
        heard.extend(listening_elsewhere(rays))
        os.kill(place.pid, signal.SIGKILL)

    home = pipelines.new_home()
    changes = {**LONG, "hardware.ray": "local", "hardware.workers": 2, "monitoring.tensorboard": True}
    with struck("rl_only", strike) as places:
        ended = pipelines.run(home, changes)
    assert_continued(ended, home, left_alone, "rl_only", f"on {places[0]}")
    assert f"Ray {connection.VERSION} on this machine: 2 cores; up to 2 tasks at a time" in ended.said
    assert ended.report["run"]["workers"] == 2
    run = ended.report["time"]["run"]
    assert abs(run["unaccounted_s"]) <= 0.05 * run["slot_s"]
    assert len(list((run_of(home) / "tensorboard").rglob("events.*"))) >= 4
    assert len(rays) > 3
    assert heard == []
    _, alive = psutil.wait_procs(rays, timeout=10)
    assert alive == []
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == handlers


@needs_ray
@pytest.mark.slow
def test_where_a_node_dies_its_training_continues_on_another_from_its_checkpoint(
    pipelines: Pipelines, left_alone: Path, nodes: RayNodes
) -> None:
    home = pipelines.new_home()
    with struck("hybrid", lambda place: nodes.kill(place.node_id)):
        ended = pipelines.run(home, {**LONG, "hardware.ray": nodes.address, "hardware.workers": 1})
    assert_continued(ended, home, left_alone, "hybrid", "on ")
    assert f"Ray {connection.VERSION} at {nodes.address}: 3 nodes, 4 cores; one task at a time" in ended.said


_RUN = """
import json, sys
from pathlib import Path
from tests.runs.pipeline_runs import Pipelines
if __name__ == "__main__":
    bars, home, changes = sys.argv[1:]
    pipelines = Pipelines.__new__(Pipelines)
    pipelines.bars = {"plain": Path(bars)}
    pipelines.run(Path(home), json.loads(changes))
"""


def tasks_of_ray() -> set[int]:
    """Processes of Ray on this machine that do a task now."""
    return {p.pid for p in psutil.process_iter(["cmdline"]) if " ".join(p.info["cmdline"] or ()).startswith("ray::")}


@needs_ray
@pytest.mark.long
def test_the_tasks_of_a_killed_run_end_and_it_resumes_on_the_same_cluster(
    pipelines: Pipelines, left_alone: Path, nodes: RayNodes
) -> None:
    home = pipelines.new_home()
    changes = {**LONG, "hardware.ray": nodes.address, "hardware.workers": 2}
    command = [sys.executable, "-c", _RUN, str(pipelines.bars["plain"]), str(home), json.dumps(changes)]
    before = tasks_of_ray()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        until = time.monotonic() + 120
        while not list(home.glob("logs/*/members/seed-0/rl_only/checkpoint-*")) and time.monotonic() < until:
            time.sleep(0.005)
        at_work = tasks_of_ray() - before
        run.kill()
    assert run.returncode == -signal.SIGKILL, "it ended before"
    assert at_work
    ended = pipelines.resume(home, changes)
    assert ended.error is None, ended.why
    assert differing(left_alone, home) == []
    assert not at_work & tasks_of_ray()
    assert set(Ledger.read(run_of(home), PHASES).tasks["members/seed-0/base"].failures) == set()


# What cannot be used is refused before anything is written


@pytest.mark.parametrize(
    ("version", "says"), [(None, "it is not installed"), ("2.9.1", "version 2.9.1 is installed")], ids=["none", "other"]
)
def test_without_the_pinned_ray_one_line_says_how_to_install_it(
    pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch, version: str | None, says: str
) -> None:
    known = importlib.metadata.version

    def found(name: str) -> str:
        if name != "ray":
            return known(name)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", found)
    home = pipelines.new_home()
    ended = pipelines.run(home, {"hardware.ray": "local"})
    assert isinstance(ended.error, UserError)
    assert ended.error.exit_code == EXIT_BAD_INPUT
    wanted = f"--ray needs Ray 2.60.0, but {says}. Install it with: python -m pip install -r requirements-ray.txt"
    assert ended.why == wanted
    assert [path for path in home.rglob("*") if path.is_file()] == []


@needs_ray
def test_where_no_cluster_answers_nothing_is_written(pipelines: Pipelines) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    home = pipelines.new_home()
    ended = pipelines.run(home, {"hardware.ray": address})
    assert f"No Ray cluster answers at {address}" in ended.why
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_own_environments_and_the_population_do_not_go_to_ray() -> None:
    environment, cpu = EnvironmentSettings(), torch.device("cpu")
    own = EnvironmentSettings(env_class="tests.tiny_runs:CountingEnv")
    with pytest.raises(ConfigError, match="env_class names environments of your own"):
        choose_learner(HardwareSettings(ray="local"), own, cpu)
    with pytest.raises(ConfigError, match="makes each member a task of its own"):
        choose_learner(HardwareSettings(ray="local", learner="population"), environment, cpu)
    assert choose_learner(HardwareSettings(ray="local"), environment, torch.device("cuda")).learner == "stock"


@pytest.mark.parametrize("address", ["here", "10.0.0.5", "ray://10.0.0.5:10001", "10.0.0.5:0", "10.0.0.5:70000", ":1"])
def test_an_address_is_host_and_port(address: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        HardwareSettings(ray=address)
    assert HardwareSettings(ray="10.0.0.5:6379").ray == "10.0.0.5:6379"


def test_a_share_of_a_gpu_is_rounded_up_and_at_most_all_of_it() -> None:
    assert [gpu_share(needed, 80e9) for needed in (8e9, 8.01e9, 80e9, 200e9)] == [0.1, 0.101, 1.0, 1.0]


# What travels


@dataclass(frozen=True)
class _Job:
    folder: Path
    members: dict[int, dict[str, Path]]
    elsewhere: Path
    inner: tuple[Path, ...] = ()


def test_a_job_moves_with_all_paths_below_the_run_and_no_other() -> None:
    here, there = Path("logs/run"), Path("/scratch")
    job = _Job(here / "a", {0: {"base": here / "b"}}, Path("models"), (here / "c/d", Path("logs/running")))
    wanted = _Job(there / "a", {0: {"base": there / "b"}}, Path("models"), (there / "c/d", Path("logs/running")))
    assert moved(job, here, there) == wanted
    assert sorted(paths_in(job, here)) == [here / "a", here / "b", here / "c/d"]
    assert moved(wanted, there, here) == job


@settings(max_examples=40)
@given(st.lists(st.one_of(st.binary(max_size=40), st.integers(0, 60)), max_size=12))
def test_a_log_on_a_node_is_the_same_log_at_the_run(changes: list[bytes | int]) -> None:
    """It grows by bytes, or is cut to a length; after a cut to less than was sent, all of it is sent again."""
    with TemporaryDirectory() as folder:
        node, run = Path(folder, "node"), Path(folder, "run")
        log = node / "own" / "metrics.jsonl"
        log.parent.mkdir(parents=True)
        log.write_bytes(b"")
        new = NewFiles(node, "own", (log,))
        for change in changes:
            raw = log.read_bytes()
            log.write_bytes(raw + change if isinstance(change, bytes) else raw[:change])
            for name, offset, grown in new.grown():
                write_at(inside(run, name), offset, grown)
            assert (run / "own" / "metrics.jsonl").read_bytes() == log.read_bytes()


def test_the_bell_starts_without_any_library() -> None:
    code = "import sys, src.runs.cluster.bell; assert not {'torch', 'numpy', 'ray'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", ""])
def test_no_file_is_written_outside_of_the_run(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no name of a file below"):
        write_files(tmp_path, {name: b""})
