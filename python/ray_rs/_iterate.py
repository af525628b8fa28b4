"""The loops that users of tasks write by hand: `as_completed` and `map`.

Both are iterators on top of `wait`. An item whose task failed raises where it is due, and the iterator goes on with the
next one when asked again: a failed item costs a `try`, not the loop.
"""

from __future__ import annotations

import itertools
import operator
import time
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
            ray.wait(refs, num_returns=1, timeout=0, **{**wait_options, "timeout": 0})
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


def map(
    f: RemoteFunction[Any, T] | Callable[..., T],
    *iterables: Iterable[Any],
    chunksize: int | Literal["auto"] = "auto",
    ordered: bool = True,
    progress: bool = False,
) -> Iterator[T]:
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


class _Chunk:
    """Calls that one task makes. Of a single call that is submitted as it is, `started` stays None."""

    def __init__(self, count: int) -> None:
        self.count = count


class _Raised:
    """Stands for what a call did not return: the pickled error that it raised."""

    def __init__(self, error: bytes) -> None:
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
        function, options = _parts(f, chunksize)
        self._single = _as_remote(function, options)
        # A chunk would hide from the engine which call is to be tried again.
        self._chunked = None if options.get("retry_exceptions") else _as_remote(_chunk_task(function), options)
        count = min((operator.length_hint(iterable, -1) for iterable in iterables), default=-1)
        self._calls = zip(*iterables, strict=False)
        self._auto = chunksize == "auto"
        self._size = 1 if chunksize == "auto" else chunksize
        if not ray.is_initialized():
            ray.init()
        slots = max(1, int(ray.cluster_resources().get("CPU", 1) / (options.get("num_cpus") or 1)))
        self._under_way = max(_FEWEST_UNDER_WAY, _UNDER_WAY_PER_SLOT * slots)
        # So that at the end no task is left alone with a large chunk.
        self._largest = _LARGEST_CHUNK if count < 0 else max(1, min(_LARGEST_CHUNK, count // (4 * slots)))
        self._ordered = ordered
        # Chunks in the order of their items, and what is being given out of one.
        self._submitted: dict[Any, bool] = {}
        self._results: deque[Any] = deque()
        # A call that has to wait for the next chunk: it has one of its own.
        self._held: tuple[Any, ...] | None = None
        self._exhausted = False
        self._error: BaseException | None = None
        self._bar = _bar(progress, None if count < 0 else count)
        self._supply()

    def __next__(self) -> T:
        if not self._results:
            self._fetch()
        result = self._results.popleft()
        if self._bar is not None:
            self._bar.update()
        if isinstance(result, _Raised):
            raise _error_of(result)
        if isinstance(result, _Failed):
            raise result.error
        return result  # type: ignore[no-any-return]

    def _fetch(self) -> None:
        """Waits for a chunk, and submits what may follow it."""
        if not self._submitted:
            _close(self._bar)
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            raise StopIteration
        if self._ordered:
            ref = next(iter(self._submitted))
        else:
            ref = ray.wait(list(self._submitted), num_returns=1)[0][0]
        count = self._submitted.pop(ref)
        ...
