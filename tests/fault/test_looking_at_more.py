"""Views of more than the store holds: what finds no room beside what is looked at comes back in memory of its own."""

import asyncio
import os
import signal
import threading
import time

import numpy as np
import pytest
import traces
from under_test import exceptions, ray, ray_rs_only, start_driver, wait_until

MIB = 2**20


@pytest.fixture
def small_store():
    ray.shutdown()
    ray.init(num_cpus=2, object_store_memory=100 * MIB, include_dashboard=False)
    yield
    ray.shutdown()


@ray.remote
def make(size, seed):
    return np.full(size, seed % 251, dtype=np.uint8)


@ray.remote
def firsts(*arrays):
    assert all((array == array[0]).all() for array in arrays)
    return [int(array[0]) for array in arrays]


def lent_mappings(pid="self"):
    with open(f"/proc/{pid}/maps") as maps:
        return [line for line in maps if "ray_rs-lent" in line]


@pytest.mark.usefixtures("small_store")
def test_one_get_of_three_times_the_store_with_small_things_beside():
    refs, expected = [], []
    for i in range(60):
        refs += [ray.put(np.full(5 * MIB, i, dtype=np.uint8)), ray.put(i), make.remote(10, i), ray.put(f"text {i}")]
        expected += [i, i, i, f"text {i}"]
    for timeout in (None, 60):
        values = ray.get(refs, timeout=timeout)
        assert len(values) == len(expected)
        for value, is_this in zip(values, expected, strict=True):
            if isinstance(value, np.ndarray):
                assert (value == is_this).all() and not value.flags.writeable
            else:
                assert value == is_this
        del value, values
    # And the store goes on.
    assert ray.get(ray.put(np.ones(50 * MIB, dtype=np.uint8)))[-1] == 1


@pytest.mark.usefixtures("small_store")
def test_views_kept_one_after_another():
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    views = [ray.get(ref) for ref in refs]
    assert all((view == i).all() for i, view in enumerate(views))
    # They outlive their objects.
    refs.clear()
    assert all((view == i).all() for i, view in enumerate(views))


@ray_rs_only("of ray_rs's own memory")
@pytest.mark.usefixtures("small_store")
def test_such_memory_goes_with_its_views():
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    values = ray.get(refs)
    assert lent_mappings()
    del values
    wait_until(lambda: not lent_mappings(), "the memory to go")
    [raylet] = traces.daemons("raylet")

    def held_by_raylet():
        links = (os.readlink(f"/proc/{raylet}/fd/{fd}") for fd in os.listdir(f"/proc/{raylet}/fd"))
        return [link for link in links if "lent" in link]

    wait_until(lambda: not held_by_raylet(), "the raylet to let go")


@pytest.mark.usefixtures("small_store")
def test_arguments_of_one_task_larger_than_the_store():
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(40)]
    assert ray.get(firsts.remote(*refs), timeout=60) == list(range(40))


@pytest.mark.usefixtures("small_store")
def test_tasks_go_on_while_the_driver_looks_at_everything():
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(40)]
    views = ray.get(refs)
    calls = [firsts.remote(*refs[i : i + 4]) for i in range(0, 40, 4)]
    assert ray.get(calls, timeout=60) == [list(range(i, i + 4)) for i in range(0, 40, 4)]
    assert all(view[-1] == i for i, view in enumerate(views))


@ray_rs_only("`get` has no `copy` in Ray")
@pytest.mark.usefixtures("small_store")
@pytest.mark.parametrize("copy", [True, "on_write"])
def test_copies_of_more_than_the_store(copy):
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    values = ray.get(refs, copy=copy)
    for i, value in enumerate(values):
        assert (value == i).all()
        value[:] = 255 - i
    assert all((value == 255 - i).all() for i, value in enumerate(values))
    assert all((ray.get(ref) == i).all() for i, ref in enumerate(refs))


@ray_rs_only("Ray keeps no checksums")
@pytest.mark.usefixtures("small_store")
def test_damaged_files_are_noticed_there_too():
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    views = ray.get(refs[:25])
    wait_until(lambda: ray.get(refs[-1])[0] == 59, "the store to be at rest")
    for path in traces.session_root().glob("session_2*/spilled/objects-*"):
        with open(path, "r+b") as file:
            for at in range(1000, os.fstat(file.fileno()).st_size, 2 * MIB):
                file.seek(at)
                file.write(b"\xff\xfe")
    with pytest.raises(exceptions.ObjectLostError, match=r"corrupt.*checksum"):
        ray.get(refs)
    assert all((view == i).all() for i, view in enumerate(views))


