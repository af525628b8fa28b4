"""More data than memory: objects leave for the disk and come back, and nothing is lost or left behind."""

import glob
import json
import os
import re
import resource
import signal
import stat
from pathlib import Path

import numpy as np
import pytest
import traces
from under_test import IS_RAY, exceptions, ray, ray_rs_only, run_driver, start_driver, wait_until

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
def total(*arrays):
    return sum(int(array[0]) + int(array[-1]) for array in arrays)


@ray.remote
class Holder:
    def __init__(self):
        self.views = []

    def look_at(self, *arrays):
        self.views.extend(arrays)
        return len(self.views)

    def first_and_last(self):
        return [(int(view[0]), int(view[-1])) for view in self.views]

    def let_go(self):
        self.views.clear()


def spill_files():
    return [
        path
        for path in glob.glob(f"{traces.session_root()}/session_2*/spilled/**", recursive=True)
        if os.path.isfile(path) and "#" not in path
    ]


@pytest.mark.usefixtures("small_store")
def test_three_times_the_store_in_puts_all_come_back():
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    for _ in range(2):
        for i, ref in enumerate(refs):
            array = ray.get(ref)
            assert array.nbytes == 5 * MIB and (array == i).all()


@pytest.mark.usefixtures("small_store")
def test_three_times_the_store_in_results_and_arguments():
    refs = [make.remote(3 * MIB, i) for i in range(100)]
    sums = ray.get([total.remote(*refs[i : i + 5]) for i in range(0, 100, 5)])
    assert sums == [sum(2 * (j % 251) for j in range(i, i + 5)) for i in range(0, 100, 5)]
    assert ray.get(total.remote(refs[0])) == 0 and ray.get(total.remote(refs[99])) == 198


@pytest.mark.usefixtures("small_store")
def test_objects_larger_than_half_the_store():
    refs = [ray.put(np.full(60 * MIB, i, dtype=np.uint8)) for i in range(4)]
    refs += [make.remote(60 * MIB, i) for i in range(4, 8)]
    for i, ref in reversed(list(enumerate(refs))):
        array = ray.get(ref)
        assert array[0] == array[-1] == i
        del array


@pytest.mark.usefixtures("small_store")
def test_small_objects_by_the_thousand():
    refs = [ray.put(np.full(150_000, i % 251, dtype=np.uint8)) for i in range(2000)]
    for start in range(0, 2000, 100):
        arrays = ray.get(refs[start : start + 100])
        assert all(array[7] == (start + k) % 251 for k, array in enumerate(arrays))
        del arrays


@pytest.mark.usefixtures("small_store")
def test_what_is_looked_at_stays_in_place():
    holder = Holder.remote()
    looked_at = [ray.put(np.full(5 * MIB, 100 + i, dtype=np.uint8)) for i in range(6)]
    views = ray.get(looked_at[:3])
    assert ray.get(holder.look_at.remote(*looked_at[3:])) == 3
    refs = [ray.put(np.full(4 * MIB, i, dtype=np.uint8)) for i in range(50)]
    assert all((view == 100 + i).all() for i, view in enumerate(views))
    assert ray.get(holder.first_and_last.remote()) == [(100 + i, 100 + i) for i in range(3, 6)]
    for i, ref in enumerate(refs):
        assert (ray.get(ref) == i).all()


@ray_rs_only("Ray falls back to files that are mapped")
@pytest.mark.usefixtures("small_store")
def test_room_comes_when_views_go():
    views = [ray.get(ray.put(np.full(10 * MIB, i, dtype=np.uint8))) for i in range(9)]
    holder = Holder.remote()
    waiting = make.remote(40 * MIB, 3)
    ready, _ = ray.wait([waiting], timeout=0.5)
    assert ready == []
    assert [int(view[-1]) for view in views] == list(range(9))
    views.clear()
    assert ray.get(waiting, timeout=30)[0] == 3
    del holder


