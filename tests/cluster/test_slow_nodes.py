"""Nothing is declared dead for being slow, where the kernel says who is dead; what somebody has stopped is not slow."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import traces
from under_test import exceptions, ray, wait_until

# Longer than a machine that is silent is asked whether it is there, waited for, and given up.
SILENCE = 11.0


def test_a_control_store_that_was_stopped_for_a_while_goes_on(ray_cluster):
    goes_on(ray_cluster([{"num_cpus": 1}, {"num_cpus": 1, "resources": {"there": 1}}]), "gcs", SILENCE)


def test_a_raylet_that_was_stopped_for_a_moment_goes_on(ray_cluster):
    goes_on(ray_cluster([{"num_cpus": 1}, {"num_cpus": 1, "resources": {"there": 1}}]), "raylet", 2.0)


def goes_on(cluster, who, seconds):

    @ray.remote(num_cpus=0, resources={"there": 0.01})
    class Counter:
        def __init__(self):
            self.count = 0

        def add(self):
            self.count += 1
            return self.count

    counter = Counter.remote()
    assert ray.get(counter.add.remote(), timeout=60) == 1
    session = json.loads((Path(cluster.nodes[0].session_dir) / "session.json").read_text())
    pid = cluster.nodes[1].raylet_pid if who == "raylet" else session["gcs_pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)
    # Asks the control store, and a new actor there needs both.
    assert ray.get(Counter.remote().add.remote(), timeout=60) == 1
    assert sum(node["Alive"] for node in ray.nodes()) == 2
    assert ray.get(counter.add.remote(), timeout=60) == 2, "it was not started anew"


def test_the_heads_own_raylet_is_no_exception(ray_cluster, monkeypatch):
    """It lies beside the control store, which ends it all the same: its program hears of it and waits no more."""
    monkeypatch.setenv("RAY_RS_NODE_TIMEOUT_S", "3")
    cluster = ray_cluster(nodes=2, num_cpus=1)
    head, other = cluster.nodes

    @ray.remote(num_cpus=1)
    def where():
        return ray.get_runtime_context().get_node_id()

    assert ray.get(where.remote(), timeout=60) in (head.node_id, other.node_id)
    os.kill(head.raylet_pid, signal.SIGSTOP)
    wait_until(lambda: head.raylet_pid not in traces.processes(), "the raylet to end", 45)
    with pytest.raises(exceptions.LocalRayletDiedError):
        ray.get([where.remote() for _ in range(4)], timeout=60)


def test_a_raylet_that_stays_stopped_is_ended_and_its_work_goes_elsewhere(ray_cluster):
    """Whoever froze it, its node is of no use; and nothing of it goes on when it is woken."""
    from ray_rs.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    cluster = ray_cluster([{"num_cpus": 1}, {"num_cpus": 1, "resources": {"there": 1}}])
    frozen = cluster.nodes[1]
    there = NodeAffinitySchedulingStrategy(frozen.node_id, soft=True)

    @ray.remote(num_cpus=0, max_restarts=1, max_task_retries=-1)
    class Actor:
        def pid(self):
            return os.getpid(), ray.get_runtime_context().get_node_id()

    actor = Actor.options(scheduling_strategy=there).remote()
    pid, node = ray.get(actor.pid.remote(), timeout=60)
    assert node == frozen.node_id
    os.kill(frozen.raylet_pid, signal.SIGSTOP)
    wait_until(lambda: sum(node["Alive"] for node in ray.nodes()) == 1, "the node to be dead", 45)
    wait_until(lambda: pid not in traces.processes(), "its worker to end", 45)
    wait_until(lambda: frozen.raylet_pid not in traces.processes(), "its raylet to end", 45)
    moved, node = ray.get(actor.pid.remote(), timeout=60)
    assert moved != pid and node != frozen.node_id
