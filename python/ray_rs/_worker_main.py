"""What a worker process does between its fork and its end.

What all workers do alike the zygote does once, by `prepare`, before it forks them: a page of memory that a worker does
not write to is shared by all. The zygote calls `main` in the child. The worker connects to the raylet, sends its output
to its log files, and runs tasks until it is told to end. The loop itself is native; `_Callbacks` is what it asks Python
for.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import io
import os
import pickle
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from ray_rs import (
    _core,
    _durable,
    _environments,
    _function_table,  # noqa: F401 - imported before the fork
    _logging_config,
    _rehearsal,
    _serialization,
    _stacks,
    actor,
    runtime_context,
)
from ray_rs._engine_errors import argument_failed_text
from ray_rs._tracebacks import format_remote_traceback
from ray_rs.exceptions import ActorDiedError, RayError, RayTaskError

__all__ = ["main", "prepare", "warn_blocking_get"]


def prepare(config: dict[str, Any]) -> None:
    """Makes a zygote such that its children are workers with little left to do.

    Args:
        config: What the raylet gave to the zygote.
    """
    import signal

    _restore_thread_counts(config["thread_env"])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # In the zygote, which the interrupt of a terminal reaches as well, there is never one to take.
    signal.signal(signal.SIGINT, _on_interrupt)
    _replace_streams()
    sys.breakpointhook = _on_breakpoint
    faulthandler.enable(2)  # the stack of a segmentation fault ends up in the error that the caller gets
    _stacks.offer()
    with contextlib.suppress(OSError):
        os.chdir(config["cwd"])
    gc.enable()


def main(config: dict[str, Any], fork_token: int) -> None:
    """Runs this process as a worker, and ends it.

    Args:
        config: What the raylet gave to the zygote.
        fork_token: Number of the order to fork, by which the raylet knows this process.
    """
    code = 1
    try:
        code = _run(config, fork_token)
    except BaseException:
        # Also for SystemExit: nothing above the zygote's loop may see an exception of a worker.
        import traceback

        traceback.print_exc()
    finally:
        _flush()
        os._exit(code)


def _run(config: dict[str, Any], fork_token: int) -> int:
    _become_a_process_of_its_own()
    _core.mark_process(config["session_dir"], config["zygote"], fork_token)
    set_up = _environments.set_up_hook() if _environments.own_text() else None
    _core.connect(config["session_dir"], fork_token=fork_token, set_up_follows=set_up is not None)
    info = _core.process_info()
    _redirect_output(config["log_dir"], f"worker-{info['worker_id'].hex()}-{info['job_id'].hex()}-{os.getpid()}")
    _logging_config.apply_in_worker()
    if "RAY_RS_TRACING_STARTUP_HOOK" in os.environ:
        from ray_rs import _tracing

        _tracing.set_up_in_worker()
    if set_up is not None:
        set_up()
        _core.worker_ready()
    if info["is_awaited"]:
        _rehearsal.rehearse_after_fork()
    graceful, code, _reason = _core.run_worker_loop(_Callbacks(info["node_ip"]))
    if graceful:
        _say_goodbye()
    if goodbye := sys.modules.get("ray_rs._goodbye"):
        goodbye.tell_all()
    _flush()
    _core.disconnect()
    return code


# ------------------------------------------------------------------------------------------------------------- process


def _become_a_process_of_its_own() -> None:
    import signal

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # A group of its own: the zygote ends what a dead worker leaves running, and a Ctrl-C at the driver's terminal is
    # the driver's affair.
    os.setpgid(0, 0)
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:  # `random` reseeds itself after a fork
        numpy_random.seed()


def _on_interrupt(number: int, frame: Any) -> None:
    """Ends the task that was cancelled, if it still runs: a signal that comes late finds none, or another."""
    if _core.take_interrupt():
        raise KeyboardInterrupt


# The driver says nothing of OMP_NUM_THREADS: it follows the CPUs of the task or actor.
_threads_follow_cpus = False


def _restore_thread_counts(driver_values: dict[str, str | None]) -> None:
    """The zygote ran with one BLAS thread; libraries loaded from here on get what the driver's environment says."""
    global _threads_follow_cpus
    for name, value in driver_values.items():
        if value is not None:
            os.environ[name] = value
        elif name == "OMP_NUM_THREADS":
            os.environ[name] = "1"  # tasks hold one CPU unless they say otherwise
            _threads_follow_cpus = True
        else:
            os.environ.pop(name, None)


def _say_goodbye() -> None:
    """What an actor wants done before it ends: its hook, exit handlers, its destructor, in this order."""
    current = _core.current_actor()
    instance = None if current is None else current[1]
    if instance is not None:
        _call_quietly(getattr(instance, "__ray_shutdown__", None))
    _run_exit_handlers()
    if instance is not None:
        # Nothing is torn down in this process, so that it would never be called.
        _call_quietly(getattr(instance, "__del__", None))


