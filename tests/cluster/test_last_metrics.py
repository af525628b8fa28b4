"""Metrics of a worker's last second: its job has ended, or it has ended itself, before it was time to tell them."""

import os
import re
import signal
import textwrap

import pytest
from heads import Head
from under_test import command, ray_rs_only, run_driver, start_driver, wait_until

pytestmark = ray_rs_only("asks the command line")

COUNTS = """
        import os
        from ray_rs.util.metrics import Counter

        ray.init("auto", logging_level="error")

        @ray.remote(num_cpus=0)
        class Counts:
            def __init__(self):
                self.counter = Counter("counted")

            def count(self, number):
                self.counter.inc(number)
                return os.getpid()

            def leave(self, number):
                self.counter.inc(number)
                ray.actor.exit_actor()
"""


def counting(body: str) -> str:
    return textwrap.dedent(COUNTS) + textwrap.dedent(body)


@pytest.fixture
def head(no_cluster):
    yield Head()
    command("stop")


def counted() -> float:
    return sum(map(float, re.findall(r"^ray_counted_total\{.*\} (\S+)$", command("metrics"), re.MULTILINE)))


def test_what_was_counted_right_before_shutdown_is_told(head):
    run_driver(
        counting("""
        counters = [Counts.remote() for _ in range(3)]
        ray.get([counter.count.remote(1) for counter in counters])
        ray.get([counter.count.remote(10) for counter in counters])
        ray.shutdown()
        """)
    )
    assert counted() == 33
    # A program that ends without a word of it, and another job's workers, which go on.
    other = start_driver(counting("print(ray.get(Counts.remote().count.remote(100)), flush=True); input()"), stdin=-1)
    assert int(other.stdout.readline())
    run_driver(counting("ray.get(Counts.remote().count.remote(1000))"))
    wait_until(lambda: counted() == 1133, "both")
    other.stdin.write("\n")
    other.stdin.close()
    assert other.wait(30) == 0


def test_a_worker_that_hangs_keeps_no_program_from_its_end(head):
    driver = start_driver(
        counting("""
        counters = [Counts.remote() for _ in range(2)]
        print(*ray.get([counter.count.remote(1) for counter in counters]), flush=True)
        input()
        ray.get(counters[1].count.remote(10))
        """),
        stdin=-1,
    )
    stopped, _ = map(int, driver.stdout.readline().split())
    wait_until(lambda: counted() == 2, "both")
    os.kill(stopped, signal.SIGSTOP)
    driver.stdin.write("\n")
    driver.stdin.close()
    assert driver.wait(30) == 0
    assert counted() == 12


def test_an_actor_that_leaves_tells_what_it_has_counted(head):
    body = """
        actor = Counts.remote()
        pid = ray.get(actor.count.remote(1))
        try:
            ray.get(actor.leave.remote(10))
        except ray.exceptions.RayActorError:
            pass
        import time

        deadline = time.monotonic() + 30
        while os.path.exists(f"/proc/{pid}"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        print("left", flush=True)
        input()
    """
    driver = start_driver(counting(body), stdin=-1)
    assert driver.stdout.readline() == "left\n"
    assert counted() == 11
