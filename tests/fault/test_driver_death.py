"""However a driver ends, all that it started ends with it."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import traces
from under_test import ray_rs_only, start_driver, wait_until

pytestmark = [
    pytest.mark.usefixtures("no_cluster"),
    ray_rs_only("Ray's processes are still there seconds after a kill -9"),
]

BUSY = """
import os, subprocess, sys, time
import numpy as np
ray.init(num_cpus=2, object_store_memory=200_000_000)
started = sys.argv[1]

@ray.remote
def busy():
    subprocess.Popen(["sleep", "1000"])
    open(started, "w").close()
    time.sleep(1000)

@ray.remote
class Actor:
    def array(self):
        self.view = ray.get(ray.put(np.ones(1_000_000)))
        return self.view

    def child(self):
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        subprocess.run(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &"])
        return subprocess.Popen(["sleep", "1000"]).pid

actor = Actor.options(name="held", lifetime="detached").remote()
ray.get(actor.child.remote())
view = ray.get(actor.array.remote())
held = [ray.put(np.ones(1_000_000)) for _ in range(5)]
ref = busy.remote()
while not os.path.exists(started):
    time.sleep(0.01)
print("READY", flush=True)
sys.stdin.readline()
"""


def start_busy(tmp_path, rest=""):
    """A driver in the middle of its work. It goes on to `rest` when its standard input ends."""
    driver = start_driver(BUSY + rest, str(tmp_path / "started"), stdin=subprocess.PIPE)
    wait_for_line(driver, "READY")
    # The driver, gcs, raylet, zygote, a worker for the task and one for the actor, and four subprocesses of these.
    assert len(traces.processes()) >= 10, traces.processes()
    return driver


def wait_for_line(driver, text):
    for line in driver.stdout:
        if text in line:
            return line
    pytest.fail(driver.stderr.read())


def all_gone(within):
    """Everything that carries the mark, sockets, tokens and segments included."""
    deadline = time.monotonic() + within
    while True:
        left = (traces.processes(), traces.session_files())
        if not any(left):
            return
        if time.monotonic() > deadline:
            pytest.fail(f"{within} s later there are still {left}")
        time.sleep(0.02)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGSEGV", "SIGINT"])
def test_killed_by_a_signal(name, tmp_path):
    before = traces.shared_memory()
    driver = start_busy(tmp_path)
    driver.send_signal(getattr(signal, name))
    driver.wait(timeout=10)
    all_gone(within=2)
    assert traces.shared_memory() <= before


@pytest.mark.parametrize(
    "end", ["os._exit(1)", "raise SystemExit(3)", "raise ValueError('uncaught')", "ray.shutdown()", ""], ids=str
)
def test_ends_by_itself(end, tmp_path):
    driver = start_busy(tmp_path, end)
    driver.stdin.close()
    driver.wait(timeout=20)
    all_gone(within=2)
    if "ValueError" in end:
        assert "uncaught" in driver.stderr.read()


def test_the_thread_that_called_init_may_end():
    driver = start_driver(
        """
        import threading, time

        thread = threading.Thread(target=lambda: ray.init(num_cpus=1))
        thread.start()
        thread.join()
        time.sleep(1.5)

        @ray.remote
        def f():
            return 1

        assert ray.get(f.remote()) == 1
        print("STILL THERE")
        """
    )
    out, err = driver.communicate(timeout=40)
    assert "STILL THERE" in out, err


@pytest.mark.parametrize("kinds", [["gcs"], ["raylet"], ["gcs", "raylet"]], ids="-and-".join)
def test_daemons_killed_first(kinds, tmp_path):
    """Whoever survives cleans up for the others; with both gone, zygotes end processes, and the next start sweeps."""
    driver = start_busy(tmp_path)
    for kind in kinds:
        pids = traces.daemons(kind)
        assert pids, traces.processes()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    driver.kill()
    driver.wait(timeout=10)
    wait_until(lambda: not traces.processes(), "all processes to end", patience=5)
    again = start_driver("ray.init(num_cpus=1)")
    again.communicate(timeout=30)
    assert again.returncode == 0
    all_gone(within=2)


def test_logs_of_the_dead_are_kept():
    driver = start_driver(
        """
        import sys, time
        ray.init(num_cpus=1)

        @ray.remote
        def speak():
            print("testimony", flush=True)

        ray.get(speak.remote())
        print("READY", ray.get_runtime_context().get_job_id(), flush=True)
        time.sleep(1000)
        """
    )
    wait_for_line(driver, "READY")
    driver.kill()
    driver.wait()
    all_gone(within=2)
    files = list(Path(os.environ["RAY_RS_TMPDIR"]).glob("session_*/logs/worker-*.out"))
    assert any("testimony" in path.read_text() for path in files)


def test_many_killed_drivers_leave_few_logs():
    for _ in range(12):
        driver = start_driver(
            """
            ray.init(num_cpus=1)

            @ray.remote
            def speak():
                print("hello", flush=True)

            ray.get(speak.remote())
            """
        )
        driver.communicate(timeout=30)
    sessions = [path for path in Path(os.environ["RAY_RS_TMPDIR"]).glob("session_2*") if path.is_dir()]
    assert len(sessions) <= 11
