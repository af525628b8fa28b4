"""Cycles of the public operations leave nothing behind, in the driver, its workers, or the daemons.

`RAY_RS_LEAK_CYCLES=100000` asks for more; `make leaks` does.
"""

import asyncio
import contextlib
import gc
import inspect
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import traces
from under_test import exceptions, ray, ray_rs_only

pytestmark = [
    ray_rs_only("looks into ray_rs's processes"),
    pytest.mark.timeout(7200 if "RAY_RS_LEAK_CYCLES" in os.environ else 60),
]
CYCLES = int(os.environ.get("RAY_RS_LEAK_CYCLES", "1500"))
# In the long run much less than the smallest entry lost in each cycle; in the short one it is noise of the allocator.
ALLOWED = 1_500_000 + 80 * CYCLES
ROUNDS = 3
# So many the control store remembers, and some more.
PAST_TASKS = 150_000


@ray.remote
def echo(value: Any) -> Any:
    return value


@ray.remote
def fail() -> None:
    raise ValueError("as asked")


@ray.remote
def never() -> None:
    time.sleep(1000)


@ray.remote
def count(number: int) -> Any:
    yield from range(number)


@ray.remote
class Echo:
    def say(self, value: Any) -> Any:
        return value

    def count(self, number: int) -> Any:
        yield from range(number)


@ray.remote
class AsyncEcho:
    async def say(self, value: Any) -> Any:
        return value

    async def count(self, number: int) -> Any:
        for i in range(number):
            yield i


@ray.remote(concurrency_groups={"other": 2})
class Grouped:
    @ray.method(concurrency_group="other")
    def say(self, value: Any) -> Any:
        return value


@ray.remote
def looks_around() -> Any:
    context = ray.get_runtime_context()
    assert ray.util.get_current_placement_group() is None
    return context.get_task_id(), ray.get_gpu_ids(), ray.is_initialized(), os.environ.get("LEAK_TEST")


@ray.remote(num_returns=2)
def pair(value: Any) -> Any:
    return value, value


