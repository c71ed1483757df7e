"""A Ray cluster of two nodes inside this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def two_nodes(processors: int) -> Iterator[Any]:
    """A head and one more node, each with so many processors by its own account; this process is connected to it."""
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": processors, "object_store_memory": 80 << 20}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    made.add_node(**node)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()
