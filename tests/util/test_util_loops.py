"""`ray.util.as_completed` and `ray.util.map_unordered`, as Ray has them."""

import itertools

import pytest
from under_test import ray

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
def square(x):
    return x * x


@ray.remote
def fail():
    raise KeyError("this")


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_as_completed(chunk_size):
    refs = [square.remote(x) for x in range(20)]
    assert sorted(ray.util.as_completed(refs, chunk_size=chunk_size)) == sorted(x * x for x in range(20))
    assert set(ray.util.as_completed(refs, chunk_size=chunk_size, yield_obj_refs=True)) == set(refs)
    assert list(ray.util.as_completed([])) == []


@pytest.mark.parametrize("backpressure_size", [1, 5, None])
def test_map_unordered(backpressure_size):
    kwargs = {"backpressure_size": backpressure_size, "chunk_size": 1}
    assert sorted(ray.util.map_unordered(square, range(20), **kwargs)) == sorted(x * x for x in range(20))
    refs = list(ray.util.map_unordered(square, range(3), yield_obj_refs=True, **kwargs))
    assert sorted(ray.get(refs)) == [0, 1, 4]


def test_endless_items():
    results = ray.util.map_unordered(square, itertools.count(), backpressure_size=4, chunk_size=1)
    assert len([next(results) for _ in range(10)]) == 10


def test_errors():
    with pytest.raises(KeyError):
        list(ray.util.as_completed([fail.remote()]))


def test_misuse():
    refs = [square.remote(1)]
    with pytest.raises(ValueError):
        list(ray.util.as_completed(refs, chunk_size=0))
    with pytest.raises(ValueError):
        list(ray.util.as_completed(refs, num_returns=1))
    with pytest.raises(ValueError):
        list(ray.util.map_unordered(square, [1], chunk_size=0))
    with pytest.raises(ValueError):
        list(ray.util.map_unordered(square, [1], num_returns=1))
