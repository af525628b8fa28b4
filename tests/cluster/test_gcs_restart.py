"""The control store is killed, and started again by its head's raylet: nothing that it has acknowledged is forgotten,
and what does not need it does not notice."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from ray_rs import _core
from under_test import ray, wait_until

DEAD = 4


def gcs_pid(cluster):
    with open(f"{cluster.head_node.session_dir}/session.json") as file:
        return json.load(file)["gcs_pid"]


def kill_gcs(cluster):
    """Kills it, and returns when another is there."""
    killed = gcs_pid(cluster)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: gcs_pid(cluster) != killed, "another control store")


@ray.remote
class Actor:
    def pid(self):
        return os.getpid()


@ray.remote(max_retries=0)
def double(x):
    time.sleep(0.001)
    return 2 * x


def test_work_goes_on_and_nothing_is_forgotten(ray_cluster):
    cluster = ray_cluster(nodes=2, num_cpus=2)
    named = [Actor.options(name=f"actor {i}", num_cpus=0).remote() for i in range(4)]
    pids = ray.get([actor.pid.remote() for actor in named], timeout=60)
    group = ray.util.placement_group([{"CPU": 1}], strategy="PACK")
    ray.get(group.ready(), timeout=60)
    ended = []

    def work():
        calls = 0
        while not ended:
            assert ray.get([double.remote(i) for i in range(50)], timeout=60) == list(range(0, 100, 2))
            assert ray.get([actor.pid.remote() for actor in named], timeout=60) == pids
            calls += 1
        return calls

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        for i in range(5):
            _core.kv_put("test", b"key %d" % i, b"value %d" % i)
            late = Actor.options(name=f"late {i}", num_cpus=0).remote()
            kill_gcs(cluster)
            # Acknowledged or on its way: there all the same.
            assert ray.get(late.pid.remote(), timeout=60) == ray.get(
                ray.get_actor(f"late {i}").pid.remote(), timeout=60
            )
            assert [_core.kv_get("test", b"key %d" % number) for number in range(i + 1)] == [
                b"value %d" % number for number in range(i + 1)
            ]
            assert ray.get([ray.get_actor(f"actor {number}").pid.remote() for number in range(4)], timeout=60) == pids
        ended.append(True)
        assert working.result(60) > 0
    wait_until(lambda: sum(node["Alive"] for node in ray.nodes()) == 2, "both nodes")
    assert ray.util.placement_group_table(group)["state"] == "CREATED"
    ray.util.remove_placement_group(group)


def test_what_dies_meanwhile_is_noticed(ray_cluster):
    """A worker, a driver's job and a node end while nobody can be told."""
    cluster = ray_cluster(nodes=3, num_cpus=1, resources={"any": 1})
    mortal = cluster.nodes[2]
    there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(mortal.node_id, soft=False)
    on_node = Actor.options(num_cpus=0, scheduling_strategy=there).remote()
    restarted = Actor.options(num_cpus=0, max_restarts=1, max_task_retries=1).remote()
    once = Actor.options(num_cpus=0).remote()
    pids = ray.get([restarted.pid.remote(), once.pid.remote(), on_node.pid.remote()], timeout=60)
    killed = gcs_pid(cluster)
    # Stopped, it hears nothing of what happens, and then it is killed.
    os.kill(killed, signal.SIGSTOP)
    for pid in pids[:2]:
        os.kill(pid, signal.SIGKILL)
    mortal.kill_raylet()
    os.kill(killed, signal.SIGKILL)
    assert ray.get(restarted.pid.remote(), timeout=60) != pids[0]
    for gone in (once, on_node):
        with pytest.raises(ray.exceptions.ActorDiedError):
            ray.get(gone.pid.remote(), timeout=60)
    wait_until(lambda: sum(node["Alive"] for node in ray.nodes()) == 2, "the node to be given up")
    head = _core.Observer(cluster.head_node.session_dir)
    wait_until(lambda: sum(actor["state"] != DEAD for actor in head.actors()) == 1, "two actors to be dead")
    cluster.remove_node(mortal, allow_graceful=False)
