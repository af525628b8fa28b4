"""Placement groups: reservation, what runs inside, and their ends."""

import importlib
import os
import pickle
import time

import pytest
from under_test import NAME, exceptions, ray, start_driver
from under_test import wait_until as wait_for

module = importlib.import_module(f"{NAME}.util.placement_group")
placement_group, remove_placement_group = module.placement_group, module.remove_placement_group
get_placement_group, placement_group_table = module.get_placement_group, module.placement_group_table
PlacementGroup = module.PlacementGroup
get_current_placement_group = module.get_current_placement_group
PlacementGroupSchedulingStrategy = importlib.import_module(
    f"{NAME}.util.scheduling_strategies"
).PlacementGroupSchedulingStrategy

pytestmark = pytest.mark.usefixtures("cluster")


def wait_until(condition):
    wait_for(condition, "the groups to be as they should")


def inside(pg, index=-1, capture=None):
    return PlacementGroupSchedulingStrategy(pg, index, capture)


@ray.remote
def where():
    current = get_current_placement_group()
    return current and current.id.hex()


@ray.remote
def held():
    return ray.get_runtime_context().get_assigned_resources()


@ray.remote
class Counter:
    def __init__(self):
        self.count = 0

    def add(self):
        self.count += 1
        return self.count

    def pid(self):
        return os.getpid()

    def place(self):
        return ray.get_runtime_context().get_placement_group_id()

    def child(self):
        return ray.get(where.remote())


@pytest.fixture
def make():
    made = []

    def make(bundles, **options):
        pg = placement_group(bundles, **options)
        made.append(pg)
        return pg

    before = plain(ray.cluster_resources())
    yield make
    for pg in made:
        remove_placement_group(pg)
    wait_until(lambda: plain(ray.available_resources()) == before)


def plain(resources):
    return {name: amount for name, amount in resources.items() if name in ("CPU", "GPU")}


def test_it_is_created_and_its_resources_are_set_aside(make):
    pg = make([{"CPU": 1}])
    assert pg.wait(30)
    assert ray.get(pg.ready(), timeout=30) == pg
    assert pg.bundle_specs == [{"CPU": 1}] and pg.bundle_count == 1
    free, total = ray.available_resources(), ray.cluster_resources()
    assert free.get("CPU", 0) == total["CPU"] - 1
    hexed = pg.id.hex()
    assert free[f"CPU_group_{hexed}"] == free[f"CPU_group_0_{hexed}"] == 1
    assert free[f"bundle_group_{hexed}"] == 1000
    row = placement_group_table(pg)
    assert (row["state"], row["strategy"], row["bundles"]) == ("CREATED", "PACK", {0: {"CPU": 1}})
    assert row["bundles_to_node_id"] == {0: ray.get_runtime_context().get_node_id()}
    assert placement_group_table()[hexed]["state"] == "CREATED"
    copy = pickle.loads(pickle.dumps(pg))
    assert copy == pg and hash(copy) == hash(pg) and copy.bundle_specs == pg.bundle_specs
    assert PlacementGroup.empty().is_empty and not pg.is_empty


@pytest.mark.parametrize("strategy", ["PACK", "SPREAD", "STRICT_PACK"])
def test_two_bundles_fit_on_one_node(make, strategy):
    assert make([{"CPU": 1}, {"CPU": 1}], strategy=strategy).wait(30)


