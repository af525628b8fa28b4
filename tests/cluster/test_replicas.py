"""Several global schedulers, and a control store whose tables lie in two shards: a cluster is the same with them."""

import json
import os
import signal
from pathlib import Path

import pytest
import traces
from under_test import contents, ray, wait_until

REPLICAS = 3


@pytest.fixture
def replicas(monkeypatch):
    monkeypatch.setenv("RAY_RS_GLOBAL_SCHEDULERS", str(REPLICAS))
    monkeypatch.setenv("RAY_RS_LOG", "info")


def logs_of_replicas(cluster):
    directory = f"{cluster.head_node.session_dir}/logs"
    return [contents(f"{directory}/scheduler-{number}.log") for number in range(REPLICAS)]


def pids_of_replicas(cluster):
    return json.loads(contents(f"{cluster.head_node.session_dir}/session.json"))["scheduler_pids"]


@ray.remote(num_cpus=1, max_retries=0)
def work(number):
    return number, ray.get_runtime_context().get_node_id()


def test_requests_go_on_when_all_but_one_replica_are_killed(replicas, ray_cluster):
    cluster = ray_cluster(nodes=6, num_cpus=1)
    pids = pids_of_replicas(cluster)
    assert len(set(pids)) == REPLICAS and set(pids) <= set(traces.processes())
    # Only what does not fit on its own node is asked of a global scheduler; each node asks the same one always.
    spread = work.options(scheduling_strategy="SPREAD")

    @ray.remote(num_cpus=0, max_retries=0)
    def submit(count):
        return ray.get([spread.remote(number) for number in range(count)])

    from ray_rs.util.scheduling_strategies import NodeAffinitySchedulingStrategy as At

    at = [At(node.node_id, soft=False) for node in cluster.nodes]

    def everywhere(count):
        return [submit.options(scheduling_strategy=each).remote(count) for each in at]

    def have_all_been_asked():
        ray.get(everywhere(20), timeout=60)
        return all("proposes nodes" in log for log in logs_of_replicas(cluster)[:REPLICAS])

    asked = lambda: sum("proposes nodes" in log for log in logs_of_replicas(cluster))
    # Ids are random: three nodes of six may by chance begin with the same replica, but not all with one, nearly always.
    wait_until(lambda: have_all_been_asked() or asked() >= 2, "several replicas to be asked")
    running = everywhere(300)
    os.kill(pids[0], signal.SIGKILL)
    running += everywhere(100)
    os.kill(pids[1], signal.SIGKILL)
    running += everywhere(100)
    for found in ray.get(running, timeout=120):
        assert [number for number, _ in found] == list(range(len(found)))
    # Whoever asked one of those now asks the third.
    wait_until(
        lambda: ray.get(everywhere(20), timeout=60) and "proposes nodes" in logs_of_replicas(cluster)[2], "the third"
    )
    os.kill(pids[2], signal.SIGKILL)
    # And at last the control store, which has one, too.
    for found in ray.get(everywhere(50), timeout=60):
        assert len(found) == 50


def test_replicas_know_groups_labels_and_deaths_as_the_control_store_does(replicas, ray_cluster):
    cluster = ray_cluster([{"num_cpus": 1}, {"num_cpus": 1, "labels": {"zone": "b"}}, {"num_cpus": 1}])
    node = cluster.nodes[1].node_id
    labelled = work.options(label_selector={"zone": "b"})
    assert {at for _, at in ray.get([labelled.remote(i) for i in range(20)], timeout=60)} == {node}
    group = ray.util.placement_group([{"CPU": 1}] * 3, strategy="STRICT_SPREAD")
    assert group.wait(60)
    from ray_rs.util.scheduling_strategies import PlacementGroupSchedulingStrategy as In

    inside = [work.options(scheduling_strategy=In(group, placement_group_bundle_index=i)).remote(i) for i in range(3)]
    assert len({at for _, at in ray.get(inside, timeout=60)}) == 3
    ray.util.remove_placement_group(group)
    cluster.remove_node(cluster.nodes[2], allow_graceful=False)
    cluster.wait_for_nodes()
    spread = work.options(scheduling_strategy="SPREAD")
    places = {at for _, at in ray.get([spread.remote(i) for i in range(50)], timeout=60)}
    assert places <= {cluster.nodes[0].node_id, node}


def test_replicas_end_with_their_control_store(replicas, ray_cluster):
    cluster = ray_cluster(nodes=2, num_cpus=1)
    pids = pids_of_replicas(cluster)
    assert ray.get(work.remote(1), timeout=60)[0] == 1
    (gcs,) = traces.daemons("gcs")
    os.kill(gcs, signal.SIGKILL)
    wait_until(lambda: not set(pids) & set(traces.processes()), "the replicas to end")


def test_tables_in_two_shards(monkeypatch, ray_cluster):
    monkeypatch.setenv("RAY_RS_GCS_SHARDS", "2")
    cluster = ray_cluster(nodes=2, num_cpus=2)
    shards = sorted(path.name for path in Path(cluster.head_node.session_dir, "gcs").iterdir())
    assert shards == ["shard-0", "shard-1"]

    @ray.remote(num_cpus=0)
    class Counter:
        def __init__(self):
            self.count = 0

        def add(self):
            self.count += 1
            return self.count

    counters = [Counter.options(name=f"counter-{number}").remote() for number in range(20)]
    assert ray.get([counter.add.remote() for counter in counters], timeout=60) == [1] * 20
    found = [ray.get_actor(f"counter-{number}") for number in range(20)]
    assert ray.get([counter.add.remote() for counter in found], timeout=60) == [2] * 20
    with pytest.raises(ValueError, match="counter-3"):
        Counter.options(name="counter-3").remote()
    groups = [ray.util.placement_group([{"CPU": 0.01}] * 2, strategy="SPREAD") for _ in range(20)]
    assert all(group.wait(60) for group in groups)
    for group in groups:
        ray.util.remove_placement_group(group)
    from ray_rs.experimental import internal_kv as kv

    for number in range(50):
        kv._internal_kv_put(f"key-{number}", str(number))
    assert len(kv._internal_kv_list("key-")) == 50
    assert kv._internal_kv_get("key-7") == b"7"
    # Both shards have got something to keep.
    sizes = [
        sum(
            path.stat().st_size
            for path in Path(cluster.head_node.session_dir, "gcs", shard).rglob("*")
            if path.is_file()
        )
        for shard in shards
    ]
    assert all(sizes), sizes
