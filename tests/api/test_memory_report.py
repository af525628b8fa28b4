"""Who holds which object, where it is, which line made it; and that the sums are the store's."""

import os
import re
import subprocess
import sys

import pytest
from under_test import exceptions, ray, ray_rs_only, script, wait_until

pytestmark = ray_rs_only("the report is made of what processes say of themselves")

MIB = 2**20
LOOK = "processes that look at it"


@pytest.fixture(scope="module", autouse=True)
def a_store_of_its_own():
    ray.shutdown()
    ray.init(num_cpus=2, object_store_memory=200 * MIB)
    yield
    ray.shutdown()


def source():
    from ray_rs.util.state._rows import Source

    return Source()


def rows(ref=None):
    from ray_rs import _memory

    every, unlisted = _memory.reference_rows(source())
    assert unlisted == 0
    return every if ref is None else [row for row in every if row["object_id"] == ref.hex()]


def row_of(ref):
    (row,) = rows(ref)
    return row


@ray.remote
def hold(refs, path):
    """Holds a reference, and looks at the object."""
    value = ray.get(refs[0])
    while not os.path.exists(path):
        pass
    return len(value)


@ray.remote
def take(value, path):
    while not os.path.exists(path):
        pass
    return len(value)


def test_places_and_reference_types(tmp_path):
    gate = str(tmp_path / "gate")
    small, large = ray.put(b"x" * 1000), ray.put(bytes(MIB))
    assert (row_of(small)["place"], row_of(small)["reference_type"]) == ("inline", "LOCAL_REFERENCE")
    assert (row_of(large)["place"], row_of(large)["reference_type"]) == ("arena", "LOCAL_REFERENCE")
    assert row_of(large)["object_size"] >= MIB
    outer = ray.put([small])
    pending = take.remote(large, gate)
    assert row_of(large)["reference_type"] == "USED_BY_PENDING_TASK"
    assert row_of(pending)["place"] == "pending"
    assert row_of(pending)["object_size"] is None
    inner_id = small.hex()
    del small
    (captured,) = [row for row in rows() if row["object_id"] == inner_id]
    assert captured["reference_type"] == "CAPTURED_IN_OBJECT"
    assert row_of(outer)["task_status"] == "FINISHED"
    open(gate, "w").close()
    assert ray.get(pending) == MIB


def test_what_pins_an_object(tmp_path):
    numpy = pytest.importorskip("numpy")
    gate = str(tmp_path / "gate")
    ref = ray.put(numpy.zeros(MIB, dtype=numpy.uint8))
    holder = hold.remote([ref], gate)
    (borrower,) = wait_until(
        lambda: [row for row in rows(ref) if not row["is_owner"] and row["reference_type"] == "PINNED_IN_MEMORY"],
        "the worker to look at it",
    )
    assert borrower["type"] == "WORKER" and borrower["pid"] != os.getpid() and borrower["held_by"][LOOK] == 1
    view = ray.get(ref)
    (mine,) = [row for row in rows(ref) if row["is_owner"]]
    assert mine["reference_type"] == "PINNED_IN_MEMORY"
    # The reference here, the argument of the task that runs (a borrower is told with the reply); who looks at it.
    assert mine["held_by"] == {"local references": 1, "arguments of pending tasks": 1, LOOK: 2}
    open(gate, "w").close()
    assert ray.get(holder) == MIB
    del view
    wait_until(lambda: row_of(ref)["reference_type"] == "LOCAL_REFERENCE", "nobody to look at it any more")


def test_the_line_that_put_a_large_object():
    ref = ray.put(bytes(MIB))
    line = sys._getframe().f_lineno - 1
    assert row_of(ref)["call_site"] == f"{__file__}:{line}" == ref.call_site()
    assert row_of(ray.put(1))["call_site"] == "disabled"


