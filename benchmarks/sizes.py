"""Rows about much: many objects in one call, the first large `put`, and more data than the store holds."""

import statistics
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from table import DISK

MIB = 2**20
# Small enough that a quick disk does not take the benchmark's time, large enough for many spill files.
SPILL_STORE = 512 * MIB
SPILL_BYTES = 2048 * MIB


def seconds(body):
    began = time.perf_counter()
    body()
    return time.perf_counter() - began


def many(ray, record, wanted, quick):
    """Thousands of objects in one get, one call, one reply."""
    rounds = 2 if quick else 5

    @ray.remote
    def count(*values):
        return len(values)

    @ray.remote(num_returns=3000)
    def three_thousand():
        return range(3000)

    def get_all():
        assert len(ray.get(refs)) == 10_000

    def pass_all():
        assert ray.get(count.remote(*refs)) == 10_000

    def return_all():
        assert ray.get(three_thousand.remote()) == list(range(3000))

    refs = [ray.put(i) for i in range(10_000)]
    rows = [("get of 10k objects", get_all), ("10k object args to one task", pass_all), ("3k returns", return_all)]
    for name, body in rows:
        if wanted(name):
            body()
            for _ in range(rounds):
                record(name, 1e3 * seconds(body))


def first_puts(ray, init, record, wanted, quick):
    """The first `put` of a session: no page of the store was touched before."""
    for name, size in (("first put after init, 64 MiB", 64 * MIB), ("first put after init, 1 GiB", 1024 * MIB)):
        if not wanted(name) or (quick and size > 64 * MIB):
            continue
        # Real data: the pages of zeros that nobody has written are all one.
        array = np.ones(size, dtype=np.uint8)
        for _ in range(2 if quick else 3):
            ray.shutdown()
            init(object_store_memory=2048 * MIB)
            time.sleep(0.5)  # a program that has 64 MiB to put has spent some time on them
            record(name, size / 1e9 / seconds(partial(ray.put, array)))


def mapped_gets(ray, init, record, wanted, quick):
    """A `get` of what lies in the store, by a process that has it mapped: nothing is copied, whatever its size."""
    for name, size in (("1 MiB", MIB), ("64 MiB", 64 * MIB), ("1 GiB", 1024 * MIB)):
        row = f"get of {name} that is mapped p50"
        if not wanted(row) or (quick and size > 64 * MIB):
            continue
        ray.shutdown()
        init(object_store_memory=2 * size + 128 * MIB)
        ref = ray.put(np.ones(size, dtype=np.uint8))
        for _ in range(2 if quick else 5):
            record(row, 1e6 * statistics.median(seconds(partial(ray.get, ref)) for _ in range(1000)))
        assert ray.get(ref)[-1] == 1
        del ref


def spilling(ray, init, record, wanted, quick):
    """Four times the store is put, and then read; beside what the disk itself does."""
    piece = 8 * MIB
    total = SPILL_BYTES // (4 if quick else 1)
    if wanted(DISK):
        with tempfile.TemporaryDirectory() as folder:
            target = f"of={Path(folder) / 'zeros'}"
            command = ["dd", "if=/dev/zero", target, "bs=8M", f"count={total // piece}", "conv=fdatasync"]
            run = lambda: subprocess.run(command, check=True, capture_output=True)
            record(DISK, total / 1e9 / seconds(run))
    if not (wanted("spill: put beyond the store") or wanted("restore: get from disk")):
        return
    ray.shutdown()
    init(object_store_memory=SPILL_STORE // (4 if quick else 1))
    arrays = [np.full(piece, i, dtype=np.uint8) for i in range(16)]
    refs = []

    def put_all():
        refs.extend(ray.put(arrays[i % 16]) for i in range(total // piece))

    def get_all():
        for i, ref in enumerate(refs):
            assert ray.get(ref)[-1] == i % 16

    record("spill: put beyond the store", total / 1e9 / seconds(put_all))
    record("restore: get from disk", total / 1e9 / seconds(get_all))
