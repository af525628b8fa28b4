"""What a cluster leaves on a machine while it runs, and must not leave afterwards: processes, memory, files.

Everything a test starts inherits the mark in its environment, so that other users' clusters do not count.
"""

import os
import stat
from pathlib import Path

MARK = "RAY_RS_TEST_MARK"


def processes() -> dict[int, str]:
    """Pid and command line of every process of a cluster that a test started, but for this one.

    Ours is what carries the mark; what writes to a log of our sessions or names one on its command line (a worker that
    sets its title writes over its environment); and what such a process started.
    """
    mark = f"{MARK}={os.environ[MARK]}".encode()
    root = str(session_root())
    parents: dict[int, int] = {}
    commands: dict[int, str] = {}
    ours = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        pid = int(entry.name)
        try:
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state == "Z":
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            parents[pid], commands[pid] = int(parent), command[:160]
            outputs = [os.readlink(entry / "fd" / fd) for fd in ("1", "2") if (entry / "fd" / fd).is_symlink()]
            if mark in (entry / "environ").read_bytes().split(b"\0") or root in command:
                ours.add(pid)
            elif any(path.startswith(root) for path in outputs):
                ours.add(pid)
        except OSError:
            continue
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return {pid: commands[pid] for pid in sorted(ours)}


def daemons(kind: str) -> list[int]:
    """Pids of the "gcs" or "raylet" processes of clusters that a test started."""
    found = []
    for pid in processes():
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(f"ray_rs::{kind}".encode()):
                found.append(pid)
        except OSError:
            continue
    return found


def shared_memory() -> set[str]:
    """Names in /dev/shm that belong to us."""
    names = set()
    for entry in Path("/dev/shm").iterdir():
        try:
            if entry.stat().st_uid == os.getuid():
                names.add(entry.name)
        except FileNotFoundError:
            continue
    return names


def session_root() -> Path:
    return Path(os.environ["RAY_RS_TMPDIR"])


def session_files() -> list[str]:
    """What lies in the session root beside logs: sockets, tokens, stores, links to sessions that are gone."""
    root = session_root()
    left: list[str] = []
    if not root.exists():
        return left
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder) / name
            inside = path.relative_to(root).parts
            try:
                is_socket = stat.S_ISSOCK(path.lstat().st_mode)
            except FileNotFoundError:
                continue
            if is_socket or (len(inside) > 1 and inside[1] != "logs"):
                left.append(str(path.relative_to(root)))
    link = root / "session_latest"
    if link.is_symlink():
        left.append("session_latest")
    return left


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def logs(last_lines: int = 20, newest: int = 4) -> str:
    """The ends of the newest sessions' log files, for a failed test's report: each node of a cluster has its own."""
    text = []
    for session in sorted(session_root().glob("session_2*"), key=lambda path: path.name)[-newest:]:
        text.append(f"session {session}")
        for path in sorted((session / "logs").glob("*")):
            try:
                lines = path.read_text(errors="replace").splitlines()
            except OSError:
                continue
            if lines:
                text.append(f"-- {path}")
                text.extend(lines[-last_lines:])
    return "\n".join(text)
