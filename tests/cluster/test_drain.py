"""Nodes that are drained: nothing new, what runs ends, actors move, and then the node is gone."""

import os
import subprocess
import tempfile
import time
import types

import pytest
from under_test import command, exceptions, ray, start_driver, wait_until


def my_node():
    return ray.get_runtime_context().get_node_id()


@ray.remote(num_cpus=1)
def where():
    return my_node()


def drain(cluster, node, *arguments, status=0):
    head = cluster.head_node.session_dir
    return command(
        "drain",
        f"--node-id={node.node_id}",
        f"--address={cluster.address}",
        f"--token-file={head}/token",
        *arguments,
        status=status,
    )


def row(node):
    return next(row for row in ray.nodes() if row["NodeID"] == node.node_id)


def is_gone(node):
    return not row(node)["Alive"]


@ray.remote(num_cpus=1)
def hold(started, gate):
    open(started, "w").close()
    while not os.path.exists(gate):
        time.sleep(0.01)
    return my_node()


def on(node):
    from ray_rs.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node.node_id, soft=False)


def test_what_runs_ends_and_nothing_new_comes(ray_cluster, tmp_path):
    cluster = ray_cluster([{"num_cpus": 1}, {"num_cpus": 2}, {"num_cpus": 2}])
    _, leaves, stays = cluster.nodes
    started, gate = str(tmp_path / "started"), str(tmp_path / "gate")
    running = hold.options(scheduling_strategy=on(leaves)).remote(started, gate)
    wait_until(lambda: os.path.exists(started), "the task to run")
    text = drain(cluster, leaves, "--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=the rack is sold")
    assert leaves.node_id in text
    assert row(leaves)["Draining"] == {"reason": 2, "message": "the rack is sold", "deadline_ms": 0}
    assert "Draining" not in row(stays)
    from ray_rs.util.state import list_nodes

    (state,) = [state for state in list_nodes() if state.node_id == leaves.node_id]
    assert (state.state, state.state_message) == ("ALIVE", "draining: preemption (the rack is sold)")
    assert "the rack is sold" in command("status", f"--address={cluster.head_node.session_dir}")
    # More than the others have room for at once.
    assert leaves.node_id not in ray.get([where.remote() for _ in range(40)], timeout=60)
    assert not is_gone(leaves), "a task still runs there"
    (tmp_path / "gate").touch()
    assert ray.get(running, timeout=60) == leaves.node_id
    wait_until(lambda: is_gone(leaves), "the node to leave")
    assert row(leaves)["DeathReasonMessage"] == "it was drained: the rack is sold"
    assert row(leaves)["DeathReason"] == 3
    assert ray.get(where.remote(), timeout=60) != leaves.node_id


def test_a_long_queue_does_not_keep_a_lease(ray_cluster):
    """Leases outlive their tasks as long as there are more: those of a node that drains are asked back."""
    cluster = ray_cluster([{"num_cpus": 0}, {"num_cpus": 1}, {"num_cpus": 1}])

    @ray.remote(num_cpus=1)
    def slow():
        time.sleep(0.05)
        return my_node()

    refs = [slow.remote() for _ in range(100)]
    leaves = ray.get(refs[0], timeout=60)
    node = next(node for node in cluster.nodes if node.node_id == leaves)
    drain(cluster, node)
    wait_until(lambda: is_gone(node), "the node to leave long before the queue is empty")
    assert ray.wait(refs, num_returns=100, timeout=0)[1], "there was more to do"
    nodes = ray.get(refs, timeout=60)
    assert set(nodes) == {node.node_id for node in cluster.nodes[1:]}


def test_actors_that_may_be_restarted_move(ray_cluster):
    cluster = ray_cluster([{"num_cpus": 0}, {"num_cpus": 2}])
    leaves = cluster.nodes[1]

    @ray.remote(num_cpus=1, max_restarts=1, max_task_retries=-1)
    class Counter:
        def __init__(self):
            self.calls = 0

        def where(self):
            self.calls += 1
            return my_node(), self.calls

    counter = Counter.remote()
    assert ray.get(counter.where.remote(), timeout=60) == (leaves.node_id, 1)
    for round in range(3):
        # More often than it may be restarted: moves are not counted.
        stays = cluster.add_node(num_cpus=2)
        drain(cluster, leaves)
        wait_until(lambda: is_gone(leaves), f"the node of round {round} to leave")
        assert ray.get(counter.where.remote(), timeout=60) == (stays.node_id, 1)
        leaves = stays
    # The one that is counted.
    ray.kill(counter, no_restart=False)
    assert ray.get(counter.where.remote(), timeout=60)[0] == leaves.node_id


