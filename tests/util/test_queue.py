"""`ray.util.queue.Queue`: a queue that several processes share."""

import asyncio
import importlib
import queue
import time

import pytest
from under_test import NAME, ray, wait_until

module = importlib.import_module(f"{NAME}.util.queue")
Queue, Empty, Full = module.Queue, module.Empty, module.Full

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def make():
    made = []

    def new(*args, **kwargs):
        made.append(Queue(*args, **kwargs))
        return made[-1]

    yield new
    for each in made:
        if each.actor is not None:
            each.shutdown(force=True)


@ray.remote(num_cpus=0)
def put_all(target, items):
    for item in items:
        target.put(item)


@ray.remote(num_cpus=0)
def get_some(source, count):
    return [source.get(timeout=20) for _ in range(count)]


def test_first_in_first_out(make):
    q = make()
    for item in (1, "two", [3]):
        q.put(item)
    assert (q.size(), q.qsize(), len(q), q.empty(), q.full()) == (3, 3, 3, False, False)
    assert [q.get() for _ in range(3)] == [1, "two", [3]]
    assert q.empty()


def test_no_room(make):
    q = make(maxsize=1)
    assert q.maxsize == 1
    q.put(1)
    assert q.full()
    with pytest.raises(Full):
        q.put(2, block=False)
    with pytest.raises(Full):
        q.put_nowait(2)
    with pytest.raises(Full) as caught:
        q.put(2, timeout=0.1)
    assert isinstance(caught.value, ray.exceptions.RayTaskError)
    assert isinstance(caught.value, queue.Full)
    assert q.get() == 1


def test_nothing_there(make):
    q = make()
    with pytest.raises(Empty):
        q.get(block=False)
    with pytest.raises(Empty):
        q.get_nowait()
    began = time.monotonic()
    with pytest.raises(Empty) as caught:
        q.get(timeout=0.1)
    assert time.monotonic() - began >= 0.1
    assert isinstance(caught.value, queue.Empty)


def test_timeouts_are_not_negative(make):
    q = make()
    with pytest.raises(ValueError, match="timeout"):
        q.get(timeout=-1)
    with pytest.raises(ValueError, match="timeout"):
        q.put(1, timeout=-1)


def test_batches(make):
    q = make(maxsize=4)
    q.put_nowait_batch(range(3))
    with pytest.raises(Full):
        q.put_nowait_batch([3, 4])
    assert q.size() == 3
    assert q.get_nowait_batch(2) == [0, 1]
    with pytest.raises(Empty):
        q.get_nowait_batch(2)
    assert q.get_nowait_batch(1) == [2]
    with pytest.raises(TypeError):
        q.put_nowait_batch(5)
    with pytest.raises(TypeError):
        q.get_nowait_batch("2")
    with pytest.raises(ValueError):
        q.get_nowait_batch(-1)


def test_shared_by_tasks(make):
    q = make(maxsize=2)
    consumer = get_some.remote(q, 20)
    producers = [put_all.remote(q, range(start, start + 10)) for start in (0, 10)]
    got = ray.get(consumer)
    ray.get(producers)
    assert sorted(got) == list(range(20))
    assert [item for item in got if item < 10] == list(range(10))  # each producer's in order


def test_many_wait_at_once(make):
    q = make()
    waiting = [q.actor.get.remote(None) for _ in range(100)]
    for item in range(100):
        q.put(item)
    assert sorted(ray.get(waiting)) == list(range(100))


def test_in_coroutines(make):
    q = make(maxsize=1)

    async def both():
        getting = asyncio.gather(*(q.get_async() for _ in range(3)))
        for item in range(3):
            await q.put_async(item)
        return await getting

    assert sorted(asyncio.run(both())) == [0, 1, 2]

    async def misuse():
        await q.put_async(1)
        with pytest.raises(Full):
            await q.put_async(2, block=False)
        assert await q.get_async(block=False) == 1
        with pytest.raises(Empty):
            await q.get_async(block=False)
        with pytest.raises(Empty):
            await q.get_async(timeout=0.05)

    asyncio.run(misuse())


def test_options_of_the_actor(make):
    q = make(actor_options={"name": "the queue"})
    q.put(1)
    assert ray.get(ray.get_actor("the queue").qsize.remote()) == 1


def test_shutdown(make):
    for force in (False, True):
        q = make(actor_options={"name": f"ends {force}"})
        q.put(1)
        q.shutdown(force=force)
        assert q.actor is None

        def is_gone(force=force):
            try:
                ray.get_actor(f"ends {force}")
            except ValueError:
                return True
            return False

        wait_until(is_gone, "the queue's actor to end")