@pytest.fixture(scope="module")
def actors() -> Any:
    ray.shutdown()
    ray.init(num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False)
    # Fewer than these the short run never ends, and the long one would take their table, which fills up, for a leak.
    for _ in range(PAST_TASKS // 1000 if CYCLES > 10_000 else 0):
        ray.get([echo.remote(None) for _ in range(1000)])
    yield Echo.options(name="echo").remote(), AsyncEcho.remote()
    ray.shutdown()


LARGE = np.zeros(200_000, dtype=np.uint8)


def put_and_get(i: int, _: Any) -> None:
    assert ray.get(ray.put(i)) == i
    assert ray.get(ray.put(LARGE)).nbytes == LARGE.nbytes


def tasks(i: int, _: Any) -> None:
    assert ray.get(echo.remote(i)) == i
    assert ray.get(echo.options(max_retries=1).remote(i)) == i
    assert ray.get(echo.remote(ray.put(LARGE))).nbytes == LARGE.nbytes


def calls(i: int, actors: Any) -> None:
    plain, asynchronous = actors
    assert ray.get(plain.say.remote(i)) == i
    assert ray.get(plain.say.options(name=f"call {i}").remote(i)) == i
    assert ray.get(asynchronous.say.remote(i)) == i


def waits(i: int, _: Any) -> None:
    ray.wait([echo.remote(i), ray.put(i)], num_returns=2)
    ray.wait([echo.remote(i)], timeout=0)


def generators(i: int, actors: Any) -> None:
    assert [ray.get(ref) for ref in count.remote(2)] == [0, 1]
    assert [ray.get(ref) for ref in actors[0].count.options(num_returns="streaming").remote(2)] == [0, 1]
    next(count.remote(3))


def in_place(i: int, _: Any) -> None:
    array = ray.empty(LARGE.shape, np.uint8)
    array[:] = i % 251
    assert ray.get(ray.put(array))[-1] == i % 251
    ray.empty(LARGE.shape, np.uint8)


def cancelled(i: int, _: Any) -> None:
    running = [never.remote() for _ in range(3)]
    for ref in reversed(running):
        ray.cancel(ref)
    for ref in running:
        with contextlib.suppress(exceptions.RayError):
            ray.get(ref)


def futures(i: int, actors: Any) -> None:
    assert echo.remote(i).future().result() == i

    async def program() -> list[Any]:
        return await asyncio.gather(echo.remote(i), actors[0].say.remote(i), echo.remote(i).as_future())

    if i % 20 == 0:
        assert asyncio.run(program()) == [i] * 3


def errors(i: int, _: Any) -> None:
    with pytest.raises(ValueError, match="as asked"):
        ray.get(fail.remote())


def nested(i: int, _: Any) -> None:
    assert ray.get(ray.get(echo.remote([ray.put(i)]))) == [i]


def names(i: int, _: Any) -> None:
    assert ray.get(ray.get_actor("echo").say.remote(i)) == i


def key_values(i: int, _: Any) -> None:
    from ray_rs.experimental import internal_kv

    internal_kv._internal_kv_put(b"key %d" % i, b"value")
    assert internal_kv._internal_kv_get(b"key %d" % i) == b"value"
    internal_kv._internal_kv_del(b"key %d" % i)


def groups(i: int, _: Any) -> None:
    group = ray.util.placement_group([{"CPU": 0.1}])
    ray.get(group.ready())
    ray.util.remove_placement_group(group)


def many_actors(i: int, _: Any) -> None:
    actor = Echo.options(num_cpus=0).remote()
    assert ray.get(actor.say.remote(i)) == i
    if i % 2:
        ray.kill(actor)


def several_returns(i: int, _: Any) -> None:
    assert ray.get(list(pair.remote(i))) == [i, i]
    first, _second = pair.remote(LARGE)
    assert ray.get(first).nbytes == LARGE.nbytes


def timeouts(i: int, actors: Any) -> None:
    ref = actors[0].say.remote(LARGE)
    with contextlib.suppress(exceptions.GetTimeoutError):
        ray.get(ref, timeout=0)
    # It waits for such a node for ever, also when nobody has the reference: a task more in each cycle.
    waits_for_ever = never.options(num_cpus=1000).remote()
    assert not ray.wait([waits_for_ever], timeout=0)[0]
    ray.cancel(waits_for_ever)


def completions(i: int, _: Any) -> None:
    assert list(ray.as_completed([echo.remote(i)])) == [i]
    assert list(ray.util.as_completed([echo.remote(i)])) == [i]
    assert list(ray.util.map_unordered(echo, [i])) == [i]


def async_generators(i: int, actors: Any) -> None:
    refs = actors[1].count.options(num_returns="streaming").remote(2)
    assert [ray.get(ref) for ref in refs] == [0, 1]


def handles(i: int, actors: Any) -> None:
    @ray.remote
    def through(actor: Any) -> Any:
        return ray.get(actor.say.remote(i))

    assert ray.get(through.remote(actors[0])) == i


def definitions(i: int, _: Any) -> None:
    # Functions and classes that are new to the cluster, as a notebook makes them.
    @ray.remote
    def fresh() -> int:
        return i

    assert ray.get(fresh.remote()) == i


def contexts(i: int, _: Any) -> None:
    assert ray.is_initialized() and ray.get_runtime_context().get_job_id()
    assert ray.get(looks_around.remote())[2]


def threads(i: int, _: Any) -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(ray.get(echo.remote(i))))
    thread.start()
    thread.join()
    assert results == [i]


def environments(i: int, _: Any) -> None:
    there = looks_around.options(runtime_env={"env_vars": {"LEAK_TEST": "yes"}}).remote()
    assert ray.get(there)[3] == "yes"


