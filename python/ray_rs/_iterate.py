"""The loops that users of tasks write by hand: `as_completed` and `map`.

Both are iterators on top of `wait`. An item whose task failed raises where it is due, and the iterator goes on with the
next one when asked again: a failed item costs a `try`, not the loop.
"""

from __future__ import annotations

import operator
import pickle
import time
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

import ray_rs as ray
from ray_rs import _core

if TYPE_CHECKING:
    from ray_rs.remote_function import RemoteFunction

__all__ = ["as_completed", "map"]

T = TypeVar("T")

# How long a chunk should run: long beside what a task costs, short beside what a person waits for.
_CHUNK_SECONDS = 0.02
_LARGEST_CHUNK = 10_000
# Chunks that are under way or not yet taken: at least so many, and so many for each task that can run at once.
_FEWEST_UNDER_WAY, _UNDER_WAY_PER_SLOT = 32, 4


# -------------------------------------------------------------------------------------------------------- as_completed


@overload
def as_completed(
    refs: Iterable[ray.ObjectRef[T]], *, progress: bool = False, yield_obj_refs: Literal[False] = False
) -> Iterator[T]: ...
@overload
def as_completed(
    refs: Iterable[ray.ObjectRef[T]], *, progress: bool = False, yield_obj_refs: Literal[True]
) -> Iterator[ray.ObjectRef[T]]: ...
def as_completed(refs: Iterable[Any], *, progress: bool = False, yield_obj_refs: bool = False) -> Iterator[Any]:
    """Gives values as they become ready.

    Args:
        refs: References, each once.
        progress: Show a progress bar.
        yield_obj_refs: Give the references instead of their values.

    Returns:
        An iterator. A task's error is raised when its turn comes; ask again, and the rest follows.

    Raises:
        TypeError: Not references.
        ValueError: The same reference twice.

    Example:
        >>> for value in ray.as_completed([f.remote(x) for x in range(100)], progress=True):
        ...     use(value)
    """
    return AsCompleted(list(refs), progress=progress, yield_obj_refs=yield_obj_refs)


class AsCompleted(Iterator[Any]):
    """What `as_completed` returns.

    Args:
        refs: The references; the list is emptied on the way, so that each is let go once it was given out.
        progress: Show a progress bar.
        yield_obj_refs: Give references instead of values.
        **wait_options: For `ray.wait`.
    """

    def __init__(
        self, refs: list[Any], *, progress: bool = False, yield_obj_refs: bool = False, **wait_options: Any
    ) -> None:
        if refs:
            # Refuses now what could not be waited for.
            ray.wait(refs, num_returns=1, **{**wait_options, "timeout": 0})
        self._pending = refs
        self._ready: deque[Any] = deque()
        self._yield_obj_refs = yield_obj_refs
        self._wait_options = wait_options
        self._bar = _bar(progress, len(refs))

    def __next__(self) -> Any:
        while not self._ready:
            if not self._pending:
                _close(self._bar)
                raise StopIteration
            ready, rest = ray.wait(self._pending, num_returns=1, **self._wait_options)
            if rest and ready:
                # All that is ready by now, so that a long list is not searched for each of its items.
                more, rest = ray.wait(rest, num_returns=len(rest), timeout=0)
                ready += more
            self._pending = rest
            self._ready.extend(ready)
        ref = self._ready.popleft()
        if self._bar is not None:
            self._bar.update()
        return ref if self._yield_obj_refs else ray.get(ref)


# ----------------------------------------------------------------------------------------------------------------- map


