"""Starting and stopping again and again leaves nothing behind."""

import gc
import os
import threading

import pytest
import traces
from under_test import IS_RAY, ray, wait_until

pytestmark = pytest.mark.usefixtures("no_cluster")

CYCLES = 3 if IS_RAY else 200


@ray.remote
def f(x):
    return x


@ray.remote
class Actor:
    def f(self):
        return 1


@pytest.mark.timeout(240)
def test_init_and_shutdown():
    def cycle(i):
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=bool(i % 2))
        assert ray.get(f.remote(i)) == i
        if i % 10 == 0:
            assert ray.get(Actor.remote().f.remote()) == 1
            ray.get(ray.put(b"x" * 1_000_000))
        ray.shutdown()

    for i in range(3):
        cycle(i)
    gc.collect()
    files, threads = traces.open_files(), threading.active_count()
    native = len(os.listdir("/proc/self/task"))
    for i in range(CYCLES):
        cycle(i)
    gc.collect()
    if not IS_RAY:
        wait_until(lambda: traces.open_files() <= files, "descriptors to be closed", 5)
        wait_until(lambda: len(os.listdir("/proc/self/task")) <= native, "threads to end", 5)
    assert threading.active_count() <= threads + (3 if IS_RAY else 0)


def test_old_refs_in_a_new_session():
    ray.init(num_cpus=1, include_dashboard=False)
    old = ray.put(1)
    actor = Actor.remote()
    ray.get(actor.f.remote())
    ray.shutdown()
    ray.init(num_cpus=1, include_dashboard=False)
    if not IS_RAY:  # Ray waits for ever for the one, and misbehaves with the other
        with pytest.raises((ValueError, ray.exceptions.RayError)):
            ray.get(old, timeout=10)
        with pytest.raises((ValueError, ray.exceptions.RayError)):
            ray.get(actor.f.remote(), timeout=10)
    assert ray.get(f.remote(5)) == 5
    del old, actor


def test_shutdown_with_work_in_flight():
    import time

    ray.init(num_cpus=2, include_dashboard=False)

    @ray.remote
    def sleep():
        time.sleep(1000)

    refs = [sleep.remote() for _ in range(10)]
    ray.wait(refs, timeout=0.1)
    ray.shutdown()
    ray.init(num_cpus=1, include_dashboard=False)
    assert ray.get(f.remote(1)) == 1
    del refs


def test_shutdown_while_a_thread_waits():
    import time

    ray.init(num_cpus=1, include_dashboard=False)

    @ray.remote
    def sleep():
        time.sleep(1000)

    if IS_RAY:
        return  # Ray's thread would never come back
    ended = []

    def wait():
        try:
            ray.get(sleep.remote())
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    time.sleep(0.2)
    ray.shutdown()
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert len(ended) == 1
