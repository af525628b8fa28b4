"""The libraries that the engine stands on are each on a real path: here is where one sees them at work."""

import contextlib
import os
import pickle
import re
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from under_test import ray, ray_rs_only, run_driver

pytestmark = [pytest.mark.usefixtures("cluster"), ray_rs_only("is about ray_rs's own parts")]


@ray.remote
class Box:
    def __init__(self):
        self.view = None

    def hold(self, refs):
        self.view = ray.get(refs[0])
        return os.getpid()


def session():
    return Path(os.environ["RAY_RS_TMPDIR"]) / "session_latest"


def test_sled_holds_the_control_store():
    """The gcs keeps its tables in a sled database; what was acknowledged is in its files."""
    box = Box.options(name="kept by sled").remote()
    ray.get(box.hold.remote([ray.put(1)]))
    store = (session() / "gcs").resolve()
    names = {path.name for path in store.rglob("*")}
    assert "db" in names or "conf" in names, names  # sled's own files
    written = b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())
    assert written.strip(b"\0")
    ray.kill(box)


def test_shared_memory_makes_the_arena():
    """The arena is a segment of POSIX shared memory, unlinked at birth: only mappings of it are left."""
    view = ray.get(ray.put(np.ones(1_000_000)))
    address = view.__array_interface__["data"][0]
    with open("/proc/self/maps") as file:
        for line in file:
            low, high = (int(x, 16) for x in line.split()[0].split("-"))
            if low <= address < high:
                break
    assert "/dev/shm/" in line
    assert "(deleted)" in line


def test_tonic_serves_the_control_store_after_the_token():
    """The gcs speaks gRPC on loopback; a stranger gets a challenge first, and nothing after a wrong answer."""
    host, port = ray.get_runtime_context().gcs_address.rsplit(":", 1)
    assert host == "127.0.0.1"
    with socket.create_connection((host, int(port)), timeout=10) as stranger:
        challenge = stranger.recv(32)
        assert len(challenge) == 32
        stranger.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(200))
        # Closed with part of what was sent unread, which TCP tells as a reset.
        rest = b""
        with contextlib.suppress(ConnectionResetError):
            while more := stranger.recv(4096):
                rest += more
    assert rest == b""
    with socket.create_connection((host, int(port)), timeout=10) as again:
        assert again.recv(32) != challenge


def test_prost_messages_reach_the_control_store():
    """What `nodes` shows came from the raylet to the gcs and to here as protobuf messages."""
    (node,) = ray.nodes()
    assert node["Alive"]
    assert node["Resources"]["CPU"] == 2


def test_serde_pickle_reads_the_drivers_configuration():
    """The raylet, which has no Python, reads the pickled dict of the driver: workers have its import path."""
    assert pickle.dumps({"sys_path": sys.path})

    @ray.remote
    def path():
        return sys.path

    theirs = ray.get(path.remote())
    assert [entry for entry in sys.path if entry and entry not in theirs] == []


def test_tracing_writes_the_daemons_logs():
    """gcs and raylet log through tracing: time, level, where, and fields; without being asked, oddities only."""
    done = run_driver(
        """
        import glob
        context = ray.init(num_cpus=1)
        for path in glob.glob(context.address_info["session_dir"] + "/logs/*.log"):
            print(open(path).read())
        """,
        env={"RAY_RS_LOG": "debug"},
    )
    for daemon in ("gcs", "raylet"):
        line = rf"^\d{{4}}-\d{{2}}-\d{{2}}T\S+ +DEBUG .*started.*process=\"{daemon}\""
        assert re.search(line, done.stdout, re.MULTILINE), done.stdout


def test_cloudpickle_is_the_only_requirement():
    from importlib import metadata

    required = [name for name in metadata.requires("ray_rs") or [] if "extra ==" not in name]
    assert [re.split(r"[^a-z]", name)[0] for name in required] == ["cloudpickle"]
