"""Rows about several nodes. Each family starts its own cluster on this machine: real raylets, each with workers and a
store of its own, that speak over the loopback. Ray's are those of its `ray.cluster_utils`, with the same arguments."""

import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import machine
import numpy as np

MIB = 2**20
# What `socket_copy` sends at once, as iperf3 does.
PIECE = 128 * 1024


@contextmanager
def nodes(engine, ray, each):
    """A cluster of nodes with these arguments, the head first; this process is its driver."""
    cluster = importlib.import_module(f"{engine}.cluster_utils").Cluster()
    try:
        for options in each:
            cluster.add_node(**options)
        ray.init(address=cluster.address, logging_level="error")
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def tasks(engine, ray, tools):
    """Four nodes of one processor each."""
    f = tools.define(ray).small_value.options(scheduling_strategy="SPREAD")

    @ray.remote(scheduling_strategy="SPREAD")
    def where():
        time.sleep(0.02)
        return ray.get_runtime_context().get_node_id()

    with nodes(engine, ray, [{"num_cpus": 1} for _ in range(4)]):
        seen = set(ray.get([where.remote() for _ in range(80)]))
        assert len(seen) == 4, f"tasks ran on {len(seen)} of 4 nodes"
        tools.timeit("tasks spread over 4 nodes", lambda: ray.get([f.remote() for _ in range(1000)]), 1000, no_ops=1000)


def latency(engine, ray, tools):
    f = tools.define(ray).small_value.options(num_cpus=0, resources={"there": 0.001})
    with nodes(engine, ray, [{"num_cpus": 1}, {"num_cpus": 1, "resources": {"there": 1}}]):
        ray.get([f.remote() for _ in range(20)])
        tools.timeit("task on another node, sync", lambda: ray.get(f.remote()), no_ops=1, latency=True)


def transfer(engine, ray, tools):
    """Large arrays from one node to the store of another, whose pages were touched before."""
    size = (64 if tools.options.quick else 256) * MIB
    store = 3 * size + 64 * MIB

    @ray.remote(num_cpus=0, resources={"there": 0.001})
    class Source:
        def __init__(self, size):
            self.array = np.random.default_rng(1).integers(0, 255, size, dtype=np.uint8)

        def put(self):
            self.refs = None
            self.refs = [ray.put(self.array)]
            return self.refs

    here = {"num_cpus": 1, "object_store_memory": store}
    with nodes(engine, ray, [here, {**here, "resources": {"there": 1}}]):
        source = Source.remote(size)
        name = "transfer between two nodes"
        for turn in range(3 + 5 * tools.options.rounds):
            (ref,) = ray.get(source.put.remote(), timeout=120)
            began = time.perf_counter()
            value = ray.get(ref, timeout=120)
            taken = time.perf_counter() - began
            assert value.nbytes == size
            del value, ref
            # The first ones touch the pages of both stores.
            if turn >= 3:
                tools.record(name, size / 1e9 / taken)


def link(tools):
    """What this machine's loopback and memory can do, GB/s."""
    seconds = 1 if tools.options.quick else 3
    measured, way = (iperf3(seconds), "iperf3") if shutil.which("iperf3") else (socket_copy(seconds), "a socket copy")
    copy = machine.fastest_copy(256 * MIB, 0.5 if tools.options.quick else 1)["memory, one thread"] / 1e9
    return {"link": measured, "link measured by": way, "copy into warm pages": copy, "lesser": min(measured, copy)}


