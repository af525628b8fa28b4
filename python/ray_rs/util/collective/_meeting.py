"""The actor at which the processes of a group meet.

It sees references only: an array goes from the process that puts it to those that read it, on one node without a copy.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

__all__ = ["Meeting"]


class _Round:
    """One operation of the whole group.

    Attributes:
        brought: What each rank that has come says it does, and what it has brought.
        complete: Set when all have come.
    """

    def __init__(self) -> None:
        self.brought: dict[int, tuple[str, Any]] = {}
        self.complete = asyncio.Event()
        self.left = 0


class Meeting:
    """Keeps what ranks bring until the others have it.

    Args:
        world_size: Number of ranks.
        ranks: Of actors, by their ids in hexadecimal digits, when the group was declared for them; else empty.
        timeout_ms: What was declared with them.
    """

    def __init__(self, world_size: int, ranks: dict[str, int], timeout_ms: int) -> None:
        self._world_size = world_size
        self._ranks = ranks
        self._timeout_ms = timeout_ms
        self._rounds: defaultdict[int, _Round] = defaultdict(_Round)
        self._mail: defaultdict[tuple[int, int], asyncio.Queue[Any]] = defaultdict(asyncio.Queue)
        self._members: set[int] = set()

    async def describe(self) -> tuple[int, dict[str, int], int]:
        """The number of ranks, those of declared actors, and their timeout in milliseconds."""
        return self._world_size, self._ranks, self._timeout_ms

    async def join(self, rank: int, world_size: int) -> None:
        """A process takes a rank.

        Raises:
            RuntimeError: Another has it, or thinks of another number of ranks.
        """
        if not self._members and not self._ranks:
            # Those of an earlier group of this name have left it.
            self._world_size = world_size
        if world_size != self._world_size:
            raise RuntimeError(
                f"The group has {self._world_size} ranks; rank {rank} wants to join with world_size={world_size}."
            )
        if rank in self._members:
            raise RuntimeError(f"Rank {rank} of the group is taken already.")
        self._members.add(rank)

    async def leave(self, rank: int) -> None:
        """A process gives its rank back."""
        self._members.discard(rank)

    async def meet(self, number: int, rank: int, what: str, brought: Any) -> list[Any]:
        """Waits for all ranks.

        Args:
            number: Of this operation among those of the group, the same for all ranks.
            rank: Who comes.
            what: The operation, with all in which the ranks must agree.
            brought: A list with a reference, or None.

        Returns:
            What each rank has brought.

        Raises:
            RuntimeError: The ranks do not do the same.
        """
        current = self._rounds[number]
        current.brought[rank] = (what, brought)
        if len(current.brought) == self._world_size:
            current.complete.set()
        await current.complete.wait()
        current.left += 1
        if current.left == self._world_size:
            del self._rounds[number]
        said = [current.brought[each] for each in range(self._world_size)]
        if len({what for what, _ in said}) > 1:
            told = "; ".join(f"rank {each}: {what}" for each, (what, _) in enumerate(said))
            raise RuntimeError(f"The ranks of the group do not call the same operation: {told}.")
        return [brought for _, brought in said]

    async def absent(self, number: int) -> list[int]:
        """The ranks that an operation waits for."""
        come = self._rounds[number].brought if number in self._rounds else {}
        return [rank for rank in range(self._world_size) if rank not in come]

    async def post(self, source: int, destination: int, brought: Any) -> None:
        """Keeps what one rank sends to another until that fetches it."""
        self._mail[source, destination].put_nowait(brought)

    async def fetch(self, source: int, destination: int) -> Any:
        """Waits for what `source` sends; in the order in which it was sent."""
        return await self._mail[source, destination].get()
