"""Measures one family of rows for one engine, in a process of its own; prints one JSON object.

The bodies have the shapes of Ray's microbenchmark, so that the figures can be laid beside Ray's published ones.
"""

import argparse
import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import client
import cluster
import listing
import machine
import sizes
import ticks

CORES = os.cpu_count() or 1
results: dict[str, list[float]] = {}
proof: dict[str, dict[str, int]] = {}
# What a figure was taken with, where that is not the same for all engines and machines.
notes: dict[str, str] = {}
options = argparse.Namespace(seconds=1.0, rounds=2, quick=False, rows="")


def wanted(name: str) -> bool:
    return not options.rows or any(part in name for part in options.rows.split(","))


def record(name: str, value: float) -> None:
    results.setdefault(name, []).append(value)


def percentile(sorted_values: list[float], p: float) -> float:
    return sorted_values[min(len(sorted_values) - 1, int(len(sorted_values) * p))]


def timeit(name, body, multiplier=1.0, no_ops=0, latency=False, slack=0):
    """Rates of `body`, after a warm-up; checks that `no_ops` calls of each ran, all of them in other processes."""
    if not wanted(name):
        return
    before = ticks.read()
    runs = 0
    began = time.perf_counter()
    while runs == 0 or time.perf_counter() - began < options.seconds / 2:
        body()
        runs += 1
    step = max(1, int(runs / (time.perf_counter() - began) * options.seconds / 20))
    for _ in range(options.rounds):
        count, began = 0, time.perf_counter()
        while count == 0 or time.perf_counter() - began < options.seconds:
            for _ in range(step):
                body()
            count += step
        record(name, multiplier * count / (time.perf_counter() - began))
        runs += count
    if latency:
        samples = []
        until = time.perf_counter() + options.seconds
        clock = time.perf_counter_ns
        while time.perf_counter() < until:
            for _ in range(min(step, 100)):
                began = clock()
                body()
                samples.append(clock() - began)
        samples.sort()
        runs += len(samples)
        record(f"{name} p50", percentile(samples, 0.5) / 1000)
        record(f"{name} p99", percentile(samples, 0.99) / 1000)
        # By count, a thousand quick calls hide a stall of milliseconds; these two do not: the longest call, and the
        # share of all time that went into calls of a millisecond and more.
        record(f"{name} longest", samples[-1] / 1000)
        record(f"{name} time in stalls", 100 * sum(x for x in samples if x >= 1_000_000) / sum(samples))
    if no_ops:
        check_ticks(name, before, runs * no_ops, slack)


def check_ticks(name, before, expected, slack=0):
    after = ticks.read()
    ran = {pid: count - before.get(pid, 0) for pid, count in after.items() if count != before.get(pid, 0)}
    assert os.getpid() not in ran, f"{name}: {ran[os.getpid()]} no-ops ran in the driver itself"
    total = sum(ran.values())
    assert total >= expected - slack, f"{name}: {expected} calls, but only {total} ran"
    proof[name] = {"calls": expected, "ran_elsewhere": total, "processes": len(ran)}


def define(ray):
    """The remote functions and classes of Ray's microbenchmark, each of whose no-ops also ticks."""

    class Names:
        pass

    @ray.remote
    def small_value():
        ticks.tick()
        return b"ok"

    @ray.remote(num_cpus=0)
    class Actor:
        def small_value(self):
            ticks.tick()
            return b"ok"

        def small_value_arg(self, x):
            ticks.tick()
            return b"ok"

        def small_value_batch(self, n):
            ray.get([small_value.remote() for _ in range(n)])

    @ray.remote
    class AsyncActor:
        async def small_value(self):
            ticks.tick()
            return b"ok"

        async def small_value_with_arg(self, x):
            ticks.tick()
            return b"ok"

    @ray.remote(num_cpus=0)
    class Client:
        def __init__(self, servers):
            self.servers = servers if isinstance(servers, list) else [servers]

        def small_value_batch(self, n):
            results = []
            for server in self.servers:
                results.extend([server.small_value.remote() for _ in range(n)])
            ray.get(results)

        def small_value_batch_arg(self, n):
            x = ray.put(0)
            results = []
            for server in self.servers:
                results.extend([server.small_value_arg.remote(x) for _ in range(n)])
            ray.get(results)

    Names.small_value, Names.Actor, Names.AsyncActor, Names.Client = small_value, Actor, AsyncActor, Client
    return Names


