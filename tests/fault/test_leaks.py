"""Cycles of the public operations leave nothing behind, in the driver, its workers, or the daemons.

`RAY_RS_LEAK_CYCLES=100000` asks for more; `make leaks` does.
"""

import asyncio
import contextlib
import gc
import os
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
    assert ray.get(plain.say.options(name="a call").remote(i)) == i
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
}


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
