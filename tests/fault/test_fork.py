"""`fork`, `multiprocessing` and `subprocess`, in a driver and in a task, do not hang and do no harm."""

import multiprocessing
import os
import subprocess
import sys

import pytest
from under_test import IS_RAY, ray, ray_rs_only, run_driver

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


@ray.remote
def echo(x):
    return x


def square(x):
    return x * x


def fork_and_wait(child):
    """Runs `child` in a fork and returns its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = child() or 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def test_fork_in_the_driver():
    ref = echo.remote(1)
    assert fork_and_wait(lambda: 5) == 5
    assert ray.get(ref) == 1
    assert ray.get([echo.remote(i) for i in range(100)]) == list(range(100))


@ray_rs_only("Ray's child process hangs")
def test_a_forked_child_may_not_use_the_cluster():
    def child():
        try:
            ray.get(echo.remote(1), timeout=5)
        except Exception as error:
            return 42 if "fork" in str(error) else 1
        return 2

    assert fork_and_wait(child) == 42
    assert ray.get(echo.remote(1)) == 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing_in_the_driver(method):
    if IS_RAY and method == "fork":
        return  # hangs now and then
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(square, range(20)) == [x * x for x in range(20)]
        assert ray.get([echo.remote(i) for i in range(20)]) == list(range(20))


def test_multiprocessing_in_a_task():
    @ray.remote
    def pool():
        with multiprocessing.get_context("fork").Pool(2) as workers:
            return workers.map(abs, range(-5, 0))

    assert ray.get(pool.remote()) == [5, 4, 3, 2, 1]
    assert ray.get(echo.remote(1)) == 1


def test_fork_and_subprocess_in_a_task():
    @ray.remote
    def run():
        code = fork_and_wait(lambda: 3)
        text = subprocess.run([sys.executable, "-c", "print('child')"], capture_output=True, text=True, check=True)
        return code, text.stdout.strip()

    assert ray.get([run.remote() for _ in range(4)]) == [(3, "child")] * 4


def test_fork_in_an_actor():
    @ray.remote
    class Actor:
        def fork(self):
            return fork_and_wait(lambda: 3)

        def ok(self):
            return True

    actor = Actor.remote()
    assert ray.get(actor.fork.remote()) == 3
    assert ray.get(actor.ok.remote())


@ray_rs_only("Ray's child process hangs")
def test_a_forked_child_leaves_the_session_alone():
    """A child that exits normally, with its atexit handlers, must not end its parent's cluster."""
    done = run_driver(
        """
        import os, sys
        ray.init(num_cpus=1)

        @ray.remote
        def f(x):
            return x

        ref = ray.put([1, 2, 3])
        view = ray.get(ref)
        pid = os.fork()
        if pid == 0:
            del ref
            sys.exit(0)
        os.waitpid(pid, 0)
        assert ray.get(ref) == [1, 2, 3]
        assert ray.get(f.remote(7)) == 7
        print("GOOD")
        """
    )
    assert "GOOD" in done.stdout
