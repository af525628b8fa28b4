"""Programs with many times more data than the store holds."""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from under_test import IS_RAY, ray, ray_rs_only

MIB = 2**20


def start(size: int) -> None:
    ray.shutdown()
    ray.init(num_cpus=2, object_store_memory=size, include_dashboard=False)


@ray_rs_only("imports ray_rs")
@pytest.mark.timeout(1800)
def test_a_sort_of_ten_times_the_store(no_cluster):
    """4 GB through 400 MB. It waits for a disk that has other work, too, but for nothing else."""
    path = Path(__file__).parents[2] / "benchmarks" / "sort.py"
    spec = importlib.util.spec_from_file_location("benchmark_sort", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Its functions go by value: workers need not find the file.
    sys.modules[spec.name] = module
    ray.cloudpickle.register_pickle_by_value(module)
    start(400_000_000)
    module.sort(4_000_000_000, 40_000_000)


@pytest.mark.timeout(120)
def test_ten_thousand_references(no_cluster):
    """In one get, as arguments of one task, and inside one object."""
    start(100 * MIB)

    @ray.remote
    def count(*values):
        return len(values)

    @ray.remote
    def take(refs):
        return sum(ray.get(refs[::1000]))

    refs = [ray.put(i) for i in range(10_000)]
    assert ray.get(refs) == list(range(10_000))
    assert ray.get(count.remote(*refs)) == 10_000
    inner = refs * 10 if not IS_RAY else refs
    outer = ray.put(inner)
    assert len(ray.get(outer)) == len(inner)
    assert ray.get(take.remote(outer)) == sum(i % 10_000 for i in range(0, len(inner), 1000))

    @ray.remote(num_returns=3000)
    def many():
        return range(3000)

    assert ray.get(many.remote()) == list(range(3000))


@pytest.mark.timeout(600)
def test_a_million_small_objects_beside_three_times_the_store(no_cluster):
    start(100 * MIB)
    count = 1_000_000 if not IS_RAY else 10_000

    @ray.remote
    def both(number, array, boxed):
        return number, int(array[0]), sum(ray.get(boxed))

    @ray.remote
    def double(number):
        return 2 * number

    small = [ray.put(i) for i in range(count)]
    large = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    # Some that tasks have made, too.
    doubled = [double.remote(ref) for ref in small[:: count // 10_000]]
    calls = [both.remote(small[-1 - i], large[i], small[i : i + 10]) for i in range(60)]
    assert ray.get(calls) == [(count - 1 - i, i, sum(range(i, i + 10))) for i in range(60)]
    assert ray.get(small) == list(range(count))
    assert ray.get(doubled) == [2 * i for i in range(0, count, count // 10_000)]
    for i, ref in enumerate(large):
        assert (ray.get(ref) == i).all()


@pytest.mark.timeout(120)
def test_arguments_on_disk_by_the_hundred(no_cluster):
    start(100 * MIB)

    @ray.remote
    def first(*arrays):
        return [int(array[0]) for array in arrays]

    refs = [ray.put(np.full(200_000, i % 251, dtype=np.uint8)) for i in range(1000)]
    assert ray.get(first.remote(*refs[:300])) == [i % 251 for i in range(300)]
    assert ray.get(first.remote(*refs[-300:])) == [i % 251 for i in range(700, 1000)]


@pytest.mark.timeout(120)
def test_memory_stays_flat(no_cluster):
    """Puts, gets, tasks and actor calls leave nothing, in the driver or in the store."""
    start(100 * MIB)

    @ray.remote
    def echo(value):
        return value

    @ray.remote
    class Echo:
        def say(self, value):
            return value

    actor = Echo.remote()
    large = np.zeros(200_000, dtype=np.uint8)

    def cycles(count):
        for i in range(count):
            assert ray.get(ray.put(i)) == i
            assert ray.get(echo.remote(i)) == i
            assert ray.get(actor.say.remote(i)) == i
            if i % 10 == 0:
                assert ray.get(echo.remote(ray.put(large))).nbytes == 200_000

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    cycles(500)
    before = resident()
    cycles(100 if IS_RAY else 3000)
    # 12,000 operations at one lost entry of 500 bytes each would be 6 MB.
    assert resident() - before < 5 * MIB
