"""A connection to Ray: a cluster of this machine's cores, started for the run, or one that runs already.

Ray is optional and imported only here and where a task runs. Its usage statistics and its dashboard are off, and what
is started here listens on the loopback interface only.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from src.agent.settings import LOCAL
from src.errors import ConfigError

VERSION = "2.60.0"
INSTALL = "python -m pip install -r requirements-ray.txt"
ANSWER_S = 5.0
"""How long a cluster may take to accept a connection."""
ROOT = Path(__file__).resolve().parents[3]
LOOPBACK = "127.0.0.1"
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_TQDM_PATCH_PRINT": "0",
    "RAY_worker_niceness": "0",  # else 15: any other program would come first
}
"""Set in this process's environment while Ray starts: its own processes inherit it."""
LEAST_STORE_BYTES = 128 * 2**20

logger = logging.getLogger(__name__)


def check_ray(address: str) -> None:
    """Raise ConfigError where Ray or the cluster cannot be used, before a run loads anything. Imports nothing."""
    try:
        found = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        found = ""
    if found != VERSION:
        has = f"version {found} is installed" if found else "it is not installed"
        raise ConfigError(f"--ray needs Ray {VERSION}, but {has}. Install it with: {INSTALL}")
    if address == LOCAL:
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), ANSWER_S).close()
    except OSError as error:
        raise ConfigError(
            f"No Ray cluster answers at {address}, the value of --ray ({error.strerror or error}). Start one with: ray "
            f"start --head --port={port} (docs/cluster.md), correct the address, or give --ray alone."
        ) from error


class Cluster:
    """Ray as this process uses it, until `close`.

    `cores` and `memory_bytes` are those of a cluster that is started here; `store_bytes` the room for tables there. A
    task will ask for a core, `task_bytes` of memory where the cluster is another's, and a share of a GPU.
    """

    def __init__(
        self, address: str, *, cores: int, store_bytes: int, task_bytes: int = 0, gpu_share: float = 0.0
    ) -> None:
        self.address = address
        self.resources: dict[str, float] = {"num_cpus": 1}
        if gpu_share:
            self.resources["num_gpus"] = gpu_share
        self._folder = ""
        with handlers_kept(), environment(_quiet_and_here()), warnings.catch_warnings(), _loopback(only=self.is_here):
            warnings.simplefilter("ignore")
            import ray

            self.ray: Any = ray
            logging.getLogger("ray").setLevel(logging.ERROR)
            _words_to_log()
            try:
                ray.init(
                    **self._own_cluster(cores, store_bytes, gpu_share) if self.is_local else self._joined(address),
                    configure_logging=False,
                )
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                self.close()
                what = "Ray could not be started"
                if not self.is_local:
                    what = f"The Ray cluster at {address} cannot be joined (set RAY_AUTH_MODE=token if it has a token)"
                raise ConfigError(f"{what}: {' '.join(str(error).split())}") from error
            finally:
                _words_to_log()  # again: it takes handlers away
        if not self.is_local and task_bytes:
            self.resources["memory"] = task_bytes
        try:
            self.nodes = self._fitting_nodes()
        except BaseException:
            self.close()
            raise

    @property
    def is_local(self) -> bool:
        """Whether it was started for this run."""
        return self.address == LOCAL

    @property
    def is_here(self) -> bool:
        """Whether it is only reached from this machine: Ray would look for it under another of its addresses."""
        return self.is_local or self.address.rpartition(":")[0] in (LOOPBACK, "localhost")

    @property
    def cores(self) -> int:
        """Of all its nodes now."""
        return sum(int(node["Resources"].get("CPU", 0)) for node in self.nodes)

    @property
    def words(self) -> str:
        """One line for the console."""
        where = "on this machine" if self.is_local else f"at {self.address}"
        nodes = "" if self.is_local else f"{len(self.nodes)} node{'s' if len(self.nodes) != 1 else ''}, "
        return f"Ray {VERSION} {where}: {nodes}{self.cores} core{'s' if self.cores != 1 else ''}"

    def _own_cluster(self, cores: int, store_bytes: int, gpu_share: float) -> dict[str, Any]:
        self._folder = tempfile.mkdtemp(prefix="ray-")  # its sockets must have short names
        return {
            "address": "local",
            "num_cpus": cores,
            **({} if gpu_share else {"num_gpus": 0}),
            "include_dashboard": False,
            "object_store_memory": max(LEAST_STORE_BYTES, store_bytes),
            "_temp_dir": self._folder,
        }

    def _joined(self, address: str) -> dict[str, Any]:
        return {"address": address, "runtime_env": {"env_vars": {"PYTHONPATH": _python_path()}}}

    def _fitting_nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive. ConfigError where none of them could ever do a task."""
        names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
        alive = [node for node in self.ray.nodes() if node["Alive"]]
        wanted = {names[key]: value for key, value in self.resources.items()}
        if any(all(node["Resources"].get(name, 0) >= of for name, of in wanted.items()) for node in alive):
            return alive
        asked = ", ".join(
            f"{of / 1e9:.2f} GB of memory" if k == "memory" else f"{of:g} {k}" for k, of in wanted.items()
        )
        raise ConfigError(
            f"No node of the Ray cluster at {self.address} has what one training needs ({asked}). Add a node that has, "
            f"or take fewer --vectorized-envs or a smaller --batch-size."
        )

    def close(self) -> None:
        """Leave the cluster; one that was started for the run ends."""
        with handlers_kept():
            self.ray.shutdown()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def _words_to_log() -> None:
    """What Ray would print, and what its workers print, goes to the run's log: the console is the run's."""
    from ray._private import worker

    def log(data: Mapping[str, Any], ignore_prefix: bool) -> None:
        for line in data["lines"] if data["pid"] != "autoscaler" else ():  # it tells its state every few seconds
            logger.info("Ray (%s): %s", data["pid"], line)

    worker.print_to_stdstream = log
    of_ray = logging.getLogger("ray")
    of_ray.propagate = False
    if not any(isinstance(each, _OfRay) for each in of_ray.handlers):
        of_ray.addHandler(_OfRay(logging.ERROR))


class _OfRay(logging.Handler):
    """Ray's own log messages, to the run's log."""

    def emit(self, record: logging.LogRecord) -> None:
        logger.info("Ray: %s", record.getMessage())


def _quiet_and_here() -> dict[str, str]:
    return {**QUIET, "PYTHONPATH": _python_path()}


def _python_path() -> str:
    """Where nodes find the project: at this machine's path, which is the same on every node."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


@contextmanager
def _loopback(*, only: bool) -> Iterator[None]:
    """Within, Ray takes loopback for the address of this machine, as it does by default on macOS and Windows; on Linux
    it would listen on every interface."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = before and not only
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Within, Ray may set handlers of signals as it does; afterwards they are the run's again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Within, these variables are set, but for those the user has set."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update({name: value for name, value in values.items() if before[name] is None or name == "PYTHONPATH"})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
