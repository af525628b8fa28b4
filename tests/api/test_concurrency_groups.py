"""Concurrency groups: each has its own threads, or its own event loop, so a blocked one blocks no other."""

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


@ray.remote(concurrency_groups={"io": 2, "compute": 1})
class Loops:
    """Each group has an event loop: what is asyncio's belongs to one of them, what is threading's to all."""

    def __init__(self):
        self.first_loop = asyncio.get_running_loop()
        self.open = threading.Event()
        self.inside = 0
        self.most = 0
        self.order = []

    @ray.method(concurrency_group="io")
    async def overlap(self):
        self.inside += 1
        self.most = max(self.most, self.inside)
        while not self.open.is_set():
            await asyncio.sleep(0.001)
        self.inside -= 1

    @ray.method(concurrency_group="compute")
    async def block(self):
        self.inside += 1
        assert self.open.wait(60)
        self.inside -= 1
        return "compute"

    @ray.method(concurrency_group="compute")
    async def get_blocking(self, refs):
        return ray.get(refs[0], timeout=60)

    @ray.method(concurrency_group="compute")
    async def note(self, i):
        self.order.append(i)

    @ray.method(concurrency_group="compute")
    def where_plain(self):
        return self.where()

    def where(self):
        same = asyncio.get_running_loop() is self.first_loop
        return same, threading.current_thread() is threading.main_thread(), threading.get_ident()

    @ray.method(concurrency_group="io")
    async def items(self, n):
        for i in range(n):
            await asyncio.sleep(0)
            yield i

    @ray.method(concurrency_group="io")
    async def leave(self, how):
        if how == "exit_actor":
            ray.actor.exit_actor()
        raise SystemExit(3)

    @ray.method(concurrency_group="io")
    async def sleep(self):
        self.inside += 1
        try:
            await asyncio.sleep(3600)
        finally:
            self.inside -= 1

    async def echo(self, x):
        return x

    async def look(self):
        return self.inside, self.most, self.order

    async def release(self):
        self.open.set()


def test_a_group_of_a_loop_has_its_share_of_calls():
    actor = Loops.remote()
    inside = [actor.overlap.remote() for _ in range(5)]
    until_inside(actor, 2)
    assert ray.get(actor.look.remote())[:2] == (2, 2)
    ray.get(actor.release.remote())
    ray.get(inside)
    assert ray.get(actor.look.remote())[:2] == (0, 2)


def test_a_group_whose_loop_is_blocked_blocks_no_other():
    actor = Loops.remote()
    blocked = actor.block.remote()
    until_inside(actor, 1)
    waiting = actor.where_plain.remote()
    assert ray.get([actor.echo.remote(i) for i in range(20)], timeout=30) == list(range(20))
    assert [ray.get(item) for item in actor.items.options(num_returns="streaming").remote(5)] == list(range(5))
    assert ray.wait([waiting], timeout=0.1)[0] == [], "calls of the blocked group wait"
    ray.get(actor.release.remote())
    assert ray.get(blocked) == "compute"
    ray.get(waiting)


def test_the_constructor_runs_on_the_default_groups_loop():
    actor = Loops.remote()
    default, other = ray.get(actor.where.remote()), ray.get(actor.where_plain.remote())
    moved = ray.get(actor.where.options(concurrency_group="io").remote())
    assert default[:2] == (True, True)
    assert other[:2] == moved[:2] == (False, False)
    assert len({default[2], other[2], moved[2]}) == 3, "three threads"
    assert ray.get(actor.where_plain.remote()) == other


def test_calls_of_one_group_keep_their_order():
    actor = Loops.remote()
    refs = []
    for i in range(200):
        refs += [actor.note.remote(i), actor.echo.remote(i), actor.echo.options(concurrency_group="io").remote(i)]
    ray.get(refs, timeout=60)
    assert ray.get(actor.look.remote())[2] == list(range(200))


@ray.remote(num_cpus=0)
def ask(actor, start, n):
    groups = ["io", "compute", None]
    refs = []
    for i in range(start, start + n):
        group = groups[i % 3]
        method = actor.echo.options(concurrency_group=group) if group else actor.echo
        refs.append(method.remote(i))
        if i % 7 == 0:
            assert ray.get(refs[-1], timeout=60) == i  # the loops fall asleep now and then
    return ray.get(refs, timeout=60) == list(range(start, start + n))


def test_no_loop_oversleeps_a_call_while_others_get_and_sleep():
    actor, helper = Loops.remote(), Loops.remote()
    ray.get([actor.echo.remote(0), helper.echo.remote(0)])
    held = helper.block.remote()
    getting = actor.get_blocking.remote([held])  # its thread sleeps on the process's doorbell
    for i in range(50):
        assert ray.get(actor.echo.remote(i), timeout=60) == i
        assert ray.get(actor.echo.options(concurrency_group="io").remote(i), timeout=60) == i
    ray.get(helper.release.remote())
    assert ray.get(getting, timeout=60) == "compute"
    assert all(ray.get([ask.remote(actor, k * 1000, 100) for k in range(3)], timeout=120))


def test_a_call_of_a_group_is_cancelled_on_its_loop():
    actor = Loops.remote()
    asleep = [actor.sleep.remote() for _ in range(2)]
    until_inside(actor, 2)
    ray.cancel(asleep[0])
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(asleep[0], timeout=60)
    until_inside(actor, 1)
    ray.cancel(asleep[1])
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(asleep[1], timeout=60)


@pytest.mark.parametrize("how", ["exit_actor", "SystemExit"])
def test_an_actor_whose_group_leaves_ends(how):
    actor = Loops.remote()
    ray.get(actor.echo.remote(1))
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(actor.leave.remote(how), timeout=60)
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(actor.echo.remote(1), timeout=60)


def test_an_actor_with_loops_finishes_what_was_called():
    actor = Loops.remote()
    running = [actor.block.remote(), actor.overlap.remote()]
    until_inside(actor, 2)
    ray.get(actor.release.remote())
    del actor  # its last handle
    assert ray.get(running, timeout=60) == ["compute", None]


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