@overload
def map(
    f: RemoteFunction[..., T],
    *iterables: Iterable[Any],
    chunksize: int | Literal["auto"] = "auto",
    ordered: bool = True,
    progress: bool = False,
) -> Iterator[T]: ...
@overload
def map(
    f: Callable[..., T],
    *iterables: Iterable[Any],
    chunksize: int | Literal["auto"] = "auto",
    ordered: bool = True,
    progress: bool = False,
) -> Iterator[T]: ...
def map(
    f: Any,
    *iterables: Iterable[Any],
    chunksize: int | Literal["auto"] = "auto",
    ordered: bool = True,
    progress: bool = False,
) -> Iterator[Any]:
    """Calls a function for each item, in tasks, and gives the results one by one.

    Items are taken from the iterables, and tasks submitted, only so far ahead of what was given out that the cluster is
    kept busy; the iterables may be endless.

    Args:
        f: A remote function, whose options hold, or a plain one.
        *iterables: Its arguments, as for Python's `map`. A reference stands for its value.
        chunksize: Calls that make up one task. "auto" measures how long a call takes and makes tasks of some tens of
            milliseconds: tiny calls share a task, long ones have their own.
        ordered: Give the results in the order of the items; else as they come.
        progress: Show a progress bar.

    Returns:
        An iterator. What a call raised is raised when its turn comes; ask again, and the rest follows.

    Raises:
        TypeError: `f` can't be called, or there is nothing to iterate over.
        ValueError: A bad `chunksize`, or a function with several return values.

    Example:
        >>> list(ray.map(lambda x: x * x, range(4)))
        [0, 1, 4, 9]
    """
    if not iterables:
        raise TypeError("map() must have at least one iterable")
    if chunksize != "auto" and (not isinstance(chunksize, int) or chunksize < 1):
        raise ValueError(f"chunksize must be a positive integer or 'auto', not {chunksize!r}")
    return Map(f, iterables, chunksize, ordered=ordered, progress=progress)


class _Raised:
    """Stands for what a call in a chunk did not return: the pickled error that it raised."""

    def __init__(self, error: bytes) -> None:
        self.error = error


