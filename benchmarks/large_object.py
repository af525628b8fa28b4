"""One object of many gigabytes: is it, put and read back, here and in a worker, what it was, and how fast is that?

Its bytes are random, and a checksum of them is taken while they are made. Measured are a put of an array (one copy into
the store; with --in-place the array lies in the store from the start, and half the memory is enough), a get here, and
a get in a worker; each reads all of it.

    python benchmarks/large_object.py --bytes 8e9
"""

import argparse
import time
import zlib

import numpy as np
import ray_rs as ray

BLOCK = 64 << 20


def fill(array: np.ndarray) -> int:
    """Random bytes; their checksum."""
    random, total = np.random.default_rng(1), 0
    for at in range(0, len(array), BLOCK):
        block = array[at : at + BLOCK]
        block[:] = np.frombuffer(random.bytes(len(block)), dtype=np.uint8)
        total = zlib.crc32(block, total)
    return total


def checksum(array: np.ndarray) -> int:
    total = 0
    for at in range(0, len(array), BLOCK):
        total = zlib.crc32(array[at : at + BLOCK], total)
    return total


@ray.remote
def checksum_there(array: np.ndarray) -> int:
    return checksum(array)


def measure(size: int, in_place: bool) -> dict[str, float]:
    """Seconds of each step.

    Raises:
        AssertionError: A byte has changed.
    """
    seconds = {}

    def timed(what, step, *args):
        began = time.perf_counter()
        result = step(*args)
        seconds[what] = time.perf_counter() - began
        return result

    array = ray.empty((size,), np.uint8) if in_place else np.empty(size, np.uint8)
    expected = timed("made", fill, array)
    ref = timed("put", ray.put, array)
    del array
    assert timed("read here", lambda: checksum(ray.get(ref))) == expected, "it has changed"
    assert timed("read there", lambda: ray.get(checksum_there.remote(ref))) == expected, "it has changed there"
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bytes", type=float, default=8e9)
    parser.add_argument("--in-place", action="store_true")
    given = parser.parse_args()
    size = int(given.bytes)
    ray.init(num_cpus=1, object_store_memory=size + (64 << 20), log_to_driver=False)
    for what, seconds in measure(size, given.in_place).items():
        print(f"{what}: {seconds:.1f} s, {size / seconds / 1e9:.1f} GB/s")
    ray.shutdown()


if __name__ == "__main__":
    main()