def objects(ray):
    value = ray.put(0)
    timeit("single client get calls", lambda: ray.get(value), latency=True)
    timeit("single client put calls", lambda: ray.put(0), latency=True)

    @ray.remote
    def put_small():
        for _ in range(100):
            ray.put(0)

    timeit("multi client put calls", lambda: ray.get([put_small.remote() for _ in range(10)]), 1000)

    @ray.remote
    def make_refs():
        return [ray.put(1) for _ in range(10_000)]

    if wanted("single client get object containing 10k refs"):
        refs = make_refs.remote()
        ray.wait([refs])
        timeit("single client get object containing 10k refs", lambda: ray.get(refs))


def gigabytes(ray):
    import numpy as np

    if wanted("single client put gigabytes"):
        array = np.zeros(100 * 1024 * 1024, dtype=np.int64)
        timeit("single client put gigabytes", lambda: ray.put(array), 8 * 0.1)
        del array
    if wanted("single client put gigabytes, source in memory"):
        array = np.ones(100 * 1024 * 1024, dtype=np.int64)
        timeit("single client put gigabytes, source in memory", lambda: ray.put(array), 8 * 0.1)
        del array

    @ray.remote
    def put_arrays():
        for _ in range(10):
            ray.put(np.zeros(10 * 1024 * 1024, dtype=np.int64))

    timeit("multi client put gigabytes", lambda: ray.get([put_arrays.remote() for _ in range(10)]), 10 * 8 * 0.1)


def from_threads(ray, f, count):
    """Calls a second of threads that each call and wait, over and over."""
    before, calls = ticks.read(), [0] * count
    until = time.perf_counter() + options.seconds

    def work(number):
        while time.perf_counter() < until:
            for _ in range(10):
                ray.get(f.remote())
            calls[number] += 10

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    check_ticks("tasks sync from 16 threads", before, sum(calls))
    return sum(calls) / took


def tasks(ray):
    names = define(ray)
    f = names.small_value
    ray.get([f.remote() for _ in range(100)])

    timeit("single client tasks sync", lambda: ray.get(f.remote()), no_ops=1, latency=True)
    if wanted("tasks sync after 20 ms idle p50"):
        samples = []
        for _ in range(20 if options.quick else 60):
            time.sleep(0.02)
            began = time.perf_counter()
            ray.get(f.remote())
            samples.append((time.perf_counter() - began) * 1e6)
        record("tasks sync after 20 ms idle p50", statistics.median(samples))
    if wanted("tasks sync from 16 threads"):
        for _ in range(options.rounds):
            record("tasks sync from 16 threads", from_threads(ray, f, 16))
    timeit("single client tasks and get batch", lambda: ray.get([f.remote() for _ in range(1000)]), no_ops=1000)
    timeit("single client tasks async", lambda: ray.get([f.remote() for _ in range(1000)]), 1000, no_ops=1000)
    if wanted("step:"):
        for _ in range(5):
            began = time.perf_counter()
            refs = [f.remote() for _ in range(1000)]
            submitted = time.perf_counter()
            ray.get(refs)
            done = time.perf_counter()
            for ref in refs:
                ray.get(ref)
            got = time.perf_counter()
            record("step: f.remote() in a burst", (submitted - began) * 1e3)
            record("step: whole task, many in flight", (done - began) * 1e3)
            record("step: get of a result that is there", (got - done) * 1e3)

    def wait_1k():
        waiting = [f.remote() for _ in range(1000)]
        fetch_local = True
        for _ in range(1000):
            _, waiting = ray.wait(waiting, fetch_local=fetch_local)
            fetch_local = False

    timeit("single client wait 1k refs", wait_1k, no_ops=1000)
    if wanted("multi client tasks async"):
        n, m = (1000 if options.quick else 10_000), 4
        actors = [names.Actor.remote() for _ in range(m)]
        ray.get([a.small_value.remote() for a in actors])
        body = lambda: ray.get([a.small_value_batch.remote(n) for a in actors])
        timeit("multi client tasks async", body, n * m, no_ops=n * m)


