"""`ray.put`: snapshots, and what it refuses."""

import threading

import numpy as np
import pytest
from under_test import ray

pytestmark = pytest.mark.usefixtures("cluster")


def test_a_snapshot():
    value = [1, 2]
    ref = ray.put(value)
    value.append(3)
    assert ray.get(ref) == [1, 2]
    first = ray.get(ref)
    first.append(9)
    assert ray.get(ref) == [1, 2]  # each get makes a fresh mutable copy


def test_an_array_is_a_snapshot():
    array = np.arange(1_000_000)
    ref = ray.put(array)
    array[:] = -1
    assert ray.get(ref)[5] == 5


def test_refused():
    with pytest.raises(TypeError, match="ObjectRef"):
        ray.put(ray.put(1))
    with pytest.raises(TypeError, match="Could not serialize the put value"):
        ray.put(threading.Lock())
    with pytest.raises(TypeError):
        ray.put()
    with pytest.raises(ValueError, match="_owner"):
        ray.put(1, _owner=object())


@ray.remote
def read(x):
    return x


@ray.remote
def read_inside(refs):
    return [type(ref).__name__ for ref in refs], ray.get(refs)


@pytest.mark.parametrize("size", [0, 1, 1000, 100 * 1024, 100 * 1024 + 1, 5_000_000])
def test_every_size_travels(size):
    data = bytes(i % 251 for i in range(min(size, 1000))) * max(1, size // 1000)
    ref = ray.put(data)
    assert ray.get(ref) == data
    assert ray.get(read.remote(ref)) == data
    assert ray.get(read.remote(data)) == data


def test_refs_inside_containers_stay_refs():
    refs = [ray.put(i) for i in range(5)]
    kinds, values = ray.get(read_inside.remote(refs))
    assert set(kinds) == {"ObjectRef"}
    assert values == list(range(5))
    assert ray.get(ray.get(ray.put([ray.put("inner")]))[0]) == "inner"


def test_an_outer_object_keeps_its_inner_ones():
    outer = ray.put({"inner": ray.put(np.ones(500_000))})
    for _ in range(3):
        ray.get(ray.put(np.zeros(500_000)))  # would reuse the memory if it had been freed
    assert ray.get(ray.get(outer)["inner"]).sum() == 500_000


@ray.remote
def make_refs():
    return [ray.put(np.full(300_000, i)) for i in range(3)]


def test_refs_made_by_a_worker():
    refs = ray.get(make_refs.remote())
    assert [int(array[0]) for array in ray.get(refs)] == [0, 1, 2]
    assert [int(ray.get(read.remote(ref))[-1]) for ref in refs] == [0, 1, 2]