def test_sums_are_those_of_the_store_to_the_byte():
    from ray_rs import _core, _memory, _memory_report

    refs = [ray.put(bytes(size)) for size in (MIB, 2 * MIB + 17, 3 * MIB + 1)]
    unfilled = ray.empty(MIB)
    stored = _core.store_objects()
    memory = sum(block["length"] for block in stored if block["place"] != "spilled")
    reported = _memory.in_store(rows())
    assert sum(row["object_size"] for row in reported if row["place"] != "spilled") == memory
    assert len(reported) == len(stored)
    assert [row["object_size"] >= MIB for row in reported if row["place"] == "written"] == [True]
    text = _memory_report.memory_summary(source(), stats_only=True)
    assert f"usage {memory} B, {len(stored)} objects" in text
    # The whole arena is accounted for, once.
    taken, free, left = map(int, re.search(r"rounding (\d+) B; .* processes (\d+) B; .* out (\d+) B", text).groups())
    assert taken == sum(block["block_bytes"] for block in stored)
    assert taken + free + left == _core.store_stats()["capacity_bytes"]
    del refs, unfilled


@ray.remote
class Keeper:
    def make(self, sizes):
        self.refs = [ray.put(bytes(size)) for size in sizes]
        return len(self.refs)


def test_every_process_has_as_much_of_the_arena_as_its_own_allocator_says():
    """The raylet walks the arena's headers; a process's allocator has never read one."""
    keeper = Keeper.remote()
    assert ray.get(keeper.make.remote([MIB + 100 * i for i in range(20)])) == 20
    refs = [ray.put(bytes(MIB + 3 * i)) for i in range(10)]
    # Some are freed again, so that there are holes.
    del refs[::3]

    def agree():
        from ray_rs import _core

        said = _core.describe_processes(tasks=False, objects=True)["processes"]
        walked = dict.fromkeys((process["process"]["pid"] for process in said), 0)
        for block in _core.store_objects():
            if block["holder_pid"]:
                walked[block["holder_pid"]] += block["block_bytes"]
        counted = {process["process"]["pid"]: process["block_bytes"] for process in said}
        granted = sum(process["extent_bytes"] for process in said)
        kept = sum(block["block_bytes"] for block in _core.store_objects() if not block["holder_pid"])
        assert granted + kept <= _core.store_stats()["granted_bytes"]
        return walked == counted and counted

    # What was freed comes back when its owner says so.
    counted = wait_until(agree, "the two to agree")
    assert sum(bytes > 5 * MIB for bytes in counted.values()) == 2


def test_spilled_objects_are_told_apart():
    refs = [ray.put(bytes(30 * MIB)) for _ in range(10)]
    places = [row_of(ref)["place"] for ref in refs]
    assert "spilled" in places and "arena" in places
    assert "that were spilled" in ray.why(refs[places.index("spilled")])
    del refs
    wait_until(lambda: not [row for row in rows() if (row["object_size"] or 0) >= 30 * MIB], "all of them to be gone")
    # What the driver keeps empty is room enough: nothing is set aside ahead of need.
    refs = [ray.put(bytes(MIB)) for _ in range(20)]
    assert {row_of(ref)["place"] for ref in refs} == {"arena"}


def test_the_summary():
    from ray_rs import _memory
    from ray_rs._private.internal_api import memory_summary

    ref = ray.put(bytes(MIB))
    text = memory_summary(sort_by="PID", units="MB", group_by="STACK_TRACE")
    assert ref.hex() in text and __file__ in text
    assert re.search(r"arena +LOCAL_REFERENCE +1 local references +" + ref.hex(), text)
    for wrong in ({"group_by": "X"}, {"sort_by": "X"}, {"units": "X"}):
        with pytest.raises(ValueError, match="must be one of"):
            memory_summary(**wrong)
    summary = _memory.summarize(rows())["cluster"]
    assert summary["total_objects"] == len(rows())
    assert any(__file__ in site for site in summary["summary"])


