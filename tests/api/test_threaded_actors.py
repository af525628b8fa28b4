"""Actors with `max_concurrency` threads."""

import threading
import time

import pytest
from under_test import exceptions, ray

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote(max_concurrency=4)
class Threaded:
    def __init__(self):
        self.barrier = threading.Barrier(4)
        self.lock = threading.Lock()
        self.now = self.most = 0

    def meet(self):
        """Ends only when four calls run at once."""
        return self.barrier.wait(timeout=30) is not None

    def work(self):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)
        with self.lock:
            self.now -= 1

    def peak(self):
        return self.most

    def echo(self, x):
        return x

    def in_main_thread(self):
        return threading.current_thread() is threading.main_thread()

    def fail(self):
        raise KeyError("threaded")

    def nested(self, x):
        @ray.remote
        def f(y):
            return y + 1

        return ray.get(f.remote(x))


def test_four_at_once():
    actor = Threaded.remote()
    assert ray.get([actor.meet.remote() for _ in range(4)]) == [True] * 4


def test_no_more_than_four():
    actor = Threaded.remote()
    ray.get([actor.work.remote() for _ in range(30)])
    assert 1 < ray.get(actor.peak.remote()) <= 4


def test_many_calls():
    actor = Threaded.remote()
    assert ray.get([actor.echo.remote(i) for i in range(2000)]) == list(range(2000))
    assert ray.get(actor.in_main_thread.remote()) is False
    with pytest.raises(KeyError, match="threaded"):
        ray.get(actor.fail.remote())


def test_threads_start_tasks():
    actor = Threaded.remote()
    assert ray.get([actor.nested.remote(i) for i in range(12)]) == list(range(1, 13))


def test_kill_while_threads_run():
    @ray.remote(max_concurrency=3)
    class Sleeper:
        def sleep(self):
            time.sleep(1000)

        def ok(self):
            return True

    sleeper = Sleeper.remote()
    refs = [sleeper.sleep.remote() for _ in range(2)]
    assert ray.get(sleeper.ok.remote())
    ray.kill(sleeper)
    for ref in refs:
        with pytest.raises(exceptions.ActorDiedError):
            ray.get(ref, timeout=30)


def test_order_is_given_up_only_when_asked_for():
    with pytest.raises(ValueError):
        Threaded.options(allow_out_of_order_execution=False).remote()
