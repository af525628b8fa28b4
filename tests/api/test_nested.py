"""Tasks that start tasks and wait for them: a blocked worker gives its CPU back, to any depth."""

import os
import tempfile
import time

import pytest
from under_test import IS_RAY, ray, wait_until

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


@pytest.mark.parametrize("millis", [0, 0.7, 1.3, 1.9, 5])
def test_a_task_waits_for_one_that_became_ready_after_it(millis):
    """Where the second goes depends on how long their function usually runs: beside the first is no place for it."""

    @ray.remote
    def either(refs, value):
        if refs:
            return ray.get(refs[0])
        until = time.perf_counter() + millis / 1000
        while time.perf_counter() < until:
            pass
        return value

    @ray.remote(num_cpus=0)
    def late():
        time.sleep(0.2)  # the task that waits has begun by then
        return 7

    ray.get([either.remote([], 0) for _ in range(30)])
    argument = late.remote()
    second = either.remote([], argument)
    first = either.remote([second], 0)
    assert ray.get(first, timeout=50) == 7


def test_an_actor_starts_tasks():
    @ray.remote
    def leaf(x):
        return x * 2

    @ray.remote
    class Boss:
        def work(self, n):
            return sum(ray.get([leaf.remote(i) for i in range(n)]))

    assert ray.get(Boss.remote().work.remote(20)) == 380


@ray.remote(num_cpus=0.1)
def put_and_tell(number):
    # Long enough for each to need a process of its own.
    time.sleep(0.3)
    return [ray.put(number)], os.getpid()


def is_there(pid):
    return os.path.exists(f"/proc/{pid}")


def test_an_idle_worker_stays_as_long_as_it_owns_something():
    """More than are kept idle; they would leave after a second, and their objects with them."""
    refs, pids = zip(*ray.get([put_and_tell.remote(i) for i in range(10)]), strict=True)
    extra = [put_and_tell.remote(i) for i in range(10)]
    ray.get(extra)
    assert len(set(pids)) > 3
    # Whoever owns nothing leaves.
    others = {pid for _, pid in ray.get(extra)} - set(pids)
    del extra
    wait_until(lambda: sum(map(is_there, others)) <= 2, "idle workers to leave")
    time.sleep(1.5)
    assert [ray.get(ref) for (ref,) in refs] == list(range(10))
    assert all(map(is_there, pids))
    del refs
    wait_until(lambda: sum(map(is_there, pids)) <= 3, "workers to leave that own nothing any more")


def test_a_task_that_its_worker_left_behind():
    """What a task submits and does not wait for is not for the worker that submitted it, which is idle by then."""

    @ray.remote
    def mark(path):
        with open(path, "w") as file:
            file.write("done")
        return os.getpid()

    @ray.remote
    def leave_behind(folder, number):
        for i in range(5):
            mark.remote(f"{folder}/{number}-{i}")
        return os.getpid()

    with tempfile.TemporaryDirectory() as folder:
        pids = ray.get([leave_behind.remote(folder, number) for number in range(20)])
        wait_until(lambda: len(os.listdir(folder)) == 100, "all tasks to have run")
    wait_until(lambda: sum(map(is_there, set(pids))) <= 3, "the workers to leave or to be used again")
