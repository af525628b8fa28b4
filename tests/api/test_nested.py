"""Tasks that start tasks and wait for them: a blocked worker gives its CPU back, to any depth."""

import os

import pytest
from under_test import IS_RAY, ray

pytestmark = pytest.mark.usefixtures("cluster")

# Each level is a process of its own, which costs Ray half a second and 50 MB.
DEPTH = 20 if IS_RAY else 200


@ray.remote
def down(n):
    if n == 0:
        return [os.getpid()]
    return [os.getpid(), *ray.get(down.remote(n - 1))]


@pytest.mark.timeout(120)
def test_recursion_far_deeper_than_the_cpus():
    pids = ray.get(down.remote(DEPTH))
    assert len(set(pids)) == DEPTH + 1


def test_wide_and_deep():
    @ray.remote
    def tree(depth):
        if depth == 0:
            return 1
        return sum(ray.get([tree.remote(depth - 1) for _ in range(3)]))

    assert ray.get(tree.remote(3)) == 27


def test_waiting_in_a_task_gives_the_cpu_back():
    @ray.remote
    def leaf(i):
        return i

    @ray.remote
    def waiter():
        refs = [leaf.remote(i) for i in range(10)]
        ready, _ = ray.wait(refs, num_returns=10)
        return len(ready)

    assert ray.get([waiter.remote() for _ in range(4)]) == [10] * 4


def test_a_task_waits_for_its_drivers_task():
    """The outer tasks fill both CPUs and wait for tasks that the driver submitted behind them."""

    @ray.remote
    def outer(refs):
        return ray.get(refs[0])

    @ray.remote
    def leaf(x):
        return x

    assert ray.get([outer.remote([leaf.remote(i)]) for i in range(6)]) == list(range(6))


def test_an_actor_starts_tasks():
    @ray.remote
    def leaf(x):
        return x * 2

    @ray.remote
    class Boss:
        def work(self, n):
            return sum(ray.get([leaf.remote(i) for i in range(n)]))

    assert ray.get(Boss.remote().work.remote(20)) == 380
