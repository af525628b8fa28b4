"""Machines whose clocks do not agree, and jump: nobody is dead for it, and nothing ends or waits by another's clock.

The clock of a node is shifted by a small library that its processes are started with: what they are told of the time of
day is off by as many seconds as a file says, at any moment.
"""

import os
import shutil
import struct
import subprocess
import sys
import time

import pytest
from under_test import exceptions, ray, ray_rs_only, wait_until

pytestmark = [
    ray_rs_only("of the nodes of ray_rs's clusters"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler, to shift the clock of a process"),
]

DAY = 24 * 3600
BOUND = 3

SHIFT = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const long *shift;
static int (*true_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    true_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("CLOCK_SHIFT_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        void *mapped = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
        if (mapped != MAP_FAILED) shift = mapped;
        close(file);
    }
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!true_gettime) true_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    int outcome = true_gettime(clock, now);
    if (clock == CLOCK_REALTIME && shift && !outcome) now->tv_sec += *shift;
    return outcome;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    int outcome = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return outcome;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clock")
    (folder / "shift.c").write_text(SHIFT)
    made = folder / "shift.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", made, folder / "shift.c", "-ldl"], check=True)
    return made


class Clock:
    """How far the clock of a node is off."""

    def __init__(self, path, library, seconds):
        self.path = path
        self.set(seconds)
        self.variables = {"LD_PRELOAD": str(library), "CLOCK_SHIFT_FILE": str(path)}

    def set(self, seconds):
        # In place: it is mapped.
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(descriptor, struct.pack("@l", seconds), 0)
        os.close(descriptor)


@pytest.fixture
def skewed(ray_cluster, library, tmp_path, monkeypatch):
    """A head whose clock is right, and two nodes whose clocks are not; all workers have that of the first of these."""
    monkeypatch.setenv("RAY_RS_NODE_TIMEOUT_S", str(BOUND))
    clocks = [Clock(tmp_path / f"clock-{number}", library, off) for number, off in enumerate((3 * DAY, -400 * DAY))]
    nodes = [{"num_cpus": 2}]
    for number, clock in enumerate(clocks):
        nodes.append({"num_cpus": 2, "resources": {f"n{number}": 10}, "env_vars": clock.variables})
    cluster = ray_cluster(nodes, connect=False)
    # Workers see the variables of their driver.
    for name, value in clocks[0].variables.items():
        monkeypatch.setenv(name, value)
    ray.init(address=cluster.address, logging_level="error", namespace="tests")
    cluster.wait_for_nodes()
    for node in cluster.nodes[1:]:
        with open(f"/proc/{node.raylet_pid}/maps") as maps:
            assert str(library) in maps.read()
    return cluster, clocks


@ray.remote(num_cpus=0)
def clock_of_node():
    return time.time()


@ray.remote(num_cpus=0, max_restarts=0)
class Counter:
    def __init__(self):
        self.count = 0

    def add(self):
        self.count += 1
        return self.count

    def array(self):
        import numpy as np

        return np.ones(1 << 20)


def use(counters):
    """Everything that has to do with time and with other nodes, once."""
    import numpy as np

    spread = clock_of_node.options(scheduling_strategy="SPREAD")
    assert len(ray.get([spread.remote() for _ in range(12)], timeout=30)) == 12
    before = ray.get([counter.add.remote() for counter in counters], timeout=30)
    assert all((array == 1).all() for array in ray.get([counter.array.remote() for counter in counters], timeout=30))

    @ray.remote(num_cpus=0)
    def total(array):
        return float(array.sum())

    value = ray.put(np.ones(1 << 20))
    there = [total.options(resources={name: 1}).remote(value) for name in ("n0", "n1")]
    assert ray.get(there, timeout=30) == [1 << 20] * 2
    group = ray.util.placement_group([{"CPU": 1}] * 3, strategy="STRICT_SPREAD")
    assert group.wait(30)
    ray.util.remove_placement_group(group)
    assert all(node["Alive"] for node in ray.nodes())
    return before


def test_clocks_that_differ_and_jump(skewed):
    _, clocks = skewed
    counters = [Counter.options(resources={name: 1}).remote() for name in ("n0", "n1")]
    there = [clock_of_node.options(resources={name: 1}) for name in ("n0", "n1")]
    off = [ray.get(node.remote(), timeout=30) - time.time() for node in there]
    assert all(abs(seconds - 3 * DAY) < 60 for seconds in off), "the clocks are not shifted"
    assert use(counters) == [1, 1]
    # A minute, a day and years, on and back, while nodes ask each other whether they are there.
    for turn, seconds in enumerate((60, -60, DAY, -DAY, 3000 * DAY, -3000 * DAY, 0)):
        for clock, sign in zip(clocks, (1, -1), strict=True):
            clock.set(sign * seconds)
        time.sleep(BOUND / 4)
        assert use(counters) == [turn + 2] * 2, "the same actors, which were never made again"
    # For longer than what a node may be silent.
    clocks[0].set(30 * DAY)
    end = time.monotonic() + 1.5 * BOUND
    while time.monotonic() < end:
        assert all(node["Alive"] for node in ray.nodes())
        time.sleep(0.2)
    assert use(counters) == [9, 9]


def test_limits_of_time_are_those_of_one_clock(skewed):
    cluster, clocks = skewed

    @ray.remote(num_cpus=0)
    def sleeps(seconds):
        time.sleep(seconds)
        return "slept"

    slow = sleeps.options(resources={"n0": 1}, timeout_s=1)
    running = slow.remote(30)
    clocks[0].set(-3 * DAY)
    began = time.monotonic()
    with pytest.raises(exceptions.TaskCancelledError):
        ray.get(running, timeout=30)
    assert time.monotonic() - began > 0.2
    clocks[0].set(300 * DAY)
    assert ray.get(sleeps.options(resources={"n0": 1}, timeout_s=20).remote(0.5), timeout=30) == "slept"
    # A node that is to leave within some seconds leaves by its own clock, and not sooner.
    held = sleeps.options(resources={"n1": 1}).remote(60)
    wait_until(lambda: ray.available_resources().get("n1") == 9.0, "the task to run")
    (node,) = [node for node in cluster.nodes if node.node_id in told_of("n1")]
    command = [sys.executable, "-m", "ray_rs.scripts", "drain", f"--node-id={node.node_id}"]
    command += [f"--address={cluster.address}", f"--token-file={cluster.head_node.session_dir}/token"]
    command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--deadline-remaining-seconds=4"]
    began = time.monotonic()
    subprocess.run([*command, "--reason-message=it is time"], check=True, timeout=60)
    clocks[1].set(1000 * DAY)
    wait_until(lambda: not told_of("n1"), "the node to go")
    assert time.monotonic() - began > 3
    del held


def told_of(resource):
    return [node["NodeID"] for node in ray.nodes() if node["Alive"] and resource in node["Resources"]]
