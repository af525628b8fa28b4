"""Processes that use a full store are killed at random; afterwards its accounts are exact."""

import contextlib
import os
import random
import signal
import time

import numpy as np
import pytest
import traces
from under_test import exceptions, ray, ray_rs_only, wait_until

MIB = 2**20
STORE = 80 * MIB
SECONDS = float(os.environ.get("RAY_RS_STRESS_SECONDS", "8"))


def store_stats():
    from ray_rs._core import store_stats

    return store_stats()


def store_objects():
    from ray_rs._core import store_objects

    return store_objects()


@ray.remote(max_retries=0)
def busy(seed, given):
    """Creates, seals, reads and lets go, of its own objects and of others, until it is killed or done."""
    rng = random.Random(seed)
    mine = []
    for _ in range(30):
        size = rng.choice([150_000, 500_000, 2 * MIB, 6 * MIB])
        mine.append((ray.put(np.full(size, seed % 251, dtype=np.uint8)), size))
        ref, size = rng.choice(mine)
        array = ray.get(ref)
        assert array.nbytes == size and array[0] == array[-1] == seed % 251
        del array
        other = ray.get(rng.choice(given))
        assert (other == other[0]).all()
        del other
        if len(mine) > 12:
            mine.pop(rng.randrange(len(mine)))
    return np.full(3 * MIB, seed % 251, dtype=np.uint8)


@ray_rs_only("looks at the store's own accounts")
@pytest.mark.timeout(300)
def test_nothing_is_lost_or_left_by_kills_at_random(no_cluster):
    ray.init(num_cpus=3, object_store_memory=STORE, include_dashboard=False, log_to_driver=False)
    rng = random.Random(os.environ.get("RAY_RS_STRESS_SEED", "1"))
    kept = [ray.put(np.full(4 * MIB, i, dtype=np.uint8)) for i in range(12)]
    me = os.getpid()
    ended = {"done": 0, "killed": 0}
    running = {busy.remote(seed, kept): seed for seed in range(6)}
    next_seed = len(running)
    until = time.monotonic() + SECONDS
    while running:
        ready, _ = ray.wait(list(running), timeout=rng.uniform(0.02, 0.3))
        for ref in ready:
            seed = running.pop(ref)
            try:
                array = ray.get(ref)
                assert array.nbytes == 3 * MIB and (array == seed % 251).all()
                ended["done"] += 1
                del array
            except exceptions.WorkerCrashedError:
                ended["killed"] += 1
            if time.monotonic() < until:
                running[busy.remote(next_seed, kept)] = next_seed
                next_seed += 1
        del ready
        ref = None  # the last one would keep its object
        if time.monotonic() < until:
            workers = [pid for pid, command in traces.processes().items() if command.startswith("ray::busy")]
            victims = [pid for pid in workers if pid != me]
            if victims:
                with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
                    os.kill(rng.choice(victims), signal.SIGKILL)
    assert ended["killed"] >= 3, ended
    assert store_stats()["total_spilled_objects"] > 0
    # What the driver has put is whole.
    assert all((ray.get(ref) == i).all() for i, ref in enumerate(kept))
    kept.clear()
    # And of all the rest nothing is left, in memory or on disk.
    wait_until(lambda: not store_objects(), "all objects to go")
    assert store_stats()["spilled_objects"] == 0
    whole = np.ones(STORE - 8 * MIB, dtype=np.uint8)
    assert ray.get(ray.put(whole))[-1] == 1
