"""A queue that tasks and actors share: `Queue`, kept by an actor."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterable
from typing import Any

import ray_rs as ray

__all__ = ["Empty", "Full", "Queue"]


class Empty(queue.Empty):
    """There was nothing to get."""


class Full(queue.Full):
    """There was no room to put something."""


class Queue:
    """A first-in, first-out queue in an actor of its own. It can be passed to tasks and actors.

    Attributes:
        maxsize: Most items it holds; 0 for any number.
        actor: The actor that keeps it; None after `shutdown`.

    Args:
        maxsize: Most items it may hold; 0 or less for any number.
        actor_options: Options of the actor, as for `@ray.remote`; it holds no CPU unless they say so.

    Example:
        >>> queue = Queue(maxsize=100)
        >>> producer = produce.remote(queue)
        >>> first = queue.get(timeout=10)
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        self.maxsize = maxsize
        # Whoever waits counts as a running call: there must always be room for the one that ends the wait.
        options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 1_000_000, **(actor_options or {})}
        self.actor: Any = ray.remote(_QueueActor).options(**options).remote(maxsize)

    def __len__(self) -> int:
        return self.size()

    def size(self) -> int:
        """Number of items in the queue."""
        return int(ray.get(self.actor.qsize.remote()))

    def qsize(self) -> int:
        """Number of items in the queue."""
        return self.size()

    def empty(self) -> bool:
        """Whether there is nothing in the queue."""
        return bool(ray.get(self.actor.empty.remote()))

    def full(self) -> bool:
        """Whether there is no room in the queue."""
        return bool(ray.get(self.actor.full.remote()))

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Adds an item.

        Args:
            item: The item.
            block: Wait for room.
            timeout: Seconds to wait; None waits for ever.

        Raises:
            Full: There was no room, or none in time.
            ValueError: A negative timeout.
        """
        if not block:
            if not ray.get(self.actor.put_nowait.remote(item)):
                raise Full
        else:
            _check_timeout(timeout)
            ray.get(self.actor.put.remote(item, timeout))

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Adds an item; for coroutines.

        Args:
            item: The item.
            block: Wait for room.
            timeout: Seconds to wait; None waits for ever.

        Raises:
            Full: There was no room, or none in time.
            ValueError: A negative timeout.
        """
        if not block:
            if not await self.actor.put_nowait.remote(item):
                raise Full
        else:
            _check_timeout(timeout)
            await self.actor.put.remote(item, timeout)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Takes the oldest item out.

        Args:
            block: Wait for one.
            timeout: Seconds to wait; None waits for ever.

        Returns:
            The item.

        Raises:
            Empty: There was none, or none in time.
            ValueError: A negative timeout.
        """
        if not block:
            return _the_item(ray.get(self.actor.get_nowait.remote()))
        _check_timeout(timeout)
        return ray.get(self.actor.get.remote(timeout))

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """Takes the oldest item out; for coroutines.

        Args:
            block: Wait for one.
            timeout: Seconds to wait; None waits for ever.

        Returns:
            The item.

        Raises:
            Empty: There was none, or none in time.
            ValueError: A negative timeout.
        """
        if not block:
            return _the_item(await self.actor.get_nowait.remote())
        _check_timeout(timeout)
        return await self.actor.get.remote(timeout)

    def put_nowait(self, item: Any) -> None:
        """Adds an item if there is room.

        Args:
            item: The item.

        Raises:
            Full: There is none.
        """
        self.put(item, block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Adds several items, in one step.

        Args:
            items: The items.

        Raises:
            Full: There is no room for all of them; none is added.
            TypeError: `items` is no iterable.
        """
        if not isinstance(items, Iterable):
            raise TypeError("Argument 'items' must be an Iterable")
        ray.get(self.actor.put_nowait_batch.remote(list(items)))

    def get_nowait(self) -> Any:
        """Takes the oldest item out if there is one.

        Returns:
            The item.

        Raises:
            Empty: There is none.
        """
        return self.get(block=False)

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Takes several items out, in one step.

        Args:
            num_items: How many.

        Returns:
            The oldest items, in order.

        Raises:
            Empty: There are not so many; none is taken.
            TypeError: `num_items` is no integer.
            ValueError: `num_items` is negative.
        """
        if not isinstance(num_items, int):
            raise TypeError("Argument 'num_items' must be an int")
        if num_items < 0:
            raise ValueError("'num_items' must be nonnegative")
        return list(ray.get(self.actor.get_nowait_batch.remote(num_items)))

    def shutdown(self, force: bool = False, grace_period_s: int = 5) -> None:
        """Ends the actor; what is in the queue is lost, and the queue is of no use afterwards.

        Args:
            force: End it at once.
            grace_period_s: Seconds to wait for calls that were made before; then it is ended at once.
        """
        actor, self.actor = self.actor, None
        if actor is None:
            return
        if not force:
            ended, _ = ray.wait([actor.__ray_terminate__.remote()], timeout=grace_period_s)
            if ended:
                return
        ray.kill(actor, no_restart=True)


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and timeout < 0:
        raise ValueError("'timeout' must be a non-negative number")


def _the_item(found: list[Any]) -> Any:
    if not found:
        raise Empty
    return found[0]


class _QueueActor:
    """Keeps the items. Its waiting methods raise, and the caller gets an error that is also an `Empty` or `Full`."""

    def __init__(self, maxsize: int) -> None:
        self._items: asyncio.Queue[Any] = asyncio.Queue(max(0, maxsize))

    # All methods run on the event loop: what has no `await` is done in one step.

    async def qsize(self) -> int:
        return self._items.qsize()

    async def empty(self) -> bool:
        return self._items.empty()

    async def full(self) -> bool:
        return self._items.full()

    async def put(self, item: Any, timeout: float | None) -> None:
        if timeout == 0 and not self._items.full():  # `wait_for` may give up before it has looked
            return self._items.put_nowait(item)
        try:
            await asyncio.wait_for(self._items.put(item), timeout)
        except asyncio.TimeoutError:  # the builtin one from Python 3.11 on
            raise Full from None

    async def get(self, timeout: float | None) -> Any:
        if timeout == 0 and not self._items.empty():
            return self._items.get_nowait()
        try:
            return await asyncio.wait_for(self._items.get(), timeout)
        except asyncio.TimeoutError:  # the builtin one from Python 3.11 on
            raise Empty from None

    async def put_nowait(self, item: Any) -> bool:
        if self._items.full():
            return False
        self._items.put_nowait(item)
        return True

    async def get_nowait(self) -> list[Any]:
        return [] if self._items.empty() else [self._items.get_nowait()]

    async def put_nowait_batch(self, items: list[Any]) -> None:
        limit = self._items.maxsize
        if limit and self._items.qsize() + len(items) > limit:
            raise Full(f"Cannot add {len(items)} items to queue of size {self._items.qsize()} and maxsize {limit}.")
        for item in items:
            self._items.put_nowait(item)

    async def get_nowait_batch(self, num_items: int) -> list[Any]:
        if num_items > self._items.qsize():
            raise Empty(f"Cannot get {num_items} items from queue of size {self._items.qsize()}.")
        return [self._items.get_nowait() for _ in range(num_items)]