def iperf3(seconds):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    server = subprocess.Popen(["iperf3", "-s", "-1", "-p", port], stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            command = ["iperf3", "-c", "127.0.0.1", "-p", port, "-t", str(seconds), "-J"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                return json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 8e9
            time.sleep(0.05)  # it does not listen yet
        raise RuntimeError(done.stdout)
    finally:
        server.kill()
        server.wait()


def socket_copy(seconds):
    """Where there is no iperf3: one thread sends, another process receives into the same buffer over and over."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if os.fork() == 0:
            with socket.create_connection(listener.getsockname()) as sender:
                piece, until = b"x" * PIECE, time.perf_counter() + seconds
                while time.perf_counter() < until:
                    sender.sendall(piece)
            os._exit(0)
        receiver, _ = listener.accept()
        with receiver:
            buffer, total, began = bytearray(PIECE), 0, time.perf_counter()
            while count := receiver.recv_into(buffer):
                total += count
            taken = time.perf_counter() - began
    os.wait()
    return total / 1e9 / taken


def broadcast(engine, ray, tools):
    """One value, read on eight other nodes at once."""
    size = (64 if tools.options.quick else 1024) * MIB
    # Eight copies and the source: as much of 1 GiB as the machine has memory for, with some left.
    while size * 9 > 0.6 * available_memory():
        size //= 2
    count = 8

    @ray.remote(num_cpus=1)
    class Reader:
        def read(self, boxed):
            began = time.perf_counter()
            value = ray.get(boxed[0])
            return value.nbytes, time.perf_counter() - began

    store = size + size // 8 + 64 * MIB
    each = [{"num_cpus": 0, "object_store_memory": store}]
    each += [{"num_cpus": 1, "object_store_memory": store} for _ in range(count)]
    with nodes(engine, ray, each):
        readers = [Reader.remote() for _ in range(count)]
        warm = ray.put(np.zeros(MIB, dtype=np.uint8))
        ray.get([reader.read.remote([warm]) for reader in readers], timeout=300)
        value = ray.put(np.random.default_rng(1).integers(0, 255, size, dtype=np.uint8))
        before = sent_by_head(ray)
        began = time.perf_counter()
        read = ray.get([reader.read.remote([value]) for reader in readers], timeout=600)
        taken = time.perf_counter() - began
        assert [bytes_read for bytes_read, _ in read] == [size] * count
        name = "broadcast to 8 nodes"
        tools.record(name, count * size / 1e9 / taken)
        if before is not None:
            time.sleep(0.5)  # counts travel with heartbeats
            # Without the pickle around the array, of some hundred bytes.
            tools.record(f"{name}: sent by the source", round((sent_by_head(ray) - before) / size, 3))
        tools.notes[name] = f"{size // MIB} MiB"


def available_memory():
    with open("/proc/meminfo") as file:
        line = next(line for line in file if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024


def sent_by_head(ray):
    """Bytes of values that the head's node has sent to others so far; Ray does not count them."""
    if ray.__name__ != "ray_rs":
        return None
    from ray_rs import _core

    return _core.store_stats()["sent_bytes"]


def joining(engine, ray, tools):
    """Nodes that join at once. Ray's take so long that there are fewer, and the time is that of as many as ours."""
    wanted = 20 if tools.options.quick else 100
    count = wanted if engine == "ray_rs" else 4
    with nodes(engine, ray, [{"num_cpus": 1}]) as cluster:
        began = time.perf_counter()
        for _ in range(count):
            cluster.add_node(wait=False, num_cpus=1)
        while sum(node["Alive"] for node in ray.nodes()) < count + 1:
            time.sleep(0.01)
        tools.record("100 nodes join", (time.perf_counter() - began) * 100 / count)
        tools.notes["100 nodes join"] = f"{count} nodes"


def actors(engine, ray, tools):
    """Actors over ten nodes: created, called once, killed. Ray gets fewer, or it would take half an hour."""
    count = (100 if tools.options.quick else 1000) if engine == "ray_rs" else (10 if tools.options.quick else 30)
    plain = tools.plain_actor(ray).options(scheduling_strategy="SPREAD")
    with nodes(engine, ray, [{"num_cpus": 1} for _ in range(10)]):
        began = time.perf_counter()
        made = [plain.remote() for _ in range(count)]
        pids = ray.get([actor.pid.remote() for actor in made], timeout=600)
        taken = time.perf_counter() - began
        assert len(set(pids)) == count
        parents = {parent(pid) for pid in pids}
        # Forks of the zygotes of different nodes, and of Ray's raylets. Of so few, Ray spreads not over all.
        least = 10 if engine == "ray_rs" else 2
        assert len(parents) >= least, f"actors ran on {len(parents)} of 10 nodes"
        tools.record("actors over 10 nodes, created and called", count / taken)
        tools.notes["actors over 10 nodes, created and called"] = f"{count} actors"
        for actor in made:
            ray.kill(actor)


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def groups(engine, ray, tools):
    module = importlib.import_module(f"{engine}.util.placement_group")
    bundles = [{"CPU": 0.001}, {"CPU": 0.001}]

    def make():
        return module.placement_group(bundles, strategy="STRICT_SPREAD")

    def one_by_one():
        group = make()
        assert group.wait(timeout_seconds=30)
        module.remove_placement_group(group)

    def hundred():
        made = [make() for _ in range(100)]
        for group in made:
            assert group.wait(timeout_seconds=60)
        for group in made:
            module.remove_placement_group(group)

    with nodes(engine, ray, [{"num_cpus": 1} for _ in range(4)]):
        tools.timeit("placement groups over nodes, one by one", one_by_one)
        tools.timeit("placement groups over nodes, 100 at once", hundred, 100)


def raylet(engine, ray, tools):
    """A node that has joined and does nothing."""
    with nodes(engine, ray, [{"num_cpus": 1}, {"num_cpus": 1}]) as cluster:
        time.sleep(1 if tools.options.quick else 3)
        (joined,) = cluster.worker_nodes
        ours = engine == "ray_rs"
        pid = joined.raylet_pid if ours else joined.all_processes["raylet"][0].process.pid
        tools.record("memory of an idle raylet", machine.pss(pid)[0] / MIB)


def restart(engine, ray, tools):
    """A control store that knows ten thousand actors is killed."""
    if engine != "ray_rs":
        return  # nobody starts it again
    from ray_rs import _core

    @ray.remote(resources={"nowhere": 1})
    class Waiting:
        pass

    count = 1000 if tools.options.quick else 10_000
    with nodes(engine, ray, [{"num_cpus": 1}]) as cluster:
        waiting = [Waiting.remote() for _ in range(count)]
        observer = _core.Observer(cluster.head_node.session_dir)
        while len(observer.actors()) < count:
            time.sleep(0.05)
        _core.kv_put("bench", b"key", b"value")
        for _ in range(tools.options.rounds):
            with open(f"{cluster.head_node.session_dir}/session.json") as file:
                killed = json.load(file)["gcs_pid"]
            os.kill(killed, signal.SIGKILL)
            began = time.perf_counter()
            assert _core.kv_get("bench", b"key") == b"value"
            tools.record("control store killed, 10k actors: answers", (time.perf_counter() - began) * 1e3)
            assert len(observer.actors()) == count
            # One that ends sooner is started after a pause.
            time.sleep(2.5)
        del waiting


BODIES = {
    "cluster tasks": tasks,
    "cluster latency": latency,
    "cluster transfer": transfer,
    "cluster broadcast": broadcast,
    "cluster joining": joining,
    "cluster actors": actors,
    "cluster groups": groups,
    "cluster raylet": raylet,
    "cluster restart": restart,
}
