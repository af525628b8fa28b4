"""The event loop of async actors: a selector loop that asks the engine for calls before it sleeps."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

__all__ = ["run"]


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