def _call_quietly(method: Callable[[], object] | None) -> None:
    if method is None:
        return
    try:
        method()
    except Exception:
        import traceback

        traceback.print_exc()


def _run_exit_handlers() -> None:
    import atexit

    atexit._run_exitfuncs()


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


# -------------------------------------------------------------------------------------------------------------- output


class _NamedStream(io.TextIOWrapper):
    """A log file in which a marker line says whose lines follow.

    The raylet reads `:task_name:f` and `:actor_name:Counter`, strips them, and puts the name before each line at the
    driver. A marker is written only before output, and only when the name has changed.
    """

    _written_name = ""
    _at_line_start = True

    def write(self, text: str) -> int:
        if not text:
            return 0
        if self._at_line_start:
            marker = _marker()
            if marker != self._written_name:
                self._written_name = marker
                super().write(marker)
        self._at_line_start = text[-1] == "\n"
        return super().write(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        for line in lines:
            self.write(line)


# Set when the process has become an actor.
_actor_marker = ""


def _marker() -> str:
    return _actor_marker or f":task_name:{_core.current_task_name()}\n"


def _redirect_output(directory: str, file_name: str) -> None:
    """Sends what this process and its children print to the worker's log files."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for descriptor, suffix in ((1, "out"), (2, "err")):
        path = os.path.join(directory, f"{file_name}.{suffix}")
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(file, descriptor)
        os.close(file)


def _replace_streams() -> None:
    """Python's side of that, which goes by the number of the descriptor, whatever is open there."""
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "r", closefd=False)))
    sys.stdout, sys.stderr = _stream(1), _stream(2)
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, f"__{name}__", getattr(sys, name))


def _stream(descriptor: int) -> _NamedStream:
    raw = io.FileIO(descriptor, "w", closefd=False)
    return _NamedStream(io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True)


# ----------------------------------------------------------------------------------------------------------- callbacks


def _on_breakpoint(*arguments: Any, **named: Any) -> Any:
    from ray_rs.util import pdb

    if os.environ.get("PYTHONBREAKPOINT"):
        return sys.__breakpointhook__(*arguments, **named)
    frame = sys._getframe().f_back
    assert frame is not None
    return pdb.stop_at(frame)


def _stop_where_it_was_raised(error: BaseException) -> None:
    from ray_rs.util import pdb

    traceback = error.__traceback__
    if traceback is not None:
        pdb.post_mortem(traceback)


