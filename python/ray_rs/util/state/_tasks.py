"""Lists tasks page by page: filters, limits and counts are applied where the records are, in Rust.

What a listing costs grows with its rows, not with the tasks that there are: 100,000 that have ended take a few
milliseconds to count. A page shows the latest first, and those that have not ended before those that have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ray_rs.util.state.common import TaskState

if TYPE_CHECKING:
    from ray_rs.util.state._rows import Source

__all__ = ["TaskPage", "counts", "every", "page"]

# Rows of one answer at most.
MAX_ROWS = 10_000
_COLUMNS = len(TaskState.list_columns())
_BRIEF = len(TaskState.list_columns(detail=False))
assert TaskState.list_columns()[:_BRIEF] == TaskState.list_columns(detail=False), "details come last"


@dataclasses.dataclass
class TaskPage:
    """Some rows of a listing.

    Attributes:
        rows: The latest first; of the first page those that have not ended before all others.
        total: How many tasks pass the filters. 0 but on the first page.
        cursor: Where the next page begins; 0 when there is none. It stays good while tasks end and are dropped.
        warning: That some are not known, or "".
    """

    rows: list[TaskState]
    total: int
    cursor: int
    warning: str


def _wired(filters: Sequence[tuple[str, str, Any]]) -> list[tuple[str, bool, str | None]]:
    return [(key, predicate == "!=", None if value is None else str(value)) for key, predicate, value in filters]


def page(
    source: Source,
    filters: Sequence[tuple[str, str, Any]] = (),
    limit: int = 100,
    cursor: int = 0,
    detail: bool = True,
) -> TaskPage:
    """A page of tasks.

    Args:
        source: Whom to ask.
        filters: Tuples (column, "=" or "!=", value), checked; all of them hold.
        limit: Rows, 10,000 at most. Of tasks that have not ended the first page tells no more than that.
        cursor: Of the page before; 0 for the first one.
        detail: With the columns that only detailed rows have.

    Returns:
        The page; with fewer rows than the limit only when there are no more.

    Raises:
        ServerUnavailable: The session ended meanwhile, or does not answer.
    """
    wired = _wired(filters)
    columns = _COLUMNS if detail else _BRIEF

    def ask(rows: int, begin: int) -> dict[str, Any]:
        return source.answer(lambda: source.observer.list_tasks(wired, limit=rows, cursor=begin))

    told = ask(limit, cursor)
    rows, following, dropped = told["rows"], told["cursor"], told["dropped"]
    # What ended while it was asked for is left out of one answer, and comes with the next.
    while following and len(rows) < limit:
        more = ask(limit - len(rows), following)
        rows, following = rows + more["rows"], more["cursor"]
    warning = ""
    if dropped:
        warning = f"{dropped} tasks are not listed: of those that have ended the latest 100000 are kept."
    return TaskPage([TaskState(*row[:columns]) for row in rows], told["total"], following, warning)


def every(source: Source) -> Iterator[TaskState]:
    """All tasks, a page at a time.

    Args:
        source: Whom to ask.

    Yields:
        A row for each try. Of those that have not ended there are 10,000 at most.

    Raises:
        ServerUnavailable: The session ended meanwhile, or does not answer.
    """
    cursor = 0
    while True:
        found = page(source, limit=MAX_ROWS, cursor=cursor)
        if cursor == 0:
            source.left_out = found.warning
        yield from found.rows
        cursor = found.cursor
        if not cursor:
            return


def counts(source: Source, filters: Sequence[tuple[str, str, Any]] = ()) -> list[tuple[str, str, str, int]]:
    """How many tasks there are.

    Args:
        source: Whom to ask.
        filters: As of `page`.

    Returns:
        Name, type, state and number: one tuple for each that there are, in order.

    Raises:
        ServerUnavailable: The session ended meanwhile, or does not answer.
    """
    told = source.answer(lambda: source.observer.list_tasks(_wired(filters), limit=0, counts=True))
    return sorted(told["counts"])
