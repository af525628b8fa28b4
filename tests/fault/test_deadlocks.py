"""Waits that can never end because tasks wait for each other raise, with the cycle; all others go on."""

import asyncio
import time

import pytest
from under_test import exceptions, ray, ray_rs_only

pytestmark = [pytest.mark.usefixtures("cluster"), ray_rs_only("Ray waits for ever")]


@ray.remote(num_cpus=0)
class Node:
    """Calls others as it is told."""

    def __init__(self):
        self.others = []

    def meet(self, *others):
        self.others = list(others)

    def value(self):
        return 1

    def ask(self, *path):
        """The value at the end of the path through `others`."""
        if not path:
            return 1
        return ray.get(self.others[path[0]].ask.remote(*path[1:]))

    def slowly(self, seconds):
        time.sleep(seconds)
        return 1

    def ask_slowly(self, seconds):
        return ray.get(self.others[0].slowly.remote(seconds))

    def ask_with_limit(self, seconds):
        return ray.get(self.others[0].ask.remote(), timeout=seconds)

    def run(self, function, *arguments):
        return ray.get(function.remote(*arguments))


def meet(*groups):
    ray.get([node.meet.remote(*others) for node, others in groups])


def test_a_method_that_gets_another_method_of_its_own_actor():
    node = Node.remote()
    meet((node, [node]))
    with pytest.raises(exceptions.DeadlockError) as raised:
        ray.get(node.ask.remote(0))
    text = str(raised.value)
    assert "'Node.ask'" in text and "waits in get()" in text and "until its actor Node" in text
    # The actor has survived it.
    assert ray.get(node.value.remote()) == 1


def test_two_actors_that_call_each_other():
    one, two = Node.remote(), Node.remote()
    meet((one, [two]), (two, [one]))
    with pytest.raises(exceptions.DeadlockError):
        ray.get(one.ask.remote(0, 0))
    assert ray.get([one.value.remote(), two.value.remote()]) == [1, 1]


def test_three_actors_in_a_ring_and_a_tail():
    one, two, three, tail = (Node.remote() for _ in range(4))
    meet((one, [two]), (two, [three]), (three, [one]), (tail, [one]))
    with pytest.raises(exceptions.DeadlockError) as raised:
        ray.get(tail.ask.remote(0, 0, 0, 0))
    assert str(raised.value).count("waits in get()") >= 3


def test_a_task_and_an_actor():
    @ray.remote
    def call(node):
        return ray.get(node.value.remote())

    node = Node.remote()
    with pytest.raises(exceptions.DeadlockError):
        ray.get(node.run.remote(call, node))


def test_an_actor_with_a_free_place_goes_on():
    node = Node.options(max_concurrency=2).remote()
    meet((node, [node]))
    assert ray.get(node.ask.remote(0)) == 1


def test_an_async_actor_that_awaits_itself_goes_on():
    @ray.remote(num_cpus=0)
    class Async:
        async def ask(self):
            return await ray.get_runtime_context().current_actor.value.remote()

        async def value(self):
            return 1

    assert ray.get(Async.remote().ask.remote()) == 1


def test_both_places_taken_is_a_deadlock():
    node = Node.options(max_concurrency=2).remote()
    meet((node, [node]))
    with pytest.raises(exceptions.DeadlockError):
        ray.get(node.ask.remote(0, 0))


def test_a_slow_one_is_waited_for():
    one, two = Node.remote(), Node.remote()
    meet((one, [two]))
    assert ray.get(one.ask_slowly.remote(4)) == 1


def test_a_wait_with_a_limit_ends_by_its_limit():
    node = Node.remote()
    meet((node, [node]))
    with pytest.raises(exceptions.GetTimeoutError):
        ray.get(node.ask_with_limit.remote(4))


def test_a_constructor_that_waits_for_its_own_method():
    @ray.remote(num_cpus=0)
    class Inner:
        def __init__(self):
            me = ray.get_runtime_context().current_actor
            ray.get(me.value.remote())

        def value(self):
            return 1

    with pytest.raises(exceptions.RayActorError, match="can never end"):
        ray.get(Inner.remote().value.remote())


def test_tasks_in_tasks_end_on_few_cpus():
    @ray.remote
    def tree(depth):
        return 1 if depth == 0 else sum(ray.get([tree.remote(depth - 1) for _ in range(3)]))

    assert ray.get(tree.remote(4)) == 81


@ray.remote(num_cpus=0)
class Coroutines:
    """Awaits what it is told."""

    def meet(self, *others):
        self.others = list(others)

    async def value(self):
        return 1

    async def ask(self, *path):
        if not path:
            return 1
        return await self.others[path[0]].ask.remote(*path[1:])

    async def await_given(self, how):
        """Awaits the reference that `give` brings."""
        while not hasattr(self, "given"):
            await asyncio.sleep(0.01)
        return await how(self.given)

    def give(self, refs):
        (self.given,) = refs


@ray.remote
def follow(value):
    return value


async def plainly(ref):
    return await ref


