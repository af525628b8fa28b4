"""Who looks sees all nodes: why something does not go on, waits that can never end, lists, traces."""

import importlib
import os
import signal

import pytest
from under_test import NAME, exceptions, ray, wait_until

strategies = importlib.import_module(f"{NAME}.util.scheduling_strategies")
MIB = 1 << 20


@pytest.fixture
def state():
    return importlib.import_module(f"{NAME}.util.state")


def on(node):
    return strategies.NodeAffinitySchedulingStrategy(node.node_id, soft=False)


@ray.remote(num_cpus=0)
class Peer:
    """Calls others as it is told."""

    def meet(self, other):
        self.other = other

    def value(self):
        return 1

    def ask(self):
        return ray.get(self.other.value.remote())

    def ask_back(self):
        return ray.get(self.other.ask.remote())


@ray.remote(num_cpus=0)
class AsyncPeer:
    async def meet(self, other):
        self.other = other

    async def ask_back(self):
        return await self.other.ask.remote()


@ray.remote(num_cpus=1)
def held(path):
    import time

    while not os.path.exists(path):
        time.sleep(0.01)
    return 1


@ray.remote(num_cpus=0)
def outer(boxed):
    return ray.get(boxed[0])


# ---- waits that can never end ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [Peer, AsyncPeer])
def test_actors_on_two_nodes_that_wait_for_each_other(ray_cluster, first):
    _, here, there = ray_cluster([{"num_cpus": 0}, {"num_cpus": 1}, {"num_cpus": 1}]).nodes
    one = first.options(scheduling_strategy=on(here), max_concurrency=1).remote()
    two = Peer.options(scheduling_strategy=on(there)).remote()
    ray.get([one.meet.remote(two), two.meet.remote(one)], timeout=60)
    if first is AsyncPeer:
        # The call that comes back finds no place.
        ray.get(two.meet.remote(one), timeout=60)

        @ray.remote(num_cpus=0)
        class Back:
            def __init__(self, target):
                self.target = target

            def ask(self):
                return ray.get(self.target.ask_back.remote())

        back = Back.options(scheduling_strategy=on(there)).remote(one)
        ray.get(one.meet.remote(back), timeout=60)
    with pytest.raises(exceptions.DeadlockError) as raised:
        ray.get(one.ask_back.remote(), timeout=60)
    text = str(raised.value)
    # Whoever raises it says of the other where it is.
    assert "on node " in text and "can never end" in text
    # Both have survived it.
    if first is Peer:
        assert ray.get([one.value.remote(), two.value.remote()], timeout=60) == [1, 1]


def test_a_slow_one_on_another_node_is_waited_for(ray_cluster, tmp_path):
    _, there = ray_cluster(nodes=2, num_cpus=1).nodes
    slow = held.options(scheduling_strategy=on(there)).remote(str(tmp_path / "gate"))
    waits = outer.remote([slow])
    # Longer than the first look for a deadlock takes, and its proof.
    assert ray.wait([waits], timeout=4)[0] == []
    (tmp_path / "gate").touch()
    assert ray.get(waits, timeout=60) == 1


# ---- why -------------------------------------------------------------------------------------------------------------


def test_why_follows_a_task_to_its_node(ray_cluster, tmp_path):
    head, middle, last = ray_cluster(nodes=3, num_cpus=1).nodes
    runs = held.options(scheduling_strategy=on(last)).remote(str(tmp_path / "gate"))
    waits = outer.options(scheduling_strategy=on(middle)).remote([runs])

    def told():
        text = ray.why(waits)
        is_whole = "'outer' runs since" in text and "'held' runs since" in text and "It waits in get()" in text
        return text if is_whole else None

    text = wait_until(told, "both of them to run")
    assert f"on node {middle.node_id[:12]}" in text and f"on node {last.node_id[:12]}" in text
    assert head.node_id[:12] not in text
    (tmp_path / "gate").touch()
    assert ray.get(waits, timeout=60) == 1


