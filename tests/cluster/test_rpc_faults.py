"""Calls between raylets and the control store are lost, come late or twice, on purpose: nobody notices."""

import random

import numpy as np
import pytest
from ray_rs import _core
from under_test import exceptions, ray, wait_until

FAULTS = {
    "requests lost": "*:request=0.2",
    "replies lost": "*:reply=0.2",
    "late": "*:late=0.5@80;Visit:late=0.5@80;VisitToRead:late=0.5@80",
    "twice": "*:twice=0.5",
    "all": "*:request=0.05,reply=0.05,twice=0.1,late=0.1@50",
    "ways": "Visit:request=0.3;VisitToRead:request=0.2,reply=0.1",
    "the nodes' streams": "NodeReport:twice=0.3,late=0.1@20;NodeCommand:twice=0.3,late=0.1@20",
}


@pytest.fixture(params=list(FAULTS))
def cluster(request, ray_cluster):
    setting = f"{FAULTS[request.param]};seed={random.randrange(10**6)}"
    print(setting)
    return ray_cluster(nodes=2, num_cpus=2, env_vars={"RAY_RS_RPC_FAULTS": setting})


@ray.remote
class Counter:
    def __init__(self):
        self.count = 0

    def add(self):
        self.count += 1
        return self.count


@ray.remote(scheduling_strategy="SPREAD")
def large(i):
    return np.full(50_000, i)


def is_dead(actor):
    try:
        ray.get(actor.add.remote(), timeout=100)
    except exceptions.ActorDiedError:
        return True
    return False


@pytest.mark.timeout(180)
def test_nobody_notices(cluster):
    for i in range(10):
        key = b"key %d" % i
        assert _core.kv_put("faults", key, b"first", False)
        assert not _core.kv_put("faults", key, b"second", False)
        assert _core.kv_get("faults", key) == b"first"
        assert _core.kv_del("faults", key) == 1
        assert _core.kv_del("faults", key) == 0
    arrays = ray.get([large.remote(i) for i in range(20)], timeout=100)
    assert [int(array[-1]) for array in arrays] == list(range(20))
    for i in range(5):
        actor = Counter.options(name=f"counter {i}", num_cpus=0, max_restarts=-1).remote()
        assert ray.get([actor.add.remote() for _ in range(3)], timeout=100) == [1, 2, 3]
        assert ray.get(ray.get_actor(f"counter {i}").add.remote(), timeout=100) == 4
        with pytest.raises(ValueError, match="already taken"):
            Counter.options(name=f"counter {i}").remote()
        ray.kill(actor)
        # The order to end its process may have been lost, and is given again on the next connection.
        wait_until(lambda: is_dead(actor), "the actor to end")
    for _ in range(5):
        group = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
        ray.get(group.ready(), timeout=100)
        ray.util.remove_placement_group(group)
    wait_until(lambda: ray.available_resources().get("CPU") == 4, "everything to be free")


@pytest.mark.timeout(120)
def test_an_actor_is_killed_once(cluster):
    """A kill that is made again, since its reply was lost, does not kill the next life."""
    actor = Counter.options(max_restarts=1, max_task_retries=-1).remote()
    assert ray.get(actor.add.remote(), timeout=60) == 1
    ray.kill(actor, no_restart=False)
    wait_until(lambda: ray.get(actor.add.remote(), timeout=60) == 1, "its second life")
    assert ray.get(actor.add.remote(), timeout=60) == 2


@pytest.mark.timeout(180)
def test_ways_to_values_break(ray_cluster):
    """A node that cannot be reached at the moment has not lost what lies there."""
    cluster = ray_cluster(
        nodes=2, num_cpus=1, env_vars={"RAY_RS_RPC_FAULTS": "VisitToRead:request=0.4,reply=0.2;seed=5"}
    )
    assert cluster is not None
    put = [ray.put(np.full(200_000, i)) for i in range(25)]
    here = ray.get_runtime_context().get_node_id()

    @ray.remote(scheduling_strategy="SPREAD", num_cpus=0)
    class Reader:
        def node(self):
            return ray.get_runtime_context().get_node_id()

        def sums(self, refs):
            return [int(ray.get(ref, timeout=60)[-1]) for ref in refs]

    readers = [Reader.remote() for _ in range(4)]
    nodes = ray.get([reader.node.remote() for reader in readers], timeout=60)
    (there, *_) = [reader for reader, node in zip(readers, nodes, strict=True) if node != here]
    assert ray.get(there.sums.remote(put), timeout=100) == list(range(25))
