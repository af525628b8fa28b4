"""Waits that can never end because tasks wait for each other raise, with the cycle; all others go on."""

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
