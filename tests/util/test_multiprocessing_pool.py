"""`ray.util.multiprocessing.Pool` does what the standard library's does."""

import importlib
import itertools
import multiprocessing
import os
import sys
import threading
import time
import warnings
from multiprocessing.pool import ThreadPool

import pytest
from under_test import NAME, ray, ray_rs_only, run_driver

module = importlib.import_module(f"{NAME}.util.multiprocessing")
Pool = module.Pool

pytestmark = pytest.mark.usefixtures("cluster")


def square(x):
    return x * x


def power(base, exponent=2):
    return base**exponent


def fail_at_three(x):
    if x == 3:
        raise KeyError(x)
    return x


def pid(_):
    return os.getpid()


@pytest.fixture(scope="module")
def pool(cluster):
    made = Pool(2)
    yield made
    made.terminate()
    made.join()


@pytest.fixture(scope="module")
def standard():
    with ThreadPool(2) as made:  # the same interface, and no processes of its own
        yield made


@pytest.mark.parametrize("chunksize", [None, 1, 3, 100])
def test_maps_as_the_standard_library_does(pool, standard, chunksize):
    numbers = list(range(17))
    pairs = [(x, 3) for x in numbers]
    assert pool.map(square, numbers, chunksize) == standard.map(square, numbers, chunksize)
    assert pool.starmap(power, pairs, chunksize) == standard.starmap(power, pairs, chunksize)
    assert pool.map_async(square, numbers, chunksize).get() == standard.map_async(square, numbers, chunksize).get()
    assert pool.starmap_async(power, pairs).get() == standard.starmap_async(power, pairs).get()
    assert list(pool.imap(square, numbers, chunksize or 1)) == list(standard.imap(square, numbers, chunksize or 1))
    assert sorted(pool.imap_unordered(square, iter(numbers), chunksize or 1)) == [x * x for x in numbers]


def test_apply(pool, standard):
    for each in (pool, standard):
        assert each.apply(power, (3,)) == 9
        assert each.apply(power, (2,), {"exponent": 5}) == 32
        assert each.apply_async(power, (2, 3)).get() == 8


def test_nothing_to_do(pool, standard):
    for each in (pool, standard):
        assert each.map(square, []) == []
        assert list(each.imap(square, [])) == []


def test_errors_come_back_as_they_were(pool, standard):
    for each in (pool, standard):
        with pytest.raises(KeyError) as caught:
            each.map(fail_at_three, range(5))
        assert caught.value.args == (3,)
        result = each.apply_async(fail_at_three, (3,))
        result.wait()
        assert result.ready()
        assert not result.successful()
        with pytest.raises(KeyError):
            result.get()


@ray_rs_only("an error keeps its traceback")
def test_an_error_tells_where_it_was_raised(pool):
    with pytest.raises(KeyError) as caught:
        pool.apply(fail_at_three, (3,))
    assert "in fail_at_three" in str(caught.value.__cause__)


@ray_rs_only("Ray's gives something that stands for the error")
def test_imap_goes_on_after_an_error(pool, standard):
    for each in (pool, standard):
        results = each.imap(fail_at_three, range(5))
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(KeyError):
            next(results)
        assert list(results) == [4]


def test_imap_of_something_that_is_no_iterable(pool):
    deprecated = importlib.import_module(f"{NAME}.util.annotations").RayDeprecationWarning
    for method in (pool.imap, pool.imap_unordered):
        with pytest.warns(deprecated, match="Passing a non-iterable argument"):
            results = method(square, 3)
        assert list(results) == [9]


@ray_rs_only("takes no more of an iterable than it needs")
def test_imap_of_an_endless_iterable(pool):
    assert list(itertools.islice(pool.imap(square, itertools.count()), 5)) == [0, 1, 4, 9, 16]


@ray_rs_only("an error of the iterable takes its place in the order")
def test_imap_of_a_failing_iterable(pool):
    def numbers():
        yield 1
        yield 2
        raise OSError("no more")

    results = pool.imap(square, numbers())
    assert [next(results), next(results)] == [1, 4]
    with pytest.raises(OSError, match="no more"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


@ray_rs_only("Ray's gives something that stands for the error")
def test_callbacks(pool, standard):
    for each in (pool, standard):
        results, errors = [], []
        done = each.map_async(square, range(3), callback=results.append, error_callback=errors.append)
        failed = each.apply_async(fail_at_three, (3,), callback=results.append, error_callback=errors.append)
        done.wait()
        failed.wait()
        assert results == [[0, 1, 4]]
        assert [type(error) for error in errors] == [KeyError]


@ray_rs_only("the pool survives it")
def test_a_callback_that_raises(pool, monkeypatch):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", lambda info: said.append(info.exc_value))

    def refuse(result):
        raise RuntimeError("not this")

    pool.apply_async(square, (2,), callback=refuse).wait()
    assert pool.apply(square, (3,)) == 9
    assert [str(error) for error in said] == ["not this"]


def test_timeouts(pool):
    slow = pool.apply_async(time.sleep, (1,))
    with pytest.raises(multiprocessing.TimeoutError):
        slow.get(timeout=0.05)
    assert not slow.ready()
    with pytest.raises(ValueError, match="not ready"):
        slow.successful()
    results = pool.imap(time.sleep, [1])
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(timeout=0.05)
    assert results.next() is None
    slow.wait()
    assert slow.successful()
    assert module.TimeoutError is multiprocessing.TimeoutError


def test_closed(cluster):
    pool = Pool(1)
    with pytest.raises(ValueError, match="still running"):
        pool.join()
    before = pool.map_async(square, range(10), chunksize=1)
    pool.close()
    for call in (pool.map, pool.imap, pool.map_async):
        with pytest.raises(ValueError, match="Pool not running"):
            call(square, [1])
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply(square, (1,))
    pool.join()
    assert before.get() == [x * x for x in range(10)]


@ray_rs_only("Ray's imap submits what is left only as results are taken")
def test_what_imap_took_on_runs_after_close(cluster):
    pool = Pool(1)
    results = pool.imap(square, range(200))
    pool.close()
    pool.join()
    assert list(results) == [x * x for x in range(200)]


def test_terminated(cluster):
    with Pool(2) as pool:
        results = [pool.apply_async(time.sleep, (300,)) for _ in range(8)]
    pool.join()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.map(square, [1])
    for result in results:
        with pytest.raises(ray.exceptions.RayError):
            result.get(timeout=20)


def test_how_many(cluster):
    for count in (0, -1, 3):
        with pytest.raises(ValueError):
            Pool(count)
    with Pool() as pool:
        assert len(set(pool.map(pid, range(100), chunksize=1))) <= 2


def note(variable, value):
    os.environ[variable] = value


def noted(variable):
    return os.environ.get(variable)


def test_initializer(cluster):
    with Pool(2, initializer=note, initargs=("POOL_NOTE", "set")) as pool:
        assert set(pool.map(noted, ["POOL_NOTE"] * 20, chunksize=1)) == {"set"}


def touch(folder):
    (folder / str(os.getpid())).touch()


def refuse():
    raise OSError("not here")


def test_initializers_have_run_when_the_pool_is_there(cluster, tmp_path):
    with Pool(2, initializer=touch, initargs=(tmp_path,)):
        assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ray.exceptions.RayActorError, match="not here"):
        Pool(2, initializer=refuse)


@ray_rs_only("Ray leaves such variables as they were")
def test_initializer_sets_globals_of_the_program(tmp_path):
    done = run_driver(
        """
        from functools import partial
        from ray_rs.util.multiprocessing import Pool

        connection = None

        def connect(to):
            global connection
            connection = f"connected to {to}"

        def use(x):
            return connection

        if __name__ == "__main__":
            ray.init(num_cpus=2)
            with Pool(2, initializer=connect, initargs=("there",)) as pool:
                print(set(pool.map(use, range(8), chunksize=1)), pool.apply(partial(use, 1)))
        """
    )
    assert done.stdout.strip() == "{'connected to there'} connected to there"


def test_worn_out_processes_are_replaced(cluster):
    with Pool(1, maxtasksperchild=2) as pool:
        pids = pool.map(pid, range(10), chunksize=1)
    assert len(set(pids)) == 5


@ray_rs_only("the standard library hangs, Ray leaves the pool without the process")
def test_a_process_that_dies_is_replaced(cluster):
    with Pool(1) as pool:
        with pytest.raises(ray.exceptions.RayActorError):
            pool.apply(os._exit, (1,))
        assert pool.apply(square, (3,)) == 9


@ray_rs_only("Ray says so later, in an actor's death")
def test_what_cannot_be_pickled(pool):
    with pytest.raises(TypeError, match="lock"):
        pool.map(square, [threading.Lock()])
    with pytest.raises(TypeError, match="lock"):
        pool.apply(threading.Lock)
    assert pool.apply(square, (2,)) == 4


def test_options_of_the_processes(cluster):
    with Pool(2, ray_remote_args={"num_cpus": 1}) as pool:
        pool.map(square, range(4))
        assert ray.available_resources().get("CPU", 0) == 0


def test_context_is_taken_and_ignored(cluster):
    with pytest.warns(UserWarning, match="context") if NAME == "ray_rs" else warnings.catch_warnings():
        pool = Pool(1, context=multiprocessing.get_context("spawn"))
    pool.terminate()


def test_starts_a_session_of_its_own():
    done = run_driver(
        f"""
        from {NAME}.util.multiprocessing import Pool

        if __name__ == "__main__":
            with Pool(2) as pool:
                print(pool.map(abs, [-1, 2]), ray.cluster_resources()["CPU"])
        """
    )
    assert done.stdout.strip() == "[1, 2] 2.0"
