"""Objects built in place: `ray.empty`, filled, sealed by `put` without a copy. And `get` with a copy of one's own."""

import gc
import os
import signal

import numpy as np
import pytest
from under_test import exceptions, ray, ray_rs_only, wait_until

pytestmark = [pytest.mark.usefixtures("cluster"), ray_rs_only("Ray has no such thing")]

MB = 1 << 20


def address(array):
    return array.__array_interface__["data"][0]


def test_an_array_is_sealed_where_it_lies():
    array = ray.empty((1000, 500), "f4")
    assert (array.shape, array.dtype, array.flags.writeable) == ((1000, 500), np.float32, True)
    array[:] = np.arange(500_000).reshape(1000, 500)
    where = address(array)
    ref = ray.put(array)
    got = ray.get(ref)
    assert address(got) == where, "not a byte was copied"
    assert got.shape == (1000, 500) and got[999, 499] == 499_999
    assert not got.flags.writeable


def test_after_the_put_it_is_read_only():
    array = ray.empty(200_000, "u1")
    array[:] = 7
    ref = ray.put(array)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    # A second put is a copy like any other's.
    again = ray.put(array)
    assert address(ray.get(again)) != address(array)
    del ref
    gc.collect()
    assert (array == 7).all(), "its memory stays while it lives"


def test_a_value_around_the_array_is_sealed_too():
    array = ray.empty(300_000, "i8")
    array[:] = 3
    got = ray.get(ray.put({"name": "x", "data": array}))
    assert got["name"] == "x" and address(got["data"]) == address(array)


def test_what_is_not_all_of_it_is_copied():
    array = ray.empty(300_000, "i8")
    array[:] = range(300_000)
    got = ray.get(ray.put(array[10:]))
    assert got[0] == 10 and address(got) != address(array) + 80
    array[10] = -1
    assert got[0] == 10
    both = ray.get(ray.put([array, np.ones(50_000)]))
    assert address(both[0]) != address(array) and array.flags.writeable


def test_workers_read_it():
    @ray.remote
    def total(array):
        return float(array.sum())

    array = ray.empty((10, 100_000), "f8")
    array[:] = 0.5
    assert ray.get(total.remote(ray.put(array))) == 500_000.0


def test_a_raw_buffer():
    buffer = ray.empty(MB)
    assert len(buffer) == MB and not buffer.readonly
    with memoryview(buffer) as view:
        view[:5] = b"hello"
    ref = ray.put(buffer)
    assert buffer.readonly
    got = ray.get(ref)
    assert isinstance(got, memoryview) and got.readonly
    assert bytes(got[:5]) == b"hello" and len(got) == MB
    with pytest.raises(TypeError):
        memoryview(buffer)[0] = 1


def test_a_raw_buffer_with_a_view_is_not_sealed():
    buffer = ray.empty(MB)
    view = memoryview(buffer)
    with pytest.raises(BufferError, match="release them"):
        ray.put(buffer)
    view[0] = 9
    view.release()
    assert ray.get(ray.put(buffer))[0] == 9


def test_small_and_empty_ones():
    small = ray.empty(10, "i4")
    small[:] = 4
    got = ray.get(ray.put(small))
    assert got.tolist() == [4] * 10 and not small.flags.writeable
    nothing = ray.empty((0, 5), "f8")
    assert ray.get(ray.put(nothing)).shape == (0, 5)


@pytest.mark.parametrize("arguments", [((3,), "O"), ("three",), ((2, 3),), (-1, "f4"), (1 << 62, "f8")])
def test_what_cannot_be_made(arguments):
    with pytest.raises((ValueError, TypeError, OverflowError)):
        ray.empty(*arguments)


def test_too_large_for_the_store():
    with pytest.raises(exceptions.ObjectStoreFullError):
        ray.empty(1 << 45)


def test_dropped_without_a_put_its_memory_comes_back():
    first = ray.empty(8 * MB, "u1")
    where = address(first)
    del first
    second = ray.empty(8 * MB, "u1")
    assert address(second) == where


@ray.remote(max_retries=0)
def builds_and_dies():
    array = ray.empty(40 * MB, "u1")
    array[:] = 1
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_in_the_middle_its_memory_comes_back(no_cluster):
    ray.init(num_cpus=1, object_store_memory=100 * MB, include_dashboard=False)
    # Ten times what the store could hold, if any of it stayed.
    for _ in range(10):
        with pytest.raises(exceptions.WorkerCrashedError):
            ray.get(builds_and_dies.remote())

    def fits():
        try:
            return ray.put(np.ones(60 * MB, "u1"))
        except exceptions.ObjectStoreFullError:
            return None

    assert wait_until(fits, "room in the store")


# ------------------------------------------------------------------------------------------------------- get(copy=...)


@pytest.fixture(params=[10, 1_000_000], ids=["inline", "shared"])
def two_arrays(request):
    value = {"a": np.arange(request.param, dtype="i8"), "b": np.ones((request.param, 2), "f4")}
    return ray.put(value), request.param


@pytest.mark.parametrize("copy", [True, "on_write"])
def test_a_copy_of_ones_own(two_arrays, copy):
    ref, length = two_arrays
    mine = ray.get(ref, copy=copy)
    mine["a"][:] = -1
    mine["b"][length - 1, 1] = 5
    shared = ray.get(ref)
    assert not shared["a"].flags.writeable
    assert shared["a"].tolist()[:3] == [0, 1, 2] and (shared["b"] == 1).all()
    assert (mine["a"] == -1).all() and mine["b"][length - 1, 1] == 5
    again = ray.get([ref], copy=copy)[0]
    assert again["a"][1] == 1


def test_on_write_copies_the_pages_that_are_touched():
    def private_kib(array):
        where = address(array)
        found, take = 0, False
        with open("/proc/self/smaps") as file:
            for line in file:
                head = line.split(" ", 1)[0]
                if "-" in head and not head.endswith(":"):
                    start, end = (int(part, 16) for part in head.split("-"))
                    take = start <= where < end
                elif take and line.startswith("Anonymous:"):
                    found = int(line.split()[1])
        return found

    ref = ray.put(np.zeros(32 * MB, "u1"))
    mine = ray.get(ref, copy="on_write")
    assert mine.sum() == 0 and private_kib(mine) == 0
    mine[0] = mine[20 * MB] = 1
    assert 8 <= private_kib(mine) <= 64


def test_on_write_stays_what_it_was():
    """The object is kept while the copy lives, and so are the pages that were never written to."""
    ref = ray.put(np.full(4 * MB, 3, "u1"))
    mine = ray.get(ref, copy="on_write")
    del ref
    gc.collect()
    others = [ray.put(np.full(4 * MB, 9, "u1")) for _ in range(8)]
    assert (mine == 3).all() and len(others) == 8


def test_copy_may_be_few_things(two_arrays):
    ref, _ = two_arrays
    assert not ray.get(ref, copy=False)["a"].flags.writeable
    for wrong in ("always", 1, []):
        with pytest.raises(ValueError, match="'copy' must be"):
            ray.get(ref, copy=wrong)
