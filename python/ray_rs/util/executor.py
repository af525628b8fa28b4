"""`RayExecutor`: the interface of `concurrent.futures`, on tasks."""

from __future__ import annotations

import functools
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple, TypeVar

import ray_rs as ray

__all__ = ["RayExecutor"]

T = TypeVar("T")

_REMEMBERED_FUNCTIONS = 100


class _Submission(NamedTuple):
    future: Future[Any]
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class RayExecutor(Executor):
    """Runs functions as tasks, for programs written for `ThreadPoolExecutor` or `ProcessPoolExecutor`.

    The session goes on when the executor is shut down; it is started, with the defaults of `init`, if there is none.

    Args:
        max_workers: Most calls that run at once; as many as there are resources for when None.
        ray_remote_args: Options of the tasks, as for `@ray.remote`.

    Raises:
        ValueError: `max_workers` is not positive.

    Example:
        >>> with RayExecutor() as executor:
        ...     list(executor.map(abs, [-1, 2]))
        [1, 2]
    """

    def __init__(self, max_workers: int | None = None, *, ray_remote_args: dict[str, Any] | None = None) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if not ray.is_initialized():
            ray.init()
        self._limit = max_workers
        # Others look at this to learn how much to submit at a time.
        self._max_workers = max_workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._options = dict(ray_remote_args or {})
        # By the function's id; it is kept in its entry, so that the id stays its own.
        self._tasks: dict[int, tuple[Any, ray.ObjectRef[Any], Callable[..., Any]]] = {}
        # Held for a moment only, never while a task is submitted or a future settled.
        self._lock = threading.Condition()
        self._waiting: deque[_Submission] = deque()
        self._running = 0
        self._is_shut_down = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Runs `fn(*args, **kwargs)` as a task.

        Args:
            fn: The function, or another callable that can be pickled.
            *args: Its positional arguments; a reference stands for its value.
            **kwargs: Its keyword arguments.

        Returns:
            The result to be. It can be cancelled as long as the task waits for one of `max_workers` to end.

        Raises:
            RuntimeError: The executor is shut down.
        """
        future: Future[T] = Future()
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._waiting.append(_Submission(future, fn, args, kwargs))
        self._start_waiting()
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **kwargs: Any,
    ) -> Iterator[T]:
        """Calls `fn` with an item of each iterable.

        Args:
            fn: The function.
            *iterables: Its arguments.
            timeout: Seconds, from now, after which waiting for the next result raises.
            chunksize: Calls that make up one task.
            **kwargs: Of the Python version's own `Executor.map`, `buffersize` for one.

        Returns:
            An iterator over the results, in order.

        Raises:
            TimeoutError: By the iterator: a result was not there in time.
            ValueError: `chunksize` is not positive.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout, **kwargs)
        chunks = super().map(
            functools.partial(_call_each, fn),
            _chunks(zip(*iterables, strict=False), chunksize),
            timeout=timeout,
            **kwargs,
        )
        return (result for chunk in chunks for result in chunk)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls.

        Args:
            wait: Return when those that were submitted have ended.
            cancel_futures: Cancel those that have not been started.
        """
        with self._lock:
            self._is_shut_down = True
            dropped = []
            if cancel_futures:
                dropped, self._waiting = list(self._waiting), deque()
        for call in dropped:
            call.future.cancel()
            call.future.set_running_or_notify_cancel()
        if wait:
            with self._lock:
                while self._running or self._waiting:
                    self._lock.wait()

    def _start_waiting(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or (self._limit is not None and self._running >= self._limit):
                    self._lock.notify_all()
                    return
                call = self._waiting.popleft()
                self._running += 1
            if not call.future.set_running_or_notify_cancel():
                self._ended()
                continue
            try:
                task, function = self._task(call.function)
                ref = task.remote(function, *call.args, **call.kwargs)
            except Exception as error:  # it, or an argument, can't be pickled
                call.future.set_exception(error)
                self._ended()
            else:
                ref.future().add_done_callback(functools.partial(self._settle, call.future))

    def _settle(self, future: Future[Any], done: Future[Any]) -> None:
        """On a thread of the engine."""
        error = done.exception()
        if error is None:
            future.set_result(done.result())
        else:
            future.set_exception(error)
        self._ended()
        self._start_waiting()

    def _ended(self) -> None:
        with self._lock:
            self._running -= 1
            self._lock.notify_all()

    def _task(self, function: Callable[..., Any]) -> tuple[Any, ray.ObjectRef[Any]]:
        """What to submit for a function: a remote function that calls its first argument, and a reference to it.

        The same function is pickled once, as long as it is among the last that were used.
        """
        with self._lock:
            known = self._tasks.pop(id(function), None)
        if known is None:
            name = getattr(function, "__name__", type(function).__name__)
            known = (ray.remote(_call).options(**{"name": name, **self._options}), ray.put(function), function)
        with self._lock:
            self._tasks[id(function)] = known  # the newest is last
            if len(self._tasks) > _REMEMBERED_FUNCTIONS:
                del self._tasks[next(iter(self._tasks))]
        return known[:2]


def _call(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def _call_each(function: Callable[..., T], arguments: list[tuple[Any, ...]]) -> list[T]:
    return [function(*each) for each in arguments]


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk
