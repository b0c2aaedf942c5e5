"""Several nodes of Ray on this machine, to be killed: for studies and tests, without a second machine."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from src.runs.cluster.connection import LOOPBACK, QUIET, check_ray, environment, handlers_kept

STORE_BYTES = 128 * 2**20


class RayNodes:
    """A head without cores, on which a run's own process lives, and nodes that do tasks."""

    def __init__(self, cluster: Any, cores: int) -> None:
        self._cluster = cluster
        self._cores = cores
        self.address: str = cluster.address
        self._nodes: list[Any] = []

    def add(self) -> Any:
        """Start another node."""
        node = self._cluster.add_node(
            num_cpus=self._cores, num_gpus=0, object_store_memory=STORE_BYTES, node_ip_address=LOOPBACK
        )
        self._nodes.append(node)
        return node

    def kill(self, node_id: str) -> None:
        """Kill a node, as a machine that loses its power."""
        (node,) = (node for node in self._nodes if node.node_id == node_id)
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def kill_one(self, rng: random.Random) -> bool:
        """Kill one of the nodes and start another. True: there always is one."""
        self.kill(rng.choice(self._nodes).node_id)
        self.add()
        return True


@contextmanager
def ray_nodes(nodes: int = 2, cores: int = 2) -> Iterator[RayNodes]:
    """So many nodes of so many cores, and a head. ConfigError where Ray is not installed."""
    check_ray("local")
    with (
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder,
        environment({**QUIET, "RAY_TMPDIR": folder}),
        handlers_kept(),
    ):
        from ray.cluster_utils import Cluster

        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "num_gpus": 0,
                "include_dashboard": False,
                "object_store_memory": STORE_BYTES,
                "node_ip_address": LOOPBACK,
            },
        )
        try:
            made = RayNodes(cluster, cores)
            for _ in range(nodes):
                made.add()
            yield made
        finally:
            cluster.shutdown()
