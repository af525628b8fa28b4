"""A process that has imported what workers need, and forks them.

It has one thread and never starts another, because a fork copies the calling thread only: before each fork it looks
at /proc/self/task. On its socket to the raylet each packet is one message, in ASCII:

    raylet to zygote   `fork <token>`
    zygote to raylet   `forked <token> <pid>`, `exited <pid> <wait status>`

It sleeps until the raylet writes or a child ends. When a worker has ended, what is left of its process group is
killed: subprocesses that a task started and did not wait for. What went into sessions of its own the raylet finds, by
a mark that each worker gives itself and all that it starts. A raylet kills its zygotes before it ends: when its end of
the socket is closed all the same, it was killed, and the zygote ends in its place what is left of the node.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import sys
from _socket import socket  # without the constants and helpers around it, which take milliseconds to import
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["main"]

_MAX_MESSAGE = 256
# With nothing to do for so long, its start and the first forks are over.
_REST_MS = 1000


def main(config: dict[str, Any]) -> None:
    """Forks workers until the raylet is gone. Does not return in the zygote; in a worker it does not return either.

    Args:
        config: fd (of the socket), session_dir, log_dir, zygote (its number), sys_path, cwd, preload, children_end
            (whether what a worker has started ends with it), and thread_env: the driver's values of the variables that
            were set to 1 for this process.
    """
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _let_the_kernel_choose_workers()
    hooks = _Hooks()
    _become_like_the_driver(config)
    from ray_rs import _core, _rehearsal, _worker_main

    if not _core.mark_process(config["session_dir"], config["zygote"], 0):
        print(
            "zygote: this kernel knows no RLIMIT_RTTIME: what tasks send into sessions of its own may outlive them",
            file=sys.stderr,
        )
    for name in config["preload"]:
        _preload(name)
    _rehearsal.rehearse()
    _worker_main.prepare(config)
    # What is imported by now is never collected, so that the collector does not touch (and copy) pages shared by all.
    gc.collect()
    gc.freeze()
    zygote = _Zygote(config, _fill_pools(), _core.give_back_code)
    _core.prepare_to_fork()
    token = zygote.serve()
    # Only children get here.
    hooks.put_back()
    _worker_main.main(config, token)


def _let_the_kernel_choose_workers() -> None:
    """Out of memory, the kernel shall end a worker, whose task runs again, and no driver and no daemon.

    Workers, and what they start, have the adjustment from this process.
    """
    # A machine may forbid it, as it does to give less than what was inherited.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        # Ray's name for it.
        file.write(os.environ.get("RAY_worker_oom_score_adjustment", "1000"))  # noqa: SIM112


def _become_like_the_driver(config: dict[str, Any]) -> None:
    sys.path[:] = config["sys_path"]
    sys.argv = [""]
    with contextlib.suppress(OSError):
        os.chdir(config["cwd"])


def _preload(name: str) -> None:
    """Imports a module ahead of time. One that fails will fail again where it is needed, and be reported there."""
    from importlib import import_module

    try:
        module = import_module(name)
        if name.startswith("__editable__"):
            module.install()  # the import hook of an editable install, which `site` sets up in other interpreters
    except Exception as problem:
        print(f"zygote: could not preload {name}: {type(problem).__name__}: {problem}", file=sys.stderr, flush=True)


class _Hooks:
    """Keeps what the standard library wants done at a fork from being done at a zygote's.

    `threading` and `logging` make all their locks anew in a child, because another thread of the parent may have held
    one. Here there is no other thread, and each lock made is another page that a worker has to itself. A worker may
    have threads when it forks, so they are put back there.
    """

    _SPARED = ("threading", "logging")

    def __init__(self) -> None:
        self._aside: list[dict[str, Any]] = []
        self._register = os.register_at_fork
        os.register_at_fork = self._take

    def _take(self, **hooks: Any) -> None:
        if all(getattr(hook, "__module__", None) in self._SPARED for hook in hooks.values()):
            self._aside.append(hooks)
        else:
            self._register(**hooks)

    def put_back(self) -> None:
        """Registers in a worker what was set aside."""
        os.register_at_fork = self._register
        for hooks in self._aside:
            self._register(**hooks)


# CPython's allocator of small objects: a pool holds objects of one size (multiples of 16 bytes up to 512), and new ones
# go where others of their size were freed before.
_POOL_BYTES = 16 * 1024
_POOL_HEADER_BYTES = 48
_MAX_PADDING = 20_000


def _fill_pools() -> list[object]:
    """Fills the gaps that imports have left in the pools, so that what workers make lies together in fresh pages.

    In the gaps it would make each worker copy a page of the zygote's for every few objects: a quarter of a megabyte.

    Returns:
        What fills them, to be kept.
    """
    kept: list[object] = []
    for size in range(16, 513, 16):
        while len(kept) < _MAX_PADDING:
            made: object = object() if size == 16 else float(len(kept)) if size == 32 else bytes(size - _BYTES_OVERHEAD)
            kept.append(made)
            if id(made) % _POOL_BYTES <= _POOL_HEADER_BYTES:  # the first of a new pool
                break
    return kept


_BYTES_OVERHEAD = sys.getsizeof(b"")


class _Zygote:
    """The loop, and the children that are alive."""

    def __init__(self, config: dict[str, Any], padding: list[object], give_back_code: Callable[[], None]) -> None:
        self._padding = padding
        self._give_back_code = give_back_code
        self._session_dir: str = config["session_dir"]
        self._children_end: bool = config["children_end"]
        descriptor: int = config["fd"]
        self._socket = socket(fileno=descriptor)
        self._socket.setblocking(False)
        os.set_inheritable(descriptor, False)
        self._workers: set[int] = set()
        # SIGCHLD writes a byte here; Python's handler itself has nothing to do.
        self._wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake_write = wake_write
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._poll.register(self._wake_read, select.POLLIN)

    def serve(self) -> int:
        """Forks on order. Returns in each child, with the token of its order."""
        may_rest = True
        while True:
            if may_rest and not self._poll.poll(_REST_MS):
                # A fork does not have them in any case, and here most were mapped for the imports.
                self._give_back_code()
                may_rest = False
            self._poll.poll()
            self._drain_wakeups()
            self._reap()
            while (message := self._receive()) is not None:
                verb, _, token = message.partition(" ")
                if verb != "fork" or not token.isdigit():
                    raise ValueError(f"the raylet sent {message!r} to a zygote, which only knows 'fork <token>'")
                if self._fork(int(token)):
                    return int(token)

    def _receive(self) -> str | None:
        """The next order, or None when there is none yet."""
        try:
            message = self._socket.recv(_MAX_MESSAGE)
        except BlockingIOError:
            return None
        except ConnectionError:
            message = b""
        if not message:
            self._end_the_node()
        return message.decode("ascii")

    def _send(self, message: str) -> None:
        self._socket.setblocking(True)
        try:
            self._socket.send(message.encode("ascii"))
        except OSError:
            self._end_the_node()
        finally:
            self._socket.setblocking(False)

    def _end_the_node(self) -> NoReturn:
        """The raylet was killed: ends what is left of its session, this process's own group last."""
        from ray_rs import _core

        _core.end_marked_processes(self._session_dir)
        os.killpg(0, signal.SIGKILL)
        os._exit(0)

    def _fork(self, token: int) -> bool:
        """Forks one worker; True in the child."""
        threads = os.listdir("/proc/self/task")
        assert len(threads) == 1, f"a zygote must have one thread to fork, but has {len(threads)}"
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            self._socket.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            return True
        self._workers.add(pid)
        self._send(f"forked {token} {pid}")
        return False

    def _drain_wakeups(self) -> None:
        try:
            while os.read(self._wake_read, 4096):
                pass
        except BlockingIOError:
            pass

    def _reap(self) -> None:
        while True:
            try:
                # Look first: as long as a worker is not collected its number, which is also that of its process group,
                # belongs to nobody else.
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            pid = ended.si_pid
            if pid in self._workers and self._children_end:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if pid in self._workers:
                self._workers.discard(pid)
                self._send(f"exited {pid} {status}")
