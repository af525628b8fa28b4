"""What tasks and actors have started ends with them, wherever it went, whichever process is killed (`FT-9`)."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import traces
from under_test import contents, ray_rs_only, run_driver, start_driver, wait_until

pytestmark = [
    pytest.mark.usefixtures("no_cluster"),
    ray_rs_only("Ray leaves behind what has a session of its own"),
]

# Five ways to get away from a worker. Each process writes its number to a file of its own, and sleeps for a minute.
PROGRAM = """
import os, subprocess, sys, time
folder = sys.argv[1]
SLEEP = "echo $$ >{path}.new; mv {path}.new {path}; exec sleep 60"

def shell(name, before="", **options):
    script = before + SLEEP.format(path=os.path.join(folder, name))
    return subprocess.Popen(["/bin/sh", "-c", script], start_new_session=True, **options)

def daemon(name, replace):
    \"\"\"Forks twice, with a session between: its parent has ended when this returns.\"\"\"
    child = os.fork()
    if child:
        return os.waitpid(child, 0)
    os.setsid()
    if os.fork():
        os._exit(0)
    if replace:
        os.execve("/bin/sh", ["sh", "-c", SLEEP.format(path=os.path.join(folder, name))], {})
    path = os.path.join(folder, name)
    with open(path + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(path + ".new", path)
    time.sleep(60)
    os._exit(0)

def scatter(who):
    shell(who + "-session")
    shell(who + "-bare", env={})
    # It has started another before it sleeps itself.
    inner = SLEEP.format(path=os.path.join(folder, who + "-inner"))
    shell(who + "-outer", f"setsid env -i sh -c '{inner}' & ", env={})
    daemon(who + "-daemon", replace=True)
    daemon(who + "-forked", replace=False)
    with open(os.path.join(folder, who), "w") as file:
        file.write(f"{os.getpid()} {os.getppid()}")

@ray.remote(max_retries=0)
def task():
    scatter("task")
    time.sleep(60)

@ray.remote
class Actor:
    def scatter(self):
        scatter("actor")

ray.init(num_cpus=2)
ref = task.remote()
actor = Actor.remote()
ray.get(actor.scatter.remote())
print("READY", flush=True)
sys.stdin.readline()
"""
NAMES = ("session", "bare", "inner", "outer", "daemon", "forked")


def stat(pid):
    """State and parent of a process; nothing when it is not there."""
    try:
        return contents(f"/proc/{pid}/stat").rpartition(")")[2].split()[:2]
    except ProcessLookupError:  # it ended while it was looked at
        return []


def runs(pid):
    """Whether a process lives; one that nobody has reaped does not."""
    return stat(pid)[:1] not in ([], ["Z"], ["X"])


class Scattered:
    """A driver whose task and actor have started six processes each, and slept since."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.driver = start_driver(PROGRAM, str(folder), stdin=subprocess.PIPE, env=environment)
        assert self.driver.stdout is not None and self.driver.stdout.readline() == "READY\n", self.driver.stderr
        self.of: dict[str, dict[str, int]] = {}
        self.workers: dict[str, int] = {}
        self.zygotes: dict[str, int] = {}
        for who in ("task", "actor"):
            text = wait_until(lambda who=who: contents(folder / who), f"{who} to have started all")
            self.workers[who], self.zygotes[who] = map(int, text.split())
            texts = {
                name: wait_until(lambda file=folder / f"{who}-{name}": contents(file), f"{name} of {who}")
                for name in NAMES
            }
            self.of[who] = {name: int(text) for name, text in texts.items()}
        assert all(map(runs, self.everything())), self.of

    def everything(self):
        return [pid for pids in self.of.values() for pid in pids.values()]

    def gone(self, *whose):
        """Fails if of these anything runs two seconds from now."""
        until = time.monotonic() + 2
        while left := {who: [name for name, pid in self.of[who].items() if runs(pid)] for who in whose}:
            if not any(left.values()):
                return
            if time.monotonic() > until:
                pytest.fail(f"2 s later there are still {left}")
            time.sleep(0.01)


@pytest.fixture
def scattered(tmp_path):
    """Starts the driver; what a failed test leaves is ended."""
    started = []

    def start(**environment):
        started.append(Scattered(tmp_path, **environment))
        return started[-1]

    yield start
    for each in started:
        each.driver.kill()
        each.driver.wait()
        for pid in filter(runs, each.everything()):
            os.kill(pid, signal.SIGKILL)


def test_a_worker_is_killed(scattered):
    """What it has started ends with it, and nothing of the other worker does."""
    it = scattered()
    os.kill(it.workers["task"], signal.SIGKILL)
    it.gone("task")
    assert all(map(runs, it.of["actor"].values()))
    os.kill(it.workers["actor"], signal.SIGKILL)
    it.gone("actor")


def test_a_zygote_is_killed_and_then_its_workers(scattered):
    """Its workers live on, with all that they have started, and are children of the raylet from then on."""
    it = scattered()
    (zygote,) = set(it.zygotes.values())
    os.kill(zygote, signal.SIGKILL)
    wait_until(lambda: not runs(zygote), "the zygote to end")
    for who, other in (("task", "actor"), ("actor", None)):
        assert all(map(runs, it.of[who].values()))
        os.kill(it.workers[who], signal.SIGKILL)
        it.gone(who)
        assert other is None or all(map(runs, it.of[other].values()))


@pytest.mark.parametrize("kinds", [["raylet"], ["gcs", "raylet"]], ids="-and-".join)
def test_the_raylet_is_killed(kinds, scattered):
    """Zygotes do what it can't do any more, also when there is no control store either."""
    it = scattered()
    for kind in kinds:
        (pid,) = traces.daemons(kind)
        os.kill(pid, signal.SIGKILL)
    it.gone("task", "actor")
    wait_until(lambda: not any(map(runs, it.workers.values())), "the workers to end", patience=2)
    if "gcs" in kinds:
        # The files of a session of which no daemon is left are removed by the next start.
        it.driver.kill()
        it.driver.wait()
        run_driver("ray.init(num_cpus=1)")


def test_the_control_store_is_killed(scattered):
    """It is started again, and nothing else ends."""
    it = scattered()
    (pid,) = traces.daemons("gcs")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: traces.daemons("gcs") not in ([], [pid]), "another control store")
    assert all(map(runs, it.everything()))
    it.driver.kill()
    it.gone("task", "actor")