@ray_rs_only("Ray falls back to files that are mapped")
@pytest.mark.usefixtures("small_store")
def test_only_what_can_never_fit_is_refused():
    """Or what finds everything looked at for a long time. The error says what is in the way."""
    with pytest.raises(exceptions.ObjectStoreFullError, match="can never fit"):
        ray.put(np.zeros(150 * MIB, dtype=np.uint8))
    views = [ray.get(ray.put(np.full(20 * MIB, i, dtype=np.uint8))) for i in range(4)]
    with pytest.raises(exceptions.ObjectStoreFullError) as raised:
        ray.put(np.zeros(40 * MIB, dtype=np.uint8))
    text = str(raised.value)
    assert "looked at" in text and "20.0 MiB" in text and f"process {os.getpid()}" in text, text
    assert [int(view[5]) for view in views] == [0, 1, 2, 3]


@ray_rs_only("of ray_rs's own files")
@pytest.mark.usefixtures("small_store")
def test_files_are_private_and_go_with_their_objects():
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    files = spill_files()
    assert files
    for path in files:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(Path(path).parent).st_mode) == 0o700
    del refs
    wait_until(lambda: not spill_files(), "the files to go")


@ray_rs_only("Ray keeps no checksums")
@pytest.mark.usefixtures("small_store")
def test_a_file_that_was_tampered_with_is_an_error_and_never_wrong_data():
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    for path in spill_files():
        with open(path, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            for at in range(1000, size, 2 * MIB):
                file.seek(at)
                file.write(b"\xff\xfe")
    lost = 0
    for i, ref in enumerate(refs):
        try:
            assert (ray.get(ref) == i).all()
        except exceptions.ObjectLostError:
            lost += 1
            with pytest.raises(exceptions.ObjectLostError, match=r"corrupt.*checksum"):
                ray.get(ref)
            with pytest.raises(exceptions.ObjectLostError, match="corrupt"):
                ray.get(total.remote(ref))
    assert lost >= 20


@ray_rs_only("of ray_rs's own files")
@pytest.mark.usefixtures("small_store")
def test_a_file_that_is_gone_is_an_error():
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    for path in spill_files():
        os.unlink(path)
    with pytest.raises(exceptions.ObjectLostError, match="spill file"):
        for ref in refs:
            ray.get(ref)
    # The store itself goes on.
    del refs
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    assert all(ray.get(ref)[9] == i for i, ref in enumerate(refs))


@ray_rs_only("Ray tells of it in lines of its own")
def test_the_driver_hears_how_much_was_spilled(no_cluster):
    """First when it is much, which is 2 GiB unless one says otherwise, then each time that it has doubled."""
    body = """
        import numpy as np
        ray.init(num_cpus=1, object_store_memory=100 * 2**20)
        refs = [ray.put(np.full(5 * 2**20, i, dtype=np.uint8)) for i in range(100)]
        assert ray.get(refs[0])[-1] == 0
        """
    told = run_driver(body, env={"RAY_verbose_spill_logs": str(60 * MIB)}).stderr
    lines = [line for line in told.splitlines() if "Spilled" in line]
    pattern = (
        r"\(raylet\) Spilled (\d+) MiB, (\d+) objects, write throughput \d+ MiB/s\. "
        r"Set RAY_verbose_spill_logs=0 to disable this message\."
    )
    found = [re.search(pattern, line) for line in lines]
    assert all(found) and 2 <= len(found) <= 4, told
    sizes = [int(match[1]) for match in found]
    assert sizes[0] >= 60 and sizes[-1] >= 240 and sizes == sorted(sizes)
    assert all(int(match[2]) * 5 == int(match[1]) for match in found)
    for quiet in ({"RAY_verbose_spill_logs": "0"}, None):
        assert "Spilled" not in run_driver(body, env=quiet).stderr


@ray_rs_only("Ray retries for long")
@pytest.mark.usefixtures("small_store")
def test_a_full_disk_is_an_error_that_says_where_and_loses_nothing():
    [raylet] = traces.daemons("raylet")
    # Files of this process may not grow beyond a megabyte: what a full disk does, without filling one.
    resource.prlimit(raylet, resource.RLIMIT_FSIZE, (MIB, resource.RLIM_INFINITY))
    refs = []
    with pytest.raises(exceptions.OutOfDiskError) as raised:
        for i in range(60):
            refs.append(ray.put(np.full(5 * MIB, i, dtype=np.uint8)))
    assert "spilled to" in str(raised.value) and "bytes" in str(raised.value)
    assert str(traces.session_root()) in str(raised.value)
    assert len(refs) >= 15
    assert all((ray.get(ref) == i).all() for i, ref in enumerate(refs))
    assert not spill_files()
    resource.prlimit(raylet, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    more = [ray.put(np.full(5 * MIB, 100 + i, dtype=np.uint8)) for i in range(40)]
    assert all((ray.get(ref) == i).all() for i, ref in enumerate(refs))
    assert all((ray.get(ref) == 100 + i).all() for i, ref in enumerate(more))


@ray_rs_only("Ray's directory is made before")
def test_spilling_to_a_directory_of_the_users_choice(no_cluster, tmp_path):
    ray.init(num_cpus=1, object_store_memory=100 * MIB, object_spilling_directory=str(tmp_path))
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(40)]
    [directory] = tmp_path.iterdir()
    assert directory.name.startswith("ray_spilled_session_") and list(directory.iterdir())
    assert all(ray.get(ref)[9] == i for i, ref in enumerate(refs))
    ray.shutdown()
    wait_until(lambda: not list(tmp_path.iterdir()), "the directory to go")
    with pytest.raises(ValueError, match="object_spilling_directory"):
        ray.init(object_spilling_directory=str(tmp_path / "absent"))


def test_rays_knob_for_the_directory(no_cluster, tmp_path):
    place = {"type": "filesystem", "params": {"directory_path": str(tmp_path / "made")}}
    knobs = {"object_spilling_config": json.dumps(place), "min_spilling_size": 0}
    ray.init(num_cpus=1, object_store_memory=100 * MIB, _system_config=knobs)
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(40)]
    assert [file for file in (tmp_path / "made").rglob("*") if file.is_file()]
    assert all(ray.get(ref)[9] == i for i, ref in enumerate(refs))


