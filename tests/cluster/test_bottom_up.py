"""Local first: what a node can bear stays there; the rest goes where it begins sooner, or where its arguments are."""

import collections
import importlib
import time

from under_test import NAME, ray, wait_until

_core = importlib.import_module(f"{NAME}._core")
strategies = importlib.import_module(f"{NAME}.util.scheduling_strategies")

MB = 2**20


def my_node():
    return ray.get_runtime_context().get_node_id()


@ray.remote(num_cpus=1)
def where(*args):
    return my_node()


def leases(node):
    return next(view["leases"] for view in _core.cluster_view() if view["node_id"] == node.node_id)


def on(node):
    return strategies.NodeAffinitySchedulingStrategy(node.node_id, soft=False)


def test_work_that_the_node_can_bear_never_reaches_the_global_scheduler(ray_cluster):
    head, _ = ray_cluster(nodes=2, num_cpus=2).nodes
    for _ in range(50):
        assert ray.get(where.remote(), timeout=60) == head.node_id
    counts = leases(head)
    assert counts["granted_locally"] > 0
    assert (counts["asked"], counts["forwarded"], counts["granted_to_others"]) == (0, 0, 0)


def test_a_backlog_goes_to_the_node_that_clears_it_sooner(ray_cluster, tmp_path):
    # One node holds on to what it has; the others do not.
    head, slow, quick = ray_cluster([{"num_cpus": 1}, {"num_cpus": 1}, {"num_cpus": 1}]).nodes

    @ray.remote(num_cpus=1)
    def hold(name):
        (tmp_path / name).touch()
        wait_until(lambda: (tmp_path / "enough").exists(), "the word to end")
        return my_node()

    held = [hold.options(scheduling_strategy=on(node)).remote(node.node_id) for node in (head, slow)]
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2, "two nodes to be full")
    assert set(ray.get([where.remote() for _ in range(10)], timeout=60)) == {quick.node_id}
    counts = leases(head)
    assert counts["asked"] > 0 and counts["forwarded"] > 0
    wait_until(lambda: leases(quick)["granted_to_others"] > 0, "the node to have said so")
    (tmp_path / "enough").touch()
    assert ray.get(held, timeout=60) == [head.node_id, slow.node_id]


def test_a_task_goes_to_its_large_argument(ray_cluster):
    _, other, third = ray_cluster(nodes=3, num_cpus=2).nodes

    @ray.remote(num_cpus=1)
    def make(size):
        return bytes(size)

    stays = {}
    for node in (other, third):
        stays[node.node_id] = make.options(scheduling_strategy=on(node)).remote(100 * MB)
    ray.wait(list(stays.values()), num_returns=2, timeout=60)
    for node_id, ref in stays.items():
        for _ in range(3):
            assert ray.get(where.remote(ref), timeout=60) == node_id
    # Nothing came here: this node's store holds no block for it.
    assert _core.store_stats()["granted_bytes"] < 100 * MB


def test_small_arguments_do_not_draw(ray_cluster):
    head, other = ray_cluster(nodes=2, num_cpus=2).nodes
    small = where.options(scheduling_strategy=on(other)).remote()
    middle = ray.remote(lambda: bytes(MB)).options(scheduling_strategy=on(other), num_cpus=1).remote()
    ray.wait([small, middle], num_returns=2, timeout=60)
    assert ray.get(where.remote(small, middle), timeout=60) == head.node_id


def test_a_large_argument_does_not_hold_a_task_up_for_long(ray_cluster, tmp_path):
    head, other = ray_cluster(nodes=2, num_cpus=1).nodes
    large = ray.remote(lambda: bytes(20 * MB)).options(scheduling_strategy=on(other), num_cpus=1).remote()
    ray.wait([large], timeout=60)

    @ray.remote(num_cpus=1)
    def hold():
        (tmp_path / "holds").touch()
        wait_until(lambda: (tmp_path / "enough").exists(), "the other one")

    held = hold.options(scheduling_strategy=on(other)).remote()
    wait_until(lambda: (tmp_path / "holds").exists(), "the node to be full")
    # It is held for a second before anybody asks: the bytes travel faster.
    time.sleep(1)
    assert ray.get(where.remote(large), timeout=60) == head.node_id
    (tmp_path / "enough").touch()
    ray.get(held, timeout=60)


def test_many_tasks_use_all_nodes(ray_cluster):
    cluster = ray_cluster(nodes=3, num_cpus=1)

    @ray.remote(num_cpus=1)
    def work():
        time.sleep(0.05)
        return my_node()

    counts = collections.Counter(ray.get([work.remote() for _ in range(60)], timeout=60))
    assert set(counts) == {node.node_id for node in cluster.nodes}
