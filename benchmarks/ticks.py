"""A counter that every no-op of the benchmarks ticks, in memory shared by all processes: one slot a process.

It proves that a call ran, how often, and that it ran in another process than the caller's. A tick costs some 60 ns in
the worker and is the same for every engine.
"""

import fcntl
import itertools
import mmap
import os
import struct

SLOTS = 4096
VARIABLE = "RAY_BENCH_TICKS"


def create(path: str) -> None:
    """Makes the file and tells it to all processes started from here on."""
    with open(path, "wb") as file:
        file.truncate(SLOTS * 16)
    os.environ[VARIABLE] = path


def read() -> dict[int, int]:
    """Ticks of each process so far."""
    with open(os.environ[VARIABLE], "rb") as file:
        data = file.read()
    slots = (struct.unpack_from("QQ", data, i * 16) for i in range(SLOTS))
    return {pid: count for pid, count in slots if pid}


def _claim():
    """This process's slot of the file."""
    file = open(os.environ[VARIABLE], "r+b")  # noqa: SIM115 - the mapping needs it as long as the process lives
    fcntl.flock(file, fcntl.LOCK_EX)
    words = memoryview(mmap.mmap(file.fileno(), SLOTS * 16)).cast("Q")
    slot = next(i for i in range(0, SLOTS * 2, 2) if words[i] == 0)
    words[slot] = os.getpid()
    fcntl.flock(file, fcntl.LOCK_UN)
    return words, slot + 1, itertools.count(1).__next__


_mine: tuple | None = None


def tick() -> None:
    words, slot, following = _mine or _start()
    words[slot] = following()


def _start():
    global _mine
    _mine = _claim()
    return _mine


# A fork of a process that has ticked counts for itself.
def _forget():
    global _mine
    _mine = None


os.register_at_fork(after_in_child=_forget)