def test_a_node_that_does_not_answer_is_named_and_not_waited_for(ray_cluster, tmp_path):
    _, there = ray_cluster(nodes=2, num_cpus=1).nodes
    runs = held.options(scheduling_strategy=on(there)).remote(str(tmp_path / "gate"))
    wait_until(lambda: "on node" in ray.why(runs), "it to run there")
    os.kill(there.raylet_pid, signal.SIGSTOP)
    try:
        text = ray.why(runs)
    finally:
        os.kill(there.raylet_pid, signal.SIGCONT)
    assert f"did not answer: {there.node_id[:12]}" in text
    # What its owner knows is told.
    assert "'held' was sent to the worker of pid" in text
    (tmp_path / "gate").touch()
    assert ray.get(runs, timeout=60) == 1


# ---- lists -----------------------------------------------------------------------------------------------------------


def test_lists_have_the_rows_of_all_nodes(ray_cluster, tmp_path, state):
    nodes = ray_cluster(nodes=3, num_cpus=1).nodes

    @ray.remote(num_cpus=1)
    def keep(path):
        # A task and an object of its own on each node.
        child = held.options(num_cpus=0, scheduling_strategy=strategy).remote(path)
        mine = ray.put(bytes(3 * MIB))
        ray.get(child)
        return len(ray.get(mine))

    gate = str(tmp_path / "gate")
    kept = []
    for node in nodes:
        strategy = on(node)
        kept.append(ray.remote(keep._function).options(num_cpus=1, scheduling_strategy=strategy).remote(gate))
    ids = {node.node_id for node in nodes}

    def running(name, wanted):
        rows = [row for row in state.list_tasks() if row.name.endswith(name) and row.state == wanted]
        return {row.node_id for row in rows}

    wait_until(lambda: running("keep", "RUNNING_IN_RAY_GET") == ids, "all of the outer ones to be listed")
    wait_until(lambda: running("held", "RUNNING") == ids, "all of the inner ones to be listed")
    workers = state.list_workers()
    assert {row.node_id for row in workers if row.is_alive and row.worker_type == "WORKER"} == ids
    assert len({row.worker_id for row in workers}) == len(workers)
    pids = {row.worker_pid for row in state.list_tasks() if row.name.endswith("keep")}
    large = [row for row in state.list_objects() if row.object_size and row.object_size >= 3 * MIB]
    assert {row.pid for row in large} == pids and all(row.object_id for row in large)
    (tmp_path / "gate").touch()
    assert ray.get(kept, timeout=60) == [3 * MIB] * 3


def test_the_trace_has_what_travelled(ray_cluster):
    head, there = ray_cluster(nodes=2, num_cpus=1).nodes
    made = ray.remote(lambda: bytes(5 * MIB)).options(scheduling_strategy=on(there)).remote()
    assert len(ray.get(made, timeout=60)) == 5 * MIB
    trace = ray.timeline()
    [slice_] = [event for event in trace if event.get("cat") == "object_store:fetch"]
    assert slice_["args"]["from_node"] == there.node_id and slice_["args"]["bytes"] >= 5 * MIB
    assert slice_["ph"] == "X" and not slice_["args"]["failed"]
    rows = [event["args"]["name"] for event in trace if event["ph"] == "M" and event["pid"] == slice_["pid"]]
    assert "object store: fetch" in rows
    assert head.node_id != there.node_id


# ---- errors ----------------------------------------------------------------------------------------------------------


def test_the_error_of_a_dead_actor_says_where_it_was(ray_cluster):
    _, there = ray_cluster(nodes=2, num_cpus=1).nodes

    @ray.remote(num_cpus=0, max_restarts=0)
    class Dies:
        def pid(self):
            return os.getpid()

        def die(self):
            os._exit(1)

    actor = Dies.options(scheduling_strategy=on(there)).remote()
    pid = ray.get(actor.pid.remote(), timeout=60)
    [ip] = {node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == there.node_id}
    with pytest.raises(exceptions.ActorDiedError) as raised:
        ray.get(actor.die.remote(), timeout=60)
    assert f"\tpid: {pid}\n" in str(raised.value) and f"\tip: {ip}\n" in str(raised.value)