class _Failed:
    """Stands for the result of a task that failed, or could not be submitted."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Map(Iterator[T], Generic[T]):
    """What `map` returns."""

    def __init__(
        self,
        f: Any,
        iterables: tuple[Iterable[Any], ...],
        chunksize: int | Literal["auto"],
        *,
        ordered: bool,
        progress: bool,
    ) -> None:
        self._single, self._chunked, cpus = _tasks(f, chunksize)
        count = min(operator.length_hint(iterable, -1) for iterable in iterables)
        self._calls = zip(*iterables, strict=False)
        if not ray.is_initialized():
            from ray_rs import api

            api._auto_init()
        slots = max(1, int(ray.cluster_resources().get("CPU", 1) / cpus))
        self._under_way = max(_FEWEST_UNDER_WAY, _UNDER_WAY_PER_SLOT * slots)
        self._auto = chunksize == "auto" and self._chunked is not None
        self._size = 1 if chunksize == "auto" else chunksize
        # No task is to be left alone with a large chunk at the end.
        self._largest = _LARGEST_CHUNK if count < 0 else max(1, min(_LARGEST_CHUNK, count // (4 * slots)))
        self._ordered = ordered
        # References in the order of their items, with the number of calls in the chunk; None for a call by itself.
        self._submitted: dict[Any, int | _Failed | None] = {}
        # What is there to be given out.
        self._results: deque[Any] = deque()
        # A call that did not fit into the chunk before it.
        self._held: tuple[Any, ...] | None = None
        # What the iterables raised; due after all that was taken from them before.
        self._error: BaseException | None = None
        self._bar = _bar(progress, None if count < 0 else count)
        self._supply()

    def __next__(self) -> T:
        if not self._results:
            self._fetch()
        result = self._results.popleft()
        if self._bar is not None:
            self._bar.update()
        if isinstance(result, _Failed):
            raise result.error
        if isinstance(result, _Raised):
            raise pickle.loads(result.error).as_instanceof_cause()
        return result  # type: ignore[no-any-return]

    def _fetch(self) -> None:
        """Waits for a task, and submits what may follow it."""
        if not self._submitted:
            _close(self._bar)
            error, self._error = self._error, None
            raise error or StopIteration
        ref = self._next_to_fetch()
        count = self._submitted[ref]
        if isinstance(count, _Failed):
            self._results.append(count)
        else:
            try:
                value = ray.get(ref)
            except Exception as error:
                self._results.extend([_Failed(error)] * (count or 1))
            else:
                if count is None:
                    self._results.append(value)
                else:
                    seconds, results = value
                    self._results.extend(results)
                    self._learn(seconds / count)
        del self._submitted[ref]
        self._supply()

    def _next_to_fetch(self) -> Any:
        if self._ordered:
            return next(iter(self._submitted))
        refused = next((key for key, count in self._submitted.items() if isinstance(count, _Failed)), None)
        return refused or ray.wait(list(self._submitted), num_returns=1)[0][0]

    def _learn(self, seconds_per_call: float) -> None:
        if self._auto:
            wanted = int(_CHUNK_SECONDS / max(seconds_per_call, 1e-9))
            self._size = max(1, min(wanted, self._size * 4, self._largest))

    def _supply(self) -> None:
        """Submits tasks until there are enough."""
        while len(self._submitted) < self._under_way and (calls := self._next_chunk()):
            if self._chunked is not None and not _has_ref(calls[0]) and (self._auto or len(calls) > 1):
                try:
                    self._submitted[self._chunked.remote(calls)] = len(calls)
                    continue
                except TypeError as error:  # an argument can't be pickled
                    refusal = error
                if len(calls) == 1:
                    self._submitted[object()] = _Failed(refusal)
                    continue
            for call in calls:
                try:
                    self._submitted[self._single.remote(*call)] = None
                except TypeError as error:
                    self._submitted[object()] = _Failed(error)

    def _next_chunk(self) -> list[tuple[Any, ...]]:
        """The calls of the next task; none at the end. One with references is by itself, so that they are resolved."""
        calls: list[tuple[Any, ...]] = []
        while len(calls) < self._size:
            call, self._held = self._held or self._next_call(), None
            if call is None:
                break
            if not _has_ref(call):
                calls.append(call)
            elif calls:
                self._held = call
                break
            else:
                return [call]
        return calls

    def _next_call(self) -> tuple[Any, ...] | None:
        if self._error is not None:
            return None
        try:
            return next(self._calls, None)
        except Exception as error:
            self._error = error
            return None


def _has_ref(call: tuple[Any, ...]) -> bool:
    return any(type(argument) is _core.ObjectRef for argument in call)


def _tasks(f: Any, chunksize: int | str) -> tuple[Any, Any, float]:
    """What to submit for one call and, if calls may share a task, for a chunk; and the CPUs that it takes."""
    if isinstance(f, _core.ActorMethod):
        function: Any = None
        options: dict[str, Any] = {}
        reason = "a method of an actor"
    else:
        is_remote = isinstance(f, _core.RemoteFunction)
        function, options = (f._function, dict(f._default_options)) if is_remote else (f, {})
        if not callable(function):
            raise TypeError(f"map() needs a function, not {type(f).__name__}")
        if options.get("num_returns", 1) not in (None, 1) or _is_generator(function):
            raise ValueError("map() needs a function that returns one value.")
        # In a chunk it could not be known which call is meant.
        reason = next((f"a function with {name}" for name in _OF_SINGLE_CALLS if options.get(name)), "")
    if reason and chunksize not in (1, "auto"):
        raise ValueError(f"chunksize must be 1, or 'auto', for {reason}.")
    single = f if function is None else _as_remote(function, options)
    chunked = None if reason else _as_remote(_chunk_task(function), options)
    return single, chunked, options.get("num_cpus") or 1


_OF_SINGLE_CALLS = ("retry_exceptions", "timeout_s", "max_calls")


def _as_remote(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    if not isinstance(function, types.FunctionType):
        callee = function

        def function(*args: Any) -> Any:
            return callee(*args)

        function.__name__ = getattr(callee, "__name__", type(callee).__name__)
    return ray.remote(**options)(function) if options else ray.remote(function)


def _is_generator(function: Callable[..., Any]) -> bool:
    import inspect

    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _chunk_task(function: Callable[..., Any]) -> Callable[..., Any]:
    name = getattr(function, "__qualname__", type(function).__name__)

    def run(calls: list[tuple[Any, ...]]) -> tuple[float, list[Any]]:
        results = []
        began = time.perf_counter()
        for call in calls:
            try:
                results.append(function(*call))
            except Exception as error:
                results.append(_raised(error, name))
        return time.perf_counter() - began, results

    run.__name__ = getattr(function, "__name__", type(function).__name__)
    return run


def _raised(error: Exception, name: str) -> _Raised:
    """In a worker: the error as the caller of a task would get it."""
    from ray_rs import _worker_main

    return _Raised(_worker_main._Callbacks(_core.process_info()["node_ip"]).make_error(error, name, False))


# ------------------------------------------------------------------------------------------------------------ progress


def _bar(wanted: bool, total: int | None) -> Any:
    if not wanted:
        return None
    from ray_rs.experimental.tqdm_ray import tqdm

    return tqdm(total=total)


def _close(bar: Any) -> None:
    if bar is not None:
        bar.close()
