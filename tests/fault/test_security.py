"""What other users of the machine can reach of a session: nothing; and where its token shows: nowhere."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import traces
from under_test import ray, ray_rs_only

pytestmark = ray_rs_only("Ray's sessions are open to the machine's other users")

NOBODY = 65534


@pytest.fixture
def session():
    ray.shutdown()
    context = ray.init(num_cpus=1, object_store_memory=100 * 2**20)
    # Something of each kind: a value in shared memory, one on disk, a worker with a log.
    refs = [ray.put(bytes(30 * 2**20)) for _ in range(5)]

    @ray.remote
    def speak():
        print("something for the log")
        return os.getpid()

    ray.get(speak.remote())
    yield Path(context.address_info["session_dir"])
    del refs
    ray.shutdown()


def test_nothing_of_a_session_is_open_to_others(session):
    found = []
    for folder, folders, files in os.walk(session):
        found += [Path(folder, name) for name in [*folders, *files]]
    assert len(found) > 8
    # What lies deeper has the modes that the user's umask gives it: nobody else comes there.
    for path in [session, *(path for path in session.iterdir() if path.is_dir() and not path.is_symlink())]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    assert stat.S_IMODE((session / "token").stat().st_mode) == 0o600
    # The arena and the lanes have no name that somebody could open.
    assert traces.shared_memory() == set()
    spilled = [path for path in found if "spilled" in path.parts and path.is_file()]
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in spilled)


TRY = """
import os, socket, sys
os.setgid({nobody}); os.setuid({nobody})
for path in sys.argv[1:]:
    try:
        if path.startswith("socket:"):
            stream = socket.socket(socket.AF_UNIX)
            stream.settimeout(20)
            stream.connect(path.removeprefix("socket:"))
            stream.sendall(b"x" * 64)
            said = stream.recv(100)
            print("open" if said else "closed", path)
        else:
            open(path, "rb").close()
            print("open", path)
    except PermissionError:
        print("refused", path)
    except OSError as error:
        print("closed", path, error)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")
def test_another_user_gets_nowhere(session):
    sockets = [f"socket:{session}/sockets/{name}" for name in ("raylet", "gcs")]

    def attempt(paths):
        program = TRY.format(nobody=NOBODY)
        done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return [line.split()[0] for line in done.stdout.splitlines()]

    assert set(attempt([f"{session}/token", *sockets])) == {"refused"}
    # Also where the directories stand open by mistake: the kernel tells who is at the other end of a socket.
    open_by_mistake = [*list(session.parents)[: len(session.parents) - 1], session, session / "sockets"]
    before = {path: stat.S_IMODE(path.stat().st_mode) for path in open_by_mistake}
    modes = {session / "sockets" / name: 0o777 for name in ("raylet", "gcs")}
    before |= {path: stat.S_IMODE(path.stat().st_mode) for path in modes}
    try:
        for path in open_by_mistake:
            path.chmod(before[path] | 0o055)
        for path, mode in modes.items():
            path.chmod(mode)
        assert attempt(sockets) == ["closed", "closed"]
        assert attempt([f"{session}/token"]) == ["refused"]
    finally:
        for path, mode in before.items():
            path.chmod(mode)
    assert ray.get(ray.put(1)) == 1


def test_the_token_shows_neither_in_processes_nor_in_logs(session):
    secret = (session / "token").read_text().strip().encode()
    assert len(secret) == 64
    places = [Path(f"/proc/{pid}/{name}") for pid in traces.processes() for name in ("cmdline", "environ")]
    assert places
    for path in [*places, *(path for path in (session / "logs").iterdir() if path.is_file())]:
        try:
            assert secret not in path.read_bytes(), path
        except OSError:
            continue  # it has ended


def test_who_listens_at_all_listens_on_loopback(session):
    """And a session of one node needs no port for other nodes."""
    ours = {*traces.processes(), os.getpid()}
    inodes = set()
    for pid in ours:
        try:
            links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue
        inodes |= {link[8:-1] for link in links if link.startswith("socket:[")}
    for family, name in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                number = bytes.fromhex(fields[1].partition(":")[0])
                words = b"".join(number[i : i + 4][::-1] for i in range(0, len(number), 4))
                address = socket.inet_ntop(family, words)
                assert address.startswith("127.") or address == "::1", f"pid of {ours} listens on {address}"