def test_the_state_api():
    import ray_rs.util.state as state

    ref = ray.put(bytes(MIB))
    (row,) = state.get_objects(ref.hex())
    assert (row.object_id, row.reference_type, row.place, row.type) == (ref.hex(), "LOCAL_REFERENCE", "arena", "DRIVER")
    assert row.pid == os.getpid() and row.call_site.startswith(f"{__file__}:")
    assert row.held_by == {"local references": 1} and row.block_bytes > row.object_size >= MIB
    (row,) = state.list_objects(filters=[("object_id", "=", ref.hex())])
    assert row.held_by is None and row["object_size"] >= MIB
    assert (
        state.list_objects(filters=[("place", "=", "arena"), ("pid", "!=", os.getpid()), ("object_id", "=", ref)]) == []
    )
    summary = state.summarize_objects()["cluster"]
    entry = summary["summary"][row.call_site]
    assert (entry["total_objects"], entry["ref_type_counts"]) == (1, {"LOCAL_REFERENCE": 1})
    assert summary["summary_by"] == "callsite" and summary["callsite_enabled"]


def test_of_too_many_references_those_to_the_store_are_listed():
    import ray_rs.util.state as state

    small = [ray.put(i) for i in range(11_000)]
    large = [ray.put(bytes(MIB + i)) for i in range(5)]
    with pytest.warns(RuntimeWarning, match="references to small objects are not listed"):
        rows = state.list_objects(filters=[("place", "=", "arena")], raise_on_missing_output=False)
    assert {ref.hex() for ref in large} <= {row.object_id for row in rows}
    with pytest.raises(state.exception.RayStateApiException, match="not listed"):
        state.list_objects(filters=[("place", "=", "arena")])
    del small, large


def test_of_too_many_references_each_is_found_by_its_id():
    import ray_rs.util.state as state

    small = [ray.put(i) for i in range(21_000)]
    for ref in (small[0], small[10_500], small[-1]):
        (row,) = state.list_objects(filters=[("object_id", "=", ref.hex())])
        assert (row.object_id, row.place) == (ref.hex(), "inline")
        (row,) = state.get_objects(ref.hex())
        assert row.held_by == {"local references": 1}


def test_a_list_of_some_of_many_references_says_how_many_there_are():
    import ray_rs.util.state as state

    small = [ray.put(i) for i in range(11_000)]
    large = [ray.put(bytes(MIB + i)) for i in range(20)]
    with pytest.warns(RuntimeWarning, match=r"Limit: 10 of 11\d\d\d objects are returned") as warned:
        rows = state.list_objects(limit=10)
    assert len(warned) == 1
    # Blocks of the store that are in no row have references all the same.
    assert {row.object_id for row in rows} <= {ref.hex() for ref in large} and len(rows) == 10
    del small, large


def test_a_full_store_names_who_made_what_is_there():
    numpy = pytest.importorskip("numpy")
    views = []
    with pytest.raises(exceptions.ObjectStoreFullError) as raised:
        for _ in range(30):
            ref = ray.put(numpy.zeros(20 * MIB, dtype=numpy.uint8))
            # Looked at, so it cannot leave memory.
            views.append((ref, ray.get(ref)))
    assert re.search(rf"MiB in \d+ objects? of pid {os.getpid()}, made at {re.escape(__file__)}:\d+", str(raised.value))


def test_every_reference_has_its_line_when_that_is_asked_for():
    program = script(
        """
        ray.init(num_cpus=1)

        @ray.remote
        def f():
            return 1

        @ray.remote
        class A:
            def m(self):
                return 1

        refs = [ray.put(1), f.remote(), A.remote().m.remote()]
        print([ref.call_site().rpartition(":")[2] for ref in refs])
        """
    )
    environment = {**os.environ, "RAY_record_ref_creation_sites": "1"}
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    lines = set(re.findall(r"'(\d+)'", ran.stdout))
    assert len(lines) == 1, ran.stdout