def test_what_can_never_be_placed_waits(make):
    spread = make([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
    large = make([{"CPU": 1000}])
    ref = large.ready()
    assert not spread.wait(0.2) and not large.wait(0)
    with pytest.raises(exceptions.GetTimeoutError):
        ray.get(ref, timeout=0.1)
    row = placement_group_table(large)
    assert row["state"] == "PENDING" and row["stats"]["scheduling_state"] == "INFEASIBLE"
    remove_placement_group(large)
    with pytest.raises(exceptions.TaskPlacementGroupRemoved):
        ray.get(ref, timeout=30)
    assert not large.wait(30)


def test_who_waits_gets_what_others_give_back(make):
    total = ray.cluster_resources()["CPU"]
    first = make([{"CPU": total}])
    assert first.wait(30)
    second = make([{"CPU": total}])
    assert not second.wait(0.1)
    remove_placement_group(first)
    assert second.wait(30)


def test_tasks_run_in_a_bundle_or_in_any(make):
    pg = make([{"CPU": 1}, {"CPU": 1}])
    refs = [where.options(scheduling_strategy=inside(pg, index)).remote() for index in (-1, 0, 1)]
    assert ray.get(refs, timeout=60) == [pg.id.hex()] * 3
    assert ray.get(where.options(num_cpus=0).remote(), timeout=60) is None
    assert ray.get(held.options(scheduling_strategy=inside(pg, 1)).remote(), timeout=60) == {"CPU": 1}
    nothing = where.options(scheduling_strategy=inside(pg, 0), num_cpus=0)
    assert ray.get(nothing.remote(), timeout=60) == pg.id.hex()
    with pytest.warns(DeprecationWarning, match="deprecated"):
        ref = where.options(placement_group=pg, placement_group_bundle_index=1).remote()
    assert ray.get(ref, timeout=60) == pg.id.hex()


def test_a_task_waits_for_its_group(make):
    pg = make([{"CPU": 1}])
    ref = where.options(scheduling_strategy=inside(pg)).remote()
    assert ray.get(ref, timeout=60) == pg.id.hex()


def test_actors_run_in_a_bundle(make):
    pg = make([{"CPU": 2}])
    some = [Counter.options(scheduling_strategy=inside(pg, 0), num_cpus=0).remote() for _ in range(3)]
    one = Counter.options(scheduling_strategy=inside(pg), num_cpus=1).remote()
    assert ray.get([actor.place.remote() for actor in [*some, one]], timeout=60) == [pg.id.hex()] * 4
    wait_until(lambda: ray.available_resources()[f"CPU_group_{pg.id.hex()}"] == 1)


@ray.remote
def parent(depth):
    context = ray.get_runtime_context()
    own = (context.get_placement_group_id(), context.should_capture_child_tasks_in_placement_group)
    return [own] + (ray.get(parent.remote(depth - 1)) if depth else [])


def test_children_are_captured_when_asked_for(make):
    pg = make([{"CPU": 1}])
    hexed = pg.id.hex()
    captured = parent.options(scheduling_strategy=inside(pg, 0, True)).remote(2)
    assert ray.get(captured, timeout=60) == [(hexed, True)] * 3, "to any depth, on one CPU"
    free = parent.options(scheduling_strategy=inside(pg)).remote(1)
    assert ray.get(free, timeout=60) == [(hexed, False), (None, False)]
    actor = Counter.options(scheduling_strategy=inside(pg, -1, True), num_cpus=0).remote()
    assert ray.get(actor.child.remote(), timeout=60) == hexed


@ray.remote
def escape():
    return ray.get(where.options(scheduling_strategy="DEFAULT").remote())


def test_a_captured_child_can_ask_for_another_place(make):
    pg = make([{"CPU": 1}])
    assert ray.get(escape.options(scheduling_strategy=inside(pg, -1, True)).remote(), timeout=60) is None


def test_the_handle_travels(make):
    @ray.remote
    def use(pg):
        return pg.wait(10), ray.get(where.options(scheduling_strategy=inside(pg)).remote()), pg.bundle_specs

    pg = make([{"CPU": 1}])
    assert ray.get(use.options(num_cpus=0).remote(pg), timeout=60) == (True, pg.id.hex(), [{"CPU": 1}])


@ray.remote
def sleep_until_killed(path):
    open(path, "w").close()
    time.sleep(600)


def test_removal_ends_what_runs_inside(make, tmp_path):
    pg = make([{"CPU": 1}, {"CPU": 1}])
    running = sleep_until_killed.options(scheduling_strategy=inside(pg, 0)).remote(str(tmp_path / "began"))
    wait_until((tmp_path / "began").exists)
    waiting = sleep_until_killed.options(scheduling_strategy=inside(pg, 0)).remote(str(tmp_path / "never"))
    actor = Counter.options(scheduling_strategy=inside(pg, 1), num_cpus=1, max_restarts=-1).remote()
    assert ray.get(actor.add.remote(), timeout=60) == 1
    pending = Counter.options(scheduling_strategy=inside(pg, 1), num_cpus=1).remote()
    call = pending.add.remote()
    remove_placement_group(pg)
    remove_placement_group(pg)
    for ref in (running, waiting):
        with pytest.raises(exceptions.TaskPlacementGroupRemoved):
            ray.get(ref, timeout=60)
    with pytest.raises(exceptions.ActorDiedError, match="placement group was removed"):
        ray.get(actor.add.remote(), timeout=60)
    with pytest.raises(exceptions.ActorPlacementGroupRemoved):
        ray.get(call, timeout=60)
    assert placement_group_table(pg)["state"] == "REMOVED"
    with pytest.raises(exceptions.TaskPlacementGroupRemoved):
        ray.get(where.options(scheduling_strategy=inside(pg)).remote(), timeout=60)
    late = Counter.options(scheduling_strategy=inside(pg), num_cpus=0).remote()
    with pytest.raises(exceptions.ActorPlacementGroupRemoved):
        ray.get(late.add.remote(), timeout=60)
    assert not (tmp_path / "never").exists()


def test_names_are_those_of_the_namespace(make):
    pg = make([{"CPU": 1}], name="mine")
    assert get_placement_group("mine") == pg
    assert get_placement_group("mine").bundle_specs == [{"CPU": 1}]
    with pytest.raises(ValueError, match="exists already"):
        placement_group([{"CPU": 1}], name="mine")
    remove_placement_group(pg)
    wait_until(lambda: placement_group_table(pg)["state"] == "REMOVED")
    with pytest.raises(ValueError, match="Failed to look up"):
        get_placement_group("mine")
    again = make([{"CPU": 1}], name="mine")
    assert again.wait(30) and get_placement_group("mine") == again


def test_a_group_of_an_actor_ends_with_it():
    @ray.remote(num_cpus=0)
    class Maker:
        def make(self, **options):
            self.pg = placement_group([{"CPU": 1}], **options)
            self.pg.wait(30)
            return self.pg

    maker = Maker.remote()
    bound, detached = ray.get([maker.make.remote(), maker.make.remote(lifetime="detached")], timeout=60)
    ray.kill(maker)
    wait_until(lambda: placement_group_table(bound)["state"] == "REMOVED")
    assert placement_group_table(detached)["state"] == "CREATED"
    remove_placement_group(detached)
    wait_until(lambda: placement_group_table(detached)["state"] == "REMOVED")


@pytest.mark.parametrize(
    ("bundles", "options", "text"),
    [
        ({"CPU": 1}, {}, "must be a list"),
        ([], {}, "empty list"),
        ([{}], {}, "empty dictionary"),
        ([{"CPU": 0}], {}, "only 0 values"),
        ([{"CPU": "1"}], {}, "non-empty list of resource dictionaries"),
        ([{"CPU": 1}], {"strategy": "FILL"}, "must be one of"),
        ([{"CPU": 1}], {"lifetime": "for ever"}, "lifetime"),
        ([{"CPU": 1}], {"bundle_label_selector": [{}, {}]}, "length"),
        ([{"CPU": 1}], {"strategy": "PACK", "topology_strategy": {}}, "Only one of"),
    ],
)
def test_bad_arguments_fail_at_the_call(bundles, options, text):
    with pytest.raises(ValueError, match=text):
        placement_group(bundles, **options)


def test_bad_demands_fail_at_the_call(make):
    pg = make([{"CPU": 1}])
    with pytest.raises(ValueError, match="index 1 is invalid"):
        where.options(scheduling_strategy=inside(pg, 1)).remote()
    with pytest.raises(ValueError, match=r"request \{'CPU': 2\} cannot fit into any bundles .*, \[\{'CPU': 1\.0\}\]"):
        where.options(scheduling_strategy=inside(pg), num_cpus=2).remote()
    memory = make([{"memory": 1000}])
    with pytest.raises(ValueError, match="cannot fit"):
        Counter.options(scheduling_strategy=inside(memory)).remote()
    with pytest.raises(ValueError, match="deprecated"):
        where.options(scheduling_strategy="SPREAD", placement_group=pg).remote()


def test_a_thousand_groups_at_once(make):
    groups = [make([{"CPU": 0.001}]) for _ in range(1000)]
    assert len(ray.get([pg.ready() for pg in groups], timeout=120)) == 1000
    refs = [where.options(scheduling_strategy=inside(pg), num_cpus=0.001).remote() for pg in groups[:20]]
    assert ray.get(refs, timeout=120) == [pg.id.hex() for pg in groups[:20]]
    for pg in groups:
        remove_placement_group(pg)
    wait_until(lambda: not any("group" in name for name in ray.available_resources()))


def test_groups_of_a_dead_driver_are_given_back():
    address = ray.get_runtime_context().gcs_address
    driver = start_driver(
        f"""
        import time
        ray.init(address={address!r}, namespace="other")
        bound = ray.util.placement_group([{{"CPU": 1}}])
        kept = ray.util.placement_group([{{"CPU": 1}}], lifetime="detached")
        assert bound.wait(30) and kept.wait(30)
        print(bound.id.hex(), kept.id.hex(), flush=True)
        time.sleep(600)
        """
    )
    bound, kept = driver.stdout.readline().split()
    assert placement_group_table()[bound]["state"] == "CREATED"
    driver.kill()
    wait_until(lambda: placement_group_table()[bound]["state"] == "REMOVED")
    assert placement_group_table()[kept]["state"] == "CREATED"
    remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(kept)))
    wait_until(lambda: "group" not in "".join(ray.available_resources()))
