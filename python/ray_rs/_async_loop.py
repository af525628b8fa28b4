"""The event loops of async actors: selector loops that ask the engine for calls before they sleep."""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

__all__ = ["awaited", "awaited_by_tasks", "construct", "iterate", "make", "run", "send_items", "use"]


class _Selector(selectors.DefaultSelector):
    """Starts arrived calls before and after each wait; while the loop is awake no call needs to wake it."""

    def __init__(self, engine: Any) -> None:
        super().__init__()
        self._engine = engine
        self._eventfd: int = engine.eventfd
        self.register(self._eventfd, selectors.EVENT_READ)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self._engine.before_select(timeout):
            return self._others(super().select(0))
        events = super().select(timeout)
        self._engine.after_select()
        return self._others(events)

    def _others(self, events: list[tuple[selectors.SelectorKey, int]]) -> list[tuple[selectors.SelectorKey, int]]:
        # The eventfd only ends the sleep; asyncio knows nothing of it.
        if events:
            return [event for event in events if event[0].fd != self._eventfd]
        return events


def make(engine: Any) -> asyncio.AbstractEventLoop:
    """Makes the loop of an actor, or of one of its concurrency groups.

    Args:
        engine: `_core.AsyncEngine`: `eventfd`, `before_select(timeout)` and `after_select()`.

    Returns:
        The loop, which no thread has yet.
    """
    return asyncio.SelectorEventLoop(_Selector(engine))


def use(loop: asyncio.AbstractEventLoop) -> None:
    """Makes the loop the calling thread's.

    Args:
        loop: The loop.
    """
    asyncio.set_event_loop(loop)


def construct(loop: asyncio.AbstractEventLoop, construction: Callable[[], None]) -> None:
    """Runs the constructor while the loop runs: it may create tasks of asyncio, which go on when calls do.

    Args:
        loop: The loop.
        construction: Calls the constructor, and raises nothing.
    """

    async def on_loop() -> None:
        construction()

    loop.run_until_complete(on_loop())


def run(loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
    """Runs the loop until the engine says that the actor ends.

    Args:
        loop: The loop.
        ended: Done when it is to end.
    """
    try:
        loop.run_until_complete(ended)
    finally:
        loop.close()


async def send_items(items: AsyncGenerator[Any, None], sender: Any, limit: int) -> None:
    """Sends what an asynchronous generator of an actor yields to its caller.

    Args:
        items: The generator.
        sender: `_core.ItemSender`: `send(index, item)`, and `wait(produced, limit)`, which blocks.
        limit: Most items that may wait for the consumer; 0: any number.
    """
    produced = 0
    async for item in items:
        sender.send(produced, item)
        produced += 1
        if limit:
            await asyncio.get_running_loop().run_in_executor(None, sender.wait, produced, limit)


def iterate(items: AsyncGenerator[Any, None]) -> Iterator[Any]:
    """Runs an asynchronous generator where there is no event loop.

    Args:
        items: The generator.

    Yields:
        Its items.
    """

    async def step() -> tuple[bool, Any]:
        try:
            return True, await anext(items)
        except StopAsyncIteration:
            return False, None

    loop = asyncio.new_event_loop()
    try:
        while True:
            more, item = loop.run_until_complete(step())
            if not more:
                return
            yield item
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def awaited(
    calls: list[tuple[int, asyncio.Task[Any]]], loop: asyncio.AbstractEventLoop
) -> list[tuple[int, list[asyncio.Future[Any]]]]:
    """Which futures calls can't go on without. Called on any thread; only looks.

    A call needs what its task waits for: a future, another task and what that needs, or all members of a `gather`.
    Whatever has another way out is left out: what has a time limit, and what waits for events, locks or one of several.

    Args:
        calls: Numbers of calls, and their tasks.
        loop: That they run on.

    Returns:
        For each call that waits: its number and the futures.
    """
    limited = _with_time_limits(loop)
    found = []
    for number, call in calls:
        futures: list[asyncio.Future[Any]] = []
        seen: set[int] = set()
        queue: list[Any] = [call]
        while queue:
            one = queue.pop()
            if id(one) in seen or one.done():
                continue
            seen.add(id(one))
            if isinstance(one, asyncio.Task):
                waits_for = getattr(one, "_fut_waiter", None)
                if waits_for is not None and id(one) not in limited:
                    queue.append(waits_for)
            elif isinstance(members := getattr(one, "_children", None), list):
                queue.extend(members)
            else:
                futures.append(one)
        if futures:
            found.append((number, futures))
    return found


def awaited_by_tasks(
    loops: list[tuple[int, asyncio.AbstractEventLoop]],
) -> tuple[list[tuple[int, list[asyncio.Future[Any]]]], list[int]]:
    """The same for tasks and methods that are no coroutines but run some: `asyncio.run`, `run_until_complete`.

    Args:
        loops: Numbers of tasks, and loops on which they await something.

    Returns:
        For each task that waits: its number and the futures; and the numbers of those whose loop has nothing to do.
    """
    found = []
    idle = []
    for number, loop in loops:
        roots = [(number, each) for each in _tasks_of(loop) if _ends_its_loop(each)]
        # With one in another, as libraries do that patch asyncio, nobody knows which of them the thread is at.
        if len(roots) == 1:
            found += awaited(roots, loop)
        if _sleeps(loop):
            idle.append(number)
    return found, idle


def _sleeps(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the loop waits for something to happen; False for those of others, which do not show it."""
    frame = sys._current_frames().get(getattr(loop, "_thread_id", None) or 0)
    in_select = frame is not None and frame.f_code.co_name == "select"
    return in_select and not getattr(loop, "_ready", True)


def _tasks_of(loop: asyncio.AbstractEventLoop) -> set[asyncio.Task[Any]]:
    try:
        return asyncio.all_tasks(loop)
    except RuntimeError:  # they come and go too fast: it does not wait
        return set()


def _ends_its_loop(task: asyncio.Task[Any]) -> bool:
    """Whether the loop runs until the task is done, which shows in what is called then."""
    callbacks = getattr(task, "_callbacks", None) or ()
    return any(getattr(each[0], "__name__", "") == "_run_until_complete_cb" for each in callbacks)


def _with_time_limits(loop: asyncio.AbstractEventLoop) -> set[int]:
    """Ids of tasks that a timer of the loop may cancel."""
    limited: set[int] = set()
    for timer in list(getattr(loop, "_scheduled", ())):
        if timer.cancelled():
            continue
        callback = getattr(timer, "_callback", None)
        held = [*(getattr(timer, "_args", None) or ()), getattr(callback, "__self__", None)]
        held += [getattr(each, "_task", None) for each in held]
        limited.update(id(each) for each in held if isinstance(each, asyncio.Task))
    return limited
