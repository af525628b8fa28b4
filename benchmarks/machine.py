"""What the machine says about processes and memory: PSS, CPU time, the fastest copy into warm pages."""

import ctypes
import itertools
import mmap
import os
import platform
import struct
import threading
import time
from pathlib import Path

MARK = "RAY_BENCH_MARK"
# A shared mapping of at least this size is a store of objects, not a lane or a library.
ARENA_BYTES = 48 * 2**20


def engine_processes() -> list[int]:
    """Every process that the caller started, and theirs; and what carries this benchmark's mark, should it be orphaned.

    The mark alone would not do: a process that sets its title (`ray::IDLE`) writes over its environment.
    """
    wanted = f"{MARK}={os.environ[MARK]}".encode()
    parents, ours = {}, {os.getpid()}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    ours.add(int(entry.name))
            except OSError:
                continue
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sorted(ours - {os.getpid()})


def pss(pid: int) -> tuple[int, int]:
    """Proportional set size of a process in bytes: its own, and its share of the object store's pages."""
    own = arena = 0
    in_arena = False
    try:
        with open(f"/proc/{pid}/smaps") as file:
            for line in file:
                first, *rest = line.split()
                if first.endswith(":"):
                    if first == "Pss:":
                        if in_arena:
                            arena += int(rest[0]) * 1024
                        else:
                            own += int(rest[0]) * 1024
                else:
                    low, high = (int(x, 16) for x in first.split("-"))
                    path = rest[4] if len(rest) > 4 else ""
                    in_arena = high - low >= ARENA_BYTES and path.startswith(("/dev/shm/", "/memfd:", "/SYSV"))
    except (FileNotFoundError, ProcessLookupError):
        pass
    return own, arena


def pss_of(pids: list[int]) -> tuple[int, int]:
    """The processes' own memory, and the pages of their object stores, which may be there without being mapped."""
    sizes = [pss(pid) for pid in pids]
    return sum(own for own, _ in sizes), max(sum(arena for _, arena in sizes), _allocated_in_stores(pids))


def _allocated_in_stores(pids: list[int]) -> int:
    stores = {}
    for pid in pids:
        for link in itertools.chain(Path(f"/proc/{pid}/fd").glob("*"), Path(f"/proc/{pid}/map_files").glob("*")):
            try:
                if str(link.readlink()).startswith(("/dev/shm/", "/memfd:", "/SYSV")):
                    status = link.stat()
                    if status.st_size >= ARENA_BYTES:
                        stores[status.st_dev, status.st_ino] = status.st_blocks * 512
            except OSError:
                continue
    return sum(stores.values())


def cpu_ns(pids: list[int]) -> int:
    """Time on a CPU of all threads of the processes."""
    total = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*"):
            try:
                total += int((thread / "schedstat").read_text().split()[0])
            except OSError:
                continue
    return total


def _rep_movsb():
    """`rep movsb` as a function, from six bytes of machine code; None where it does not apply."""
    if platform.machine() != "x86_64":
        return None
    try:
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None
    code.write(bytes.fromhex("4889d1f3a4c3"))  # mov rcx, rdx; rep movsb; ret
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)(
        ctypes.addressof(ctypes.c_char.from_buffer(code))
    )
    function.keep = code
    return function


def fastest_copy(size: int = 800 * 2**20, seconds: float = 1.0) -> dict[str, float | str]:
    """Bytes a second of the fastest copies into warm shared pages, by one thread and by one a core.

    From three kinds of source, as the rows have them. `zeros`, as in Ray's microbenchmark, was never written to: all
    of its pages are the one zero page, which stays in the cache; `memory` has to be read from memory. The first is much
    faster: a row of that kind held against the second would be flattered. `new zeros` are made for each copy, so that
    every page of the source faults once.
    """
    import numpy as np

    shared = mmap.mmap(-1, size)  # MAP_SHARED: the same kind of page as an object store's
    target = np.frombuffer(shared, dtype=np.uint8)
    target[:] = 2
    ways = {"memmove": ctypes.memmove, "numpy": None, "rep movsb": _rep_movsb()}
    names = [name for name in ways if name == "numpy" or ways[name]]
    cores = os.cpu_count() or 1

    def copy(name, source, begin, end):
        if name == "numpy":
            np.copyto(target[begin:end], source[begin:end])
        else:
            ways[name](target.ctypes.data + begin, source.ctypes.data + begin, end - begin)

    def rate(name, source, threads):
        cuts = [size * i // threads for i in range(threads + 1)]
        best, until = 0.0, time.perf_counter() + seconds
        while time.perf_counter() < until:
            began = time.perf_counter()
            workers = [threading.Thread(target=copy, args=(name, source, *cut)) for cut in itertools.pairwise(cuts)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            best = max(best, size / (time.perf_counter() - began))
        return best

    found: dict[str, float | str] = {}
    for kind, source in (("zeros", np.zeros(size, dtype=np.uint8)), ("memory", np.ones(size, dtype=np.uint8))):
        rate("memmove", source, 1)  # maps the source's pages
        one = {name: rate(name, source, 1) for name in names}
        found[f"{kind}, one thread"] = max(one.values())
        found[f"{kind}, all cores"] = max(max(rate(name, source, cores) for name in names), *one.values())
        found[f"{kind}, way"] = max(one, key=lambda name: one[name])
        del source
    piece = 80 * 2**20

    def copies_of_new_zeros(number):
        """Bytes a second of one process, into its own part of the memory."""
        begin, name = size // cores * number, str(found["zeros, way"])
        copied, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            source = np.zeros(piece, dtype=np.uint8)
            if name == "numpy":
                np.copyto(target[begin : begin + piece], source)
            else:
                ways[name](target.ctypes.data + begin, source.ctypes.data, piece)
            copied += piece
        return copied / (time.perf_counter() - began)

    if size // cores >= piece:
        found["new zeros, all cores"] = sum(in_processes(copies_of_new_zeros, cores))
    return found


def in_processes(function, count: int) -> list[float]:
    """`function(0)` to `function(count - 1)`, each in a fork of this process, at the same time."""
    readers = []
    for number in range(count):
        reader, writer = os.pipe()
        if os.fork() == 0:
            try:
                os.write(writer, struct.pack("d", function(number)))
            finally:
                os._exit(0)
        os.close(writer)
        readers.append(reader)
    results = [os.read(reader, 8) for reader in readers]
    for reader in readers:
        os.close(reader)
        os.wait()
    return [struct.unpack("d", result)[0] for result in results]


def description() -> dict[str, str]:
    model = "unknown"
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) // 2**20
    return {
        "cpu": model,
        "cores": str(os.cpu_count()),
        "memory": f"{memory} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
