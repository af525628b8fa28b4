"""Concurrency groups: each has its own threads (or its own share of the loop), so a blocked one blocks no other."""

import asyncio
import threading
import time

import pytest
from under_test import ray

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture(scope="module")
def session():
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


@ray.remote(concurrency_groups={"io": 2, "compute": 3})
class Threads:
    def __init__(self):
        self.open = threading.Event()
        self.inside = 0
        self.most = 0
        self.lock = threading.Lock()

    @ray.method(concurrency_group="io")
    def block(self):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.open.wait(60)
        with self.lock:
            self.inside -= 1
        return "io"

    @ray.method(concurrency_group="compute")
    def compute(self, x):
        return x, threading.current_thread() is threading.main_thread()

    def default(self):
        return threading.current_thread() is threading.main_thread()

    def release(self):
        self.open.set()

    def look(self):
        return self.inside, self.most


def until(condition):
    while not condition():
        time.sleep(0.01)


def test_a_blocked_group_blocks_no_other():
    actor = Threads.remote()
    blocked = [actor.block.remote() for _ in range(4)]
    until(lambda: ray.get(actor.look.remote())[0] == 2)
    assert ray.get([actor.compute.remote(i) for i in range(5)], timeout=30) == [(i, False) for i in range(5)]
    assert ray.get(actor.default.remote(), timeout=30) is False
    # A call may ask for another group than its method's.
    moved = actor.default.options(concurrency_group="io").remote()
    assert ray.wait([moved], timeout=0.2)[0] == []
    ray.get(actor.release.remote())
    assert ray.get(blocked) == ["io"] * 4
    assert ray.get(moved) is False
    assert ray.get(actor.look.remote()) == (0, 2)


def test_groups_of_a_loop():
    @ray.remote(concurrency_groups={"io": 2})
    class Loop:
        def __init__(self):
            self.inside = 0
            self.open = asyncio.Event()

        @ray.method(concurrency_group="io")
        async def block(self):
            self.inside += 1
            await self.open.wait()
            self.inside -= 1

        async def look(self):
            return self.inside

        async def release(self):
            self.open.set()

    actor = Loop.remote()
    blocked = [actor.block.remote() for _ in range(5)]
    until(lambda: ray.get(actor.look.remote()) == 2)
    assert ray.get(actor.look.remote()) == 2
    ray.get(actor.release.remote())
    ray.get(blocked)


def until_inside(actor, count):
    until(lambda: ray.get(actor.look.remote())[0] == count)


def test_an_actor_with_groups_ends_as_others_do():
    actor = Threads.remote()
    ray.get(actor.compute.remote(1))
    blocked = actor.block.remote()
    until_inside(actor, 1)
    ray.kill(actor)
    with pytest.raises(ray.exceptions.ActorDiedError):
        ray.get(blocked)
    actor = Threads.remote()
    blocked = [actor.block.remote() for _ in range(2)]
    until_inside(actor, 2)
    ray.get(actor.release.remote())
    del actor  # its last handle: what was called before is finished
    assert ray.get(blocked) == ["io"] * 2


def test_what_is_wrong_with_groups_is_said_at_once():
    with pytest.raises(ValueError, match="positive number"):

        @ray.remote(concurrency_groups={"io": 0})
        class Zero:
            pass

    @ray.remote(concurrency_groups={"io": 1})
    class Undefined:
        @ray.method(concurrency_group="oi")
        def m(self):
            pass

    with pytest.raises(AssertionError, match="oi"):
        Undefined.remote()
    actor = Threads.remote()
    with pytest.raises(ValueError, match="no concurrency group 'nope'"):
        actor.default.options(concurrency_group="nope").remote()
    with pytest.raises(ValueError, match="concurrency_groups"):
        Threads.options(concurrency_groups={"x": 1})