def test_an_actor_that_cannot_be_restarted_keeps_its_node_until_it_ends(ray_cluster):
    cluster = ray_cluster([{"num_cpus": 0}, {"num_cpus": 1}])
    leaves = cluster.nodes[1]

    @ray.remote(num_cpus=1)
    class Held:
        def ping(self):
            return my_node()

    held = Held.remote()
    ray.get(held.ping.remote(), timeout=60)
    drain(cluster, leaves)
    cluster.add_node(num_cpus=1)
    ray.get(where.remote(), timeout=60)
    assert ray.get(held.ping.remote(), timeout=60) == leaves.node_id
    assert not is_gone(leaves)
    del held
    wait_until(lambda: is_gone(leaves), "the node to leave")


def test_the_deadline_ends_what_still_runs(ray_cluster, tmp_path):
    cluster = ray_cluster([{"num_cpus": 0}, {"num_cpus": 1}])
    leaves = cluster.nodes[1]
    started, gate = str(tmp_path / "started"), str(tmp_path / "gate")
    endless = hold.options(max_retries=0).remote(started, gate)
    retried = hold.options(max_retries=1, num_cpus=0, scheduling_strategy=on(leaves)).remote(started, gate)
    wait_until(lambda: os.path.exists(started), "the task to run")
    began = time.monotonic()
    drain(cluster, leaves, "--deadline-remaining-seconds=1.5")
    assert row(leaves)["Draining"]["deadline_ms"] > 1000 * time.time()
    with pytest.raises(exceptions.WorkerCrashedError):
        ray.get(endless, timeout=60)
    assert time.monotonic() - began > 1
    wait_until(lambda: is_gone(leaves), "the node to leave")
    with pytest.raises(exceptions.RayError):
        ray.get(retried, timeout=60)


def test_values_keep_the_node_until_they_are_freed_or_the_deadline_comes(ray_cluster):
    cluster = ray_cluster([{"num_cpus": 0}, {"num_cpus": 1}, {"num_cpus": 1}])

    @ray.remote(num_cpus=1, max_retries=0)
    def large(byte):
        return byte * 1_000_000

    kept = [large.options(scheduling_strategy=on(node)).remote(b"x") for node in cluster.nodes[1:]]
    ray.wait(kept, num_returns=2, timeout=60)
    drain(cluster, cluster.nodes[1])
    drain(cluster, cluster.nodes[2], "--deadline-remaining-seconds=1")
    wait_until(lambda: is_gone(cluster.nodes[2]), "the deadline")
    with pytest.raises(exceptions.ObjectLostError):
        ray.get(kept[1], timeout=60)
    assert not is_gone(cluster.nodes[1])
    assert ray.get(kept[0], timeout=60) == b"x" * 1_000_000
    kept.clear()
    wait_until(lambda: is_gone(cluster.nodes[1]), "the node to leave")


def test_a_task_of_a_task_there_is_served_elsewhere_or_there_if_need_be(ray_cluster, tmp_path):
    cluster = ray_cluster([{"num_cpus": 0}, {"num_cpus": 2, "resources": {"rare": 1}}, {"num_cpus": 1}])
    leaves, stays = cluster.nodes[1:]

    @ray.remote(num_cpus=1)
    def outer(started, gate):
        open(started, "w").close()
        wait_until(lambda: os.path.exists(gate), "the gate")
        # Several times: each lease that the node still gives is asked back soon, but not before its task has begun.
        return [ray.get([where.remote(), where.options(resources={"rare": 1}).remote()], timeout=60) for _ in range(3)]

    started, gate = str(tmp_path / "started"), str(tmp_path / "gate")
    ref = outer.options(scheduling_strategy=on(leaves)).remote(started, gate)
    wait_until(lambda: os.path.exists(started), "the task to run")
    drain(cluster, leaves)
    (tmp_path / "gate").touch()
    assert ray.get(ref, timeout=90) == [[stays.node_id, leaves.node_id]] * 3
    wait_until(lambda: is_gone(leaves), "the node to leave")


