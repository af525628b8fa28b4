"""`Pool` with the interface of `multiprocessing.Pool`, whose processes are actors and may be anywhere in the cluster.

What differs: a process that dies fails the calls it had, instead of hanging them, and another takes its place; `imap`
takes from its iterable only what it needs to keep the processes busy.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import TimeoutError
from typing import Any, NoReturn

import ray_rs as ray
from ray_rs.util.multiprocessing._crew import Batch, Crew, Failure, _PoolActor

__all__ = ["AsyncResult", "IMapIterator", "Pool"]


class Pool:
    """A number of processes that call functions.

    Args:
        processes: How many; the CPUs of the cluster when None.
        initializer: Called in each process when it starts.
        initargs: Its arguments.
        maxtasksperchild: After so many batches of calls a process is replaced by a fresh one.
        context: Without effect; there is one way to start a process.
        ray_address: Cluster to join when there is no session yet, as for `init`.
        ray_remote_args: Options of the processes, as for `@ray.remote`; they hold no CPU unless these say so.

    Raises:
        ValueError: No processes, or more than the cluster has CPUs.

    Example:
        >>> with Pool(4) as pool:
        ...     pool.map(abs, [-1, -2, 3])
        [1, 2, 3]
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] | None = None,
        maxtasksperchild: int | None = None,
        context: Any = None,
        ray_address: str | None = None,
        ray_remote_args: dict[str, Any] | None = None,
    ) -> None:
        self._closed = False
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if context is not None:
            warnings.warn("The 'context' argument has no effect: processes of this pool are actors.", stacklevel=2)
        self._processes = _start_session(processes, ray_address)
        options = {"num_cpus": 0, "max_restarts": -1, **(ray_remote_args or {})}
        actor_class = ray.remote(_PoolActor).options(**options)
        arguments = tuple(initargs or ())
        self._crew = Crew(self._processes, lambda: actor_class.remote(initializer, arguments), maxtasksperchild)
        # Those that may have more to submit.
        self._iterators: weakref.WeakSet[IMapIterator] = weakref.WeakSet()

    # ------------------------------------------------------------------------------------------------------- one call

    def apply(self, func: Callable[..., Any], args: Iterable[Any] | None = None, kwargs: Any = None) -> Any:
        """Calls `func(*args, **kwargs)` in a process and waits for the result.

        Args:
            func: The function.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Returns:
            What it returns.

        Raises:
            Exception: What it raises.
        """
        return self.apply_async(func, args, kwargs).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] | None = None,
        kwargs: Any = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """Calls `func(*args, **kwargs)` in a process.

        Args:
            func: The function.
            args: Its positional arguments.
            kwargs: Its keyword arguments.
            callback: Called with the result, on a thread of the engine: it must not take long.
            error_callback: Called with what the function raises, likewise.

        Returns:
            The result to be.
        """
        self._check_running()
        result = AsyncResult(1, callback, error_callback, single=True)
        call = (tuple(args or ()), dict(kwargs or {}))
        self._crew.submit([Batch(func, 2, [call], functools.partial(result._add, 0))])
        return result

    # --------------------------------------------------------------------------------------------------- many, a list

    def map(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        """Calls `func` for each item and waits for all.

        Args:
            func: The function.
            iterable: Its arguments.
            chunksize: Calls that go to a process together; a quarter of each process's share when None.

        Returns:
            The results, in order.

        Raises:
            Exception: What the first of the failed calls raised.
        """
        return self.map_async(func, iterable, chunksize).get()  # type: ignore[no-any-return]

    def map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[list[Any]], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """Calls `func` for each item.

        Args:
            func: The function.
            iterable: Its arguments.
            chunksize: Calls that go to a process together; a quarter of each process's share when None.
            callback: Called with the list of results, on a thread of the engine: it must not take long.
            error_callback: Called with what the first of the failed calls raised, likewise.

        Returns:
            The list of results to be.
        """
        return self._map(func, 0, iterable, chunksize, callback, error_callback)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        """Like `map`, with several arguments for each call.

        Args:
            func: The function.
            iterable: The arguments of each call.
            chunksize: Calls that go to a process together; a quarter of each process's share when None.

        Returns:
            The results, in order.

        Raises:
            Exception: What the first of the failed calls raised.
        """
        return self._map(func, 1, iterable, chunksize, None, None).get()  # type: ignore[no-any-return]

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        callback: Callable[[list[Any]], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
        *,
        chunksize: int | None = None,
    ) -> AsyncResult:
        """Like `map_async`, with several arguments for each call.

        Args:
            func: The function.
            iterable: The arguments of each call.
            callback: Called with the list of results, on a thread of the engine: it must not take long.
            error_callback: Called with what the first of the failed calls raised, likewise.
            chunksize: Calls that go to a process together; a quarter of each process's share when None.

        Returns:
            The list of results to be.
        """
        return self._map(func, 1, iterable, chunksize, callback, error_callback)

    def _map(
        self,
        func: Callable[..., Any],
        stars: int,
        iterable: Iterable[Any],
        chunksize: int | None,
        callback: Callable[[list[Any]], Any] | None,
        error_callback: Callable[[BaseException], Any] | None,
    ) -> AsyncResult:
        self._check_running()
        every = list(iterable)
        if chunksize is None:
            chunksize = -(-len(every) // (self._processes * 4)) or 1
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        result = AsyncResult(len(every), callback, error_callback, single=False)
        shared = ray.put(func) if every else None
        self._crew.submit(
            Batch(shared, stars, chunk, functools.partial(result._add, start))
            for start, chunk in zip(itertools.count(0, chunksize), _chunks(iter(every), chunksize))
        )
        return result

    # --------------------------------------------------------------------------------------------- many, one by one

    def imap(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator:
        """Calls `func` for each item, and gives the results one by one.

        Args:
            func: The function.
            iterable: Its arguments; items are taken as the processes need them.
            chunksize: Calls that go to a process together.

        Returns:
            An iterator over the results, in order; it raises what a call raised in that call's place, and goes on.
        """
        self._check_running()
        return IMapIterator(self, func, _iterable(iterable), chunksize, in_order=True)

    def imap_unordered(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator:
        """Like `imap`, with the results as they come.

        Args:
            func: The function.
            iterable: Its arguments; items are taken as the processes need them.
            chunksize: Calls that go to a process together.

        Returns:
            An iterator over the results.
        """
        self._check_running()
        return IMapIterator(self, func, _iterable(iterable), chunksize, in_order=False)

    # ------------------------------------------------------------------------------------------------------- its end

    def close(self) -> None:
        """Takes no more calls; the processes end when those that were made have."""
        self._closed = True
        for iterator in list(self._iterators):
            iterator._supply_all()
        self._crew.close()

    def terminate(self) -> None:
        """Ends the processes at once; calls that have not ended fail."""
        self._closed = True
        for iterator in list(self._iterators):
            iterator._supply_nothing()
        self._crew.kill()

    def join(self) -> None:
        """Waits until the processes have ended.

        Raises:
            ValueError: Neither `close` nor `terminate` was called.
        """
        if not self._closed:
            raise ValueError("Pool is still running")
        self._crew.wait()

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.terminate()

    def __reduce__(self) -> NoReturn:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def _check_running(self) -> None:
        if self._closed:
            raise ValueError("Pool not running")


class AsyncResult:
    """A result, or a list of them, that will be there some time."""

    def __init__(
        self,
        count: int,
        callback: Callable[[Any], Any] | None,
        error_callback: Callable[[BaseException], Any] | None,
        *,
        single: bool,
    ) -> None:
        self._single = single
        self._callback = callback
        self._error_callback = error_callback
        self._lock = threading.Lock()
        self._results: list[Any] = [None] * count
        self._missing = count
        self._error: BaseException | None = None
        self._done = threading.Event()
        if count == 0:
            self._settle()

    def _add(self, start: int, results: list[Any]) -> None:
        with self._lock:
            self._results[start : start + len(results)] = results
            self._missing -= len(results)
            if self._missing:
                return
        self._settle()

    def _settle(self) -> None:
        self._error = next((result.error for result in self._results if isinstance(result, Failure)), None)
        try:
            if self._error is None and self._callback is not None:
                self._callback(self._results[0] if self._single else self._results)
            elif self._error is not None and self._error_callback is not None:
                self._error_callback(self._error)
        finally:
            self._done.set()

    def get(self, timeout: float | None = None) -> Any:
        """Waits for the result.

        Args:
            timeout: Seconds to wait; None waits for ever.

        Returns:
            It.

        Raises:
            multiprocessing.TimeoutError: It was not there in time.
            Exception: What the call raised; of several, the first that failed in their order.
        """
        if not self._done.wait(timeout):
            raise TimeoutError
        if self._error is not None:
            raise self._error
        return self._results[0] if self._single else self._results

    def wait(self, timeout: float | None = None) -> None:
        """Waits until the result is there, or for `timeout` seconds.

        Args:
            timeout: Seconds to wait; None waits for ever.
        """
        self._done.wait(timeout)

    def ready(self) -> bool:
        """Whether the result, or an error, is there."""
        return self._done.is_set()

    def successful(self) -> bool:
        """Whether no call raised.

        Raises:
            ValueError: It is not known yet.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._error is None


def _iterable(given: Any) -> Iterable[Any]:
    """What to iterate over: as in Ray, a single argument that is no iterable stands for a list of it, for now."""
    try:
        items: Iterable[Any] = iter(given)
        return items
    except TypeError:
        pass
    from ray_rs.util.annotations import RayDeprecationWarning

    text = "Passing a non-iterable argument to imap or imap_unordered is deprecated: put it into a list."
    warnings.warn(text, RayDeprecationWarning, stacklevel=3)
    return [given]


class IMapIterator:
    """Gives the results of `imap` and `imap_unordered`, and keeps the processes supplied meanwhile."""

    def __init__(
        self, pool: Pool, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None, *, in_order: bool
    ) -> None:
        if chunksize is not None and chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize}")
        self._pool = pool
        self._function = ray.put(func)
        self._chunks = _chunks(iter(iterable), chunksize or 1)
        self._in_order = in_order
        # Results of chunks that have ended, by the chunk's number; and what is being given out of the one before.
        self._lock = threading.Condition()
        self._ended: dict[int, list[Any]] = {}
        self._current: deque[Any] = deque()
        self._submitted = 0
        self._taken = 0
        self._exhausted = False
        pool._iterators.add(self)
        self._supply(2 * pool._crew.capacity())

    def _supply(self, enough: float) -> None:
        """Submits chunks until so many are under way or not yet taken."""
        batches = []
        while not self._exhausted and self._submitted - self._taken < enough:
            number = self._submitted
            try:
                chunk = next(self._chunks)
            except StopIteration:
                self._exhausted = True
            except Exception as error:  # of the iterable: it takes its place among the results
                self._exhausted = True
                self._submitted += 1
                self._add(number, [Failure(error)])
            else:
                self._submitted += 1
                batches.append(Batch(self._function, 0, chunk, functools.partial(self._add, number)))
        if batches:
            self._pool._crew.submit(batches)

    def _supply_all(self) -> None:
        with self._lock:
            self._supply(math.inf)

    def _supply_nothing(self) -> None:
        with self._lock:
            self._exhausted = True

    def _add(self, number: int, results: list[Any]) -> None:
        with self._lock:
            self._ended[number] = results
            self._lock.notify_all()

    def __iter__(self) -> IMapIterator:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """Gives the next result.

        Args:
            timeout: Seconds to wait; None waits for ever.

        Returns:
            It.

        Raises:
            StopIteration: There are no more.
            multiprocessing.TimeoutError: It was not there in time; asking again waits on.
            Exception: What the call raised.
        """
        with self._lock:
            if not self._current:
                if self._exhausted and self._taken == self._submitted:
                    raise StopIteration
                if not self._lock.wait_for(self._has_next, timeout):
                    raise TimeoutError
                number = self._taken if self._in_order else next(iter(self._ended))
                self._current.extend(self._ended.pop(number))
                self._taken += 1
                self._supply(2 * self._pool._crew.capacity())
            result = self._current.popleft()
        if isinstance(result, Failure):
            raise result.error
        return result

    def _has_next(self) -> bool:
        return self._taken in self._ended if self._in_order else bool(self._ended)


def _start_session(processes: int | None, address: str | None) -> int:
    """Makes sure that there is a session; returns the number of processes."""
    if processes is not None and processes <= 0:
        raise ValueError("Processes in the pool must be >0.")
    if not ray.is_initialized():
        starts_one = address == "local" or (address is None and not os.environ.get("RAY_ADDRESS"))
        ray.init(address=address, num_cpus=processes if starts_one else None)
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if processes is None:
        processes = cpus
    if processes > cpus or processes <= 0:
        raise ValueError(
            f"A pool of {processes} processes needs as many CPUs, but there are only {cpus} in the cluster."
        )
    return processes


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk
