"""`ray.as_completed` and `ray.map`: the loops that users write by hand."""

import itertools
import math
import os
import threading
import time

import pytest
from under_test import PATIENCE, ray, ray_rs_only

pytestmark = [pytest.mark.usefixtures("cluster"), ray_rs_only("Ray has no such loops")]


@ray.remote
def square(x):
    return x * x


def plain_square(x):
    return x * x


@ray.remote
def after(signal, value):
    ray.get(signal.wait.remote())
    return value


@ray.remote
def fail_at_odd(x):
    if x % 2:
        raise KeyError(x)
    return x


@ray.remote(num_cpus=0)
class Signal:
    def __init__(self):
        self.event = None

    async def wait(self):
        import asyncio

        self.event = self.event or asyncio.Event()
        await self.event.wait()

    async def send(self):
        import asyncio

        self.event = self.event or asyncio.Event()
        self.event.set()


def outcomes(iterator):
    """What an iterator gives, and the arguments of the KeyErrors that it raises, in its order."""
    found = []
    while True:
        try:
            found.append(next(iterator))
        except StopIteration:
            return found
        except KeyError as error:
            found.append(("raised", *error.cause.args))


# -------------------------------------------------------------------------------------------------------- as_completed


def test_as_they_complete():
    signals = [Signal.remote() for _ in range(2)]
    refs = [after.options(num_cpus=0).remote(signal, index) for index, signal in enumerate(signals)]
    values = ray.as_completed([*refs, ray.put(2)])
    assert next(values) == 2
    signals[1].send.remote()
    assert next(values) == 1
    signals[0].send.remote()
    assert next(values) == 0
    with pytest.raises(StopIteration):
        next(values)


def test_all_of_many_once():
    values = ray.as_completed(square.remote(x) for x in range(1000))
    assert sorted(values) == [x * x for x in range(1000)]


def test_references_instead_of_values():
    refs = [square.remote(x) for x in range(5)]
    assert set(ray.as_completed(refs, yield_obj_refs=True)) == set(refs)


def test_an_error_is_raised_in_its_turn_only():
    found = outcomes(ray.as_completed([fail_at_odd.remote(x) for x in range(4)]))
    assert sorted(found, key=str) == sorted([0, 2, ("raised", 1), ("raised", 3)], key=str)


def test_nothing_and_misuse():
    assert list(ray.as_completed([])) == []
    with pytest.raises(TypeError):
        ray.as_completed([1])
    ref = ray.put(1)
    with pytest.raises(ValueError, match="unique"):
        ray.as_completed([ref, ref])


# ----------------------------------------------------------------------------------------------------------------- map


@pytest.mark.parametrize("chunksize", ["auto", 1, 7, 1000])
@pytest.mark.parametrize("f", [plain_square, square, lambda x: x * x])
def test_maps_as_python_does(f, chunksize):
    assert list(ray.map(f, range(100), chunksize=chunksize)) == [x * x for x in range(100)]
    unordered = ray.map(f, range(100), chunksize=chunksize, ordered=False)
    assert sorted(unordered) == [x * x for x in range(100)]


def test_several_iterables():
    assert list(ray.map(pow, range(5), [1, 2, 3])) == [0, 1, 8]
    assert list(ray.map(math.sqrt, iter([4.0, 9.0]))) == [2.0, 3.0]
    assert list(ray.map(plain_square, [])) == []


@pytest.mark.parametrize("chunksize", ["auto", 1, 4])
def test_errors_in_their_turn_only(chunksize):
    found = outcomes(ray.map(fail_at_odd, range(6), chunksize=chunksize))
    assert found == [0, ("raised", 1), 2, ("raised", 3), 4, ("raised", 5)]


def test_an_error_is_that_of_a_task():
    with pytest.raises(KeyError) as caught:
        list(ray.map(fail_at_odd, [1], chunksize="auto"))
    assert isinstance(caught.value, ray.exceptions.RayTaskError)
    text = str(caught.value)
    assert "fail_at_odd" in text
    assert "test_iterating.py" in text
    assert "_iterate.py" not in text


def test_tiny_calls_share_tasks():
    pids = list(ray.map(lambda x: ray.get_runtime_context().get_task_id(), range(5000)))
    assert len(set(pids)) < 2500


def test_endless_iterables_and_how_far_ahead():
    taken = itertools.count()
    numbers = (next(taken) for _ in itertools.repeat(None))
    results = ray.map(plain_square, numbers, chunksize=1)
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert next(taken) < 200


def test_iterable_that_fails():
    def numbers():
        yield 1
        yield 2
        raise OSError("no more")

    results = ray.map(plain_square, numbers())
    assert [next(results), next(results)] == [1, 4]
    with pytest.raises(OSError, match="no more"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_references_stand_for_their_values():
    failed = fail_at_odd.remote(1)
    found = outcomes(ray.map(plain_square, [2, ray.put(3), failed, 4], chunksize=10))
    assert found == [4, 9, ("raised", 1), 16]


def test_what_cannot_be_pickled_fails_alone():
    results = ray.map(plain_square, [2, threading.Lock(), 4], chunksize=3)
    assert next(results) == 4
    with pytest.raises(TypeError, match="lock"):
        next(results)
    assert next(results) == 16


def test_options_hold():
    def resources(_):
        return ray.get_runtime_context().get_assigned_resources()

    big = ray.remote(num_cpus=2)(resources)
    assert list(ray.map(big, range(3))) == [{"CPU": 2.0}] * 3


def test_retries_of_single_calls(tmp_path):
    @ray.remote(max_retries=3, retry_exceptions=True)
    def at_second_attempt(name):
        path = tmp_path / str(name)
        if path.exists():
            return name
        path.touch()
        raise RuntimeError("first attempt")

    assert list(ray.map(at_second_attempt, range(3))) == [0, 1, 2]
    with pytest.raises(ValueError, match="retry_exceptions"):
        ray.map(at_second_attempt, [1], chunksize=2)


def test_a_worker_that_dies_is_survived(tmp_path):
    def die_once(name):
        path = tmp_path / str(name)
        if path.exists():
            return name
        path.touch()
        os._exit(1)

    assert list(ray.map(die_once, range(2))) == [0, 1]


def test_methods_of_actors():
    @ray.remote
    class Counter:
        def __init__(self):
            self.n = 0

        def add(self, k):
            self.n += k
            return self.n

    counter = Counter.remote()
    assert list(ray.map(counter.add, [1, 2, 3])) == [1, 3, 6]


def test_misuse():
    with pytest.raises(TypeError):
        ray.map(plain_square)
    with pytest.raises(TypeError):
        ray.map(5, [1])
    for chunksize in (0, -1, 1.5, "large"):
        with pytest.raises(ValueError, match="chunksize"):
            ray.map(plain_square, [1], chunksize=chunksize)
    with pytest.raises(ValueError, match="one value"):
        ray.map(square.options(num_returns=2), [1])


def test_in_a_task():
    @ray.remote
    def total(n):
        return sum(ray.map(plain_square, range(n))) + sum(ray.as_completed([square.remote(1)]))

    assert ray.get(total.remote(10), timeout=PATIENCE) == 286


def test_long_calls_have_their_own_tasks():
    def slow(x):
        time.sleep(0.05)
        return ray.get_runtime_context().get_task_id()

    assert len(set(ray.map(slow, range(36)))) == 36
