"""One object of eight gigabytes."""

import shutil

import numpy as np
import pytest
from under_test import ray

SIZE = 8 * 10**9
# The object, its reader's page tables, and what else runs here.
NEEDED = SIZE + 2 * 10**9
# One byte in each of so many is looked at: a few in each page would take a minute.
STRIDE = 10_007

pytestmark = [pytest.mark.usefixtures("no_cluster"), pytest.mark.timeout(600)]


def available() -> int:
    """What the machine can give, in its memory and in the store's file system."""
    with open("/proc/meminfo") as file:
        free = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    return min(free, shutil.disk_usage("/dev/shm").free)


@ray.remote
def look(array):
    return len(array), array.flags.writeable, int(array[::STRIDE].sum(dtype=np.int64)), int(array[-1])


@pytest.mark.skipif(available() < NEEDED, reason="needs 10 GB of memory that nobody uses")
def test_an_object_of_eight_gigabytes():
    ray.init(num_cpus=1, object_store_memory=SIZE + (64 << 20), include_dashboard=False)
    # Pages that were never written cost the machine nothing: only the object itself is there.
    array = np.zeros(SIZE, dtype=np.uint8)
    array[:: SIZE // 1000] = 7
    array[-1] = 9
    expected = (SIZE, False, int(array[::STRIDE].sum(dtype=np.int64)), 9)
    ref = ray.put(array)
    del array
    here = ray.get(ref)
    assert (len(here), here.flags.writeable, int(here[::STRIDE].sum(dtype=np.int64)), int(here[-1])) == expected
    assert np.shares_memory(here, ray.get(ref)), "nothing is copied"
    assert ray.get(look.remote(ref), timeout=300) == expected
