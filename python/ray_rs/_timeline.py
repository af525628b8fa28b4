"""When tasks waited and ran, as a trace that Chrome's and Perfetto's viewers open."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_rs.util.state._rows import Source

__all__ = ["text_of", "timeline", "trace"]

# Rows of the object store: numbers that no process has.
_STORE_ROWS = 1 << 30
_STORE_KINDS = ("spill", "restore", "fetch")
# Tasks that are asked for at once.
_PAGE = 5000


def timeline(filename: str | os.PathLike[str] | None = None) -> list[dict[str, Any]] | None:
    """Traces the tasks that have ended, the latest 100,000 at most.

    Args:
        filename: Where to write the trace as JSON; it is returned when None.

    Returns:
        Events in Chrome's format: for each try an execution on its worker's row ("X"), and its way from submission to
        start ("b", "e"); for each node what its object store wrote to disk, read back, and fetched from other nodes
        ("X", the latest 10,000). None when it is written to a file.

    Raises:
        RaySystemError: There is no session.

    Example:
        >>> ray.timeline("trace.json")  # doctest: +SKIP
    """
    from ray_rs import api

    api._require_session()
    if filename is None:
        return trace(None)
    with open(filename, "w", encoding="utf-8") as file:
        file.writelines(text_of(None))
    return None


def trace(address: str | None) -> list[dict[str, Any]]:
    """The trace of a session.

    Args:
        address: Of the session; this process's, else the newest one, when None.

    Returns:
        Chrome's events.
    """
    source, numbers, events = _begin(address)
    for page in _pages(source, numbers, as_text=False):
        events += page
    return events + _moves(source, numbers)


def text_of(address: str | None) -> Iterator[str]:
    """The trace of a session as JSON, piece by piece: it is never in memory as a whole.

    Args:
        address: Of the session; this process's, else the newest one, when None.

    Yields:
        Pieces of a list of Chrome's events.
    """
    source, numbers, heads = _begin(address)
    # A session has a node.
    yield json.dumps(heads)[:-1]
    for page in _pages(source, numbers, as_text=True):
        if page:
            yield ", " + page
    yield "".join(", " + json.dumps(event) for event in _moves(source, numbers)) + "]"


def _begin(address: str | None) -> tuple[Source, dict[str, int], list[dict[str, Any]]]:
    """Whom to ask; the rows of the viewer (a process for each node, a thread for each worker); and what names them."""
    from ray_rs.util.state._rows import Source

    source = Source(address)
    nodes = source.answer(source.addresses)
    numbers = {node: number for number, node in enumerate(nodes, 1)}
    heads = [
        {"name": "process_name", "ph": "M", "pid": number, "tid": 0, "args": {"name": f"node {nodes[node]}"}}
        for node, number in numbers.items()
    ]
    return source, numbers, heads


def _pages(source: Source, numbers: dict[str, int], as_text: bool) -> Iterator[Any]:
    """Events of the tasks; nodes that are not known yet get numbers."""
    cursor, named = 0, set[tuple[int, int]]()
    while True:
        ask = functools.partial(source.observer.trace_tasks, cursor, _PAGE, numbers, named, as_text)
        page, cursor, known, named = source.answer(ask)
        numbers.update(known)
        yield page
        if not cursor:
            return


def _moves(source: Source, numbers: dict[str, int]) -> list[dict[str, Any]]:
    moves = source.answer(lambda: source.observer.describe_processes(tasks=False, moves=True)["moves"])
    return _store_events(moves, numbers)


def _store_events(moves: list[dict[str, Any]], numbers: dict[str, int]) -> list[dict[str, Any]]:
    """What went to disk, and came from there or from other nodes. What overlaps has a row of its own."""
    events: list[dict[str, Any]] = []
    # By node and kind: when each row is free again.
    rows: dict[tuple[int, str], list[int]] = {}
    for move in sorted(moves, key=lambda move: move["start_us"]):
        node = numbers.setdefault(move["node_id"], len(numbers) + 1)
        ends = rows.setdefault((node, move["kind"]), [])
        row = next((row for row, end in enumerate(ends) if end <= move["start_us"]), len(ends))
        thread = _STORE_ROWS + 1000 * _STORE_KINDS.index(move["kind"]) + row
        if row == len(ends):
            ends.append(0)
            name = f"object store: {move['kind']}" + (f" {row + 1}" if row else "")
            events.append({"name": "thread_name", "ph": "M", "pid": node, "tid": thread, "args": {"name": name}})
        ends[row] = move["end_us"]
        about = {"bytes": move["bytes"], "objects": move["objects"], "failed": move["failed"]}
        if move["from_node"]:
            about["from_node"] = move["from_node"]
        events.append(
            {
                "name": move["kind"],
                "cat": f"object_store:{move['kind']}",
                "ph": "X",
                "pid": node,
                "tid": thread,
                "ts": move["start_us"],
                "dur": max(move["end_us"] - move["start_us"], 0),
                "cname": "terrible" if move["failed"] else "rail_response",
                "args": about,
            }
        )
    return events
