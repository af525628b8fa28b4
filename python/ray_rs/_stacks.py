"""Stacks of a worker's threads, without its help: also while it computes, waits or hangs in native code.

Each worker lets `faulthandler` answer a signal with the stacks of its Python threads, written into a memory file of its
own. Whoever wants to see them, as the same user on the same machine, sends the signal and reads the file. So a worker
pays for an open file, and for nothing else until somebody asks.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

__all__ = ["StackError", "dump", "offer"]

# One that programs do not use: not the first of the real-time signals, which C libraries keep.
_SIGNAL = signal.SIGRTMIN + 11
_FILE = "ray_rs_stacks"
_POLL_S = 0.001
_MAX_BYTES = 4 << 20


class StackError(RuntimeError):
    """Why there is no stack."""


def offer() -> None:
    """Lets others see the stacks of this process from now on."""
    import faulthandler
    import fcntl

    fd = os.memfd_create(_FILE, os.MFD_CLOEXEC)
    # Readers empty it, whatever was written before.
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    faulthandler.register(_SIGNAL, file=fd, all_threads=True)


def dump(pid: int, timeout: float = 5.0) -> str:
    """Reads the stacks of a worker on this machine.

    Args:
        pid: Its process id.
        timeout: Seconds to wait for it, and for others who ask.

    Returns:
        The threads of its interpreter; of each, the most recent call first.

    Raises:
        StackError: There is no such worker, it has ended, or it did not answer.
    """
    import fcntl

    deadline = time.monotonic() + timeout
    try:
        process = os.pidfd_open(pid)
    except OSError:
        raise StackError(f"There is no process {pid}.") from None
    try:
        with open(_file_of(pid), "r+b", buffering=0) as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    _pause(deadline, f"Others wait for the stacks of process {pid}, which does not answer.")
            # Somebody before us may have given up on an answer that is still to come.
            silent = f"Process {pid} did not answer within {timeout:g} s: it takes no signals now."
            while _pending(pid):
                _pause(deadline, silent)
            file.truncate(0)
            # Whoever blocks it for good never answers, and does not count.
            deaf = _blocking(pid)
            signal.pidfd_send_signal(process, _SIGNAL)
            while not (os.fstat(file.fileno()).st_size and not _pending(pid) and _blocking(pid) <= deaf):
                _pause(deadline, silent)
            return os.pread(file.fileno(), _MAX_BYTES, 0).decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        raise StackError(f"Process {pid} has ended.") from None
    except PermissionError:
        raise StackError(f"Process {pid} belongs to somebody else.") from None
    finally:
        os.close(process)


def _pause(deadline: float, why: str) -> None:
    if time.monotonic() > deadline:
        raise StackError(why)
    time.sleep(_POLL_S)


def _file_of(pid: int) -> str:
    # Without its handler the signal would end the process.
    if not _has(_words(f"/proc/{pid}/status"), "SigCgt"):
        raise StackError(f"Process {pid} is no worker, and shows no stacks.")
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(path).startswith(f"/memfd:{_FILE}"):
                return path
    raise StackError(f"Process {pid} is no worker, and shows no stacks.")


def _words(path: str) -> dict[str, str]:
    with open(path) as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def _has(status: dict[str, str], field: str) -> bool:
    """Whether the signal is in a set of a process's or thread's status."""
    return bool(int(status.get(field, "0"), 16) >> (_SIGNAL - 1) & 1)


def _pending(pid: int) -> bool:
    return _has(_words(f"/proc/{pid}/status"), "ShdPnd")


def _blocking(pid: int) -> set[str]:
    """Threads that block the signal: in the handler, too."""
    found = set()
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if _has(_words(f"/proc/{pid}/task/{thread}/status"), "SigBlk"):
                found.add(thread)
    return found
