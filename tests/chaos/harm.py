"""What is done to the cluster meanwhile: the sequence of harms follows from the seed alone."""

import collections
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import processes
from processes import Process, send
from ray_rs.cluster_utils import Cluster

# How often each is chosen, in parts of all: what, and whom.
HARMS = {
    ("kill", "worker"): 10,
    ("kill", "zygote"): 2,
    ("kill", "raylet"): 2,
    ("kill", "gcs"): 2,
    ("kill", "driver"): 1,
    ("freeze", "worker"): 3,
    ("freeze", "zygote"): 1,
    ("freeze", "raylet"): 2,
    ("freeze", "gcs"): 1,
    ("cut", "raylet"): 2,
    ("cut", "gcs"): 1,
}
LONGEST_FREEZE_S = 2.0
# Seconds between two harms: at most two.
PAUSES_S = (0.3, 1.7)
# Results on a node that has died are made again, which takes a while; two nodes in one moment leave nowhere to do so.
NODE_PAUSE_S = 8.0


class Harm:
    """A thread that kills, freezes and cuts off; nodes and drivers that it has killed it replaces."""

    def __init__(
        self, cluster: Cluster, root: str, seed: int, node_options: dict[str, Any], *, guests: bool = True
    ) -> None:
        self._harms = {harm: weight for harm, weight in HARMS.items() if guests or harm[1] != "driver"}
        self.cluster = cluster
        self.done: collections.Counter[tuple[str, str]] = collections.Counter()
        self.failure = ""
        # At most, as it turned out: a raylet that is frozen for several seconds counts as dead.
        self.longest_freeze_s = 0.0
        self._root = root
        self._chance = random.Random(f"{seed} harm")
        self._node_options = node_options
        self._ended = threading.Event()
        self._frozen: list[tuple[float, int]] = []
        self._lock = threading.Lock()
        self._last_node = time.monotonic()
        self._guest = self._start_guest() if guests else None
        self._threads = [
            threading.Thread(target=self._run, name="harm"),
            # Of its own: replacing a node may take longer than anything is to be frozen.
            threading.Thread(target=self._thaw_in_time, name="thaw"),
        ]

    def __enter__(self) -> "Harm":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._thaw(all_of_them=True)
        if self._guest is not None:
            self._guest.kill()
            self._guest.wait()

    @property
    def kills(self) -> int:
        return sum(count for (what, _), count in self.done.items() if what == "kill")

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended.is_set():
            due += self._chance.uniform(*PAUSES_S)
            if (left := due - time.monotonic()) > 0 and self._ended.wait(left):
                return
            # All that is left to chance is drawn here, so that what comes of one harm does not change the next.
            what, whom = self._chance.choices(list(self._harms), weights=list(self._harms.values()))[0]
            whose, how_long = self._chance.random(), self._chance.uniform(0.1, LONGEST_FREEZE_S)
            try:
                self._do(what, whom, whose, how_long)
            except Exception as error:
                self.failure = f"{what} {whom}: {type(error).__name__}: {error}"
                return

    def _do(self, what: str, whom: str, whose: float, how_long: float) -> None:
        if whom == "driver" and self._guest is not None:
            self._guest.kill()
            self._guest.wait()
            self.done["kill", "driver"] += 1
            self._guest = self._start_guest()
            return
        head = self.cluster.head_node.session_dir
        victims = [process for process in processes.of_cluster(self._root) if process.kind == whom]
        if (what, whom) == ("kill", "raylet"):
            # The driver's node is its own end.
            victims = [victim for victim in victims if victim.session != head]
            if time.monotonic() - self._last_node < NODE_PAUSE_S:
                return
        if not victims:
            return
        victim = victims[int(whose * len(victims))]
        if what == "kill" and whom == "raylet":
            self._replace_node(victim)
        elif what == "kill":
            if not send(victim.pid, signal.SIGKILL):
                return
        elif what == "freeze":
            if not send(victim.pid, signal.SIGSTOP):
                return
            with self._lock:
                self._frozen.append((time.monotonic() + how_long, victim.pid))
        elif not processes.cut_a_connection(victim.pid, lambda found: found[int(whose * len(found))]):
            return
        self.done[what, whom] += 1

    def _replace_node(self, victim: Process) -> None:
        (node,) = [node for node in self.cluster.worker_nodes if node.session_dir == victim.session]
        self.cluster.remove_node(node, allow_graceful=False)
        self._last_node = time.monotonic()
        self.cluster.add_node(wait=False, **self._node_options)

    def _thaw_in_time(self) -> None:
        while not self._ended.wait(0.05):
            self._thaw()

    def _thaw(self, all_of_them: bool = False) -> None:
        now = time.monotonic()
        with self._lock:
            due = [entry for entry in self._frozen if all_of_them or entry[0] <= now]
            self._frozen = [entry for entry in self._frozen if entry not in due]
        for until, pid in due:
            send(pid, signal.SIGCONT)
            # The machine was too slow for this process; what comes of that is nobody's fault but its own.
            self.longest_freeze_s = max(self.longest_freeze_s, LONGEST_FREEZE_S + now - until)

    def _start_guest(self) -> subprocess.Popen[bytes]:
        """Another driver of the same cluster, with work of its own."""
        log = Path(os.environ["RAY_RS_TMPDIR"], "guest.log")
        with contextlib.ExitStack() as closing:
            output = closing.enter_context(log.open("ab"))
            return subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("guest.py")), self.cluster.address],
                stdout=output,
                stderr=output,
            )
