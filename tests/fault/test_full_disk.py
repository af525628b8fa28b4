"""The disk that the control store writes to is full: changes are refused with an error that says where and how much,
what is known can still be read, what runs goes on, and with room again everything does.

Each test runs in a mount namespace of its own with its sessions on a small disk, for which one must be root.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from under_test import ray_rs_only, script

pytestmark = ray_rs_only("of the disk of ray_rs's control store")

MOUNT = 'mount -t tmpfs -o size=32m,mode=0700 tmpfs "$RAY_RS_TMPDIR" && exec "$@"'


def can_mount() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        command = ["unshare", "-m", "sh", "-c", MOUNT, "sh", "true"]
        environment = {**os.environ, "RAY_RS_TMPDIR": folder}
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=30, env=environment)
        except OSError:
            return False
    return done.returncode == 0


needs_mounts = pytest.mark.skipif(not can_mount(), reason="only root may mount a small disk")

COMMON = """
import os, time
from ray_rs.exceptions import OutOfDiskError
from ray_rs.experimental.internal_kv import _internal_kv_get as get, _internal_kv_put as put

DISK = os.environ["RAY_RS_TMPDIR"]
IN_THE_WAY = os.path.join(DISK, "in the way")

def room():
    disk = os.statvfs(DISK)
    return disk.f_bavail * disk.f_frsize

def fill(leave):
    with open(IN_THE_WAY, "ab") as file:
        while room() > leave:
            file.write(bytes(min(1 << 16, room() - leave)))
            file.flush()

def until(what, done, seconds=60):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.05)

def takes_changes():
    try:
        put(b"again", b"x")
    except OutOfDiskError:
        return False
    return True
"""


def run_there(body: str) -> str:
    scratch = os.environ["RAY_RS_TEST_SCRATCH"]
    path = Path(tempfile.mkdtemp(prefix="driver-", dir=scratch)) / "driver.py"
    path.write_text(script(COMMON + body))
    # A socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as disk:
        command = ["unshare", "-m", "sh", "-c", MOUNT, "sh", sys.executable, "-u", str(path)]
        environment = {**os.environ, "RAY_RS_TMPDIR": disk}
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, env=environment)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@needs_mounts
def test_changes_are_refused_while_the_disk_is_full_and_only_then(no_cluster):
    said = run_there(
        """
ray.init(num_cpus=2, object_store_memory=80 << 20)

@ray.remote
class Counter:
    def __init__(self):
        self.count = 0
    def add(self):
        self.count += 1
        return self.count

@ray.remote
def double(x):
    return 2 * x

counter = Counter.remote()
assert ray.get([counter.add.remote(), double.remote(2)]) == [1, 4]
put(b"before", b"kept")
fill(0)
acknowledged = {}
refusal = None
for number in range(1000):
    key, value = b"%d" % number, os.urandom(20_000)
    try:
        put(key, value)
    except OutOfDiskError as error:
        refusal = error
        break
    acknowledged[key] = value
print(f"{len(acknowledged)} taken, then: {refusal}")
assert f"/gcs/journal" in str(refusal) and DISK in str(refusal) and "bytes" in str(refusal), refusal
# Refused now before anything changes; reads, tasks and calls go on.
for number in range(20):
    try:
        put(b"refused", b"x")
    except OutOfDiskError as error:
        assert DISK in str(error)
    else:
        raise AssertionError("acknowledged by a full disk")
assert get(b"refused") is None
assert get(b"before") == b"kept"
assert all(get(key) == value for key, value in acknowledged.items())
assert ray.get([counter.add.remote(), double.remote(4)]) == [2, 8]
assert len(ray.nodes()) == 1
other = Counter.remote()
try:
    ray.get(other.add.remote(), timeout=30)
except ray.exceptions.ActorDiedError as error:
    assert DISK in str(error), error
else:
    raise AssertionError("an actor that could not be stored")
group = ray.util.placement_group([{"CPU": 1}])
assert not group.wait(0.5), "it is not stored"
os.remove(IN_THE_WAY)
until("the disk to be used again", takes_changes)
assert group.wait(30)
assert ray.get(Counter.remote().add.remote(), timeout=30) == 1
assert ray.get(counter.add.remote()) == 3
put(b"refused", b"now")
assert get(b"refused") == b"now"
assert all(get(key) == value for key, value in acknowledged.items())
ray.shutdown()
print("done")
"""
    )
    assert said.endswith("done\n"), said


@needs_mounts
def test_a_journal_waits_until_there_is_room_for_its_tables(no_cluster):
    """The journal has room, and the tables behind it do not: what it holds is moved there later."""
    said = run_there(
        """
from pathlib import Path
ray.init(num_cpus=1, object_store_memory=80 << 20)
put(b"before", b"kept")
tables = next(Path(DISK).glob("session_2*/gcs"))
fill(1500 << 10)
taken = {}
while True:
    key, value = b"%d" % len(taken), os.urandom(30_000)
    try:
        put(key, value)
    except OutOfDiskError:
        break
    taken[key] = value
journal = (tables / "journal").stat().st_size
assert journal > 1 << 20, "it was to be moved"
os.remove(IN_THE_WAY)
until("the disk to be used again", takes_changes)
# Three times what the journal holds before it is moved.
for number in range(100, 300):
    key, value = b"%d" % number, os.urandom(30_000)
    put(key, value)
    taken[key] = value
assert all(get(key) == value for key, value in taken.items())
in_tables = sum(file.stat().st_size for file in tables.rglob("*") if file.is_file() and file.name != "journal")
assert in_tables > 4 << 20, f"the tables have {in_tables} bytes"
ray.shutdown()
print("done")
"""
    )
    assert said.endswith("done\n"), said