def group_members(i: int, _: Any) -> None:
    group = ray.util.placement_group([{"CPU": 0.1}], name=f"group {i}")
    assert group.wait(10)
    assert ray.util.get_placement_group(f"group {i}").id == group.id
    assert ray.util.placement_group_table(group)["state"] == "CREATED"
    strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group)
    assert ray.get(echo.options(num_cpus=0.1, scheduling_strategy=strategy).remote(i)) == i
    ray.util.remove_placement_group(group)


def named_actors(i: int, _: Any) -> None:
    actor = Grouped.options(num_cpus=0, name=f"named {i}", get_if_exists=True, max_restarts=1).remote()
    assert ray.get(actor.say.remote(i)) == i
    assert f"named {i}" in ray.util.list_named_actors()
    ray.kill(actor, no_restart=False)
    with contextlib.suppress(exceptions.RayActorError):
        ray.get(actor.say.remote(i))
    ray.kill(actor)


def utilities(i: int, actors: Any) -> None:
    pool = ray.util.ActorPool([actors[0]])
    assert list(pool.map(lambda actor, value: actor.say.remote(value), [i])) == [i]
    from ray_rs.util.metrics import Counter, Gauge, Histogram

    for metric in (Counter("cycles"), Gauge("cycle"), Histogram("sizes", boundaries=[1, 2])):
        getattr(metric, {"Counter": "inc", "Gauge": "set"}.get(type(metric).__name__, "observe"))(1)


def queues(i: int, _: Any) -> None:
    from ray_rs.util.queue import Queue

    queue = Queue(actor_options={"num_cpus": 0})
    queue.put(i)
    assert queue.get() == i
    queue.shutdown()


def pools(i: int, _: Any) -> None:
    from ray_rs.util.multiprocessing import Pool

    with Pool(1) as pool:
        assert pool.map(abs, [-i]) == [i]


def looking(i: int, _: Any) -> None:
    from ray_rs.util import state

    assert ray.nodes() and ray.cluster_resources() and ray.available_resources() is not None
    assert ray.why(ray.put(i))
    lists = (state.list_nodes, state.list_workers, state.list_actors, state.list_jobs, state.list_objects)
    for ask in (*lists, state.list_tasks, state.list_placement_groups, state.summarize_tasks):
        # The long run ends more tasks than are kept.
        ask(raise_on_missing_output=False)


def traces_of_tasks(i: int, _: Any) -> None:
    ray.timeline(os.devnull)


def much(i: int, _: Any) -> None:
    # More than the store holds: half of it goes to disk and comes back.
    refs = [ray.put(np.full(10 * 2**20, j, dtype=np.uint8)) for j in range(20)]
    assert [ray.get(ref)[-1] for ref in refs] == list(range(20))


# How often each is done, in parts of all cycles.
OPERATIONS: dict[Callable[[int, Any], None], int] = {
    put_and_get: 1,
    tasks: 2,
    calls: 2,
    waits: 1,
    generators: 3,
    in_place: 1,
    cancelled: 10,
    futures: 1,
    errors: 2,
    nested: 1,
    names: 3,
    key_values: 5,
    groups: 10,
    many_actors: 100,
    several_returns: 2,
    timeouts: 3,
    completions: 3,
    async_generators: 2,
    handles: 5,
    definitions: 5,
    contexts: 1,
    threads: 2,
    environments: 5,
    group_members: 20,
    named_actors: 200,
    utilities: 2,
    queues: 200,
    pools: 200,
    much: 500,
    # Behind the others, which have ended tens of thousands of tasks.
    looking: 15,
    traces_of_tasks: 300,
}
# What needs no cycle of its own.
ELSEWHERE = {
    "remote": "a decorator: `definitions`",
    "method": "a decorator: `named_actors`",
    "get_gpu_ids": "in `looks_around`",
    "get_current_placement_group": "in `looks_around`",
    "init": "`test_sessions_leave_nothing`",
    "shutdown": "`test_sessions_leave_nothing`",
    "install_as_ray": "once a process",
    "client": "names a place only; connections end in `tests/cluster/test_client.py`",
    "connect": "as `client`",
    "disconnect": "as `client`",
    "cpp_function": "refuses",
    "java_function": "refuses",
    "java_actor_class": "refuses",
    "get_node_ip_address": "reads a constant of the session",
    "inspect_serializability": "of this process alone",
    "register_serializer": "of this process alone",
    "deregister_serializer": "of this process alone",
    "log_once": "of this process alone",
    "disable_log_once_globally": "of this process alone",
    "enable_periodic_logging": "of this process alone",
}


