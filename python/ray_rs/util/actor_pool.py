"""A fixed set of actors that share work: `ActorPool`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import ray_rs as ray
from ray_rs.exceptions import RayActorError

__all__ = ["ActorPool"]

V = TypeVar("V")


class ActorPool(Generic[V]):
    """Gives each piece of work to an actor that is free.

    Args:
        actors: Handles of the actors.

    Example:
        >>> pool = ActorPool([Worker.remote() for _ in range(2)])
        >>> list(pool.map(lambda actor, value: actor.double.remote(value), [1, 2, 3]))
        [2, 4, 6]
    """

    def __init__(self, actors: Iterable[Any]) -> None:
        self._idle: list[Any] = list(actors)
        # Submitted while no actor was free.
        self._waiting: deque[tuple[int, Callable[[Any, V], Any], V]] = deque()
        # Running or finished, not fetched yet: number of the submission -> its reference, and back.
        self._refs: dict[int, Any] = {}
        self._numbers: dict[Any, int] = {}
        # Who runs it; absent once the actor has been given back.
        self._actor_of: dict[Any, Any] = {}
        self._next_number = 0
        # The number that `get_next` returns, unless `get_next_unordered` was quicker.
        self._next_ordered = 0

    def map(self, fn: Callable[[Any, V], Any], values: Iterable[V]) -> Iterator[Any]:
        """Applies `fn` to all values and gives the results in order. What was submitted before is dropped.

        Args:
            fn: Called with an actor and a value; gives a reference.
            values: The values; all are submitted at once.

        Returns:
            An iterator over the results.
        """
        self._submit_all(fn, values)

        def results() -> Iterator[Any]:
            while self.has_next():
                yield self.get_next()

        return results()

    def map_unordered(self, fn: Callable[[Any, V], Any], values: Iterable[V]) -> Iterator[Any]:
        """Like `map`, with the results in the order in which they come.

        Args:
            fn: Called with an actor and a value; gives a reference.
            values: The values; all are submitted at once.

        Returns:
            An iterator over the results.
        """
        self._submit_all(fn, values)

        def results() -> Iterator[Any]:
            while self.has_next():
                yield self.get_next_unordered()

        return results()

    def _submit_all(self, fn: Callable[[Any, V], Any], values: Iterable[V]) -> None:
        while self.has_next():
            try:
                self.get_next_unordered(timeout=0)
            except TimeoutError:
                break
            except Exception:
                continue
        for value in values:
            self.submit(fn, value)

    def submit(self, fn: Callable[[Any, V], Any], value: V) -> None:
        """Submits one piece of work; it waits when no actor is free.

        Args:
            fn: Called with an actor and the value; gives a reference.
            value: The value.
        """
        number = self._next_number
        self._next_number += 1
        if self._idle:
            self._start(self._idle.pop(), number, fn, value)
        else:
            self._waiting.append((number, fn, value))

    def _start(self, actor: Any, number: int, fn: Callable[[Any, V], Any], value: V) -> None:
        ref = fn(actor, value)
        if isinstance(ref, list):
            ref = ref[0]
        self._refs[number] = ref
        self._numbers[ref] = number
        self._actor_of[ref] = actor

    def has_next(self) -> bool:
        """Whether there are results to fetch."""
        return bool(self._refs or self._waiting)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Fetches the next result in the order of submission.

        Args:
            timeout: Seconds to wait; None waits for ever.
            ignore_if_timedout: A result that is not there in time is given up for good.

        Returns:
            The result.

        Raises:
            StopIteration: There is none.
            TimeoutError: It was not there in time.
            ValueError: `get_next_unordered` has fetched past it.
        """
        if not self.has_next():
            raise StopIteration("No more results to get")
        if self._next_ordered >= self._next_number:
            raise ValueError("get_next() is not allowed after get_next_unordered() has fetched a later result.")
        while self._next_ordered not in self._refs:
            self._await_any()
        ref = self._refs[self._next_ordered]
        ready, _ = ray.wait([ref], timeout=timeout)
        if not ready:
            if not ignore_if_timedout:
                raise TimeoutError("Timed out waiting for result")
            self._next_ordered += 1
            self._forget(ref)
            raise TimeoutError(f"Timed out waiting for result; task {ref} is given up")
        self._next_ordered += 1
        return self._fetch(ref)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Fetches whichever result comes first.

        Args:
            timeout: Seconds to wait; None waits for ever.
            ignore_if_timedout: When none is there in time, the oldest is given up for good.

        Returns:
            The result.

        Raises:
            StopIteration: There is none.
            TimeoutError: None was there in time.
        """
        if not self.has_next():
            raise StopIteration("No more results to get")
        if not self._numbers:
            raise self._nobody_left()
        ready, _ = ray.wait(list(self._numbers), num_returns=1, timeout=timeout)
        if not ready:
            if ignore_if_timedout:
                self._forget(next(iter(self._numbers)))
            raise TimeoutError("Timed out waiting for result")
        self._next_ordered = max(self._next_ordered, self._numbers[ready[0]] + 1)
        return self._fetch(ready[0])

    def _fetch(self, ref: Any) -> Any:
        number = self._numbers.pop(ref)
        del self._refs[number]
        actor = self._actor_of.pop(ref, None)
        try:
            value = ray.get(ref)
        except RayActorError:
            raise  # the actor is dead, and not given back
        except Exception:
            self._give_back(actor)
            raise
        self._give_back(actor)
        return value

    def _nobody_left(self) -> RuntimeError:
        return RuntimeError(f"All actors of the pool are dead, and {len(self._waiting)} submissions wait for one.")

    def _await_any(self) -> None:
        """Waits until an actor is free for what waits; its result stays to be fetched."""
        if not self._actor_of:
            raise self._nobody_left()
        ready, _ = ray.wait(list(self._actor_of), num_returns=1)
        for ref in ready:
            self._give_back(self._actor_of.pop(ref))

    def _forget(self, ref: Any) -> None:
        del self._refs[self._numbers.pop(ref)]
        self._give_back(self._actor_of.pop(ref, None))

    def _give_back(self, actor: Any) -> None:
        if actor is None:
            return
        if self._waiting:
            self._start(actor, *self._waiting.popleft())
        else:
            self._idle.append(actor)

    def has_free(self) -> bool:
        """Whether an actor is free and nothing waits for one."""
        return bool(self._idle) and not self._waiting

    def pop_idle(self) -> Any:
        """Takes a free actor out of the pool.

        Returns:
            Its handle; None when none is free.
        """
        return self._idle.pop() if self.has_free() else None

    def push(self, actor: Any) -> None:
        """Adds an actor to the pool.

        Args:
            actor: Its handle.

        Raises:
            ValueError: It is in the pool already.
        """
        if actor in self._idle or actor in self._actor_of.values():
            raise ValueError("Actor already belongs to current ActorPool")
        self._give_back(actor)
