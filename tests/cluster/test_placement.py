"""Where tasks, actors and bundles go when there are several nodes."""

import collections
import importlib

import pytest
from under_test import NAME, exceptions, ray, wait_until

strategies = importlib.import_module(f"{NAME}.util.scheduling_strategies")
In, NotIn, Exists = strategies.In, strategies.NotIn, strategies.Exists
NodeAffinitySchedulingStrategy = strategies.NodeAffinitySchedulingStrategy
NodeLabelSchedulingStrategy = strategies.NodeLabelSchedulingStrategy
PlacementGroupSchedulingStrategy = strategies.PlacementGroupSchedulingStrategy
groups = importlib.import_module(f"{NAME}.util.placement_group")


def my_node():
    return ray.get_runtime_context().get_node_id()


@ray.remote(num_cpus=1)
def where():
    return my_node()


@ray.remote(num_cpus=0)
class Here:
    def where(self):
        return my_node()


def ids(cluster):
    return [node.node_id for node in cluster.nodes]


def by_task_and_actor(**options):
    """The node of a task and of an actor with these options."""
    return ray.get([where.options(**options).remote(), Here.options(**options).remote().where.remote()], timeout=60)


# ---- strategies ------------------------------------------------------------------------------------------------------


def test_spread_uses_all_nodes(ray_cluster, tmp_path):
    ray_cluster(nodes=3, num_cpus=6)

    @ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
    def meet(index):
        (tmp_path / str(index)).touch()
        wait_until(lambda: len(list(tmp_path.iterdir())) == 6, "all at the same time")
        return my_node()

    # The first node has room for all of them.
    counts = collections.Counter(ray.get([meet.remote(index) for index in range(6)], timeout=60))
    assert sorted(counts.values()) == [2, 2, 2]
    actors = [Here.options(scheduling_strategy="SPREAD").remote() for _ in range(6)]
    counts = collections.Counter(ray.get([actor.where.remote() for actor in actors], timeout=60))
    assert sorted(counts.values()) == [2, 2, 2]


def test_affinity_names_a_node(ray_cluster):
    cluster = ray_cluster(nodes=3, num_cpus=1)
    for node in ids(cluster):
        for soft in (False, True):
            strategy = NodeAffinitySchedulingStrategy(node, soft=soft)
            assert by_task_and_actor(scheduling_strategy=strategy) == [node, node]


def test_hard_affinity_waits_for_its_node_and_soft_affinity_goes_elsewhere(ray_cluster, tmp_path):
    cluster = ray_cluster(nodes=2, num_cpus=1)
    _, other = ids(cluster)

    @ray.remote(num_cpus=1)
    def hold():
        (tmp_path / "holds").touch()
        wait_until(lambda: (tmp_path / "enough").exists(), "the others to be placed")
        return my_node()

    strategy = NodeAffinitySchedulingStrategy(other, soft=False)
    holds = hold.options(scheduling_strategy=strategy).remote()
    wait_until(lambda: (tmp_path / "holds").exists(), "the node to be full")
    hard = where.options(scheduling_strategy=strategy).remote()
    assert ray.wait([hard], timeout=0.5)[0] == []
    (tmp_path / "enough").touch()
    assert ray.get([holds, hard], timeout=60) == [other, other]


def test_affinity_to_a_node_that_died(ray_cluster):
    cluster = ray_cluster(nodes=2, num_cpus=1)
    head, other = ids(cluster)
    cluster.remove_node(cluster.nodes[1])
    cluster.wait_for_nodes()
    soft, hard = (NodeAffinitySchedulingStrategy(other, soft=soft) for soft in (True, False))
    assert by_task_and_actor(scheduling_strategy=soft) == [head, head]
    with pytest.raises(exceptions.TaskUnschedulableError, match=other):
        ray.get(where.options(scheduling_strategy=hard).remote(), timeout=60)
    with pytest.raises(exceptions.ActorUnschedulableError, match=other):
        ray.get(Here.options(scheduling_strategy=hard).remote().where.remote(), timeout=60)


def test_labels_choose_nodes(ray_cluster):
    each = [{"labels": {"zone": "a"}}, {"labels": {"zone": "b", "disk": "fast"}}, {"labels": {"zone": "c"}}]
    first, second, third = ids(ray_cluster(each, num_cpus=1))

    def place(hard, soft=None):
        strategy = NodeLabelSchedulingStrategy(hard=hard, soft=soft or {})
        return by_task_and_actor(scheduling_strategy=strategy)

    assert place({"zone": In("b")}) == [second, second]
    assert place({"disk": Exists()}) == [second, second]
    assert place({"zone": NotIn("a", "b")}) == [third, third]
    assert place({}, {"zone": In("c")}) == [third, third]
    assert set(place({"zone": In("a")}, {"zone": In("c")})) == {first}


def test_labels_that_no_node_has_wait_for_one_that_does(ray_cluster):
    cluster = ray_cluster(nodes=1, num_cpus=1)
    strategy = NodeLabelSchedulingStrategy(hard={"zone": In("later")})
    task = where.options(scheduling_strategy=strategy).remote()
    call = Here.options(scheduling_strategy=strategy).remote().where.remote()
    assert ray.wait([task, call], timeout=0.5)[0] == []
    late = cluster.add_node(num_cpus=1, labels={"zone": "later"})
    assert ray.get([task, call], timeout=60) == [late.node_id] * 2


# ---- placement groups ------------------------------------------------------------------------------------------------