def test_every_public_operation_has_its_cycle() -> None:
    cycles = "".join(inspect.getsource(operation) for operation in OPERATIONS)
    cycled = set(re.findall(r"\bray\.(?:util\.)?(\w+)\(", cycles))
    for module in (ray, ray.util):
        functions = {name for name in module.__all__ if inspect.isroutine(getattr(module, name))}
        assert functions <= cycled | ELSEWHERE.keys(), functions - cycled - ELSEWHERE.keys()


def private_bytes(pid: int) -> int:
    resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def usage() -> dict[str, tuple[int, int]]:
    """Memory of its own and open files of the driver, of the daemons, and of whatever worker lives throughout."""
    gc.collect()
    pids = {"driver": os.getpid()}
    for kind in ("raylet", "gcs"):
        [pids[kind]] = traces.daemons(kind)
    pids |= {f"worker {pid}": pid for pid, command in traces.processes().items() if command.startswith("ray::")}
    found = {}
    for name, pid in pids.items():
        with contextlib.suppress(OSError):
            found[name] = (private_bytes(pid), len(os.listdir(f"/proc/{pid}/fd")))
    return found


@pytest.mark.filterwarnings("ignore:Limit:RuntimeWarning")  # `looking` sees a hundred of many
@pytest.mark.filterwarnings("ignore:.* are not listed:RuntimeWarning")  # and in the long run some are not kept
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_memory_stays_flat(actors: Any, operation: Callable[[int, Any], None]) -> None:
    from ray_rs._core import store_objects

    cycles = max(CYCLES // OPERATIONS[operation], 4)
    # The first ones fill caches.
    for i in range(min(cycles, 1000)):
        operation(i, actors)
    # What is lost in each cycle is lost in each round; an allocator that takes another piece does so in one.
    for _ in range(ROUNDS):
        before = usage()
        for i in range(cycles):
            operation(i, actors)
        after = usage()
        grown = {
            name: (memory - before[name][0], files - before[name][1])
            for name, (memory, files) in after.items()
            if name in before
        }
        changes = {name: f"{memory / 1024:+.0f} KiB, {files:+d} files" for name, (memory, files) in grown.items()}
        print(operation.__name__, cycles, changes)
        if all(memory < ALLOWED for memory, _ in grown.values()):
            break
    else:
        raise AssertionError(f"each of {ROUNDS} rounds took more memory: {grown}")
    # A worker or two more or less.
    assert all(abs(files) < 40 for _, files in grown.values()), grown
    deadline = time.monotonic() + 10
    while store_objects() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not store_objects()


def test_sessions_leave_nothing() -> None:
    """Of the driver's own memory, files and threads; `conftest.py` looks after the rest."""

    def session(i: int) -> None:
        ray.init(num_cpus=1, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False)
        assert ray.get(echo.remote(i)) == i
        ray.shutdown()

    def own() -> tuple[int, int, int]:
        gc.collect()
        return private_bytes(os.getpid()), len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    ray.shutdown()
    cycles = max(CYCLES // 500, 4)
    for i in range(4):
        session(i)
    for _ in range(ROUNDS):
        before = own()
        for i in range(cycles):
            session(i)
        memory, files, threads = (now - then for now, then in zip(own(), before, strict=True))
        print("sessions", cycles, f"{memory / 1024:+.0f} KiB, {files:+d} files, {threads:+d} threads")
        if memory < ALLOWED:
            break
    else:
        raise AssertionError(f"each of {ROUNDS} rounds took more memory: {memory}")
    assert files <= 2 and threads <= 2, (files, threads)
