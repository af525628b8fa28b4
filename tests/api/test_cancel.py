"""`cancel` and `timeout_s`: whatever the task is doing, `get` of it raises, and nothing else is hit."""

import asyncio
import time

import pytest
from under_test import exceptions, ray

pytestmark = pytest.mark.usefixtures("session")

LONG = 60.0  # longer than any test may take


@pytest.fixture
def session():
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


@ray.remote
def sleep_long(started=None):
    if started is not None:
        ray.get(started.set.remote())
    time.sleep(LONG)
    return "done"


@ray.remote
def echo(x):
    return x


@ray.remote(num_cpus=0)
class Flag:
    """Where a task says that it has begun."""

    def __init__(self):
        self.count = 0

    def set(self):
        self.count += 1

    def get(self):
        return self.count


def begun(flag, count=1):
    while ray.get(flag.get.remote()) < count:
        time.sleep(0.01)


def assert_cancelled(ref):
    with pytest.raises(exceptions.TaskCancelledError) as caught:
        ray.get(ref, timeout=30)
    return caught.value


def test_a_running_task_in_a_sleep_or_in_a_loop():
    @ray.remote
    def loop(started):
        ray.get(started.set.remote())
        until = time.monotonic() + LONG
        while time.monotonic() < until:
            pass

    for task in (sleep_long, loop):
        flag = Flag.remote()
        ref = task.remote(flag)
        begun(flag)
        ray.cancel(ref)
        error = assert_cancelled(ref)
        assert isinstance(error, exceptions.RayTaskError)
        assert task._function.__name__ in str(error)
    assert ray.get(echo.remote(1)) == 1  # the worker lives on, and the next task is not hit


def test_a_task_blocked_in_get_and_what_it_has_submitted():
    flag = Flag.remote()

    @ray.remote
    def parent(inner):
        child = sleep_long.remote(flag)
        ray.get(inner.set.remote())
        return ray.get(child)

    inner = Flag.remote()
    ref = parent.remote(inner)
    begun(inner)
    begun(flag)
    ray.cancel(ref)
    assert_cancelled(ref)
    # Both CPUs are free again: the child was cancelled, too.
    assert ray.get([echo.options(num_cpus=2).remote(2)], timeout=30) == [2]


def test_not_recursive():
    flag = Flag.remote()

    @ray.remote
    def child():
        time.sleep(0.5)
        ray.get(flag.set.remote())

    @ray.remote
    def parent(started):
        ref = child.remote()
        ray.get(started.set.remote())
        ray.get(ref)

    started = Flag.remote()
    ref = parent.remote(started)
    begun(started)
    ray.cancel(ref, recursive=False)
    assert_cancelled(ref)
    begun(flag)


def test_force_ends_the_process():
    flag = Flag.remote()
    ref = sleep_long.remote(flag)
    begun(flag)
    ray.cancel(ref, force=True)
    error = assert_cancelled(ref)
    assert not isinstance(error, exceptions.RayTaskError)
    assert ray.get(flag.get.remote()) == 1  # no retry, though three were left
    assert ray.get(echo.remote(1)) == 1


def test_those_behind_a_task_that_force_ends_keep_their_turn():
    @ray.remote(num_cpus=2)
    def wait_or_not(waits):
        if waits:
            time.sleep(LONG)

    # Known to be short, several of them travel to one worker together; it dies with those that it has not begun.
    ray.get([wait_or_not.remote(False) for _ in range(20)])
    refs = [wait_or_not.remote(i % 2 == 0) for i in range(40)]
    for i, ref in enumerate(refs):
        if i % 2 == 0:
            ray.cancel(ref, force=True)
        else:
            ray.get(ref, timeout=30)


def test_a_task_that_has_not_begun_never_runs():
    flag = Flag.remote()

    @ray.remote
    def set_flag(_argument=None):
        ray.get(flag.set.remote())

    blockers = [sleep_long.remote() for _ in range(2)]
    queued = set_flag.remote()
    waiting = set_flag.remote(blockers[0])
    behind = echo.remote(waiting)
    ray.cancel(queued)
    ray.cancel(waiting)
    assert_cancelled(queued)
    assert_cancelled(waiting)
    assert_cancelled(behind)
    for ref in blockers:
        ray.cancel(ref, force=True)
        assert_cancelled(ref)
    assert ray.get(echo.remote(1)) == 1
    assert ray.get(flag.get.remote()) == 0


def test_what_has_ended_stays():
    finished = echo.remote(3)
    assert ray.get(finished) == 3
    ray.cancel(finished)
    ray.cancel(finished, force=True)
    assert ray.get(finished) == 3
    put = ray.put(4)
    ray.cancel(put)
    assert ray.get(put) == 4


def test_the_task_may_catch_the_interrupt():
    @ray.remote
    def stubborn(started):
        try:
            ray.get(started.set.remote())
            time.sleep(LONG)
        except KeyboardInterrupt:
            return "caught"

    flag = Flag.remote()
    ref = stubborn.remote(flag)
    begun(flag)
    ray.cancel(ref, recursive=False)  # the call that said that it has begun may not have come back yet
    assert ray.get(ref, timeout=30) == "caught"


