"""What the page shows of other nodes."""

import os

import pytest
from heads import Service
from ray_rs.cluster_utils import Cluster
from under_test import ray

pytestmark = pytest.mark.ray_rs_only("Ray's dashboard is another program")


@pytest.fixture
def two_nodes(no_cluster):
    cluster = Cluster()
    cluster.add_node(num_cpus=1, include_dashboard=True, dashboard_port=0)
    cluster.add_node(num_cpus=1, resources={"other": 1})
    ray.init(address=cluster.address, logging_level="error")
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_worker_of_another_node_shows_its_stack_and_its_log(two_nodes):
    @ray.remote(resources={"other": 1})
    class There:
        def place(self):
            print("printed there", flush=True)
            return os.getpid(), ray.get_runtime_context().get_node_id()

    service = Service(two_nodes.head_node.session_dir)
    there = There.remote()
    pid, node = ray.get(there.place.remote(), timeout=30)
    assert node != ray.get_runtime_context().get_node_id()
    status, text = service.request("POST", "/api/page/stack", {"pid": pid, "node_id": node})
    assert status == 200, text
    assert "_worker_main.py" in text
    printed = service.fetched(f"/api/page/worker_log?pid={pid}&node_id={node}")["text"]
    assert f"-{pid}.out" in printed
    assert "printed there" in printed
    for wrong, words in (
        (f"pid=1&node_id={node}", "no log of a worker with pid 1"),
        (f"pid={pid}&node_id=00", "no living node"),
        (f"pid=x&node_id={node}", "must be a number"),
    ):
        status, text = service.request("GET", f"/api/page/worker_log?{wrong}")
        assert status in (400, 503)
        assert words in text
    # The same number on the head's node is nobody, or somebody else.
    head = ray.get_runtime_context().get_node_id()
    status, text = service.request("POST", "/api/page/stack", {"pid": pid, "node_id": head})
    assert (status, "There is no worker" in text) == (400, True)
