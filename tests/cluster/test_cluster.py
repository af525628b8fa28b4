"""Several nodes: real raylets on this machine, each with workers and an object store of its own."""

import os
import signal

import pytest
import traces
from under_test import IS_RAY, exceptions, ray, start_driver, wait_until

pytestmark = pytest.mark.skipif(IS_RAY, reason="the clusters of these tests are ray_rs's")

BIG = 3_000_000


@pytest.fixture
def cluster():
    """A head with one CPU, and a node with two CPUs and two of `there`."""
    from ray_rs.cluster_utils import Cluster

    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.there = cluster.add_node(num_cpus=2, resources={"there": 2})
    ray.init(address=cluster.address, logging_level="error")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def on(amount=0.1, **options):
    return ray.remote(resources={"there": amount}, **options)


def my_node():
    return ray.get_runtime_context().get_node_id()


def alive():
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def test_nodes_and_resources_of_all_of_them(cluster):
    assert alive() == {cluster.head_node.node_id, cluster.there.node_id}
    assert ray.cluster_resources()["CPU"] == 3
    assert ray.cluster_resources()["there"] == 2


def test_tasks_run_where_their_resources_are(cluster):
    where = on()(my_node)
    assert ray.get(where.remote(), timeout=30) == cluster.there.node_id


def test_tasks_spread_when_the_first_node_is_full(cluster, tmp_path):
    @ray.remote
    def meet(index):
        (tmp_path / str(index)).touch()
        wait_until(lambda: len(list(tmp_path.iterdir())) == 3, "all three at the same time")
        return my_node()

    assert set(ray.get([meet.remote(i) for i in range(3)], timeout=60)) == alive()


def test_many_small_tasks(cluster):
    double = on()(lambda x: 2 * x)
    assert ray.get([double.remote(i) for i in range(2000)], timeout=60) == [2 * i for i in range(2000)]


def test_actors_call_each_other_across_nodes(cluster):
    @ray.remote(num_cpus=0)
    class Counter:
        def __init__(self):
            self.count = 0

        def add(self, amount):
            self.count += amount
            return self.count, my_node()

        def add_at(self, other, amount):
            return ray.get(other.add.remote(amount))

    here, there = Counter.options(resources={"node:__internal_head__": 0.01}).remote(), None
    there = Counter.options(resources={"there": 0.1}).remote()
    assert ray.get(here.add.remote(1), timeout=30) == (1, cluster.head_node.node_id)
    assert ray.get([there.add.remote(1) for _ in range(100)], timeout=30)[-1] == (100, cluster.there.node_id)
    assert ray.get(here.add_at.remote(there, 5), timeout=30) == (105, cluster.there.node_id)
    assert ray.get(there.add_at.remote(here, 5), timeout=30) == (6, cluster.head_node.node_id)


def test_references_inside_arguments_and_results_are_borrowed(cluster):
    @on()
    def read(boxed):
        return ray.get(boxed[0])

    @on()
    def wrap():
        return [ray.put("made there")]

    assert ray.get(read.remote([ray.put("made here")]), timeout=30) == "made here"
    assert ray.get(ray.get(wrap.remote(), timeout=30)[0], timeout=30) == "made there"


def test_large_values_travel_both_ways(cluster):
    @on()
    def make(letter):
        return letter * BIG

    @on()
    def measure(value, boxed):
        return value[:1], len(value), len(ray.get(boxed[0]))

    assert ray.get(make.remote(b"x"), timeout=30) == b"x" * BIG
    here = ray.put(b"y" * BIG)
    for _ in range(3):
        assert ray.get(measure.remote(here, [here]), timeout=30) == (b"y", BIG, BIG)
    # Made there, needed there: nothing need come here.
    assert ray.get(measure.remote(make.remote(b"z"), [here]), timeout=30) == (b"z", BIG, BIG)


def test_a_constructor_gets_a_large_value_from_another_node(cluster):
    @on()
    class Holder:
        def __init__(self, value):
            self.value = value

        def length(self):
            return len(self.value)

    assert ray.get(Holder.remote(ray.put(b"x" * BIG)).length.remote(), timeout=30) == BIG


def test_errors_come_back(cluster):
    @on(max_retries=0)
    def fails():
        raise KeyError("over there")

    @on(max_retries=0)
    def dies():
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(KeyError, match="over there"):
        ray.get(fails.remote(), timeout=30)
    with pytest.raises(exceptions.WorkerCrashedError, match="SIGKILL"):
        ray.get(dies.remote(), timeout=30)


def test_what_no_node_can_run_waits_for_one_that_can(cluster):
    @ray.remote(resources={"later": 1})
    def task():
        return my_node()

    @ray.remote(resources={"later": 1}, num_cpus=0)
    class Actor:
        def where(self):
            return my_node()

    result, actor = task.remote(), Actor.remote()
    call = actor.where.remote()
    assert ray.wait([result, call], timeout=1)[0] == []
    node = cluster.add_node(num_cpus=1, resources={"later": 2})
    assert ray.get([result, call], timeout=60) == [node.node_id] * 2


def test_a_node_that_leaves_in_order_is_missed_at_once(cluster):
    cluster.remove_node(cluster.there)
    cluster.wait_for_nodes(timeout=10)
    wait_until(lambda: alive() == {cluster.head_node.node_id}, "the node to be gone")


def test_when_a_node_dies_its_work_goes_on_elsewhere(cluster, tmp_path):
    @on(1, max_retries=2)
    def twice():
        (tmp_path / my_node()).touch()
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2, "the second attempt")
        return my_node()

    @on(max_restarts=1, max_task_retries=2, num_cpus=0)
    class Phoenix:
        def where(self):
            return my_node()

    @on(num_cpus=0)
    class Mortal:
        def where(self):
            return my_node()

    @on(num_cpus=0)
    def make():
        return b"x" * BIG

    phoenix, mortal, made = Phoenix.remote(), Mortal.remote(), make.remote()
    lost = make.options(max_retries=0).remote()
    assert ray.get([phoenix.where.remote(), mortal.where.remote()], timeout=30) == [cluster.there.node_id] * 2
    ray.wait([lost, made], num_returns=2, timeout=30)
    running = twice.remote()
    wait_until(lambda: list(tmp_path.iterdir()), "the first attempt")
    cluster.remove_node(cluster.there, allow_graceful=False)
    node = cluster.add_node(num_cpus=2, resources={"there": 2})
    assert ray.get(running, timeout=60) == node.node_id
    assert ray.get(phoenix.where.remote(), timeout=60) == node.node_id
    with pytest.raises(exceptions.ActorDiedError):
        ray.get(mortal.where.remote(), timeout=60)
    with pytest.raises(exceptions.ObjectLostError):
        ray.get(lost, timeout=60)
    assert ray.get(made, timeout=60) == b"x" * BIG


def test_nothing_is_left_when_the_process_that_made_the_cluster_is_killed(no_cluster):
    source = """
        import sys, time
        from ray_rs.cluster_utils import Cluster
        cluster = Cluster(initialize_head=True)
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address)
        print("ready", flush=True)
        time.sleep(1000)
    """
    driver = start_driver(source)
    assert driver.stdout.readline().strip() == "ready"
    driver.kill()
    driver.wait()
    wait_until(lambda: not traces.processes() and not traces.session_files(), "everything to be gone")
