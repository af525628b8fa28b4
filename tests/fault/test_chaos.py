"""Processes killed at random, in the middle of whatever they do: what may be retried is done exactly as asked."""

import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from under_test import ray

pytestmark = pytest.mark.usefixtures("cluster")

SECONDS = 4.0
# Where killing is quicker than the work (a busy machine), the work would never end.
KILLS_A_ROUND = 20


class Killer:
    """Kills one of the processes that have left their number in a directory, again and again; so often in a round."""

    def __init__(self, directory, pause):
        self.directory = Path(directory)
        self.pause = pause
        self.killed = 0
        self._left = KILLS_A_ROUND
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._ended.set()
        self._thread.join()

    def new_round(self):
        self._left = KILLS_A_ROUND

    def _run(self):
        chance = random.Random(1)
        while not self._ended.wait(chance.uniform(0.5, 1.5) * self.pause):
            victims = sorted(self.directory.iterdir())
            if not victims or self._left <= 0:
                continue
            victim = chance.choice(victims)
            victim.unlink()
            try:
                os.kill(int(victim.name), signal.SIGKILL)
                self.killed += 1
                self._left -= 1
            except ProcessLookupError:
                continue


def signer(directory):
    """What a process calls to become a victim. Not importable, so that workers need not import this module."""

    def sign():
        Path(directory, str(os.getpid())).touch()

    return sign


def test_tasks(tmp_path):
    sign = signer(tmp_path)

    @ray.remote(max_retries=-1)
    def work(i, array):
        sign()
        time.sleep(0.001 * (i % 3))
        return i + int(array[-1]) if i % 10 else np.full(30_000, i)

    @ray.remote(max_retries=-1)
    def tree(depth):
        sign()
        return 1 if depth == 0 else sum(ray.get([tree.remote(depth - 1) for _ in range(3)]))

    one = ray.put(np.ones(50_000, dtype=np.int64))
    end = time.monotonic() + SECONDS
    rounds = 0
    with Killer(tmp_path, 0.05) as killer:
        while time.monotonic() < end:
            killer.new_round()
            deep = tree.remote(3)
            results = ray.get([work.remote(i, one) for i in range(300)], timeout=50)
            for i, result in enumerate(results):
                assert (result == i).all() and len(result) == 30_000 if i % 10 == 0 else result == i + 1
            assert ray.get(deep, timeout=50) == 27
            rounds += 1
    assert killer.killed > 5 and rounds > 0


def test_actors(tmp_path):
    sign = signer(tmp_path)

    @ray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)
    class Echo:
        def __init__(self):
            sign()

        def echo(self, x):
            return x

        def through(self, other, x):
            return ray.get(other.echo.remote(x))

    # Not in a ring: each call waits for the actor behind, so a ring of single-threaded actors would wait for itself.
    actors = [Echo.remote() for _ in range(3)]

    def work(who):
        end = time.monotonic() + SECONDS
        count = 0
        while time.monotonic() < end:
            killer.new_round()
            refs = [actors[who].echo.remote((who, i, b"x" * (i * 500))) for i in range(100)]
            assert [x[:2] for x in ray.get(refs, timeout=50)] == [(who, i) for i in range(100)]
            assert ray.get(actors[0].through.remote(actors[2], count), timeout=50) == count
            count += 1
        return count

    with Killer(tmp_path, 0.15) as killer, ThreadPoolExecutor(3) as pool:
        assert min(pool.map(work, range(3))) > 0
    assert killer.killed > 3


def test_callers_of_an_actor(tmp_path):
    """An actor outlives its callers, however they end, and what they have not fetched is freed."""
    sign = signer(tmp_path)

    @ray.remote(num_cpus=0, max_concurrency=2)
    class Callee:
        def echo(self, x):
            return x

    @ray.remote(max_retries=-1)
    def call(callee, rounds):
        sign()
        for _ in range(rounds):
            refs = [callee.echo.remote(b"y" * (i * 1000)) for i in range(150)]
            refs.append(callee.echo.remote(np.ones(100_000)))
            assert [len(x) for x in ray.get(refs)] == [*range(0, 150_000, 1000), 100_000]
        return "done"

    callee = Callee.remote()
    end = time.monotonic() + SECONDS
    with Killer(tmp_path, 0.1) as killer:
        while time.monotonic() < end:
            killer.new_round()
            refs = [call.remote(callee, 3) for _ in range(4)]
            assert ray.get(callee.echo.remote("alive"), timeout=50) == "alive"
            assert ray.get(refs, timeout=50) == ["done"] * 4
    assert killer.killed > 3
    assert ray.get(callee.echo.remote(1)) == 1