def actors(ray):
    names = define(ray)
    n_actors = max(1, CORES // 2)
    n = 500 if options.quick else 5000

    def one(**options):
        actor = names.Actor.options(**options).remote()
        ray.get(actor.small_value.remote())
        return actor

    a = one()
    timeit("1:1 actor calls sync", lambda: ray.get(a.small_value.remote()), no_ops=1, latency=True)
    batch = lambda actor: ray.get([actor.small_value.remote() for _ in range(1000)])
    b = one()
    timeit("1:1 actor calls async", lambda: batch(b), 1000, no_ops=1000)
    c = one(max_concurrency=16)
    # Sixteen threads of one process tick: a tick may be overtaken by another between count and store.
    timeit("1:1 actor calls concurrent", lambda: batch(c), 1000, no_ops=1000, slack=16)
    if wanted("1:n actor calls async"):
        servers = [one() for _ in range(n_actors)]
        client = names.Client.remote(servers)
        body = lambda: ray.get(client.small_value_batch.remote(n))
        timeit("1:n actor calls async", body, n * n_actors, no_ops=n * n_actors)
    if wanted("n:n actor calls async"):
        servers = [one() for _ in range(n_actors)]

        @ray.remote
        def work(actors):
            ray.get([actors[i % n_actors].small_value.remote() for i in range(n)])

        body = lambda: ray.get([work.remote(servers) for _ in range(4)])
        timeit("n:n actor calls async", body, 4 * n, no_ops=4 * n)
    if wanted("n:n actor calls with arg async"):
        servers = [one() for _ in range(n_actors)]
        clients = [names.Client.remote(server) for server in servers]
        k = n // 5
        body = lambda: ray.get([client.small_value_batch_arg.remote(k) for client in clients])
        timeit("n:n actor calls with arg async", body, k * n_actors, no_ops=k * n_actors)


def durable_actors(ray):
    if ray.__name__ != "ray_rs":
        return  # Ray has none
    names = define(ray)
    actor = names.Actor.options(durable=True).remote()
    ray.get(actor.small_value.remote())
    timeit("1:1 durable actor calls sync", lambda: ray.get(actor.small_value.remote()), no_ops=1, latency=True)
    body = lambda: ray.get([actor.small_value.remote() for _ in range(1000)])
    timeit("1:1 durable actor calls async", body, 1000, no_ops=1000)


def async_actors(ray):
    names = define(ray)
    n_actors = max(1, CORES // 2)
    n = 500 if options.quick else 5000

    @contextlib.contextmanager
    def one():
        """An actor that is gone afterwards: each needs a CPU to be placed."""
        actor = names.AsyncActor.remote()
        ray.get(actor.small_value.remote())
        yield actor
        ray.kill(actor)

    with one() as a:
        timeit("1:1 async-actor calls sync", lambda: ray.get(a.small_value.remote()), no_ops=1, latency=True)
    with one() as a:
        body = lambda: ray.get([a.small_value.remote() for _ in range(1000)])
        timeit("1:1 async-actor calls async", body, 1000, no_ops=1000)
    with one() as a:
        body = lambda: ray.get([a.small_value_with_arg.remote(i) for i in range(1000)])
        timeit("1:1 async-actor calls with args async", body, 1000, no_ops=1000)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(one()) for _ in range(n_actors)]
        client = names.Client.remote(servers)
        body = lambda: ray.get(client.small_value_batch.remote(n))
        timeit("1:n async-actor calls async", body, n * n_actors, no_ops=n * n_actors)

        @ray.remote
        def work(actors):
            ray.get([actors[i % n_actors].small_value.remote() for i in range(n)])

        body = lambda: ray.get([work.remote(servers) for _ in range(4)])
        timeit("n:n async-actor calls async", body, 4 * n, no_ops=4 * n)


def busy(ray):
    """Tasks sync while other programs keep the cores busy: two, or one a core if there are more."""
    f = define(ray).small_value
    ray.get([f.remote() for _ in range(100)])
    loops = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(max(2, CORES))]
    try:
        time.sleep(0.3)
        timeit("tasks sync beside two busy loops", lambda: ray.get(f.remote()), no_ops=1, latency=True)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def plain_actor(ray):
    """One that does not tick, where a process is what is measured: the ticks' imports would be a fifth of it, and an
    engine whose workers have them loaded already would not pay them. That it ran elsewhere is told by its process."""

    @ray.remote(num_cpus=0)
    class Plain:
        def pid(self):
            return os.getpid()

    return Plain


def churn(ray):
    plain = plain_actor(ray)
    name, pids = "actor create + first call + kill", []

    def body():
        actor = plain.remote()
        pids.append(ray.get(actor.pid.remote()))
        ray.kill(actor)

    timeit(name, body)
    if pids:
        assert os.getpid() not in pids, f"{name}: a call ran in the driver itself"
        assert len(set(pids)) == len(pids), f"{name}: {len(pids)} actors in {len(set(pids))} processes"
        proof[name] = {"calls": len(pids), "ran_elsewhere": len(pids), "processes": len(set(pids))}


def placement_groups(ray):
    from importlib import import_module

    module = import_module(f"{ray.__name__}.util.placement_group")

    def one_by_one():
        group = module.placement_group([{"CPU": 0.001}])
        assert group.wait(timeout_seconds=30)
        module.remove_placement_group(group)

    def hundred():
        groups = [module.placement_group([{"CPU": 0.001}]) for _ in range(100)]
        for group in groups:
            assert group.wait(timeout_seconds=30)
        for group in groups:
            module.remove_placement_group(group)

    timeit("placement group create/removal, one by one", one_by_one)
    timeit("placement group create/removal", hundred, 100)


