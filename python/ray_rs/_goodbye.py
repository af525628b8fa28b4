"""What a worker still has to tell when its job ends: spans and metrics, which it gathers before it sends them.

Workers are killed when their job ends, which makes that quick. So a worker that gathers something listens on a socket
of its session's, and the driver, before it leaves, asks each of its job's on its node: the worker sends what it has,
and answers by closing the connection. Whoever gathers nothing has neither socket nor thread.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
import time

from ray_rs import _core

__all__ = ["ask_workers", "offer", "tell_all"]

# For all workers together: one that hangs is not waited for any longer.
_LIMIT_S = 1.0
# Of the sockets' names (`api._ask_workers` looks for it); the job and the process follow.
_PREFIX = "goodbye-"

_lock = threading.Lock()
# The process that listens: a child of it has to begin anew.
_offered_by = 0


def offer() -> None:
    """Lets this process's driver ask from now on, if this is a worker; done again, it does nothing."""
    global _offered_by
    with _lock:
        if _offered_by == os.getpid() or not _core.is_initialized():
            return
        info = _core.process_info()
        _offered_by = os.getpid()
        if info["is_driver"]:
            return
        path = f"{info['session_dir']}/sockets/{_PREFIX}{info['job_id'].hex()}-{os.getpid()}"
        listener = socket.socket(socket.AF_UNIX)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)  # of one that had this number before
            listener.bind(path)
            listener.listen()
        except OSError as error:  # a full disk: the last second may be missing then, and tasks go on
            listener.close()
            print(f"The last metrics and spans of this worker may be missing: {error}", file=sys.stderr)
            return
        threading.Thread(target=_answer, args=(listener,), name="ray_rs-goodbye", daemon=True).start()


def _answer(listener: socket.socket) -> None:
    while True:
        asker, _ = listener.accept()
        with asker:
            tell_all()


def tell_all() -> None:
    """Sends what this process has gathered: now, not when it is time."""
    if tracing := sys.modules.get("ray_rs._tracing"):
        tracing.flush()
    if metrics := sys.modules.get("ray_rs._metrics"):
        metrics.flush()


def ask_workers() -> None:
    """Waits until this driver's workers on its node have sent what they have, a second at most."""
    info = _core.process_info()
    directory = f"{info['session_dir']}/sockets"
    waiting = []
    try:
        for name in os.listdir(directory):
            if not name.startswith(f"{_PREFIX}{info['job_id'].hex()}-"):
                continue
            # Leaving comes before what it could be asked for, also where no file can be opened any more.
            with contextlib.suppress(OSError):
                asked = socket.socket(socket.AF_UNIX)
                waiting.append(asked)
                asked.setblocking(False)
                try:
                    asked.connect(f"{directory}/{name}")
                except OSError as error:
                    asked.close()
                    waiting.pop()
                    if isinstance(error, ConnectionRefusedError):  # the worker has ended
                        os.unlink(f"{directory}/{name}")
        until = time.monotonic() + _LIMIT_S
        poller = select.poll()
        for asked in waiting:
            poller.register(asked, select.POLLIN)
        left = len(waiting)
        while left and (remaining := until - time.monotonic()) > 0:
            for descriptor, _ in poller.poll(remaining * 1000):
                poller.unregister(descriptor)
                left -= 1
    finally:
        for asked in waiting:
            asked.close()