DRIVER = """
import sys, time
import numpy as np
ray.init(num_cpus=1, object_store_memory=100 * 2**20, object_spilling_directory=sys.argv[1])
refs = [ray.put(np.full(5 * 2**20, i, dtype=np.uint8)) for i in range(60)]
print("full", flush=True)
time.sleep(1000)
"""


@ray_rs_only("Ray leaves its processes behind")
@pytest.mark.parametrize("victim", ["driver", "raylet", "everything"])
def test_no_file_outlives_its_session(no_cluster, tmp_path, victim):
    driver = start_driver(DRIVER, str(tmp_path))
    assert driver.stdout.readline().strip() == "full"
    assert list(tmp_path.glob("ray_spilled_*/objects-*"))
    raylets = traces.daemons("raylet")
    victims = {"driver": [driver.pid], "raylet": raylets, "everything": [*raylets, driver.pid]}[victim]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    driver.kill()
    wait_until(lambda: not list(tmp_path.iterdir()), "the files to go")


@ray_rs_only("of ray_rs's own files")
@pytest.mark.usefixtures("small_store")
def test_files_are_removed_though_the_daemons_did_not_get_to_the_end():
    """As when there are so many that the time to end was too short: then whoever ends the session removes the rest."""
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    assert spill_files() and refs
    [gcs] = traces.daemons("gcs")
    os.kill(gcs, signal.SIGSTOP)
    for token in traces.session_root().glob("session_2*/token"):
        token.unlink()
    ray.shutdown()
    assert not spill_files()


@pytest.mark.usefixtures("small_store")
def test_a_worker_that_dies_takes_its_spilled_objects_along():
    @ray.remote(max_retries=0)
    def fill():
        mine = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(40)]
        os.kill(os.getpid(), signal.SIGKILL)
        return mine

    for _ in range(2):
        with pytest.raises(exceptions.WorkerCrashedError):
            ray.get(fill.remote())
    if not IS_RAY:
        wait_until(lambda: not spill_files(), "the files to go")
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(40)]
    assert all(ray.get(ref)[9] == i for i, ref in enumerate(refs))


@pytest.mark.usefixtures("small_store")
def test_results_outlive_the_worker_that_made_them_on_disk_too():
    @ray.remote
    def pid_and(size, seed):
        return os.getpid(), np.full(size, seed, dtype=np.uint8)

    refs = [pid_and.remote(4 * MIB, i) for i in range(60)]
    ray.wait(refs, num_returns=len(refs), timeout=60)
    for pid in {ray.get(ref)[0] for ref in refs}:
        os.kill(pid, signal.SIGKILL)
    assert all((ray.get(ref)[1] == i).all() for i, ref in enumerate(refs))