class _Callbacks:
    """What the native loop asks Python for; described in `_core.pyi`."""

    special_methods: dict[str, Callable[..., Any]] = actor.SPECIAL_METHODS
    actor_exit: type[BaseException] = actor._ActorExit

    def __init__(self, node_ip: str) -> None:
        self._node_ip = node_ip
        # Unpickled `retry_exceptions` by their bytes.
        self._retried: dict[bytes, tuple[type[BaseException], ...]] = {}

    def make_error(self, error: BaseException, callee_name: str, from_argument: bool) -> bytes:
        if os.environ.get("RAY_DEBUG_POST_MORTEM", "0") not in ("", "0") and not from_argument:
            _stop_where_it_was_raised(error)
        # What a `get` raised and nobody caught: the error keeps the cause that it has.
        original = error.__dict__.get("_task_error", error) if isinstance(error, RayTaskError) else None
        text = argument_failed_text(error) if from_argument else _safe_traceback(error)
        if isinstance(error, ValueError) and "read-only" in str(error):
            text = f"{text.rstrip()}\n{_READ_ONLY_HINT}\n"
        cause = original.cause if original is not None else error
        actor_id, actor_repr = self._actor()
        task_error = RayTaskError(
            callee_name,
            text,
            cause,
            proctitle=f"ray::{callee_name}",
            pid=os.getpid(),
            ip=self._node_ip,
            actor_repr=actor_repr,
            actor_id=actor_id,
        )
        try:
            return _serialization.dumps_in_band(task_error)
        except Exception as refusal:  # an attribute of ours that refuses; the text is what matters
            task_error.cause = RayError(f"{type(cause).__name__} could not be pickled: {refusal}")
            task_error.actor_repr = actor_repr
            return _serialization.dumps_in_band(task_error)

    def _actor(self) -> tuple[str | None, str | None]:
        current = _core.current_actor()
        if current is None:
            return None, None
        actor_id, instance = current
        if instance is None:  # its constructor runs
            return actor_id.hex(), None
        try:
            return actor_id.hex(), repr(instance)
        except Exception:
            return actor_id.hex(), object.__repr__(instance)

    def should_retry(self, retry_exceptions: bytes, error: BaseException) -> bool:
        classes = self._retried.get(retry_exceptions)
        if classes is None:
            classes = self._retried[retry_exceptions] = _serialization.loads(retry_exceptions)
        if type(error).__name__ == "UserCodeException" and isinstance(error, RayError):
            error = error.__cause__ or error
        return isinstance(error, classes)

    def start_actor(self, cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any], info: dict[str, Any]) -> Any:
        self._become_actor(info)
        carrier = kwargs.pop("_ray_trace_ctx", None)
        if carrier is not None and _core.is_tracing():
            from ray_rs import _tracing

            instance = _tracing.execute(cls, cls.__name__, "__init__", carrier, args, kwargs)
        else:
            instance = cls(*args, **kwargs)
        self._name_actor(instance, info)
        return instance

    def restore_actor(
        self, cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any], info: dict[str, Any], state: bytes
    ) -> Any:
        self._become_actor(info)
        kwargs.pop("_ray_trace_ctx", None)
        instance = _durable.restore(cls, args, kwargs, state)
        self._name_actor(instance, info)
        return instance

    def save_actor(self, instance: Any) -> bytes:
        return _durable.save(instance)

    def _become_actor(self, info: dict[str, Any]) -> None:
        global _actor_marker
        runtime_context._actor_info.update(info)
        _actor_marker = f":actor_name:{info['class_name']}\n"
        if info["gpu_ids"]:
            self.set_gpus(info["gpu_ids"])
        self.set_cpus(info["resources"].get("CPU", 1.0))
        if info["is_async"]:
            # Each coroutine that awaits another uses up Python frames, and a thousand may be under way.
            sys.setrecursionlimit(max(sys.getrecursionlimit(), 10_000))

    def _name_actor(self, instance: Any, info: dict[str, Any]) -> None:
        global _actor_marker
        if any("__repr__" in base.__dict__ for base in type(instance).__mro__ if base.__module__ != "builtins"):
            try:
                name = repr(instance).replace("\n", " ")
            except Exception:
                name = info["class_name"]
            _actor_marker = f":actor_name:{name}\n"

    def say_creation_failed(self, class_name: str, error: bytes) -> None:
        global _actor_marker
        _actor_marker = f":actor_name:{class_name}\n"
        died = ActorDiedError(pickle.loads(error))
        print(f"Exception raised in creation task: {died}", file=sys.stderr)

    def set_gpus(self, gpu_ids: list[int]) -> None:
        names = runtime_context._visible_devices or [str(number) for number in range(max(gpu_ids, default=-1) + 1)]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names[number] for number in gpu_ids)

    def set_cpus(self, cpus: float) -> None:
        if _threads_follow_cpus:
            os.environ["OMP_NUM_THREADS"] = str(max(1, int(cpus)))

    def end_forked_child(self, error: BaseException | None) -> NoReturn:
        code = 0
        if isinstance(error, SystemExit):
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error is not None:
            import traceback

            traceback.print_exception(error)
            code = 1
        _run_exit_handlers()
        _flush()
        os._exit(code & 0xFF)

    def warn_return_ignored(self, callee_name: str) -> None:
        print(
            f"Task {callee_name} has num_returns=0 but returned a value; it is dropped.",
            file=sys.stderr,
        )

    def warn_items_ignored(self, callee_name: str, num_returns: int, error: BaseException | None) -> None:
        if error is None:
            print(
                f"The generator {callee_name} has yielded more than num_returns={num_returns} values; the rest is not "
                "asked for.",
                file=sys.stderr,
            )
        else:
            print(
                f"The generator {callee_name} has raised after its last return, which nobody else hears of:\n"
                f"{_safe_traceback(error)}",
                file=sys.stderr,
            )


# numpy's own error says only that the array is read-only.
_READ_ONLY_HINT = (
    "Hint: arrays that come as arguments or from ray.get() are views of shared memory, which others read as well, and "
    "cannot be written to. Work on a copy: array.copy(), or ray.get(ref, copy=True); copy='on_write' copies only the "
    "pages that are written to."
)


def _safe_traceback(error: BaseException) -> str:
    try:
        return format_remote_traceback(error)
    except Exception as problem:  # a __str__ that raises, for one
        return (
            f"Traceback (most recent call last):\n  (could not be formatted: {type(problem).__name__})\n"
            f"{type(error).__name__}\n"
        )


def warn_blocking_get() -> None:
    """Says that `get` or `wait` was called on the event loop of an async actor; called once by the extension."""
    if os.environ.get("RAY_WARN_BLOCKING_GET_INSIDE_ASYNC", "1") == "0":
        return
    print(
        "Using blocking ray.get inside async actor. This blocks the event loop. Please use `await` on object ref with "
        "asyncio.gather if you want to yield execution to the event loop instead.",
        file=sys.stderr,
    )
