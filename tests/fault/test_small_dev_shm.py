"""A machine whose /dev/shm is small, as in a container, or full: the object store lies elsewhere; nothing else changes.

Each test runs in a mount namespace of its own with a small /dev/shm, for which one must be root.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from under_test import ray_rs_only, script

pytestmark = ray_rs_only("of the place of ray_rs's arena")

MOUNT = 'mount -t tmpfs -o size=64m,mode=1777 tmpfs /dev/shm && exec "$@"'


def can_mount() -> bool:
    command = ["unshare", "-m", "sh", "-c", MOUNT, "sh", "true"]
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0
    except OSError:
        return False


needs_mounts = pytest.mark.skipif(not can_mount(), reason="only root may mount a small /dev/shm")


def run_there(body: str) -> subprocess.CompletedProcess[str]:
    folder = Path(tempfile.mkdtemp(prefix="driver-", dir=os.environ["RAY_RS_TEST_SCRATCH"]))
    path = folder / "driver.py"
    path.write_text(script(body))
    command = ["unshare", "-m", "sh", "-c", MOUNT, "sh", sys.executable, "-u", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


@needs_mounts
def test_a_store_larger_than_dev_shm_works_between_processes_without_a_copy(no_cluster):
    done = run_there(
        """
        import os
        import numpy as np
        assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize == 64 << 20
        ray.init(num_cpus=2, object_store_memory=300 << 20)

        @ray.remote
        def look(array):
            with open("/proc/self/maps") as maps:
                places = [line.split() for line in maps]
            address = array.__array_interface__["data"][0]
            for words in places:
                start, end = (int(part, 16) for part in words[0].split("-"))
                if start <= address < end:
                    return words[-1], float(array.sum()), np.full(20 << 20, 3, dtype=np.uint8)

        refs = [ray.put(np.full(10 << 20, i, dtype=np.uint8)) for i in range(20)]
        places, sums, results = zip(*ray.get([look.remote(ref) for ref in refs[:8]]))
        # Larger than /dev/shm in all, and read where it lies.
        assert set(places) in ({"/memfd:ray_rs-arena"}, {"(deleted)"}), places
        assert sums == tuple(float(i * (10 << 20)) for i in range(8))
        assert all((result == 3).all() for result in results)
        assert all((ray.get(ref) == i).all() for i, ref in enumerate(refs))
        # And more than the store holds.
        refs += [ray.put(np.full(10 << 20, i, dtype=np.uint8)) for i in range(20, 60)]
        del results
        assert all((ray.get(ref) == i).all() for i, ref in enumerate(refs))

        @ray.remote
        class Counter:
            def __init__(self):
                self.count = 0

            def add(self, text):
                self.count += len(text)
                return self.count

        counter = Counter.remote()
        assert ray.get([counter.add.remote("x" * 50_000) for _ in range(500)])[-1] == 25_000_000
        ray.shutdown()
        assert os.listdir("/dev/shm") == []
        print("done")
        """
    )
    assert "done" in done.stdout
    assert "/dev/shm has no room for an object store of 300 MiB" in done.stderr


@needs_mounts
def test_a_full_dev_shm(no_cluster):
    """Not a byte is left: even the default store has to lie elsewhere."""
    done = run_there(
        """
        import os
        import numpy as np
        try:
            with open("/dev/shm/in the way", "wb") as file:
                while True:
                    file.write(bytes(1 << 16))
        except OSError:
            pass
        ray.init(num_cpus=1, object_store_memory=80 << 20)

        @ray.remote
        def double(array):
            return array * 2

        result = ray.get(double.remote(np.ones(1 << 20)))
        assert (result == 2).all()
        ray.shutdown()
        ray.init(num_cpus=1)
        assert ray.cluster_resources()["object_store_memory"] > 75 << 20
        assert (ray.get(double.remote(np.ones(1 << 20))) == 2).all()
        ray.shutdown()
        assert os.listdir("/dev/shm") == ["in the way"]
        print("done")
        """
    )
    assert "done" in done.stdout and "/dev/shm has no room" in done.stderr


@needs_mounts
def test_dev_shm_that_fills_up_later_is_an_error_and_no_fault(no_cluster):
    """The store fitted when it was made; then somebody else took the room."""
    done = run_there(
        """
        import os
        import numpy as np
        from ray_rs.exceptions import ObjectStoreFullError, OutOfMemoryError
        import subprocess
        subprocess.run(["mount", "-o", "remount,size=200m", "/dev/shm"], check=True)
        ray.init(num_cpus=1, object_store_memory=100 << 20)
        kept = ray.put(np.full(5 << 20, 7, dtype=np.uint8))
        try:
            with open("/dev/shm/in the way", "wb") as file:
                while True:
                    file.write(bytes(1 << 16))
        except OSError:
            pass
        held = []
        try:
            for i in range(40):
                held.append(ray.put(np.full(5 << 20, i, dtype=np.uint8)))
            print("all found room")
        except ObjectStoreFullError as error:
            print(error)
        assert (ray.get(kept) == 7).all()
        assert all((ray.get(ref) == i).all() for i, ref in enumerate(held))
        os.unlink("/dev/shm/in the way")
        held += [ray.put(np.full(5 << 20, len(held) + i, dtype=np.uint8)) for i in range(30)]
        assert all((ray.get(ref) == i).all() for i, ref in enumerate(held))
        print("done", len(held))
        """
    )
    assert "done" in done.stdout
