"""The processes of a cluster on this machine by what they are, and what can be done to them from outside."""

import contextlib
import ctypes
import os
import re
import signal
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# The same number on every architecture.
SYS_PIDFD_GETFD = 438

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, order=True)
class Process:
    """A process of the cluster: `kind` is gcs, raylet, zygote or worker; `session` the directory of its node."""

    pid: int
    kind: str
    session: str


def of_cluster(root: str) -> list[Process]:
    """All processes of the sessions below a directory, by their ids."""
    parents: dict[int, int] = {}
    daemons: dict[int, Process] = {}
    others: dict[int, str] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        pid = int(entry)
        try:
            state, parent = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[:2]
            command = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if state == "Z":
            continue
        parents[pid] = int(parent)
        if named := re.match(rf"ray_rs::(gcs|raylet) ({re.escape(root)}/\S+)", command):
            daemons[pid] = Process(pid, named[1], named[2])
        elif command.startswith("ray::"):
            others[pid] = "worker"
        elif "from ray_rs._zygote import main" in command:
            others[pid] = "zygote"
    found = list(daemons.values())
    for pid, kind in others.items():
        above = pid
        while above in parents and above not in daemons:
            above = parents[above]
        if above in daemons:
            found.append(Process(pid, kind, daemons[above].session))
    return sorted(found)


def send(pid: int, what: signal.Signals) -> bool:
    """Sends a signal; whether the process was still there."""
    try:
        os.kill(pid, what)
    except ProcessLookupError:
        return False
    return True


def cut_a_connection(pid: int, choose: Callable[[list[int]], int]) -> bool:
    """Shuts one of the process's TCP connections down, of which it hears by the end of the stream, as its peer does.

    Returns:
        Whether there was one, and this process may do that.
    """
    connections = []
    try:
        for name in sorted(os.listdir(f"/proc/{pid}/fd"), key=int):
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.stat(f"/proc/{pid}/fd/{name}").st_mode):
                    connections.append(int(name))
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        taken = []
        for number in connections:
            fd = _libc.syscall(SYS_PIDFD_GETFD, pidfd, number, 0)
            if fd >= 0:
                taken.append(socket.socket(fileno=fd))
        with contextlib.ExitStack() as closing:
            for each in taken:
                closing.callback(each.close)
            cuttable = [index for index, each in enumerate(taken) if _is_connected_tcp(each)]
            if not cuttable:
                return False
            taken[choose(cuttable)].shutdown(socket.SHUT_RDWR)
            return True
    except OSError:
        return False
    finally:
        os.close(pidfd)


def _is_connected_tcp(found: socket.socket) -> bool:
    if found.family not in (socket.AF_INET, socket.AF_INET6) or found.type != socket.SOCK_STREAM:
        return False
    try:
        found.getpeername()
    except OSError:
        return False
    return True


def resident_bytes(pid: int) -> int:
    """Memory of the process's own, without what it shares; 0 when it is gone."""
    try:
        resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
