"""Clusters of real nodes on this machine; each test has its own."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hosts import network  # noqa: F401 - a fixture
from under_test import IS_RAY, ray


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if IS_RAY:
        for item in items:
            if "cluster/" in item.nodeid:
                item.add_marker(pytest.mark.skip(reason="the clusters of these tests are ray_rs's"))


@pytest.fixture
def ray_cluster() -> Iterator[Callable[..., Any]]:
    """Makes a cluster, and connects this process to it.

    `ray_cluster(nodes=3, num_cpus=2)` has three nodes of two CPUs; `ray_cluster([{"num_cpus": 1}, {"labels": ...}])`
    says of each node what `Cluster.add_node` takes. `cluster.nodes` lists them, the head first.
    """
    from ray_rs.cluster_utils import Cluster

    made = []

    def make(each: list[dict[str, Any]] | None = None, *, nodes: int = 3, connect: bool = True, **common: Any) -> Any:
        ray.shutdown()
        cluster = Cluster()
        made.append(cluster)
        each = each if each is not None else [{} for _ in range(nodes)]
        cluster.nodes = [cluster.add_node(**{**common, **options}) for options in each]
        if connect:
            ray.init(address=cluster.address, logging_level="error", namespace="tests")
            cluster.wait_for_nodes()
        return cluster

    yield make
    ray.shutdown()
    for cluster in made:
        cluster.shutdown()