@pytest.mark.usefixtures("small_store")
def test_get_with_a_timeout_of_what_is_on_disk():
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    assert ray.get(refs[0], timeout=30)[5] == 0
    assert [array[5] for array in ray.get(refs[1:5], timeout=30)] == [1, 2, 3, 4]
    ready, rest = ray.wait(refs, num_returns=60, timeout=30)
    assert len(ready) == 60 and not rest


@pytest.mark.usefixtures("small_store")
def test_many_tasks_need_more_than_the_store_at_once():
    """Each gets all its arguments; none waits for what another holds."""
    refs = [ray.put(np.full(10 * MIB, i, dtype=np.uint8)) for i in range(24)]
    calls = [total.remote(*(refs[(i + 3 * j) % 24] for j in range(5))) for i in range(24)]
    assert ray.get(calls, timeout=120) == [sum(2 * ((i + 3 * j) % 24) for j in range(5)) for i in range(24)]


@ray_rs_only("Ray's timeline has no spans of the object store")
def test_the_timeline_shows_what_went_to_disk_and_came_back(small_store):
    refs = [make.remote(20 * MIB, seed) for seed in range(10)]
    ray.wait(refs, num_returns=len(refs), fetch_local=False)
    assert ray.get(total.remote(refs[0])) == 0
    moves = [event for event in ray.timeline() if event["ph"] == "X" and event["cat"].startswith("object_store:")]
    spilled, restored = ([move for move in moves if move["name"] == name] for name in ("spill", "restore"))
    assert sum(move["args"]["bytes"] for move in spilled) >= 100 * MIB
    assert sum(move["args"]["objects"] for move in spilled) >= 5
    assert restored and all(move["args"]["bytes"] >= 20 * MIB and move["dur"] >= 0 for move in restored)
    # Each is on a row of the object store, and what shares a row does not overlap.
    rows = {}
    for move in sorted(moves, key=lambda move: move["ts"]):
        assert move["ts"] >= rows.get(move["tid"], 0)
        rows[move["tid"]] = move["ts"] + move["dur"]
    assert {event["tid"] for event in ray.timeline() if event["name"] == "thread_name"} >= set(rows)


@ray_rs_only("stops ray_rs's raylet")
@pytest.mark.usefixtures("small_store")
def test_an_async_actor_goes_on_while_arguments_come_from_disk():
    @ray.remote
    class Loop:
        async def first_and_last(self, *arrays):
            return [(int(array[0]), int(array[-1])) for array in arrays]

        def plain(self, array):
            return int(array[0])

        async def ping(self):
            return "pong"

    actor = Loop.remote()
    assert ray.get(actor.ping.remote()) == "pong"
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    [raylet] = traces.daemons("raylet")
    # Nobody brings them back now.
    os.kill(raylet, signal.SIGSTOP)
    try:
        calls = [actor.first_and_last.remote(*refs[i : i + 3]) for i in range(0, 30, 3)]
        plain = actor.plain.remote(refs[1])
        for _ in range(20):
            assert ray.get(actor.ping.remote(), timeout=20) == "pong"
        assert ray.wait([*calls, plain], num_returns=1, timeout=0.1)[0] == []
    finally:
        os.kill(raylet, signal.SIGCONT)
    expected = [[(j, j) for j in range(i, i + 3)] for i in range(0, 30, 3)]
    assert ray.get(calls, timeout=60) == expected
    assert ray.get(plain, timeout=60) == 1


@ray_rs_only("of ray_rs's own files")
@pytest.mark.usefixtures("small_store")
def test_an_async_actor_hears_that_an_argument_is_lost():
    @ray.remote
    class Loop:
        async def first(self, array):
            return int(array[0])

        async def ping(self):
            return "pong"

    actor = Loop.remote()
    refs = [ray.put(np.full(5 * MIB, i, dtype=np.uint8)) for i in range(60)]
    wait_until(spill_files, "some to be written")
    for path in spill_files():
        os.unlink(path)
    with pytest.raises(exceptions.ObjectLostError):
        ray.get(actor.first.remote(refs[0]), timeout=60)
    assert ray.get(actor.ping.remote()) == "pong"
    assert ray.get(actor.first.remote(refs[-1]), timeout=60) == 59
