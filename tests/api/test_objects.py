"""Shared objects: zero-copy reads, pinned views, memory that comes back."""

import gc
import os
import pickle

import numpy as np
import pytest
from under_test import ray, ray_rs_only, wait_until

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
def total(array):
    return float(array.sum()), array.flags.writeable


@ray.remote
def make(n):
    return np.arange(n, dtype=np.float64)


@pytest.mark.parametrize("n", [10, 1_000_000])
def test_arrays_come_back_read_only(n):
    array = ray.get(ray.put(np.arange(n)))
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    assert ray.get(total.remote(np.ones(n))) == (n, False)
    result = ray.get(make.remote(n))
    assert not result.flags.writeable
    assert result[-1] == n - 1


def test_gets_share_memory():
    ref = ray.put(np.zeros(1_000_000))
    one, two = ray.get(ref), ray.get(ref)
    assert one.__array_interface__["data"][0] == two.__array_interface__["data"][0]
    assert one.__array_interface__["data"][0] % 64 == 0


def test_a_view_outlives_its_ref():
    ref = ray.put(np.full(1_000_000, 7))
    view = ray.get(ref)[10:-10:3]
    del ref
    gc.collect()
    for i in range(20):
        ray.put(np.full(1_000_000, i))  # would overwrite the memory, had it been freed
    assert (view == 7).all()


def test_containers_of_arrays():
    shared = np.arange(500_000)
    value = {"a": shared, "b": [shared, np.ones((1000, 1000))], "c": b"x" * 200_000}
    back = ray.get(ray.put(value))
    assert back["a"] is back["b"][0]
    assert back["b"][1].shape == (1000, 1000)
    assert back["c"] == value["c"]
    objects = ray.get(ray.put(np.array([{"x": 1}, None], dtype=object)))
    assert objects[0] == {"x": 1}


@pytest.mark.parametrize(
    "array",
    [
        np.arange(1_000_000).reshape(1000, 1000).T,
        np.asfortranarray(np.ones((700, 300))),
        np.arange(1_000_000)[::7],
        np.zeros(0),
        np.array(5.0),
        np.zeros(100_000, dtype=[("a", "i4"), ("b", "f8")]),
        np.zeros((300, 300), dtype=np.complex64),
    ],
    ids=["transposed", "fortran", "strided", "empty", "scalar", "record", "complex"],
)
def test_arrays_of_every_shape(array):
    back = ray.get(ray.put(array))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert (back == array).all()


def test_out_of_band_buffers_of_other_types():
    blob = pickle.PickleBuffer(bytearray(b"z" * 300_000))
    back = ray.get(ray.put([blob]))[0]
    assert bytes(back) == b"z" * 300_000


def test_a_loop_of_large_puts_reuses_memory():
    for i in range(60):
        array = ray.get(ray.put(np.full(5_000_000, i % 100, dtype=np.int64)))
        assert array[-1] == i % 100
    for _ in range(40):
        assert ray.get(make.remote(2_000_000))[-1] == 1_999_999


def mapping_of(address, pid="self"):
    """The lines of smaps for the mapping that holds the address."""
    found = []
    with open(f"/proc/{pid}/smaps") as file:
        for line in file:
            if "-" in line.split()[0]:
                if found:
                    return found
                low, high = (int(x, 16) for x in line.split()[0].split("-"))
                if low <= address < high:
                    found.append(line)
            elif found:
                found.append(line)
    return found


@ray_rs_only("looks at the arena's mapping")
def test_two_processes_see_the_same_pages():
    """Both views lie at the same offset of the same file: the pages are shared, nothing was copied."""

    @ray.remote
    class Reader:
        def look(self, refs):
            self.array = ray.get(refs[0])
            address = self.array.__array_interface__["data"][0]
            return os.getpid(), address, mapping_of(address)[0]

    array = np.random.default_rng(0).random(2_000_000)
    ref = ray.put(array)
    reader = Reader.remote()
    _, theirs, their_line = ray.get(reader.look.remote([ref]))
    mine = ray.get(ref)
    address = mine.__array_interface__["data"][0]
    my_line = mapping_of(address)[0]

    def place(line, at):
        span, _, offset, device, inode = line.split()[:5]
        return device, inode, at - int(span.split("-")[0], 16) + int(offset, 16)

    assert place(my_line, address) == place(their_line, theirs)
    assert my_line.split()[1][3] == "s"  # a shared mapping


@ray_rs_only("counts in the arena's own accounts")
def test_put_copies_each_byte_once():
    """A put of 100 MB adds 100 MB to the arena's pages, and nothing to the driver's own memory."""
    array = np.ones(12_500_000)
    ray.get(ray.put(array))  # warm

    def private_peak():
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))

    gc.collect()
    before = private_peak()
    refs = [ray.put(array) for _ in range(3)]
    after = private_peak()
    assert after - before < 20_000  # kB: no copy of 100 MB stayed in private memory
    views = ray.get(refs)
    assert private_peak() - before < 20_000
    assert len({view.__array_interface__["data"][0] for view in views}) == 3


def test_freed_memory_is_available_again():
    before = ray.available_resources().get("object_store_memory", 0)
    refs = [ray.put(np.zeros(2_000_000)) for _ in range(5)]
    del refs
    wait_until(
        lambda: ray.available_resources().get("object_store_memory", 0) >= before * 0.95,
        "the store's memory to come back",
    )


def test_where_objects_are():
    from under_test import NAME

    experimental = __import__(f"{NAME}.experimental", fromlist=["x"])

    @ray.remote
    def sleep():
        import time

        time.sleep(1000)

    small, large, pending = ray.put(b"x"), ray.put(np.zeros(1_000_000)), sleep.remote()
    here = ray.get_runtime_context().get_node_id()
    known = experimental.get_object_locations([small, large, pending])
    assert known[large]["node_ids"] == [here] and known[large]["object_size"] >= 8_000_000
    assert known[small]["node_ids"] == [] and known[pending]["object_size"] is None
    assert experimental.get_local_object_locations([large])[large]["node_ids"] == [here]
    ray.cancel(pending, force=True)