def idle(ray):
    time.sleep(1 if options.quick else 3)  # what is started in the background comes to rest
    pids = machine.engine_processes()
    own, arena = machine.pss_of(pids)
    seconds = 4 if options.quick else 10
    before, began = machine.cpu_ns(pids), time.perf_counter()
    time.sleep(seconds)
    used = machine.cpu_ns(pids) - before
    record("idle cluster memory", own / 2**20)
    record("idle cluster store pages", arena / 2**20)
    record("idle cluster CPU", 100 * used / 1e9 / (time.perf_counter() - began))
    record("idle cluster processes", len(pids))


def memory(ray):
    names = define(ray)

    def everything():
        return machine.pss_of([*machine.engine_processes(), os.getpid()])[0]

    if wanted("memory of one queued task"):
        count = 5000 if options.quick else 20_000
        stop = Path(tempfile.mkdtemp()) / "stop"

        @ray.remote
        def block(path):
            while not os.path.exists(path):
                time.sleep(0.02)

        f = names.small_value
        ray.get([f.remote() for _ in range(1000)])
        blockers = [block.remote(str(stop)) for _ in range(CORES)]
        time.sleep(1)
        before = everything()
        refs = [f.remote() for _ in range(count)]
        time.sleep(1)
        record("memory of one queued task", (everything() - before) / count)
        stop.touch()
        ray.get([*blockers, *refs])
        del refs
    if wanted("memory of one idle actor"):
        plain = plain_actor(ray)
        ray.get([names.small_value.remote() for _ in range(10)])
        few = options.engine == "ray"
        count = (4 if few else 10) if options.quick else (8 if few else 40)
        time.sleep(1)
        before = everything()
        actors = [plain.remote() for _ in range(count)]
        assert os.getpid() not in ray.get([actor.pid.remote() for actor in actors])
        time.sleep(1)
        record("memory of one idle actor", (everything() - before) / count / 1024)


def init(ray, **options):
    ray.init(num_cpus=CORES, include_dashboard=False, **options)


BODIES = {
    "objects": objects,
    "gigabytes": gigabytes,
    "tasks": tasks,
    "actors": actors,
    "async actors": async_actors,
    "durable actors": durable_actors,
    "busy": busy,
    "churn": churn,
    "placement groups": placement_groups,
    "idle": idle,
    "memory": memory,
    "listing": lambda ray: listing.listing(ray, record, wanted, 10, options.quick),
    "many": lambda ray: sizes.many(ray, record, wanted, options.quick),
    "first puts": lambda ray: sizes.first_puts(ray, partial(init, ray), record, wanted, options.quick),
    "mapped": lambda ray: sizes.mapped_gets(ray, partial(init, ray), record, wanted, options.quick),
    "spilling": lambda ray: sizes.spilling(ray, partial(init, ray), record, wanted, options.quick),
}


def lifecycle(engine):
    script = Path(__file__).with_name("lifecycle.py")
    command = [sys.executable, str(script), engine, str(CORES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    times = next((line for line in done.stdout.splitlines() if line.startswith("TIMES ")), None)
    assert done.returncode == 0, done.stdout + done.stderr
    assert times, done.stdout + done.stderr
    for name, value in zip(("import", "init", "first task after init", "shutdown"), times.split()[1:], strict=True):
        record(name, float(value) * 1e3)
    proof["first task after init"] = {"calls": 1, "ran_elsewhere": 1, "processes": 1}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", required=True)
    parser.add_argument("--family", required=True)
    parser.add_argument("--rows", default="")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.parse_args(namespace=options)
    os.environ[machine.MARK] = f"{os.getpid()}-{time.time_ns()}"
    ticks.create(os.path.join(tempfile.mkdtemp(prefix="ray-bench-"), "ticks"))
    extra = {}
    if options.family == "copy":
        extra = machine.fastest_copy(seconds=0.5 if options.quick else 1.5)
    elif options.family == "link":
        extra = cluster.link(sys.modules[__name__])
    elif options.family == "lifecycle":
        lifecycle(options.engine)
    elif options.family in client.BODIES:
        ray = importlib.import_module(options.engine)
        client.BODIES[options.family](options.engine, ray, sys.modules[__name__])
    elif options.family in cluster.BODIES:
        ray = importlib.import_module(options.engine)
        cluster.BODIES[options.family](options.engine, ray, sys.modules[__name__])
    else:
        ray = importlib.import_module(options.engine)
        init(ray)
        BODIES[options.family](ray)
        with contextlib.suppress(Exception):
            extra["counters"] = importlib.import_module(f"{options.engine}._core").counters()
        extra["version"] = ray.__version__
        ray.shutdown()
    print("RESULT " + json.dumps({"results": results, "proof": proof, "notes": notes, "extra": extra}))


if __name__ == "__main__":
    main()
