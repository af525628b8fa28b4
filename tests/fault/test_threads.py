"""Many threads of one driver at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from under_test import IS_RAY, ray

pytestmark = pytest.mark.usefixtures("cluster")

ROUNDS = 20 if IS_RAY else 200


@ray.remote
def add(x, y):
    return x + y


@ray.remote
class Counter:
    def __init__(self):
        self.n = 0

    def add(self, k):
        self.n += k
        return self.n


def test_sixteen_threads_of_everything():
    counter = Counter.remote()

    def work(who):
        for i in range(ROUNDS):
            assert ray.get(add.remote(who, i)) == who + i
            refs = [add.remote(i, k) for k in range(5)]
            ready, rest = ray.wait(refs, num_returns=2)
            assert len(ready) == 2 and len(rest) == 3
            assert ray.get(refs) == [i + k for k in range(5)]
            counter.add.remote(1)
            if i % 20 == 0:
                assert ray.get(ray.put(np.full(50_000, who)))[-1] == who
        return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16)))
    assert ray.get(counter.add.remote(0)) == 16 * ROUNDS


def test_each_thread_sees_its_own_results():
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda i: ray.get(add.remote(i, 1)), range(16 * ROUNDS)))
    assert results == [i + 1 for i in range(16 * ROUNDS)]


def test_threads_in_a_task():
    @ray.remote
    def outer():
        with ThreadPoolExecutor(8) as pool:
            return sum(pool.map(lambda i: ray.get(add.remote(i, 0)), range(100)))

    assert ray.get(outer.remote()) == sum(range(100))


def test_a_ref_dropped_by_another_thread():
    refs = [ray.put(np.ones(100_000)) for _ in range(50)]
    thread = threading.Thread(target=refs.clear)
    thread.start()
    values = [ray.get(add.remote(i, 1)) for i in range(50)]
    thread.join()
    assert values == [i + 1 for i in range(50)]
