"""The zygote, spoken to as the raylet does. Its workers find no session and end at once. No cluster."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

BOOT = """
import json, sys
config = json.loads(sys.argv[1])
sys.path[:] = config["sys_path"]
from ray_rs._zygote import main
main(config)
"""


@contextlib.contextmanager
def zygote(tmp_path, **changes):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(20)
    config = {
        "fd": theirs.fileno(),
        "session_dir": str(tmp_path / "no-session"),
        "log_dir": str(tmp_path),
        "zygote": 1,
        "children_end": True,
        "sys_path": [entry for entry in sys.path if entry],
        "cwd": str(tmp_path),
        "preload": [],
        "thread_env": {"OMP_NUM_THREADS": None, "OPENBLAS_NUM_THREADS": "3"},
        **changes,
    }
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", BOOT, json.dumps(config)],
            pass_fds=[theirs.fileno()],
            stderr=subprocess.PIPE,
            text=True,
            # It kills its process group in the end.
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    with process, ours:
        yield ours, process


def words(channel):
    return channel.recv(256).decode().split()


def test_forks_reports_and_ends(tmp_path):
    with zygote(tmp_path) as (channel, process):
        channel.send(b"fork 7")
        channel.send(b"fork 8")
        first, second = words(channel), words(channel)
        assert [first[:2], second[:2]] == [["forked", "7"], ["forked", "8"]]
        gone = {tuple(words(channel)) for _ in range(2)}
        # No session: each worker says so and ends with code 1.
        assert gone == {("exited", first[2], str(1 << 8)), ("exited", second[2], str(1 << 8))}
        channel.close()
        assert process.wait(20) == -signal.SIGKILL


def test_a_module_that_cannot_be_preloaded_is_no_obstacle(tmp_path):
    with zygote(tmp_path, preload=["no_such_module_anywhere"]) as (channel, process):
        channel.send(b"fork 1")
        assert words(channel)[:2] == ["forked", "1"]
        channel.close()
        assert process.wait(20) == -signal.SIGKILL
        assert "could not preload no_such_module_anywhere" in process.stderr.read()


def test_a_thread_forbids_forking(tmp_path):
    (tmp_path / "starts_a_thread.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(20,), daemon=True).start()\n"
    )
    path = [str(tmp_path), *(entry for entry in sys.path if entry)]
    with zygote(tmp_path, preload=["starts_a_thread"], sys_path=path) as (channel, process):
        channel.send(b"fork 1")
        assert channel.recv(256) == b""
        assert process.wait(20) != 0
        assert "must have one thread" in process.stderr.read()


@pytest.mark.parametrize("nonsense", [b"hello", b"fork x", b"fork"])
def test_nonsense_ends_it_with_a_message(tmp_path, nonsense):
    with zygote(tmp_path) as (channel, process):
        channel.send(nonsense)
        assert process.wait(20) != 0
        assert "only knows 'fork <token>'" in process.stderr.read()
