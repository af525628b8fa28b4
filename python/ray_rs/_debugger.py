"""How a debugger in a worker and a person at a terminal find each other.

The worker listens on a socket in its session's directory, writes what it is about into the control store, and prints a
line that the driver understands. The socket is this user's; a visitor of another is turned away.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import sys
import threading
from typing import Any

from ray_rs import _core
from ray_rs._logs import DEBUGGER_MARK as MARK

__all__ = ["MARK", "NAMESPACE", "attach", "hint", "take", "visitor", "waiting"]

NAMESPACE = "debugger"

_HINT = "attach with `ray_rs debug`"


# -------------------------------------------------------------------------------------------------------------- worker


def visitor(what: str, place: str) -> socket.socket:
    """Says that this process stops, and waits for somebody who attaches.

    Args:
        what: Why it stops.
        place: File and line.

    Returns:
        The connection.
    """
    info = _core.process_info()
    name = f"debug-{os.getpid()}-{threading.get_ident() & 0xFFFFFF:06x}"
    path = os.path.join(info["session_dir"], "sockets", name)
    told = {
        "path": path,
        "what": what,
        "place": place,
        "pid": os.getpid(),
        "task": _core.current_task_name() or "",
        "node_id": info["node_id"].hex(),
    }
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    key = name.encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            before = os.umask(0o177)
            try:
                listener.bind(path)
            finally:
                os.umask(before)
            listener.listen(1)
            _core.kv_put(NAMESPACE, key, json.dumps(told).encode())
            print(MARK + json.dumps(told), file=sys.stderr, flush=True)
            while True:
                connection, _ = listener.accept()
                if _uid_of(connection) == os.geteuid():
                    return connection
                connection.close()
        finally:
            with contextlib.suppress(OSError):
                os.unlink(path)
            _core.kv_del(NAMESPACE, key)


def _uid_of(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return int(uid)


# ------------------------------------------------------------------------------------------------------------- visitor


def hint(told: dict[str, Any]) -> str:
    """A line for people.

    Args:
        told: What a worker told.

    Returns:
        Who stops, and where.
    """
    task = f"'{told['task']}' " if told["task"] else ""
    return f"{task}(pid={told['pid']}) {told['what']}: {told['place']}"


def take(lines: list[str]) -> list[str]:
    """Driver: takes what workers tell of breakpoints out of what they print, and attaches if this is a terminal.

    Args:
        lines: Of one worker.

    Returns:
        What is left to be shown.
    """
    shown = []
    for line in lines:
        if not line.startswith(MARK):
            shown.append(line)
            continue
        told = json.loads(line[len(MARK) :])
        if _at_a_terminal() and os.path.exists(told["path"]):
            print(f"{hint(told)}", file=sys.stderr, flush=True)
            attach(told["path"])
        else:
            shown.append(f"{hint(told)}; {_HINT}")
    return shown


def _at_a_terminal() -> bool:
    # A notebook's kernel has no terminal, and in an interactive session somebody may be typing something else.
    try:
        return sys.stdin.isatty() and not hasattr(sys, "ps1") and not sys.flags.interactive
    except (AttributeError, ValueError):
        return False


def attach(path: str) -> None:
    """Connects this process's terminal with a debugger, until that goes on.

    Args:
        path: Of its socket.

    Raises:
        ConnectionError: Nobody listens there any more.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(path)
        except OSError as error:
            raise ConnectionError(f"The process does not wait any more: {error}") from None
        typed: int | None = sys.stdin.fileno()
        heard = connection.fileno()
        while True:
            ready, _, _ = select.select([heard] if typed is None else [heard, typed], [], [])
            if heard in ready:
                said = connection.recv(65536)
                if not said:
                    return
                sys.stdout.write(said.decode(errors="replace"))
                sys.stdout.flush()
            if typed in ready:
                # Bytes as they come: nothing of the terminal's may stay in a buffer of ours.
                line = os.read(sys.stdin.fileno(), 65536)
                if line:
                    connection.sendall(line)
                else:
                    typed = None
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_WR)


def waiting(address: str | None) -> list[dict[str, Any]]:
    """Processes of a session that wait for somebody who attaches.

    Args:
        address: Of the session; this process's, else the newest one, when None.

    Returns:
        What they told.
    """
    from ray_rs.util.state._rows import Source

    entries = Source(address).observer.kv_entries(NAMESPACE, b"")
    found = [json.loads(text) for _, text in entries]
    # What a worker that was killed has told is not taken back; of other machines' nothing can be seen.
    return [told for told in found if os.path.exists(told["path"])]
