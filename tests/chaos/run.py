"""A cluster of real processes works while its processes are killed, frozen and cut off; every result is checked.

`make chaos MINUTES=60 SEED=7` runs it; the last line it prints is the figures as JSON. The sequence of harms and the
work of each thread follow from the seed; which of them meet does not, as the machine takes part. Exit code 0: nothing
was lost, nothing hung, everything was free at the end and nothing was left.
"""

import argparse
import collections
import faulthandler
import gc
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

# Before anything of the engine is imported: all that is started from here on carries the mark.
os.environ["RAY_RS_TEST_MARK"] = uuid.uuid4().hex
os.environ["RAY_RS_TMPDIR"] = tempfile.mkdtemp(prefix="rrs-chaos-", dir="/tmp")
# What a dead process owned and nobody claims stays in a store for so long: longer than anything is frozen, and shorter
# than the patience of the accounts.
os.environ["RAY_RS_ORPHANS_KEPT_S"] = "20"
sys.path.insert(0, str(Path(__file__).parent.parent))

import accounts
import processes
import ray_rs as ray
import traces
import work
from harm import Harm
from ray_rs.cluster_utils import Cluster

MIB = 2**20
NODE = {"num_cpus": 2, "object_store_memory": 64 * MIB}
WORKERS = 3
# Everything is free so long after the last reference has gone, also on a busy machine.
ACCOUNTS_PATIENCE_S = 60.0
# Of the processes whose memory is looked at, so often.
SAMPLE_S = 2.0


class Figures:
    """What was done, and what went wrong."""

    def __init__(self, go_on: bool) -> None:
        self.lock = threading.Lock()
        # Also after a loss: how many there are in all is the question then.
        self.go_on = go_on
        self.tasks = 0
        self.units: collections.Counter[str] = collections.Counter()
        self.losses: list[str] = []
        self.hangs: list[str] = []
        self.ended = threading.Event()

    def work(self, seed: int, number: int, until: float) -> None:
        """One thread of the driver: a unit after another, until the time is over or something went wrong."""
        chance = random.Random(f"{seed} work {number}")
        while time.monotonic() < until and not self.ended.is_set():
            name = work.some_unit(chance)
            unit_seed = chance.randrange(2**60)
            try:
                done = work.UNITS[name][1](random.Random(unit_seed))
            except work.Hung as hung:
                self.hangs.append(f"{name}: {hung}")
                self.ended.set()
            except Exception as error:
                self.losses.append(f"{name}: {type(error).__name__}: {error}")
                if not self.go_on:
                    self.ended.set()
            else:
                with self.lock:
                    self.tasks += done
                    self.units[name] += 1


class Memory:
    """Private memory of the processes that live throughout, every two seconds."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._samples: list[tuple[float, dict[str, int]]] = []
        self._next = 0.0

    def look(self) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + SAMPLE_S
            self._samples.append((now, {name: processes.resident_bytes(pid) for name, pid in self._pids.items()}))

    def slopes(self) -> dict[str, float]:
        """MiB an hour over the second half, by least squares."""
        later = self._samples[len(self._samples) // 2 :]
        found = {}
        for name in self._pids:
            points = [(when, sample[name]) for when, sample in later if sample[name]]
            if len(points) < 10:
                continue
            mean_x = sum(x for x, _ in points) / len(points)
            mean_y = sum(y for _, y in points) / len(points)
            spread = sum((x - mean_x) ** 2 for x, _ in points)
            slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
            found[name] = round(slope * 3600 / MIB, 1)
        return found

    def last(self) -> dict[str, float]:
        return {name: round(size / MIB, 1) for name, size in self._samples[-1][1].items()} if self._samples else {}


def run(seconds: float, seed: int, nodes: int, guests: bool, stores: bool, go_on: bool) -> dict[str, Any]:
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    for _ in range(nodes - 1):
        cluster.add_node(**NODE)
    ray.init(address=cluster.address, logging_level="error", log_to_driver=False, namespace="chaos")
    root = os.environ["RAY_RS_TMPDIR"]
    figures = Figures(go_on)
    memory = Memory({"driver": os.getpid(), "head's raylet": cluster.head_node.raylet_pid})
    began = time.monotonic()
    until = began + seconds
    threads = [threading.Thread(target=figures.work, args=(seed, number, until)) for number in range(WORKERS)]
    with Harm(cluster, root, seed, NODE, guests=guests) as harm:
        for thread in threads:
            thread.start()
        said = began
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.1)
            memory.look()
            if harm.failure:
                figures.losses.append(f"the harm itself: {harm.failure}")
                figures.ended.set()
            if time.monotonic() - said > 60:
                said = time.monotonic()
                print(f"{(said - began) / 60:.0f} min: {harm.kills} kills, {figures.tasks} tasks", flush=True)
    took = time.monotonic() - began
    del threads
    gc.collect()
    unaccounted: dict[str, Any] = {}
    if not (figures.losses or figures.hangs):
        unaccounted = accounts.becomes_empty(lambda: accounts.in_use(cluster, stores), ACCOUNTS_PATIENCE_S)
    else:
        print(traces.logs(last_lines=60, newest=8), flush=True)
    ray.shutdown()
    cluster.shutdown()
    left = accounts.becomes_empty(accounts.left_behind, 10)
    harms = {f"{what} {whom}": count for (what, whom), count in sorted(harm.done.items())}
    return {
        "seed": seed,
        "minutes": round(took / 60, 1),
        "nodes": nodes,
        "harms": harms,
        "kills": harm.kills,
        "longest_freeze_s": round(harm.longest_freeze_s, 1),
        "tasks": figures.tasks,
        "units": dict(figures.units),
        "losses": figures.losses,
        "hangs": figures.hangs,
        "unaccounted": unaccounted,
        "left": left,
        "memory_mib": memory.last(),
        "slope_mib_per_hour": memory.slopes(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None, help="a random one when it is not said")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--one-driver", action="store_true", help="no second driver, which is killed")
    parser.add_argument("--not-the-stores", action="store_true", help="values that stay in a store are no failure")
    parser.add_argument("--go-on", action="store_true", help="do not stop at the first loss, but count them")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}, {options.minutes} min, {options.nodes} nodes, in {os.environ['RAY_RS_TMPDIR']}", flush=True)
    # Whatever else may stand still, this does not: all stacks are printed, and it ends.
    faulthandler.dump_traceback_later(options.minutes * 60 + 4 * work.PATIENCE_S, exit=True)
    guests, stores = not options.one_driver, not options.not_the_stores
    figures = run(options.minutes * 60, seed, options.nodes, guests, stores, options.go_on)
    print(json.dumps(figures, default=str))
    failed = any(figures[what] for what in ("losses", "hangs", "unaccounted", "left"))
    if not failed:
        shutil.rmtree(os.environ["RAY_RS_TMPDIR"], ignore_errors=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
