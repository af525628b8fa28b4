"""`fork`, `multiprocessing` and `subprocess`, in a driver and in a task, do not hang and do no harm."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from under_test import IS_RAY, contents, ray, ray_rs_only, run_driver, wait_until

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


@ray.remote
def echo(x):
    return x


def fork_and_wait(child):
    """Runs `child` in a fork and returns its exit code; a child that hangs is killed by SIGALRM."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
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


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_in_the_driver(method):
    if IS_RAY and method == "fork":
        return  # hangs now and then
    done = run_driver(
        f"""
        import multiprocessing

        def square(x):
            return x * x

        @ray.remote
        def echo(x):
            return x

        if __name__ == "__main__":
            ray.init(num_cpus=2)
            ray.get(echo.remote(0))
            with multiprocessing.get_context({method!r}).Pool(2) as pool:
                assert pool.map(square, range(20)) == [x * x for x in range(20)]
                assert ray.get([echo.remote(i) for i in range(20)]) == list(range(20))
            print("GOOD")
        """
    )
    assert "GOOD" in done.stdout, done.stderr


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


def test_a_child_of_a_task_gets_locks_of_its_own():
    """Those of `threading` and `logging`, which another thread of the task holds while it forks."""

    @ray.remote
    def run():
        import logging

        handler = logging.StreamHandler()
        logging.getLogger().addHandler(handler)
        held, done = threading.Event(), threading.Event()

        def hold():
            # The handler's own lock: what `logging` holds around a fork is only the one of the module.
            with handler.lock, threading._active_limbo_lock:
                held.set()
                done.wait()

        def child():
            logging.getLogger().error("a line of the child")
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()
            return 3 if threading.active_count() == 1 and threading.current_thread() is threading.main_thread() else 4

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        try:
            return fork_and_wait(child)
        finally:
            done.set()
            holder.join()
            logging.getLogger().removeHandler(handler)

    assert ray.get(run.remote(), timeout=60) == 3


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


@ray_rs_only("in Ray the child answers in its parent's place")
def test_a_child_that_comes_back_from_its_task(tmp_path):
    """Only the parent is a worker: the child ends where its function does, and the parent's answer counts."""

    @ray.remote(max_retries=0)
    def both(path):
        pid = os.fork()
        if pid == 0:
            with open(path, "w") as file:
                file.write("been here")
            return "child"
        return "parent", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    @ray.remote(max_retries=0)
    def the_child_raises():
        pid = os.fork()
        if pid == 0:
            raise ValueError("in the child")
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    @ray.remote
    class Actor:
        def __init__(self):
            self.child = os.fork()

        def status_of_child(self):
            return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])

    path = tmp_path / "child"
    assert ray.get(both.remote(str(path))) == ("parent", 0)
    assert path.read_text() == "been here"
    assert ray.get(the_child_raises.remote()) == 1
    assert ray.get(Actor.remote().status_of_child.remote()) == 0
    assert ray.get([echo.remote(i) for i in range(50)]) == list(range(50))


@ray_rs_only("Ray's child process hangs")
def test_a_forked_child_may_look_at_its_refs():
    """Whatever the parent's threads were doing at that moment: nothing in the child waits for them."""
    ref = ray.put("x")
    ended = threading.Event()

    def load():
        while not ended.is_set():
            ray.get([echo.remote(i) for i in range(20)])

    def child():
        names = {ref: repr(ref)}
        for refused in (lambda: ray.get(ref), lambda: ref.future().result(5), lambda: ray.wait([ref]), ref.__await__):
            try:
                refused()
            except Exception as error:
                if "fork" not in str(error):
                    return 1
            else:
                return 2
        return 0 if names[ref] == repr(ref) else 3

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        assert [fork_and_wait(child) for _ in range(20)] == [0] * 20
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert ray.get(ref) == "x"


def test_hooks_around_a_fork_may_let_other_threads_run():
    """The hooks of `os.register_at_fork` run Python code, and so do the threads that get the GIL meanwhile."""
    done = run_driver(
        """
        import os, threading, time
        os.register_at_fork(before=lambda: time.sleep(0.05), after_in_parent=lambda: time.sleep(0.05))
        ray.init(num_cpus=1)

        @ray.remote
        def echo(x):
            return x

        def load():
            while not ended.is_set():
                assert ray.get([echo.remote(i) for i in range(20)]) == list(range(20))

        ended = threading.Event()
        threads = [threading.Thread(target=load) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
        ended.set()
        for thread in threads:
            thread.join()
        print("GOOD")
        """
    )
    assert "GOOD" in done.stdout, done.stderr


@ray_rs_only("Ray's child process hangs")
def test_a_childs_end_frees_nothing():
    """The child drops the arrays that it inherited; in the parent they must stay in place."""
    ref = ray.put(np.full(300_000, 7))
    view = ray.get(ref)

    def child():
        nonlocal view
        same = bool((view == 7).all())
        view = None
        return 0 if same else 1

    assert fork_and_wait(child) == 0
    del ref
    for i in range(30):
        assert ray.get(ray.put(np.full(300_000, i)))[0] == i
    assert (view == 7).all()


@ray_rs_only("Ray's child process hangs")
def test_a_forked_child_starts_a_cluster_of_its_own():
    done = run_driver(
        """
        import os, sys
        ray.init(num_cpus=1)

        @ray.remote
        def f(x):
            return x, os.environ.get("RAY_RS_ZYGOTE", "").rpartition("/")[0]

        mine = ray.get(f.remote(1))
        pid = os.fork()
        if pid == 0:
            ray.init(num_cpus=1)
            theirs = ray.get(f.remote(2))
            assert theirs[0] == 2 and theirs[1] != mine[1], (mine, theirs)
            ray.shutdown()
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert ray.get(f.remote(3)) == (3, mine[1])
        print("GOOD")
        """
    )
    assert "GOOD" in done.stdout, done.stderr


@pytest.mark.parametrize("start_new_session", [False, True])
def test_a_worker_dies_before_its_child(start_new_session, tmp_path):
    """The child has inherited the worker's sockets, which is no sign of life to its callers; and it is ended."""

    @ray.remote(max_retries=0)
    def leave_a_child(path):
        if os.fork() == 0:
            if start_new_session:
                os.setsid()
            with open(path, "w") as file:
                file.write(str(os.getpid()))
            time.sleep(1000)
        while not contents(path):
            time.sleep(0.01)
        os._exit(3)

    path = tmp_path / "child"
    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(leave_a_child.remote(str(path)), timeout=30)
    assert ray.get(echo.remote(1)) == 1
    wait_until(lambda: not os.path.exists(f"/proc/{path.read_text()}"), "the child to be ended")


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
