"""Nothing is declared dead for being slow, where the kernel says who is dead."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from under_test import ray

# Longer than a machine that is silent is asked whether it is there, waited for, and given up.
SILENCE = 11.0


@pytest.mark.parametrize("who", ["raylet", "gcs"])
def test_a_process_that_was_stopped_for_a_while_goes_on(ray_cluster, who):
    cluster = ray_cluster([{"num_cpus": 1}, {"num_cpus": 1, "resources": {"there": 1}}])

    @ray.remote(num_cpus=0, resources={"there": 0.01})
    class Counter:
        def __init__(self):
            self.count = 0

        def add(self):
            self.count += 1
            return self.count

    counter = Counter.remote()
    assert ray.get(counter.add.remote(), timeout=60) == 1
    session = json.loads((Path(cluster.nodes[0].session_dir) / "session.json").read_text())
    pid = cluster.nodes[1].raylet_pid if who == "raylet" else session["gcs_pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(SILENCE)
    finally:
        os.kill(pid, signal.SIGCONT)
    # Asks the control store, and a new actor there needs both.
    assert ray.get(Counter.remote().add.remote(), timeout=60) == 1
    assert sum(node["Alive"] for node in ray.nodes()) == 2
    assert ray.get(counter.add.remote(), timeout=60) == 2, "it was not started anew"
