"""Rows about a program from outside of the cluster (`ray://`), with the bodies of Ray's microbenchmark for Ray Client.

A head is started on this machine, and this process connects to it as from anywhere. Ray puts what a program puts
into the cluster's store at once; with ray_rs it lies with the program until somebody reads it. So some rows have it
cross over.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

MIB = 2**20
PATIENCE_S = 60


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def head(engine, cpus):
    """A head of the engine; yields where programs connect to."""
    ports = [free_port() for _ in range(2)]
    if engine == "ray_rs":
        command = [sys.executable, "-m", "ray_rs.scripts"]
    else:
        command = [sys.executable, str(Path(sys.executable).with_name("ray"))]
    command += ["start", "--head", "--block", f"--port={ports[0]}", f"--ray-client-server-port={ports[1]}"]
    command += [f"--num-cpus={cpus}", "--include-dashboard=false"]
    # Its workers import what the functions here use.
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        if engine == "ray_rs":
            # The program is told the token, as on another machine.
            for line in process.stdout:
                if found := re.match(r"\s+(/\S+/token)$", line):
                    os.environ["RAY_RS_TOKEN"] = Path(found[1]).read_text()
                if "ray_rs stop" in line:
                    break
        until = time.monotonic() + PATIENCE_S
        while not answers(ports[1]):
            assert process.poll() is None, "the head has ended"
            assert time.monotonic() < until, "the head did not start"
            time.sleep(0.05)
        yield f"ray://127.0.0.1:{ports[1]}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE_S)
        process.stdout.close()


def client(engine, ray, tools):
    names = tools.define(ray)
    small_value, actor_class = names.small_value, names.Actor

    @ray.remote
    def do_put_small():
        for _ in range(100):
            ray.put(0)

    @ray.remote(num_cpus=0)
    def add_up(values):
        return int(values[:: MIB // 8].sum())

    @ray.remote(num_cpus=0)
    def make(count):
        return np.zeros(count, dtype=np.int64)

    with head(engine, tools.CORES) as address:
        ray.init(address)
        value = ray.put(0)
        tools.timeit("client: get calls", lambda: ray.get(value))
        tools.timeit("client: put calls", lambda: ray.put(0))
        ray.get([small_value.remote() for _ in range(20)])
        tools.timeit("client: tasks sync", lambda: ray.get(small_value.remote()), no_ops=1, latency=True)
        batch = 100 if tools.options.quick else 1000
        tools.timeit(
            "client: tasks and get batch",
            lambda: ray.get([small_value.remote() for _ in range(batch)]),
            batch / 1000,
            no_ops=batch,
        )
        tools.timeit("client: tasks and put batch", lambda: ray.get([do_put_small.remote() for _ in range(10)]), 1000)
        actor = actor_class.remote()
        ray.get(actor.small_value.remote())
        tools.timeit(
            "client: 1:1 actor calls sync", lambda: ray.get(actor.small_value.remote()), no_ops=1, latency=True
        )

        def many(target):
            ray.get([target.small_value.remote() for _ in range(batch)])

        tools.timeit("client: 1:1 actor calls async", lambda: many(actor), batch, no_ops=batch)
        concurrent = actor_class.options(max_concurrency=16).remote()
        tools.timeit("client: 1:1 actor calls concurrent", lambda: many(concurrent), batch, no_ops=batch)
        megabytes = 80 if tools.options.quick else 800
        array = np.zeros(megabytes * MIB // 8, dtype=np.int64)
        gigabytes = megabytes / 1000
        tools.timeit("client: put gigabytes", lambda: ray.put(array), gigabytes)

        def put_and_read():
            assert ray.get(add_up.remote(ray.put(array))) == 0

        tools.timeit("client: put gigabytes, read by a task", put_and_read, gigabytes)

        def get_result():
            assert len(ray.get(make.remote(len(array)))) == len(array)

        tools.timeit("client: get gigabytes that a task made", get_result, gigabytes)
        ray.shutdown()


BODIES = {"client": client}