def test_a_borrower_cancels():
    flag = Flag.remote()
    ref = sleep_long.remote(flag)
    begun(flag)

    @ray.remote
    def cancel(refs):
        ray.cancel(refs[0])

    ray.get(cancel.remote([ref]))
    assert_cancelled(ref)


def test_a_flood_of_cancellations_hits_only_what_it_is_meant_for():
    @ray.remote
    def short(i):
        time.sleep(0.002)
        return i

    refs = [short.remote(i) for i in range(300)]
    for ref in refs[::2]:
        ray.cancel(ref)
    for i, ref in enumerate(refs):
        try:
            assert ray.get(ref, timeout=30) == i
        except exceptions.TaskCancelledError:
            assert i % 2 == 0


def test_a_queued_call_of_an_actor():
    @ray.remote
    class Actor:
        def __init__(self):
            self.ran = []

        def wait_for(self, flag):
            ray.get(flag.set.remote())
            while ray.get(flag.get.remote()) < 2:
                time.sleep(0.01)

        def run(self, name):
            self.ran.append(name)
            return self.ran

    flag = Flag.remote()
    actor = Actor.remote()
    first = actor.wait_for.remote(flag)
    begun(flag)
    cancelled, kept = actor.run.remote("cancelled"), actor.run.remote("kept")
    ray.cancel(cancelled)
    assert_cancelled(cancelled)
    ray.get(flag.set.remote())
    ray.get(first)
    assert ray.get(kept) == ["kept"]
    with pytest.raises(ValueError, match="force=True is not supported for actor tasks"):
        ray.cancel(actor.wait_for.remote(Flag.remote()), force=True)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_running_method_of_an_actor_sees_a_flag(threads):
    @ray.remote(max_concurrency=threads)
    class Actor:
        def run(self, flag):
            context = ray.get_runtime_context()
            assert not context.is_canceled()
            ray.get(flag.set.remote())
            while not context.is_canceled():
                time.sleep(0.01)
            return "dropped"

        def echo(self, x):
            return x

    flag = Flag.remote()
    actor = Actor.remote()
    ref = actor.run.remote(flag)
    begun(flag)
    ray.cancel(ref)
    assert_cancelled(ref)
    assert ray.get(actor.echo.remote(5)) == 5


def test_a_coroutine_of_an_actor():
    @ray.remote
    class Actor:
        def __init__(self):
            self.cancelled = 0

        async def sleep(self, flag):
            try:
                await flag.set.remote()
                await asyncio.sleep(LONG)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise

        async def count(self):
            return self.cancelled

        async def asks(self):
            return ray.get_runtime_context().is_canceled()

    flag = Flag.remote()
    actor = Actor.remote()
    refs = [actor.sleep.remote(flag) for _ in range(3)]
    begun(flag, 3)
    ray.cancel(refs[1])
    assert_cancelled(refs[1])
    assert ray.get(actor.count.remote()) == 1
    with pytest.raises(RuntimeError, match="async"):
        ray.get(actor.asks.remote())


def test_a_time_limit():
    limited = sleep_long.options(timeout_s=0.2)
    with pytest.raises(exceptions.TaskTimeoutError) as caught:
        ray.get(limited.remote())
    assert isinstance(caught.value, exceptions.TaskCancelledError)
    assert isinstance(caught.value, TimeoutError)
    assert ray.get(echo.options(timeout_s=30).remote(1)) == 1

    @ray.remote
    class Actor:
        @ray.method(timeout_s=0.2)
        def sleep(self, seconds):
            time.sleep(seconds)

        def echo(self, x):
            return x

    actor = Actor.remote()
    # The caller goes on at once; a plain method itself can't be made to end.
    with pytest.raises(exceptions.TaskTimeoutError):
        ray.get(actor.sleep.remote(1))
    assert ray.get(actor.echo.options(timeout_s=30).remote(2)) == 2
    with pytest.raises(ValueError, match="timeout_s"):
        echo.options(timeout_s=0)
    with pytest.raises(TypeError, match="timeout_s"):
        echo.options(timeout_s="1")


@pytest.mark.parametrize("bad", [1, None, [1], "ref"])
def test_only_references_can_be_cancelled(bad):
    with pytest.raises(TypeError, match=r"ray\.kill"):
        ray.cancel(bad)


def test_no_context_in_a_driver():
    with pytest.raises(RuntimeError):
        ray.get_runtime_context().is_canceled()


def test_a_task_that_takes_no_signals_loses_its_process():
    @ray.remote
    def deaf(started):
        ray.get(started.set.remote())
        return sum(range(10**13))  # one call of a C function, for hours

    flag = Flag.remote()
    ref = deaf.remote(flag)
    begun(flag)
    ray.cancel(ref)
    assert_cancelled(ref)
    assert ray.get(echo.options(num_cpus=2).remote(1), timeout=30) == 1
