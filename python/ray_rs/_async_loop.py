"""The event loop of async actors: a selector loop that asks the engine for calls before it sleeps."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncGenerator, Iterator
from typing import Any

__all__ = ["iterate", "run", "send_items"]


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


def run(engine: Any) -> None:
    """Runs the loop until the engine says that the actor ends.

    Args:
        engine: `_core.AsyncEngine`: `eventfd`, `attach(loop)` (gives the future that ends the loop),
            `before_select(timeout)` and `after_select()`.
    """
    loop = asyncio.SelectorEventLoop(_Selector(engine))
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(engine.attach(loop))
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