@pytest.mark.parametrize("end", ["kill", "leave"])
def test_the_driver_ends(end, scattered):
    it = scattered()
    if end == "kill":
        it.driver.kill()
    else:
        it.driver.stdin.close()
        it.driver.wait(timeout=30)
    it.gone("task", "actor")


LEAVES = """
import subprocess, sys

ray.init(num_cpus=1)

@ray.remote(max_calls=1)
def leaves(folder):
    import os
    for name, apart in (("server", True), ("helper", False)):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=apart)
        with open(f"{folder}/{name}", "w") as file:
            file.write(str(child.pid))
    return os.getpid()

print(ray.get(leaves.remote(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def test_a_server_outlives_a_worker_that_leaves_in_order(tmp_path):
    """It has a session of its own, and ends with the job."""
    driver = start_driver(LEAVES, str(tmp_path), stdin=subprocess.PIPE)
    worker = int(driver.stdout.readline())
    server, helper = (int(contents(tmp_path / name)) for name in ("server", "helper"))
    try:
        wait_until(lambda: not runs(worker), "the worker to leave")
        wait_until(lambda: not runs(helper), "what is of the worker's own group to end")
        (raylet,) = traces.daemons("raylet")
        wait_until(lambda: stat(server)[1] == str(raylet), "the raylet to take it over")
        # Whenever anything ends, the raylet looks at all that it has taken over.
        run_driver("ray.init(address='auto', namespace='other'); ray.get(ray.remote(lambda: 1).remote())")
        assert runs(server)
        driver.kill()
        driver.wait()
        wait_until(lambda: not runs(server), "the server to end with its job", patience=2)
    finally:
        driver.kill()
        driver.wait()
        for pid in filter(runs, (server, helper)):
            os.kill(pid, signal.SIGKILL)


def test_who_wants_to_leave_something_behind_can(scattered):
    """Ray's setting: then it ends with the job."""
    it = scattered(RAY_kill_child_processes_on_worker_exit="0")
    os.kill(it.workers["task"], signal.SIGKILL)
    wait_until(lambda: not runs(it.workers["task"]), "the worker to end")
    (raylet,) = traces.daemons("raylet")
    wait_until(lambda: stat(it.of["task"]["session"])[1] == str(raylet), "the raylet to take it over")
    assert all(map(runs, it.everything()))
    it.driver.kill()
    it.gone("task", "actor")
