"""`RayExecutor`: the interface of `concurrent.futures`, on tasks."""

import concurrent.futures
import functools
import os
import threading
import time

import pytest
from under_test import ray, ray_rs_only, run_driver

pytestmark = [pytest.mark.usefixtures("cluster"), ray_rs_only("Ray has none")]


@pytest.fixture
def executor():
    from ray_rs.util.executor import RayExecutor

    with RayExecutor() as made:
        yield made


def square(x):
    return x * x


def fail():
    raise KeyError("this")


class Scale:
    def __init__(self, by):
        self.by = by

    def apply(self, x):
        return self.by * x


def test_submit(executor):
    assert executor.submit(square, 3).result() == 9
    assert executor.submit(pow, 2, exp=5).result() == 32
    assert executor.submit(lambda x: x + 1, 1).result() == 2
    assert executor.submit(functools.partial(pow, 2), 3).result() == 8
    assert executor.submit(Scale(3).apply, 2).result() == 6
    assert executor.submit(os.getpid).result() != os.getpid()
    assert executor.submit(square, ray.put(4)).result() == 16


def test_map(executor):
    for chunksize in (1, 3, 100):
        assert list(executor.map(square, range(10), chunksize=chunksize)) == [x * x for x in range(10)]
        assert list(executor.map(pow, range(4), [2, 2, 2], chunksize=chunksize)) == [0, 1, 4]
    with pytest.raises(ValueError):
        executor.map(square, [1], chunksize=0)


def test_errors(executor):
    with pytest.raises(KeyError):
        executor.submit(fail).result()
    assert isinstance(executor.submit(fail).exception(), KeyError)
    with pytest.raises(TypeError, match="lock"):
        executor.submit(square, threading.Lock()).result()
    with pytest.raises(TypeError, match="lock"):
        executor.submit(functools.partial(square, threading.Lock())).result()


def test_works_with_the_module_around_it(executor):
    futures = [executor.submit(square, x) for x in range(5)]
    assert sorted(future.result() for future in concurrent.futures.as_completed(futures)) == [0, 1, 4, 9, 16]
    assert concurrent.futures.wait(futures).not_done == set()
    with pytest.raises(concurrent.futures.TimeoutError):
        next(iter(executor.map(time.sleep, [1], timeout=0.05)))


def test_no_more_than_max_workers():
    from ray_rs.util.executor import RayExecutor

    with RayExecutor(1) as executor:
        running = executor.submit(time.sleep, 0.3)
        waiting = [executor.submit(square, x) for x in range(3)]
        assert waiting[2].cancel()
        assert not running.cancel()
        assert [each.result() for each in waiting[:2]] == [0, 1]
        assert running.done()
    for count in (0, -1):
        with pytest.raises(ValueError):
            RayExecutor(count)


def test_shutdown():
    from ray_rs.util.executor import RayExecutor

    executor = RayExecutor(1)
    futures = [executor.submit(time.sleep, 0.1) for _ in range(4)]
    executor.shutdown(cancel_futures=True)
    assert [future.done() for future in futures] == [True] * 4
    assert [future.cancelled() for future in futures] == [False, True, True, True]
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(square, 1)
    executor.shutdown()


def test_options_of_the_tasks():
    from ray_rs.util.executor import RayExecutor

    def resources():
        return ray.get_runtime_context().get_assigned_resources()

    with RayExecutor(ray_remote_args={"num_cpus": 2}) as executor:
        assert executor.submit(resources).result() == {"CPU": 2.0}


def test_starts_a_session_of_its_own():
    done = run_driver(
        """
        from ray_rs.util.executor import RayExecutor
        with RayExecutor() as executor:
            print(list(executor.map(abs, [-1, 2])), ray.is_initialized())
        """
    )
    assert done.stdout.strip() == "[1, 2] True"
