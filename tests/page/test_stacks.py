"""Stacks of workers that compute, wait, keep the interpreter for themselves, or do not answer at all."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from ray_rs import _stacks
from under_test import ray, wait_until

pytestmark = pytest.mark.ray_rs_only("Ray asks py-spy")


@ray.remote
class Worker:
    def process(self):
        return os.getpid()

    def keeps_the_interpreter(self, path):
        # One call of native code, which lets nobody else have a turn.
        open(path, "w").close()
        return (1 << 40_000_000) % 1_000_003 and pow(7, 1 << 300_000, 10**400)

    def sleeps(self, path):
        import time

        open(path, "w").close()
        time.sleep(1000)


@pytest.fixture
def worker(cluster):
    made = Worker.remote()
    yield made
    ray.kill(made)


def test_who_works_is_not_disturbed(worker, tmp_path):
    pid = ray.get(worker.process.remote())
    assert "_worker_main.py" in _stacks.dump(pid)
    worker.sleeps.remote(f"{tmp_path}/on")
    wait_until((tmp_path / "on").exists, "the method to run")
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda _: _stacks.dump(pid, 20), range(40)))
    for text in texts:
        assert text.count("in sleeps") == 1
        # From the first thread to the last frame of the last.
        assert text.startswith(("Thread 0x", "Current thread 0x"))
        assert text.endswith("in <module>\n")


def test_who_keeps_the_interpreter_is_seen(worker, tmp_path):
    pid = ray.get(worker.process.remote())
    worker.keeps_the_interpreter.remote(f"{tmp_path}/on")
    wait_until((tmp_path / "on").exists, "the method to run")
    assert "in keeps_the_interpreter" in _stacks.dump(pid)


def test_who_does_not_answer(worker):
    pid = ray.get(worker.process.remote())
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(_stacks.StackError, match=f"Process {pid} did not answer within 0.2 s"):
            _stacks.dump(pid, 0.2)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ray.get(worker.process.remote()) == pid
    # What it has written meanwhile is not taken for the next answer.
    assert _stacks.dump(pid).count("_worker_main.py") == _stacks.dump(pid).count("_worker_main.py")


def test_who_is_no_worker():
    with pytest.raises(_stacks.StackError, match="is no worker"):
        _stacks.dump(os.getpid())
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(_stacks.StackError, match="no process"):
        _stacks.dump(child)
