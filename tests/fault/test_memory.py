"""A node that runs short of memory ends tasks before the kernel ends whatever it likes, and says who used how much.

The node's limit is a setting here, and only what its own workers and store use counts against it: the machine's memory
plays no part.
"""

import os
import threading
import time
from pathlib import Path

import pytest
from under_test import exceptions, ray, ray_rs_only, wait_until

pytestmark = [pytest.mark.usefixtures("no_cluster"), ray_rs_only("the limit of a node is a setting of ray_rs")]

MB = 1 << 20
LIMIT = 300


@pytest.fixture
def small_node(monkeypatch):
    """Two CPUs that share 300 MB, less what the store has touched."""

    def start(limit=LIMIT, **variables):
        settings = {"RAY_RS_MEMORY_LIMIT_BYTES": limit * MB, "RAY_memory_monitor_refresh_ms": 20, **variables}
        for name, value in settings.items():
            monkeypatch.setenv(name, str(value))
        return ray.init(num_cpus=2, object_store_memory=80 * MB, include_dashboard=False)

    return start


@ray.remote
class Log:
    def __init__(self):
        self.starts = []

    def begin(self, which):
        self.starts.append(which)

    def told(self):
        return self.starts


def grow(megabytes, step=5):
    """Memory that is really there."""
    held = []
    for _ in range(0, megabytes, step):
        held.append(bytearray(os.urandom(1 << 10) * (step << 10)))
        time.sleep(0.005)
    return held


@ray.remote
def hungry(which, log):
    ray.get(log.begin.remote(which))
    # Nothing is known of this function when the first two begin: they grow side by side.
    wait_until(lambda: len(ray.get(log.told.remote())) >= 2, "another to begin")
    held = grow(110)
    time.sleep(0.1)
    return which, len(held)


def kernel_kills():
    """How many processes the kernel has ended for want of memory."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def test_twenty_tasks_that_need_twice_their_share_complete(small_node):
    small_node()
    before = kernel_kills()
    log = Log.remote()
    results = ray.get([hungry.remote(which, log) for which in range(20)], timeout=120)
    assert [which for which, _ in results] == list(range(20))
    starts = ray.get(log.told.remote())
    assert set(starts) == set(range(20))
    # One of the first two was ended; then what one was seen to need was kept free for the next, which the short waits
    # of a task for the log do not change. Those that had begun before may meet once more.
    assert len(starts) <= 20 + 6, starts
    assert kernel_kills() == before


@ray.remote
def balloon(megabytes, seconds=300):
    held = grow(megabytes)
    time.sleep(seconds)
    return len(held)


def test_a_task_that_never_fits_says_who_used_how_much(small_node):
    small_node()
    with pytest.raises(exceptions.OutOfMemoryError) as raised:
        ray.get(balloon.remote(2000), timeout=60)
    text = str(raised.value)
    for part in ("balloon", "pid=", "MiB of 300.0 MiB", ray.get_runtime_context().get_node_id(), "PID\tMEM", "Try: "):
        assert part in text
    assert "would not fit the next time" in text


def test_a_task_that_may_not_be_retried_is_not(small_node, tmp_path):
    small_node()
    tally = tmp_path / "tally"

    @ray.remote(max_retries=0)
    def once():
        with open(tally, "a") as file:
            file.write("x")
        grow(2000)

    with pytest.raises(exceptions.OutOfMemoryError, match="max_retries"):
        ray.get(once.remote(), timeout=60)
    assert tally.read_text() == "x"


@ray.remote
class Keeper:
    def __init__(self):
        self.held = []

    def grow(self, megabytes):
        self.held.append(grow(megabytes))
        return len(self.held)

    def pid(self):
        return os.getpid()


def test_an_actor_that_is_ended_says_why(small_node):
    small_node()
    keeper = Keeper.remote()
    assert ray.get(keeper.grow.remote(50)) == 1
    with pytest.raises(exceptions.ActorDiedError, match="running out of memory"):
        ray.get(keeper.grow.remote(2000), timeout=60)
    with pytest.raises(exceptions.ActorDiedError, match="RAY_memory_usage_threshold"):
        ray.get(keeper.pid.remote(), timeout=60)


def test_the_newest_task_goes_and_the_actor_stays(small_node):
    small_node(RAY_task_oom_retries=0)
    keeper = Keeper.options(num_cpus=0).remote()
    ray.get(keeper.grow.remote(90))
    pid = ray.get(keeper.pid.remote())
    with pytest.raises(exceptions.OutOfMemoryError, match="RAY_task_oom_retries"):
        ray.get(balloon.remote(2000), timeout=60)
    assert ray.get(keeper.pid.remote()) == pid


@pytest.mark.parametrize("older_retries", [0, 3])
def test_of_two_tasks_the_newest_that_may_be_retried_goes(small_node, tmp_path, older_retries):
    """Which of them takes the memory does not matter: here it is the older one."""
    small_node(RAY_task_oom_retries=0)

    @ray.remote
    def older():
        (tmp_path / "older").touch()
        wait_until(lambda: (tmp_path / "newer").exists(), "the newer one to begin")
        held = grow(200)
        return len(held)

    @ray.remote
    def newer():
        held = grow(60)
        (tmp_path / "newer").touch()
        time.sleep(300)
        return len(held)

    first = older.options(max_retries=older_retries).remote()
    wait_until(lambda: (tmp_path / "older").exists(), "the older one to begin")
    second = newer.remote()
    with pytest.raises(exceptions.OutOfMemoryError, match="newer"):
        ray.get(second, timeout=60)
    assert ray.get(first, timeout=60) == 40


def test_the_bound_of_retries_is_its_own(small_node, tmp_path):
    """The task is tried again although it has no plain retries left to lose: `max_retries` is not used up."""
    small_node(RAY_task_oom_retries=1)
    keeper = Keeper.options(num_cpus=0).remote()
    ray.get(keeper.grow.remote(90))
    tally = tmp_path / "tally"

    @ray.remote(max_retries=1)
    def counted():
        with open(tally, "a") as file:
            file.write("x")
        grow(2000)

    with pytest.raises(exceptions.OutOfMemoryError, match="tried again 1 times"):
        ray.get(counted.remote(), timeout=60)
    assert tally.read_text() == "xx"


def test_a_task_that_waits_for_its_next_try_can_be_cancelled(small_node):
    small_node()
    keeper = Keeper.options(num_cpus=0).remote()
    ray.get(keeper.grow.remote(90))
    ref = balloon.remote(2000)
    noticed = threading.Event()

    def cancel_when_ended():
        wait_until(lambda: workers_running("balloon"), "the task to run")
        wait_until(lambda: not workers_running("balloon"), "its worker to end")
        ray.cancel(ref)
        noticed.set()

    thread = threading.Thread(target=cancel_when_ended)
    thread.start()
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)
    thread.join()
    assert noticed.is_set()


def workers_running(name):
    """Pids of the processes whose title names a task."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if name.encode() in title and b"ray::" in title:
                found.append(int(entry.name))
    return found


