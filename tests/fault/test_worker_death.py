"""A worker dies in the middle of a task: the caller learns how, which task, and its last words; retries are counted."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from under_test import contents, exceptions, ray, ray_rs_only, wait_until

pytestmark = pytest.mark.usefixtures("cluster")


def segfault():
    ctypes.string_at(0)


def sigkill():
    os.kill(os.getpid(), signal.SIGKILL)


def abort():
    os.abort()


def leave():
    os._exit(3)


def exit_cleanly():
    sys.exit(0)


def exit_badly():
    sys.exit(5)


@ray.remote
def count_and(way, tally):
    with open(tally, "a") as file:
        file.write("x")
    print("the last thing it said", file=sys.stderr, flush=True)
    way()


@ray.remote
def fine():
    return "fine"


WAYS = [segfault, sigkill, abort, leave, exit_cleanly, exit_badly]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_way_to_die(way, tmp_path):
    tally = tmp_path / "tally"
    ref = count_and.options(max_retries=0).remote(way, str(tally))
    with pytest.raises(exceptions.WorkerCrashedError):
        ray.get(ref)
    assert tally.read_text() == "x"
    assert ray.get(fine.remote()) == "fine"


@ray_rs_only("Ray's text is always the same")
@pytest.mark.parametrize(
    ("way", "cause"),
    [(segfault, "SIGSEGV"), (sigkill, "SIGKILL"), (abort, "SIGABRT"), (leave, r"(exit )?code:? 3|status:? 3")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_error_says_how_and_what(way, cause, tmp_path):
    with pytest.raises(exceptions.WorkerCrashedError, match=cause) as raised:
        ray.get(count_and.options(max_retries=0).remote(way, str(tmp_path / "tally")))
    text = str(raised.value)
    assert "count_and" in text
    assert "the last thing it said" in text


@pytest.mark.parametrize("retries", [1, 2])
def test_retries_are_counted(retries, tmp_path):
    tally = tmp_path / "tally"
    with pytest.raises(exceptions.WorkerCrashedError):
        ray.get(count_and.options(max_retries=retries).remote(leave, str(tally)))
    assert tally.read_text() == "x" * (retries + 1)


def test_a_retry_can_succeed(tmp_path):
    tally = tmp_path / "tally"

    @ray.remote(max_retries=2)
    def die_once():
        with open(tally, "a") as file:
            file.write("x")
        if tally.read_text() == "x":
            os._exit(1)
        return "second life"

    assert ray.get(die_once.remote()) == "second life"


def test_innocent_tasks_are_not_harmed(tmp_path):
    """What was queued behind the crash on the same worker runs, and does not pay with a retry."""

    @ray.remote(max_retries=0)
    def maybe_die(i):
        if i % 10 == 3:
            os._exit(1)
        return i

    refs = [maybe_die.remote(i) for i in range(40)]
    lived = died = 0
    for i, ref in enumerate(refs):
        if i % 10 == 3:
            with pytest.raises(exceptions.WorkerCrashedError):
                ray.get(ref)
            died += 1
        else:
            assert ray.get(ref) == i
            lived += 1
    assert (lived, died) == (36, 4)


def test_killed_from_outside_while_others_wait():
    @ray.remote(max_retries=0)
    def sleep(path):
        with open(path, "w") as file:
            file.write(str(os.getpid()))
        time.sleep(1000)

    @ray.remote(max_retries=0)
    def after(x):
        return x

    path = os.path.join(os.environ["RAY_RS_TEST_SCRATCH"], "victim")
    ref = sleep.remote(path)
    behind = after.remote(ref)
    pid = wait_until(lambda: contents(path), "the task to start")
    os.kill(int(pid), signal.SIGKILL)
    for lost in (ref, behind):
        with pytest.raises(exceptions.WorkerCrashedError):
            ray.get(lost, timeout=30)


def test_objects_of_a_dead_owner():
    """What cannot be had without it ends with it, and a get that waits for it learns so at once. The rest is there."""

    @ray.remote
    def sleep():
        time.sleep(1000)

    @ray.remote
    class Owner:
        def own(self):
            self.refs = [ray.put(b"small"), ray.put(b"l" * 1_000_000), fine.remote()]
            ray.wait(self.refs, num_returns=3)
            self.refs.append(sleep.options(max_retries=0).remote())
            return self.refs

        def pid(self):
            return os.getpid()

    def outcome(ref):
        try:
            return ray.get(ref, timeout=30)
        except exceptions.OwnerDiedError:
            return "its owner died"

    owner = Owner.remote()
    *refs, forever = ray.get(owner.own.remote())
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(outcome, forever)
        ray.wait([forever], timeout=0.2)
        os.kill(ray.get(owner.pid.remote()), signal.SIGKILL)
        assert waiting.result() == "its owner died"
    assert [outcome(ref) for ref in refs] == [b"small", b"l" * 1_000_000, "fine"]


@ray_rs_only("Ray leaves them behind")
@pytest.mark.parametrize("kind", ["task", "actor"])
def test_what_a_killed_worker_had_started_ends_with_it(kind, tmp_path):
    path = str(tmp_path / "children")

    def start():
        """One process of its own, and one whose parent has ended."""
        children = [subprocess.Popen(["sleep", "1000"]).pid]
        child = subprocess.run(["sh", "-c", "sleep 1000 >/dev/null & echo $!"], stdout=subprocess.PIPE, check=True)
        children.append(int(child.stdout))
        with open(path, "w") as file:
            file.write(" ".join(map(str, [os.getpid(), *children])))
        time.sleep(1000)

    if kind == "task":
        ref = ray.remote(max_retries=0)(start).remote()
    else:
        actor = ray.remote(type("Starter", (), {"start": staticmethod(start)})).remote()
        ref = actor.start.remote()
    worker, *children = wait_until(lambda: contents(path), "the children to run").split()
    assert len(children) == 2 and all(os.path.exists(f"/proc/{child}") for child in children)
    os.kill(int(worker), signal.SIGKILL)
    with pytest.raises(exceptions.WorkerCrashedError if kind == "task" else exceptions.ActorDiedError):
        ray.get(ref, timeout=30)
    wait_until(lambda: not any(os.path.exists(f"/proc/{child}") for child in children), "the children to end")


def test_the_owner_of_a_nested_task_dies():
    @ray.remote(max_retries=0)
    def outer():
        @ray.remote
        def inner():
            time.sleep(0.2)
            return 1

        refs = [inner.remote() for _ in range(4)]
        ray.get(refs[0])
        os._exit(1)

    with pytest.raises(exceptions.WorkerCrashedError):
        ray.get(outer.remote())
    assert ray.get([fine.remote() for _ in range(20)]) == ["fine"] * 20


@ray_rs_only("looks at ray_rs's processes")
def test_a_killed_zygote_is_replaced():
    @ray.remote
    def zygote():
        return os.getppid()

    os.kill(ray.get(zygote.remote()), signal.SIGKILL)
    assert ray.get([fine.remote() for _ in range(10)]) == ["fine"] * 10  # the workers live on

    @ray.remote
    class New:
        def f(self):
            return "born after"

    assert ray.get([New.remote().f.remote() for _ in range(4)], timeout=30) == ["born after"] * 4


@ray_rs_only("of ray_rs's own files")
def test_a_worker_that_is_killed_leaves_no_socket():
    sockets = os.path.join(ray.init(ignore_reinit_error=True).address_info["session_dir"], "sockets")

    @ray.remote(max_retries=0)
    def die():
        # What this process listens on is of the same number as its id.
        name = "w-" + ray.get_runtime_context().get_worker_id()[:16]
        assert name in os.listdir(sockets)
        with open(os.path.join(sockets, "..", "killed"), "w") as file:
            file.write(name)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(exceptions.WorkerCrashedError):
        ray.get(die.remote())
    name = contents(os.path.join(sockets, "..", "killed"))
    assert name
    wait_until(lambda: name not in os.listdir(sockets), "its socket to go")
