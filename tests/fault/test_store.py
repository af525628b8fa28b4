"""A store that is small for what is asked of it."""

import os
import signal
import time

import numpy as np
import pytest
from under_test import IS_RAY, contents, exceptions, ray, ray_rs_only, wait_until

MIB = 2**20


@pytest.fixture
def small_store():
    ray.shutdown()
    ray.init(num_cpus=2, object_store_memory=100 * MIB, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.fixture
def gigabyte_store():
    ray.shutdown()
    ray.init(num_cpus=2, object_store_memory=1024 * MIB, include_dashboard=False)
    yield
    ray.shutdown()


@ray.remote
def make(n):
    return np.zeros(n, dtype=np.uint8)


@ray_rs_only("Ray falls back to files that are mapped")
@pytest.mark.usefixtures("small_store")
def test_an_object_larger_than_the_store():
    with pytest.raises(exceptions.ObjectStoreFullError) as raised:
        ray.put(np.zeros(150 * MIB, dtype=np.uint8))
    assert "object_store_memory" in str(raised.value) or "MiB" in str(raised.value)
    with pytest.raises(exceptions.ObjectStoreFullError):
        ray.get(make.remote(150 * MIB))
    assert ray.get(ray.put(np.ones(10 * MIB, dtype=np.uint8)))[0] == 1
    assert ray.get(make.remote(10 * MIB))[0] == 0


@pytest.mark.usefixtures("small_store")
def test_a_store_full_of_live_objects():
    held = [ray.put(np.full(10 * MIB, i, dtype=np.uint8)) for i in range(8)]
    assert [int(array[-1]) for array in ray.get(held)] == list(range(len(held)))
    held.clear()
    wait_until(lambda: ray.get(ray.put(np.ones(40 * MIB, dtype=np.uint8)))[0] == 1, "room")


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("gigabyte_store")
def test_puts_of_100_mb_for_ever():
    array = np.ones(100_000_000 // 8)
    for i in range(5 if IS_RAY else 60):
        array[0] = i
        back = ray.get(ray.put(array))
        assert back[0] == i and back[-1] == 1
        del back

    @ray.remote
    def sum_of(array):
        return float(array[0] + array[-1])

    for i in range(5 if IS_RAY else 20):
        array[0] = i
        assert ray.get(sum_of.remote(ray.put(array))) == i + 1
    for _ in range(5 if IS_RAY else 20):
        assert ray.get(make.remote(100_000_000)).nbytes == 100_000_000


@ray_rs_only("Ray falls back to files that are mapped")
@pytest.mark.usefixtures("small_store")
def test_nothing_that_a_dead_worker_held_stays(tmp_path):
    """Its own objects, its views of others' and its extents are free again."""
    path = str(tmp_path / "pid")

    @ray.remote(max_retries=0)
    def hold(refs):
        mine = [ray.put(np.ones(2 * MIB, dtype=np.uint8)) for _ in range(5)]
        views = ray.get(mine + refs)
        with open(path, "w") as file:
            file.write(str(os.getpid()))
        time.sleep(1000)
        return views

    for _ in range(5):
        refs = [ray.put(np.ones(3 * MIB, dtype=np.uint8)), make.remote(3 * MIB)]
        ref = hold.remote(refs)
        os.kill(int(wait_until(lambda: contents(path), "the task to hold its objects")), signal.SIGKILL)
        with pytest.raises(exceptions.WorkerCrashedError):
            ray.get(ref, timeout=30)
        os.unlink(path)
        del refs, ref
    most = np.ones(85 * MIB, dtype=np.uint8)

    def has_room():
        try:
            return ray.get(ray.put(most))[-1] == 1
        except exceptions.ObjectStoreFullError:
            return False

    wait_until(has_room, "the memory to be free")


@pytest.mark.usefixtures("small_store")
def test_results_of_tasks_fill_and_empty_the_store():
    for _ in range(10):
        refs = [make.remote(5 * MIB) for _ in range(8)]
        assert all(array.nbytes == 5 * MIB for array in ray.get(refs))
        del refs


@pytest.mark.usefixtures("small_store")
def test_pieces_of_every_size():
    rng = np.random.default_rng(1)
    held = {}
    for i in range(200 if IS_RAY else 1500):
        size = int(rng.integers(1, 2 * MIB))
        held[i % 25] = (ray.put(np.full(size, i % 256, dtype=np.uint8)), size, i % 256)
        ref, size, value = held[int(rng.integers(0, len(held)))]
        array = ray.get(ref)
        assert array.nbytes == size and array[0] == array[-1] == value


@ray_rs_only("Ray fails later, or not at all")
@pytest.mark.parametrize("size", [-1, 0, 1, float("nan"), 10**18, "100", True])
def test_absurd_sizes_are_refused_at_once(no_cluster, size):
    with pytest.raises((ValueError, TypeError), match=r"object_store_memory|object store memory"):
        ray.init(object_store_memory=size)
    assert not ray.is_initialized()