def nodes_of(pg, count):
    """The node of each bundle, by a task that runs in it."""
    tasks = []
    for index in range(count):
        strategy = PlacementGroupSchedulingStrategy(pg, placement_group_bundle_index=index)
        tasks.append(where.options(scheduling_strategy=strategy).remote())
    return ray.get(tasks, timeout=60)


@pytest.mark.parametrize(
    ("strategy", "bundles", "distinct"),
    [
        ("PACK", 2, 1),
        ("PACK", 3, 2),
        ("SPREAD", 3, 3),
        ("SPREAD", 4, 3),
        ("STRICT_PACK", 2, 1),
        ("STRICT_SPREAD", 3, 3),
    ],
)
def test_bundles_go_where_the_strategy_says(ray_cluster, strategy, bundles, distinct):
    ray_cluster(nodes=3, num_cpus=2)
    pg = groups.placement_group([{"CPU": 1}] * bundles, strategy=strategy)
    assert pg.wait(60)
    nodes = nodes_of(pg, bundles)
    assert len(set(nodes)) == distinct
    table = groups.placement_group_table(pg)
    assert [table["bundles_to_node_id"][index] for index in range(bundles)] == nodes
    # An actor in any of them, and one in the last.
    anywhere = PlacementGroupSchedulingStrategy(pg)
    actor = Here.options(num_cpus=1, scheduling_strategy=anywhere).remote()
    assert ray.get(actor.where.remote(), timeout=60) in nodes
    groups.remove_placement_group(pg)
    wait_until(lambda: ray.available_resources().get("CPU") == 6, "the bundles to be given back")


@pytest.mark.parametrize("strategy", ["STRICT_PACK", "STRICT_SPREAD"])
def test_a_group_that_finds_no_room_waits_for_a_node(ray_cluster, strategy):
    cluster = ray_cluster(nodes=2, num_cpus=1)
    bundles = {"STRICT_PACK": [{"CPU": 1}] * 2, "STRICT_SPREAD": [{"CPU": 1}] * 3}[strategy]
    pg = groups.placement_group(bundles, strategy=strategy)
    assert not pg.wait(0.5)
    # Nothing is held meanwhile.
    assert ray.get(where.remote(), timeout=60) in ids(cluster)
    late = cluster.add_node(num_cpus=2)
    assert pg.wait(60)
    assert late.node_id in nodes_of(pg, len(bundles))


def test_when_a_node_goes_its_bundles_are_placed_anew(ray_cluster):
    cluster = ray_cluster([{"num_cpus": 0}, {"num_cpus": 1}, {"num_cpus": 1}])
    pg = groups.placement_group([{"CPU": 1}] * 2, strategy="STRICT_SPREAD")
    assert pg.wait(60)
    first, second = nodes_of(pg, 2)
    strategy = PlacementGroupSchedulingStrategy(pg, placement_group_bundle_index=1)
    actor = Here.options(num_cpus=1, max_restarts=1, max_task_retries=3, scheduling_strategy=strategy).remote()
    assert ray.get(actor.where.remote(), timeout=60) == second
    goes = next(node for node in cluster.nodes if node.node_id == second)
    cluster.remove_node(goes, allow_graceful=False)
    # What needs the bundle waits for it.
    waits = actor.where.remote()
    late = cluster.add_node(num_cpus=1)
    assert ray.get(waits, timeout=60) == late.node_id
    strategy = PlacementGroupSchedulingStrategy(pg, placement_group_bundle_index=0)
    assert ray.get(where.options(scheduling_strategy=strategy).remote(), timeout=60) == first


def test_a_task_without_cpus_goes_where_its_group_is(ray_cluster):
    cluster = ray_cluster([{"num_cpus": 1}, {"num_cpus": 1, "resources": {"there": 1}}])
    pg = groups.placement_group([{"there": 1}])
    assert pg.wait(60)
    strategy = PlacementGroupSchedulingStrategy(pg)
    task = where.options(num_cpus=0, scheduling_strategy=strategy).remote()
    assert ray.get(task, timeout=60) == ids(cluster)[1]


# ---- room ------------------------------------------------------------------------------------------------------------


def test_work_flows_to_a_node_that_joins(ray_cluster, tmp_path):
    cluster = ray_cluster(nodes=1, num_cpus=1)

    @ray.remote(num_cpus=1)
    def meet(index):
        (tmp_path / str(index)).touch()
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2, "the other one")
        return my_node()

    both = [meet.remote(index) for index in range(2)]
    wait_until(lambda: list(tmp_path.iterdir()), "the first of them")
    late = cluster.add_node(num_cpus=1)
    assert set(ray.get(both, timeout=60)) == {ids(cluster)[0], late.node_id}


def test_waiting_work_flows_to_a_node_that_becomes_free(ray_cluster, tmp_path):
    cluster = ray_cluster(nodes=2, num_cpus=1)

    @ray.remote(num_cpus=1)
    def hold(name):
        (tmp_path / f"{my_node()}.{name}").touch()
        wait_until(lambda: (tmp_path / name).exists(), "the word to end")
        return my_node()

    holds = [hold.remote(name) for name in ("a", "b")]
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2, "both nodes to be full")
    waits = where.remote()
    assert ray.wait([waits], timeout=0.5)[0] == []
    node_of = {path.name.rpartition(".")[2]: path.name.rpartition(".")[0] for path in tmp_path.iterdir()}
    # The head has the request; the other node becomes free.
    away = next(name for name, node in node_of.items() if node != ids(cluster)[0])
    (tmp_path / away).touch()
    assert ray.get(waits, timeout=60) == node_of[away]
    [(tmp_path / name).touch() for name in ("a", "b")]
    ray.get(holds, timeout=60)
