"""One job of very many tasks: what do its processes hold afterwards that they did not hold after the first million?

`make many-tasks TASKS=10000000` runs it (`FT-10`). The driver gives empty tasks, some thousand at a time, drops their
results, and looks every so often at the memory of each process of the session and at its files. The last line printed
is the figures as JSON. Exit code 0: each answer came, and nothing has grown after the warm-up by more than is allowed.
"""

import argparse
import gc
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

# The sessions of this run, and nobody else's.
os.environ["RAY_RS_TMPDIR"] = tempfile.mkdtemp(prefix="rrs-many-", dir="/tmp")

import processes
import ray_rs as ray

MIB = 2**20
CORES = 2
# In flight are between one and two of these.
BATCH = 2000
# What an allocator may keep, and a table that is resized: less than a bit for each of ten million tasks.
ALLOWED_MIB = 1.0
# Logs, and the control store's journal between two checkpoints.
ALLOWED_DISK_MIB = 4.0


@ray.remote
def nothing() -> None:
    pass


def proportional_bytes(pid: int) -> int:
    """The process's memory, with its part of what it shares with others; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    (size,) = [line.split()[1] for line in lines if line.startswith("Pss:")]
    return int(size) * 1024


def disk_bytes(folder: Path) -> int:
    """What the files below a folder take on the disk."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total


def held() -> dict[str, float]:
    """MiB of the driver, the daemons, the zygote, all workers together, and the session's files."""
    root = os.environ["RAY_RS_TMPDIR"]
    gc.collect()
    found = {"driver": proportional_bytes(os.getpid()), "workers": 0}
    for process in processes.of_cluster(root):
        kind = "workers" if process.kind == "worker" else process.kind
        found[kind] = found.get(kind, 0) + proportional_bytes(process.pid)
    found["files"] = disk_bytes(Path(root))
    return {what: round(size / MIB, 2) for what, size in found.items()}


def run(tasks: int, every: int) -> list[tuple[int, dict[str, float]]]:
    """Runs the tasks, and says what was held after so many each."""
    samples = []
    began = time.monotonic()
    pending = [nothing.remote() for _ in range(BATCH)]
    for done in range(BATCH, tasks + 1, BATCH):
        following = [nothing.remote() for _ in range(BATCH if done < tasks else 0)]
        assert ray.get(pending, timeout=300) == [None] * BATCH
        pending = following
        if done % every == 0:
            # The next batch has run as well: how far it is would be chance.
            ray.wait(pending, num_returns=len(pending), timeout=300)
            samples.append((done, held()))
            print(f"{done:>9} in {time.monotonic() - began:6.0f} s  {samples[-1][1]}", flush=True)
    return samples


def grown(samples: list[tuple[int, dict[str, float]]], warm_up: int) -> dict[str, float]:
    """MiB by which each stays above the most that it had in the warm-up, throughout the last third of the later looks.

    A batch that is held a moment longer, or pages that an allocator has not given back yet, are no growth.
    """
    early = [held for done, held in samples if done <= warm_up]
    later = [held for done, held in samples if done > warm_up]
    last = later[-max(1, len(later) // 3) :]
    return {
        what: round(min(held[what] for held in last) - max(held[what] for held in early), 2) for what in samples[-1][1]
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000_000)
    parser.add_argument("--every", type=int, default=500_000, help="tasks between two looks")
    parser.add_argument("--warm-up", type=int, default=1_000_000, help="tasks until everything has its size")
    options = parser.parse_args()
    if options.every % BATCH or options.tasks < options.warm_up + options.every:
        parser.error(f"looks come after whole batches of {BATCH}, and at least one after the warm-up")
    ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False)
    began = time.monotonic()
    try:
        samples = run(options.tasks, options.every)
    finally:
        ray.shutdown()
    took = time.monotonic() - began
    growth = grown(samples, options.warm_up)
    print(
        json.dumps(
            {
                "tasks": options.tasks,
                "seconds": round(took),
                "warm": dict(samples)[options.warm_up],
                "end": samples[-1][1],
                "grown_mib": growth,
            }
        )
    )
    shutil.rmtree(os.environ["RAY_RS_TMPDIR"], ignore_errors=True)
    return int(any(much > (ALLOWED_DISK_MIB if what == "files" else ALLOWED_MIB) for what, much in growth.items()))


if __name__ == "__main__":
    sys.exit(main())