def test_switched_off_nothing_is_ended(small_node):
    small_node(RAY_memory_monitor_refresh_ms=0)

    @ray.remote
    def big():
        return len(grow(300))

    assert ray.get(big.remote(), timeout=60) == 60


def test_a_made_up_container_sets_the_limit(monkeypatch, tmp_path):
    """Its control group (version 2) says that all is used: the task that runs is ended."""
    group = tmp_path / "sys/fs/cgroup/box"
    (tmp_path / "proc/self").mkdir(parents=True)
    group.mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 99999999 kB\nMemAvailable: 88888888 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/box\n")
    mount = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    (tmp_path / "proc/self/mountinfo").write_text(mount)
    (group / "memory.max").write_text(f"{1000 * MB}\n")
    (group / "memory.current").write_text(f"{100 * MB}\n")
    (group / "memory.stat").write_text("inactive_file 0\nactive_file 0\n")
    monkeypatch.setenv("RAY_RS_MEMORY_ROOT", str(tmp_path))
    ray.init(num_cpus=1, include_dashboard=False)
    ref = balloon.remote(1)
    wait_until(lambda: workers_running("balloon"), "the task to run")
    assert ray.wait([ref], timeout=0.5) == ([], [ref])
    (group / "memory.current").write_text(f"{960 * MB}\n")
    with pytest.raises(exceptions.OutOfMemoryError, match=r"960.0 MiB of 1000.0 MiB"):
        ray.get(ref, timeout=60)


def raylet_reads():
    """How often our raylet has read anything, as the kernel counts."""
    for entry in Path("/proc").iterdir():
        try:
            is_raylet = entry.name.isdigit() and b"raylet" in (entry / "cmdline").read_bytes()
            if is_raylet and f"PPid:\t{os.getpid()}\n" in (entry / "status").read_text():
                return int((entry / "io").read_text().split("syscr: ")[1].split()[0])
        except OSError:
            continue
    return None


def test_an_idle_node_reads_nothing():
    ray.init(num_cpus=1, include_dashboard=False)
    assert ray.get(balloon.options(name="small").remote(0, 0)) == 0

    def is_quiet():
        before = raylet_reads()
        time.sleep(2.5)
        return before is not None and raylet_reads() == before

    wait_until(is_quiet, "the raylet to read nothing for longer than the slowest look")


def test_out_of_memory_the_kernel_ends_a_worker_first(monkeypatch):
    def adjustment(path="/proc/self/oom_score_adj"):
        return int(Path(path).read_text())

    own = adjustment()
    for asked, expected in ((None, 1000), (str(min(own + 10, 999)), min(own + 10, 999))):
        if asked is not None:
            monkeypatch.setenv("RAY_worker_oom_score_adjustment", asked)
        ray.init(num_cpus=1, include_dashboard=False)
        try:
            assert ray.get(ray.remote(adjustment).remote()) == expected
        finally:
            ray.shutdown()
    assert adjustment() == own
