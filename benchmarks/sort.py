"""A sort of more data than the object store holds: how long does it take, and is nothing lost?

Records of 100 random bytes, of which the first ten are the key, are made in tasks, divided by key into as many parts
as there are reducers, sorted by these, and read as a stream: in order, none missing, none changed (by a sum over all of
them). No file is written but what the store spills.

    python benchmarks/sort.py --bytes 20e9 --store 2e9
"""

import argparse
import time

import numpy as np
import ray_rs as ray
from ray_rs._core import store_stats

RECORD = 100
KEY = 10


def checksum(records: np.ndarray) -> int:
    """A sum that does not depend on the order of the records and changes with any of their bytes."""
    if not len(records):
        return 0
    words = np.ascontiguousarray(records).view(np.uint32)
    weights = np.arange(1, words.shape[1] + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        sums = words.astype(np.uint64) @ weights
        return int((sums ^ (sums >> np.uint64(29))).sum(dtype=np.uint64))


def checksum_in_pieces(records: np.ndarray) -> int:
    """The same with little memory: the numbers above are twice as large as the records."""
    step = 50_000
    return sum(checksum(records[at : at + step]) for at in range(0, len(records), step)) % 2**64


@ray.remote
def generate(seed: int, count: int, parts: int):
    """Random records, divided by key."""
    records = np.random.default_rng(seed).integers(0, 256, (count, RECORD), dtype=np.uint8)
    first = records[:, 0].astype(np.uint32) << 8 | records[:, 1]
    part_of = (first * parts >> 16).astype(np.uint16)
    order = np.argsort(part_of, kind="stable")
    bounds = np.searchsorted(part_of[order], np.arange(parts + 1))
    total = checksum_in_pieces(records)
    # Copies: a piece of a large array would keep, and store, no more than itself, but these are made one by one.
    return [total, *(records[order[bounds[i] : bounds[i + 1]]] for i in range(parts))]


@ray.remote
def sort_part(*pieces: np.ndarray) -> np.ndarray:
    """One part in order."""
    records = np.concatenate(pieces)
    keys = np.ascontiguousarray(records[:, :KEY]).view(f"S{KEY}").ravel()
    # Trailing zero bytes of a key do not count in comparing "S10", and need not: they are the smallest.
    return records[np.argsort(keys, kind="stable")]


def sort(total_bytes: int, part_bytes: int) -> dict[str, float]:
    """Sorts, checks, and tells how long each step took."""
    parts = max(2, round(total_bytes / part_bytes))
    count = total_bytes // RECORD // parts
    began = time.perf_counter()
    made = [generate.options(num_returns=parts + 1).remote(seed, count, parts) for seed in range(parts)]
    sums = [row[0] for row in made]
    expected = sum(ray.get(sums)) % 2**64
    mapped = time.perf_counter()
    columns = [[row[part + 1] for row in made] for part in range(parts)]
    del made
    results = []
    for part in range(parts):
        results.append(sort_part.remote(*columns[part]))
        columns[part] = []
    seen, found, last = 0, 0, b""
    for part in range(parts):
        records = ray.get(results[part])
        results[part] = None
        if len(records):
            keys = np.ascontiguousarray(records[:, :KEY]).view(f"S{KEY}").ravel()
            assert (keys[:-1] <= keys[1:]).all(), f"part {part} is not in order"
            assert last <= bytes(records[0, :KEY]), f"part {part} begins too low"
            last = bytes(records[-1, :KEY])
        seen += len(records)
        found = (found + checksum_in_pieces(records)) % 2**64
        del records
    ended = time.perf_counter()
    assert seen == count * parts, f"{count * parts - seen} records are missing"
    assert found == expected, "records have changed"
    return {"generate": mapped - began, "sort and check": ended - mapped, "all": ended - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bytes", type=float, default=20e9)
    parser.add_argument("--store", type=float, default=2e9)
    parser.add_argument("--cpus", type=int, default=2)
    given = parser.parse_args()
    ray.init(num_cpus=given.cpus, object_store_memory=int(given.store), log_to_driver=False)
    # Two reducers hold a part each, sorted and not, while others come and go.
    times = sort(int(given.bytes), int(min(given.store / 10, 200e6)))
    for what, seconds in times.items():
        print(f"{what}: {seconds:.1f} s, {given.bytes / seconds / 1e6:.0f} MB/s")
    print(f"spilled and restored: {store_stats()}")
    ray.shutdown()


if __name__ == "__main__":
    main()