def test_bundles_go_to_other_nodes(ray_cluster):
    from ray_rs.util import placement_group, placement_group_table

    cluster = ray_cluster([{"num_cpus": 0}, {"num_cpus": 1}])
    leaves = cluster.nodes[1]
    group = placement_group([{"CPU": 1}])
    assert group.wait(60)
    drain(cluster, leaves)
    wait_until(lambda: is_gone(leaves), "the node to leave")
    assert placement_group_table(group)["state"] == "RESCHEDULING"
    stays = cluster.add_node(num_cpus=1)
    wait_until(lambda: placement_group_table(group)["state"] == "CREATED", "the group to move")

    from ray_rs.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    inside = where.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group))
    assert ray.get(inside.remote(), timeout=60) == stays.node_id


def test_only_an_idle_node_goes_for_being_idle(ray_cluster, tmp_path):
    cluster = ray_cluster([{"num_cpus": 0}, {"num_cpus": 1}])
    node = cluster.nodes[1]
    started, gate = str(tmp_path / "started"), str(tmp_path / "gate")
    ref = hold.remote(started, gate)
    wait_until(lambda: os.path.exists(started), "the task to run")
    assert "not idle" in drain(cluster, node, "--reason=idle", status=1)
    assert "Draining" not in row(node)
    (tmp_path / "gate").touch()
    ray.get(ref, timeout=60)

    @ray.remote
    def large():
        return b"x" * 1_000_000

    kept = large.remote()
    ray.wait([kept], timeout=60)
    wait_until(lambda: "values lie in its object store" in refused(cluster, node), "only the value to be there")
    del kept
    wait_until(lambda: not refused(cluster, node), "the node to be idle")
    wait_until(lambda: is_gone(node), "the node to leave")
    assert row(node)["DeathReason"] == 4


def refused(cluster, node):
    from ray_rs import _processes

    return _processes.drain_node(
        cluster.address, f"{cluster.head_node.session_dir}/token", node.node_id, reason=1, message="", remaining_ms=0
    )


def test_what_cannot_be_drained_says_so(ray_cluster):
    cluster = ray_cluster([{"num_cpus": 1}, {"num_cpus": 1}])
    head, node = cluster.nodes
    assert "it is the head" in drain(cluster, head, status=1)
    assert "no living node" in command("drain", "--node-id=ffff", f"--address={cluster.address}", status=1)
    assert "--reason" in command("drain", f"--node-id={node.node_id}", "--reason=boredom", status=2)
    assert "--deadline" in command("drain", f"--node-id={node.node_id}", "--deadline-remaining-seconds=x", status=2)


def test_a_program_there_keeps_its_node(ray_cluster):
    cluster = ray_cluster([{"num_cpus": 1}])
    with tempfile.TemporaryDirectory(prefix="rrs-", dir="/tmp") as elsewhere:
        there = {"RAY_RS_TMPDIR": elsewhere}
        token = f"{cluster.head_node.session_dir}/token"
        command("start", f"--address={cluster.address}", f"--token-file={token}", "--num-cpus=1", **there)
        try:
            program_keeps_its_node(cluster, there)
        finally:
            command("stop", **there)


def program_keeps_its_node(cluster, there):
    (joined,) = [row for row in ray.nodes() if row["NodeID"] != cluster.head_node.node_id]
    node = types.SimpleNamespace(node_id=joined["NodeID"])
    source = """
        import sys

        ray.init(address=sys.argv[1], logging_level="error")

        @ray.remote
        def node():
            return ray.get_runtime_context().get_node_id()

        print("ready", flush=True)
        sys.stdin.readline()
        print(ray.get(node.remote(), timeout=60), flush=True)
    """
    driver = start_driver(source, "auto", stdin=subprocess.PIPE, env=there)
    assert driver.stdout.readline() == "ready\n"
    drain(cluster, node)
    driver.stdin.write("\n")
    driver.stdin.flush()
    assert driver.stdout.readline().strip() == cluster.nodes[0].node_id
    assert driver.wait(30) == 0
    wait_until(lambda: is_gone(node), "the node to leave")