async def in_a_task_of_its_own(ref):
    return await asyncio.create_task(plainly(ref))


async def gathered(ref):
    return (await asyncio.gather(asyncio.sleep(0, 5), plainly(ref), follow.remote(2)))[1]


def awaits_what_follows_it(how):
    """A call that awaits a task whose argument is the call's own result."""
    actor = Coroutines.remote()
    result = actor.await_given.remote(how)
    ray.get(actor.give.remote([follow.remote(result)]))
    return actor, result


@pytest.mark.parametrize("how", [plainly, in_a_task_of_its_own, gathered])
def test_a_coroutine_that_awaits_a_task_that_waits_for_it(how):
    actor, result = awaits_what_follows_it(how)
    with pytest.raises(exceptions.DeadlockError) as raised:
        ray.get(result)
    text = str(raised.value)
    assert "'Coroutines.await_given' (pid " in text and "awaits the result of 'follow'" in text
    assert "'follow' waits for 'Coroutines.await_given'" in text
    assert ray.get(actor.value.remote()) == 1


@ray.remote(num_cpus=0)
class Box:
    async def put(self, held):
        self.held = held

    async def take(self):
        while not hasattr(self, "held"):
            await asyncio.sleep(0.005)
        return self.held


def runs_coroutine(box, how):
    (given,) = ray.get(box.take.remote())
    return asyncio.run(how(given))


@ray.remote(num_cpus=0)
class RunsCoroutines:
    run = staticmethod(runs_coroutine)

    def value(self):
        return 1


@pytest.mark.parametrize("how", [plainly, in_a_task_of_its_own, gathered])
def test_a_task_whose_coroutine_awaits_what_waits_for_it(how):
    box = Box.remote()
    result = ray.remote(runs_coroutine).remote(box, how)
    ray.get(box.put.remote([follow.remote(result)]))
    with pytest.raises(exceptions.DeadlockError, match=r"'runs_coroutine' .*awaits the result of 'follow'") as raised:
        ray.get(result)
    assert "'follow' waits for 'runs_coroutine'" in str(raised.value)


def test_a_method_whose_coroutine_awaits_what_waits_for_it():
    box, actor = Box.remote(), RunsCoroutines.remote()
    result = actor.run.remote(box, plainly)
    ray.get(box.put.remote([follow.remote(result)]))
    with pytest.raises(exceptions.DeadlockError, match=r"awaits the result of 'follow'"):
        ray.get(result)
    assert ray.get(actor.value.remote()) == 1


def test_a_coroutine_on_an_actor_with_one_place():
    actor = Coroutines.options(max_concurrency=1).remote()
    ray.get(actor.meet.remote(actor))
    with pytest.raises(exceptions.DeadlockError, match=r"awaits the result of 'Coroutines\.ask'"):
        ray.get(actor.ask.remote(0))
    assert ray.get(actor.value.remote()) == 1


def test_coroutines_and_a_thread_in_a_ring():
    one, two = Coroutines.options(max_concurrency=1).remote(), Coroutines.options(max_concurrency=1).remote()
    thread = Node.remote()
    ray.get([one.meet.remote(two), two.meet.remote(thread), thread.meet.remote(one)])
    with pytest.raises(exceptions.DeadlockError):
        ray.get(one.ask.remote(0, 0, 0))
    assert ray.get([one.value.remote(), two.value.remote(), thread.value.remote()]) == [1, 1, 1]


def test_the_coroutine_can_catch_it_and_go_on():
    async def caught(ref):
        try:
            await ref
        except exceptions.DeadlockError:
            return "went on"

    _, result = awaits_what_follows_it(caught)
    assert ray.get(result) == "went on"


async def with_limit(ref):
    try:
        await asyncio.wait_for(plainly(ref), 4)
    except (TimeoutError, asyncio.TimeoutError):
        return "its own limit"


async def cancelled_by_a_timer(ref):
    waiting = asyncio.ensure_future(plainly(ref))
    asyncio.get_running_loop().call_later(4, waiting.cancel)
    try:
        await waiting
    except asyncio.CancelledError:
        return "its own limit"


async def one_of_two(ref):
    done, _ = await asyncio.wait(
        [asyncio.ensure_future(plainly(ref)), asyncio.create_task(asyncio.sleep(4))], return_when="FIRST_COMPLETED"
    )
    return "its own limit" if done else None


@pytest.mark.parametrize("how", [with_limit, cancelled_by_a_timer, one_of_two])
def test_a_coroutine_with_another_way_out_takes_it(how):
    _, result = awaits_what_follows_it(how)
    assert ray.get(result) == "its own limit"


def test_slow_awaits_on_a_full_actor_are_waited_for():
    actor, node = Coroutines.options(max_concurrency=1).remote(), Node.remote()

    @ray.remote(num_cpus=0)
    class Asks:
        async def ask(self, node):
            return await node.slowly.remote(4)

    assert ray.get(Asks.options(max_concurrency=1).remote().ask.remote(node)) == 1
    assert ray.get(actor.value.remote()) == 1
