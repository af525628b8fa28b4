"""Ctrl-C ends a wait, and nothing else."""

import pytest
from under_test import run_driver

pytestmark = pytest.mark.usefixtures("no_cluster")


@pytest.mark.parametrize(
    "wait", ["ray.get(forever)", "ray.wait([forever])", "ray.get([forever, forever])", "ray.get(forever, timeout=100)"]
)
def test_ctrl_c(wait):
    done = run_driver(
        f"""
        import os, signal, threading, time
        ray.init(num_cpus=2)

        @ray.remote
        def sleep():
            time.sleep(1000)

        @ray.remote
        def echo(x):
            return x

        ray.get(echo.remote(0))
        forever = sleep.remote()
        for delay in (0.3, 0.05):
            threading.Timer(delay, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            try:
                {wait}
            except KeyboardInterrupt:
                print("INTERRUPTED")
        assert ray.get(echo.remote(5)) == 5
        print("WORKS ON")
        """
    )
    assert done.stdout.count("INTERRUPTED") == 2
    assert "WORKS ON" in done.stdout


def test_ctrl_c_at_a_terminal_reaches_the_driver_only():
    """A terminal sends the signal to the whole group of processes; the workers must not die of it."""
    done = run_driver(
        """
        import os, signal, threading, time
        os.setpgrp()
        ray.init(num_cpus=1)

        @ray.remote
        def slow(x):
            time.sleep(1)
            return x

        ref = slow.remote("finished")
        threading.Timer(0.3, lambda: os.killpg(0, signal.SIGINT)).start()
        try:
            ray.get(ref)
        except KeyboardInterrupt:
            print("INTERRUPTED")
        assert ray.get(ref) == "finished"
        print("WORKS ON")
        """
    )
    assert "INTERRUPTED" in done.stdout
    assert "WORKS ON" in done.stdout