@ray_rs_only("reads its raylet's state of memory")
def test_without_memory_an_error_says_what_to_do(no_cluster, tmp_path, monkeypatch):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 1000000 kB\nMemAvailable: 20000 kB\n")
    monkeypatch.setenv("RAY_RS_MEMORY_ROOT", str(tmp_path))
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")
    ray.init(num_cpus=1, object_store_memory=100 * MIB, include_dashboard=False)
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    with pytest.raises(exceptions.ObjectStoreFullError, match=r"one after another.*object_store_memory") as raised:
        ray.get(refs)
    assert "looked at" in str(raised.value)
    assert all(ray.get(ref)[-1] == i for i, ref in enumerate(refs))


@pytest.mark.usefixtures("small_store")
def test_awaiting_what_is_on_disk_does_not_stop_the_loop():
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]

    async def all_at_once():
        values = await asyncio.gather(*refs[:50], *(ref.as_future() for ref in refs[50:]))
        return [(int(value[0]), int(value[-1])) for value in values]

    assert asyncio.run(all_at_once()) == [(i, i) for i in range(60)]


@ray_rs_only("stops ray_rs's raylet")
@pytest.mark.usefixtures("small_store")
def test_the_loop_goes_on_while_the_raylet_does_not():
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    [raylet] = traces.daemons("raylet")

    async def program():
        os.kill(raylet, signal.SIGSTOP)
        try:
            # Of these some are on disk.
            awaited = [asyncio.ensure_future(ref) if i % 2 else ref.as_future() for i, ref in enumerate(refs)]
            awaited.append(asyncio.wrap_future(refs[0].future()))
            for _ in range(20):
                await asyncio.sleep(0.01)
            waiting = [future for future in awaited if not future.done()]
            assert waiting
            waiting[0].cancel()
        finally:
            os.kill(raylet, signal.SIGCONT)
        values = await asyncio.gather(*awaited, return_exceptions=True)
        cancelled = [value for value in values if isinstance(value, asyncio.CancelledError)]
        assert len(cancelled) == 1
        assert all(isinstance(value, asyncio.CancelledError) or value[0] == value[-1] for value in values)

    asyncio.run(program())
    assert all(ray.get(ref)[9] == i for i, ref in enumerate(refs))


@ray_rs_only("stops ray_rs's raylet")
@pytest.mark.usefixtures("small_store")
def test_callbacks_of_what_is_on_disk():
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    got, done = [], threading.Event()

    def note(value):
        got.append(int(value[0]))
        if len(got) == len(refs):
            done.set()

    for ref in refs:
        ref._on_completed(note)
    assert done.wait(60)
    assert sorted(got) == list(range(60))


@ray_rs_only("kills ray_rs's raylet")
@pytest.mark.usefixtures("small_store")
@pytest.mark.parametrize("how", ["raylet", "shutdown"])
def test_what_is_awaited_fails_when_the_session_ends(how):
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    [raylet] = traces.daemons("raylet")

    async def program():
        os.kill(raylet, signal.SIGSTOP)
        awaited = [asyncio.ensure_future(ref) for ref in refs]
        await asyncio.sleep(0.05)
        waiting = [future for future in awaited if not future.done()]
        assert waiting
        if how == "raylet":
            os.kill(raylet, signal.SIGKILL)
        else:
            os.kill(raylet, signal.SIGCONT)
            ray.shutdown()
        return await asyncio.gather(*awaited, return_exceptions=True)

    values = asyncio.run(program())
    assert all(isinstance(value, (Exception, np.ndarray)) for value in values)
    if how == "raylet":
        assert any(isinstance(value, exceptions.RayError) for value in values)
    # What was looked at stays readable.
    assert all(value[0] == value[-1] for value in values if isinstance(value, np.ndarray))


KILLED = """
import sys
import numpy as np
ray.init(num_cpus=1, object_store_memory=100 * 2**20)
refs = [ray.put(np.full(5 * 2**20, i, dtype=np.uint8)) for i in range(60)]
views = ray.get(refs)
print("looking", flush=True)
import time
time.sleep(1000)
"""


@ray_rs_only("looks at the machine's shared memory")
def test_nothing_stays_of_a_killed_driver(no_cluster):
    def shared_kib():
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("Shmem:"))

    driver = start_driver(KILLED)
    assert driver.stdout.readline().strip() == "looking"
    full = shared_kib()
    driver.kill()
    driver.wait()
    wait_until(lambda: shared_kib() < full - 200 * 1024, "the memory to be free")


@pytest.mark.usefixtures("small_store")
def test_workers_that_look_at_more_than_the_store_at_once():
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(40)]

    @ray.remote
    def look(inside):
        values = ray.get(inside)
        time.sleep(0.01)
        return [int(value[-1]) for value in values]

    assert ray.get([look.remote(refs) for _ in range(6)], timeout=100) == [list(range(40))] * 6
