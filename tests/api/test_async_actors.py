"""Actors with `async def` methods: many calls at once on one event loop."""

import asyncio
import time

import pytest
from under_test import exceptions, ray, ray_rs_only

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
class Async:
    def __init__(self):
        self.event = None
        self.order = []

    async def echo(self, x):
        return x

    async def sleep(self, seconds):
        await asyncio.sleep(seconds)
        return seconds

    async def wait(self):
        if self.event is None:
            self.event = asyncio.Event()
        await self.event.wait()
        return "woken"

    async def wake(self):
        self.event.set()

    async def note(self, i):
        self.order.append(i)

    async def notes(self):
        return self.order

    def plain(self):
        return asyncio.get_running_loop() is not None

    async def fail(self):
        await asyncio.sleep(0)
        raise ValueError("async failure")

    async def call(self, ref):
        return await ref[0]

    async def context(self):
        task_id = ray.get_runtime_context().get_task_id()
        await asyncio.sleep(0.01)
        return task_id == ray.get_runtime_context().get_task_id(), task_id


def test_calls():
    actor = Async.remote()
    assert ray.get(actor.echo.remote(5)) == 5
    assert ray.get([actor.echo.remote(i) for i in range(2000)]) == list(range(2000))
    assert ray.get(actor.plain.remote()) is True


def test_calls_overlap():
    actor = Async.remote()
    ray.get(actor.echo.remote(0))
    began = time.monotonic()
    assert ray.get([actor.sleep.remote(0.5) for _ in range(200)]) == [0.5] * 200
    assert time.monotonic() - began < 50


def test_one_call_wakes_another():
    actor = Async.remote()
    waiting = actor.wait.remote()
    ray.get(actor.echo.remote(1))
    assert ray.wait([waiting], timeout=0)[0] == []
    ray.get(actor.wake.remote())
    assert ray.get(waiting, timeout=30) == "woken"


@ray_rs_only("Ray mixes up what was submitted before the actor had started")
def test_calls_start_in_order():
    actor = Async.remote()
    for i in range(500):
        actor.note.remote(i)
    assert ray.get(actor.notes.remote()) == list(range(500))


def test_errors():
    actor = Async.remote()
    with pytest.raises(ValueError, match="async failure") as raised:
        ray.get(actor.fail.remote())
    assert isinstance(raised.value, exceptions.RayTaskError)
    assert ray.get(actor.echo.remote(1)) == 1


def test_awaiting_refs_in_an_actor():
    @ray.remote
    def slow(x):
        time.sleep(0.2)
        return x

    actor = Async.remote()
    assert ray.get(actor.call.remote([slow.remote("task")])) == "task"
    assert ray.get(actor.call.remote([ray.put("put")])) == "put"
    other = Async.remote()
    assert ray.get(actor.call.remote([other.echo.remote("other")])) == "other"


def test_limited_concurrency():
    @ray.remote(max_concurrency=2)
    class Narrow:
        def __init__(self):
            self.now = self.most = 0

        async def work(self):
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.02)
            self.now -= 1

        async def peak(self):
            return self.most

    narrow = Narrow.remote()
    ray.get([narrow.work.remote() for _ in range(20)])
    assert ray.get(narrow.peak.remote()) == 2


def test_each_call_has_its_own_context():
    actor = Async.remote()
    results = ray.get([actor.context.remote() for _ in range(20)])
    assert all(same for same, _ in results)
    assert len({task_id for _, task_id in results}) == 20


def test_kill_while_calls_wait():
    actor = Async.remote()
    waiting = [actor.sleep.remote(1000) for _ in range(10)]
    ray.get(actor.echo.remote(1))
    ray.kill(actor)
    for ref in waiting:
        with pytest.raises(exceptions.ActorDiedError):
            ray.get(ref, timeout=30)


def test_async_callers_of_async_actors():
    actor = Async.remote()

    async def main():
        return await asyncio.gather(*[actor.echo.remote(i) for i in range(100)])

    assert asyncio.run(main()) == list(range(100))


def test_a_thousand_waiting_calls_do_not_hold_up_the_one_they_wait_for():
    @ray.remote
    class Gate:
        def __init__(self):
            self.open = asyncio.Event()

        async def wait(self):
            await self.open.wait()

        async def let_in(self):
            self.open.set()

    gate = Gate.remote()
    waiting = [gate.wait.remote() for _ in range(900)]
    ray.get(gate.let_in.remote(), timeout=60)
    ray.get(waiting, timeout=60)


@ray.remote(num_cpus=0)
class Background:
    """Starts what goes on beside its calls when it is made."""

    def __init__(self, fail=False):
        self.loop = asyncio.get_running_loop()
        self.ticks = 0
        self.task = asyncio.create_task(self.tick())
        self.got = ray.get(ray.put(5))
        if fail:
            raise ValueError("after the task was made")

    async def tick(self):
        while True:
            self.ticks += 1
            await asyncio.sleep(0.001)

    async def same_loop(self):
        return asyncio.get_running_loop() is self.loop

    async def seen(self):
        before = self.ticks
        while self.ticks == before:
            await asyncio.sleep(0.001)
        return self.got


def test_the_constructor_runs_on_the_loop():
    actor = Background.remote()
    # Calls that are there before the constructor is done begin after it.
    assert ray.get([actor.same_loop.remote(), actor.seen.remote()]) == [True, 5]


def test_a_constructor_on_the_loop_that_raises():
    with pytest.raises(exceptions.ActorDiedError, match="after the task was made"):
        ray.get(Background.remote(fail=True).seen.remote())
