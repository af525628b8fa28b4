"""Values that travel between nodes: whatever the room, and whatever happens to the nodes."""

import hashlib
import os
import signal

import numpy as np
import pytest
from under_test import exceptions, ray, wait_until

MIB = 1 << 20


def my_node():
    return ray.get_runtime_context().get_node_id()


@ray.remote(num_cpus=0, resources={"there": 0.01})
def make(number, mib):
    return np.full(mib * MIB, number, dtype=np.uint8)


@ray.remote(num_cpus=0, resources={"there": 0.01})
def total(*values):
    return [int(value.sum()) for value in values]


def pair(ray_cluster, here=80, there=80):
    """Two nodes with object stores of so many MiB; the second is `there`."""
    return ray_cluster(
        [
            {"num_cpus": 1, "object_store_memory": here * MIB},
            {"num_cpus": 1, "object_store_memory": there * MIB, "resources": {"there": 1}},
        ]
    )


def test_more_than_fits_here_is_read_one_after_the_other(ray_cluster):
    pair(ray_cluster, here=80, there=400)
    values = [make.remote(number, 20) for number in range(12)]
    for _ in range(2):
        for number, value in enumerate(values):
            assert int(ray.get(value, timeout=60).sum()) == number * 20 * MIB


def test_copies_make_room_for_what_is_made_here(ray_cluster):
    pair(ray_cluster, here=80, there=400)
    values = [make.remote(number, 20) for number in range(3)]
    for value in values:
        ray.get(value, timeout=60)
    mine = [ray.put(np.full(20 * MIB, 7, dtype=np.uint8)) for _ in range(3)]
    # Copies went, and nothing had to be written to disk for them.
    from ray_rs import _core

    assert _core.store_stats()["total_spilled_bytes"] < 21 * MIB
    assert [int(ray.get(value, timeout=60)[0]) for value in mine] == [7] * 3
    assert [int(ray.get(value, timeout=60)[0]) for value in values] == [0, 1, 2]


def test_room_for_a_copy_is_made_by_spilling(ray_cluster):
    pair(ray_cluster, here=80, there=80)
    mine = [ray.put(np.full(20 * MIB, number, dtype=np.uint8)) for number in range(6)]
    assert int(ray.get(make.remote(9, 30), timeout=60).sum()) == 9 * 30 * MIB
    assert [int(ray.get(value, timeout=60)[0]) for value in mine] == list(range(6))


def test_what_another_node_has_on_disk_is_read(ray_cluster):
    pair(ray_cluster, here=80, there=80)
    values = [make.remote(number, 20) for number in range(9)]
    ray.wait(values, num_returns=9, timeout=60)
    sums = [int(ray.get(value, timeout=60).sum()) for value in values]
    assert sums == [number * 20 * MIB for number in range(9)]


def test_arguments_from_the_other_nodes_disk(ray_cluster):
    pair(ray_cluster, here=80, there=80)
    mine = [ray.put(np.full(20 * MIB, number, dtype=np.uint8)) for number in range(9)]
    # Some of them on this node's disk, and together with what lies there more than there is room for.
    theirs = [make.remote(number, 20) for number in range(3)]
    for number in range(9):
        sums = ray.get(total.remote(mine[number], theirs[number % 3]), timeout=60)
        assert sums == [number * 20 * MIB, number % 3 * 20 * MIB]


def test_one_get_of_many_values_from_many_nodes(ray_cluster):
    ray_cluster([{"num_cpus": 0}, {"num_cpus": 1}, {"num_cpus": 1}, {"num_cpus": 1}])

    @ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
    def block(number):
        return np.random.default_rng(number).bytes(MIB), my_node()

    values = ray.get([block.remote(number) for number in range(24)], timeout=60)
    for number, (data, _) in enumerate(values):
        expected = np.random.default_rng(number).bytes(MIB)
        assert hashlib.sha256(data).digest() == hashlib.sha256(expected).digest()
    assert len({node for _, node in values}) > 1


def test_all_workers_of_a_node_share_one_copy(ray_cluster):
    ray_cluster([{"num_cpus": 1}, {"num_cpus": 2, "resources": {"there": 1}, "object_store_memory": 80 * MIB}])
    value = ray.put(np.full(50 * MIB, 3, dtype=np.uint8))

    @ray.remote(num_cpus=1, resources={"there": 0.01})
    class Reader:
        def read(self, boxed):
            self.value = ray.get(boxed[0])
            return int(self.value[0])

    # Two copies would not fit.
    readers = [Reader.remote() for _ in range(2)]
    assert ray.get([reader.read.remote([value]) for reader in readers], timeout=60) == [3, 3]


def test_a_freed_value_frees_its_copies(ray_cluster):
    from ray_rs import _core

    pair(ray_cluster, here=80, there=80)
    for _ in range(2):
        value = make.remote(1, 50)
        assert int(ray.get(value, timeout=60)[0]) == 1
        del value
    wait_until(lambda: not [row for row in _core.store_objects() if row["length"] > MIB], "the copies to be freed")


def test_a_get_that_ends_early_leaves_nothing_behind(ray_cluster):
    cluster = pair(ray_cluster)
    value = make.remote(1, 30)
    ray.wait([value], timeout=60)
    os.kill(cluster.nodes[1].raylet_pid, signal.SIGSTOP)
    try:
        with pytest.raises(exceptions.GetTimeoutError):
            ray.get(value, timeout=0.5)
    finally:
        os.kill(cluster.nodes[1].raylet_pid, signal.SIGCONT)
    assert int(ray.get(value, timeout=60)[0]) == 1


def test_the_only_copy_was_on_a_node_that_died(ray_cluster):
    cluster = pair(ray_cluster)
    once = make.options(max_retries=0)
    lost, read = once.remote(1, 2), once.remote(2, 2)
    ray.wait([lost, read], num_returns=2, timeout=60)
    view = ray.get(read, timeout=60)
    there = cluster.nodes[1]
    cluster.remove_node(there, allow_graceful=False)
    cluster.wait_for_nodes()
    with pytest.raises(exceptions.ObjectLostError, match=there.node_id):
        ray.get(lost, timeout=60)
    # A task that needs it fails with the same; one that does not goes on.
    late = cluster.add_node(num_cpus=1, resources={"there": 1})
    with pytest.raises(exceptions.ObjectLostError, match=there.node_id):
        ray.get(total.remote(lost), timeout=60)
    assert ray.get(make.options(resources={"there": 0.01}).remote(5, 1), timeout=60)[0] == 5
    assert late.node_id in {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    # What was read here stays as long as somebody looks at it.
    assert int(view.sum()) == 2 * 2 * MIB


def test_a_node_that_dies_while_it_sends(ray_cluster):
    cluster = pair(ray_cluster, here=300, there=300)
    value = make.options(max_retries=0).remote(1, 200)
    ray.wait([value], timeout=60)
    there = cluster.nodes[1]
    os.kill(there.raylet_pid, signal.SIGSTOP)
    with pytest.raises(exceptions.GetTimeoutError):
        ray.get(value, timeout=0.3)
    cluster.remove_node(there, allow_graceful=False)
    with pytest.raises(exceptions.ObjectLostError, match=there.node_id):
        ray.get(value, timeout=60)


def test_list_objects_and_memory_tell_copies_apart(ray_cluster):
    from ray_rs.util.state import list_objects

    pair(ray_cluster)
    value = make.remote(1, 5)
    seen = ray.get(value, timeout=60)
    rows = [row for row in list_objects() if row["object_size"] and row["object_size"] > MIB]
    assert {row["object_id"] for row in rows} == {value.hex(), ""}
    assert int(seen[0]) == 1
