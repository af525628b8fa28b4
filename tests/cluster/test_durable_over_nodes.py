"""A durable actor's node dies: it goes on elsewhere, with its state."""

import os

import pytest
from under_test import ray

PATIENCE = 60


class Counter:
    def __init__(self, start):
        self.count = start

    def add(self):
        self.count += 1
        return self.count

    def node(self):
        return ray.get_runtime_context().get_node_id()

    def raylet(self):
        return os.getppid()


@pytest.mark.parametrize("every", [1, 10, 1000])
def test_its_node_dies(ray_cluster, every):
    cluster = ray_cluster([{"num_cpus": 1}, {"num_cpus": 1, "resources": {"durable": 1}}])
    options = {"durable": True, "checkpoint_every": every, "resources": {"durable": 0.1}}
    # What the constructor is given lies on the node that dies, or goes with it.
    counter = ray.remote(Counter).options(**options).remote(ray.put(0))
    assert ray.get([counter.add.remote() for _ in range(25)], timeout=PATIENCE) == list(range(1, 26))
    first = ray.get(counter.node.remote(), timeout=PATIENCE)
    waiting = [counter.add.remote() for _ in range(200)]
    cluster.remove_node(cluster.nodes[1], allow_graceful=False)
    cluster.add_node(num_cpus=1, resources={"durable": 1})
    assert ray.get(waiting, timeout=PATIENCE) == list(range(26, 226))
    assert ray.get(counter.add.remote(), timeout=PATIENCE) == 226
    assert ray.get(counter.node.remote(), timeout=PATIENCE) != first


def test_its_node_is_drained(ray_cluster):
    cluster = ray_cluster([{"num_cpus": 1}, {"num_cpus": 1, "resources": {"durable": 1}}])
    options = {"durable": True, "resources": {"durable": 0.1}}
    counter = ray.remote(Counter).options(**options).remote(0)
    assert ray.get(counter.add.remote(), timeout=PATIENCE) == 1
    waiting = [counter.add.remote() for _ in range(100)]
    cluster.add_node(num_cpus=1, resources={"durable": 1})
    cluster.remove_node(cluster.nodes[1])
    assert ray.get(waiting, timeout=PATIENCE) == list(range(2, 102))
    assert ray.get(counter.add.remote(), timeout=PATIENCE) == 102
