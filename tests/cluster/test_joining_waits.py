"""A program that joins waits for the raylet, and that for the control store: who does not answer is named."""

import json
import os
import signal
from pathlib import Path

from under_test import ray, start_driver, wait_until

JOIN = """
    import sys

    print("JOINING", flush=True)
    try:
        ray.init(address=sys.argv[1], logging_level="error")
        print("JOINED")
    except ConnectionError as error:
        print("REFUSED", error)
    except KeyboardInterrupt:
        print("INTERRUPTED")
"""


def session(cluster):
    """The directory of the head's node, and what it says of the head's processes."""
    directory = Path(cluster.nodes[0].session_dir)
    return directory, json.loads((directory / "session.json").read_text())


def test_init_names_a_control_store_that_does_not_answer(ray_cluster):
    cluster = ray_cluster(nodes=1, connect=False)
    directory, processes = session(cluster)
    before = set((directory / "sockets").iterdir())
    os.kill(processes["gcs_pid"], signal.SIGSTOP)
    try:
        driver = start_driver(JOIN, cluster.address)
        out, err = driver.communicate(timeout=50)
    finally:
        os.kill(processes["gcs_pid"], signal.SIGCONT)
    assert "REFUSED the control store (gcs) has not answered for 30 s" in out, out + err
    assert "job is on its disk" in out and str(directory / "logs") in out, out
    assert "init() has waited 10 s for the control store" in err, err
    wait_until(
        lambda: set((directory / "sockets").iterdir()) == before, "the sockets of the program and its worker to go"
    )
    # The control store gets to the request after all; a job without a driver does not stay.
    ray.init(address=cluster.address, logging_level="error")
    from ray_rs.util.state import list_jobs

    wait_until(lambda: sum(job.status == "RUNNING" for job in list_jobs()) == 1, "the job that nobody has to end")


def test_ctrl_c_ends_an_init_that_waits(ray_cluster):
    cluster = ray_cluster(nodes=1, connect=False)
    directory, processes = session(cluster)
    before = set((directory / "sockets").iterdir())
    os.kill(processes["raylet_pid"], signal.SIGSTOP)
    try:
        driver = start_driver(JOIN, cluster.address)
        # It listens just before it asks the raylet.
        wait_until(lambda: set((directory / "sockets").iterdir()) - before, "the program to listen")
        driver.send_signal(signal.SIGINT)
        out, err = driver.communicate(timeout=30)
    finally:
        os.kill(processes["raylet_pid"], signal.SIGCONT)
    assert "INTERRUPTED" in out, out + err
    assert set((directory / "sockets").iterdir()) == before, "the program left something behind"
