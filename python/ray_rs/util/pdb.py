"""`breakpoint()` in tasks and actors: Python's own debugger, at the driver's terminal or where `ray_rs debug` is typed.

A process that meets a breakpoint listens on a socket of its session until somebody attaches, and tells its driver. A
driver at a terminal attaches by itself; elsewhere it says what to type. With `RAY_DEBUG_POST_MORTEM=1` a task that
raises stops the same way, in the frame that raised. (Ray's documentation, "Using the Ray Debugger".)
"""

from __future__ import annotations

import bdb
import contextlib
import pdb
import socket
import sys
from types import FrameType, TracebackType
from typing import Any

from ray_rs import _debugger, _processes

__all__ = ["post_mortem", "set_trace"]


def set_trace(breakpoint_uuid: Any = None) -> None:
    """Stops here. `breakpoint()` does the same.

    Args:
        breakpoint_uuid: Of Ray's; without effect.
    """
    frame = sys._getframe().f_back
    assert frame is not None
    stop_at(frame)


def stop_at(frame: FrameType) -> None:
    """Stops in a frame.

    Args:
        frame: The caller's, or one above it.
    """
    if not _processes.is_worker():
        pdb.Pdb().set_trace(frame)
        return
    place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    session = _Session.of_visitor("stops at a breakpoint", place)
    # It goes on when the frame does, and ends with the connection.
    session.set_trace(frame)


def post_mortem(traceback: TracebackType | None = None) -> None:
    """Looks at an exception where it was raised; outside of tasks and actors, as `pdb.post_mortem`.

    Args:
        traceback: Its `__traceback__`; that of the exception that is being handled when None.
    """
    traceback = traceback or sys.exc_info()[2]
    if traceback is None:
        raise ValueError("A valid traceback must be passed if no exception is being handled")
    if not _processes.is_worker():
        pdb.post_mortem(traceback)
        return
    last = traceback
    while last.tb_next is not None:
        last = last.tb_next
    place = f"{last.tb_frame.f_code.co_filename}:{last.tb_lineno}"
    session = _Session.of_visitor("has raised", place)
    session.reset()
    with contextlib.suppress(bdb.BdbQuit):
        session.interaction(None, traceback)
    session.leave()


class _Session(pdb.Pdb):
    """A debugger whose terminal is a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        # Two: one of both kinds forgets what it has read ahead when it writes.
        self._typed = connection.makefile("r", encoding="utf-8", errors="replace", newline="\n")
        self._said = connection.makefile("w", encoding="utf-8", errors="replace", newline="\n")
        super().__init__(stdin=self._typed, stdout=self._said, nosigint=True, readrc=False)
        self.use_rawinput = False
        self._ends = False

    @classmethod
    def of_visitor(cls, what: str, place: str) -> _Session:
        """Waits until somebody attaches."""
        return cls(_debugger.visitor(what, place))

    def leave(self) -> None:
        """Ends the connection."""
        for end in (self._said.close, self._typed.close, self._connection.close):
            with contextlib.suppress(OSError):
                end()

    def set_continue(self) -> None:
        super().set_continue()
        # With breakpoints of its own it comes back.
        self._ends = not self.breaks

    def set_quit(self) -> None:
        super().set_quit()
        self._ends = True

    def do_EOF(self, arg: str) -> Any:
        """Who has attached is gone: the program goes on."""
        self.clear_all_breaks()
        self.set_continue()
        return 1

    def interaction(self, *arguments: Any, **named: Any) -> None:
        try:
            super().interaction(*arguments, **named)
        except (BrokenPipeError, ConnectionResetError, ValueError):
            # A broken connection is no error of the program.
            if not self._is_broken():
                raise
            self.do_EOF("")
        if self._ends:
            self.leave()

    def _is_broken(self) -> bool:
        try:
            self._connection.send(b"")
            return self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True
