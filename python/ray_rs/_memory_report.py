"""The report of `ray_rs memory`, as of `ray memory`: references by node or by line, and sums of the store."""

from __future__ import annotations

import datetime
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ray_rs._memory import IN_MEMORY, NO_SITE, in_store, reference_rows

if TYPE_CHECKING:
    from ray_rs.util.state._rows import Source

__all__ = ["GROUPS", "ORDERS", "UNITS", "memory_summary", "references"]

UNITS = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}
GROUPS = {"NODE_ADDRESS": "ip", "STACK_TRACE": "call_site"}
ORDERS = {"PID": "pid", "OBJECT_SIZE": "object_size", "REFERENCE_TYPE": "reference_type"}
_REFERENCE_TYPES = (
    "LOCAL_REFERENCE",
    "PINNED_IN_MEMORY",
    "USED_BY_PENDING_TASK",
    "CAPTURED_IN_OBJECT",
    "ACTOR_HANDLE",
    "UNKNOWN_STATUS",
)
_HEADS = (
    "IP Address",
    "PID",
    "Type",
    "Call Site",
    "Status",
    "Attempt",
    "Size",
    "Where",
    "Reference Type",
    "Held By",
    "Object Ref",
)


def memory_summary(
    source: Source,
    group_by: str = "NODE_ADDRESS",
    sort_by: str = "OBJECT_SIZE",
    units: str = "B",
    stats_only: bool = False,
    num_entries: int | None = None,
    aligned: bool = True,
) -> str:
    """What `ray_rs memory` prints.

    Args:
        source: The session that is asked.
        group_by: "NODE_ADDRESS", or "STACK_TRACE": the lines of the program that made the objects.
        sort_by: "PID", "OBJECT_SIZE" or "REFERENCE_TYPE".
        units: "B", "KB", "MB" or "GB".
        stats_only: Only the sums at the end.
        num_entries: Most rows of a group.
        aligned: Columns below each other; else there is a tab between them.

    Returns:
        The text.

    Raises:
        ValueError: One of the words is none of these.
    """
    for name, word, words in (("group_by", group_by, GROUPS), ("sort_by", sort_by, ORDERS), ("units", units, UNITS)):
        if word not in words:
            raise ValueError(f"{name} must be one of {', '.join(words)}, not {word!r}")
    rows, unlisted = reference_rows(source)
    sums = _sums(rows, source.observer.store_stats(), units)
    if stats_only:
        return sums
    shown = "all" if num_entries is None else str(num_entries)
    lines = [
        f"======== Object references status: {datetime.datetime.now()} ========",
        f"Grouping by {group_by.lower().replace('_', ' ')}...        "
        f"Sorting by {sort_by.lower().replace('_', ' ')}...        Display {shown} entries per group...",
        "",
    ]
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row[GROUPS[group_by]]].append(row)
    table = _aligned if aligned else _tabbed
    for name, members in sorted(groups.items()):
        members.sort(key=lambda row: (row[ORDERS[sort_by]] is not None, row[ORDERS[sort_by]]))
        if sort_by == "OBJECT_SIZE":
            members.reverse()
        title = f"{group_by.lower().replace('_', ' ')}: {name}"
        lines += [f"--- Summary for {title} ---", *table(_counts(members, units)), ""]
        entries = [list(_HEADS), *(_cells(row, units) for row in members[:num_entries])]
        lines += [f"--- Object references for {title} ---", *table(entries), ""]
    if unlisted:
        lines += [f"{unlisted} references to small objects are not listed, as their processes have too many.", ""]
    if all(row["call_site"] == NO_SITE for row in rows):
        lines += [
            "To record where each reference is made, set the environment variable RAY_record_ref_creation_sites=1",
            "",
        ]
    return "\n".join([*lines, sums])


def references(source: Source, sort_by: str = "OBJECT_SIZE", *, stats_only: bool = False) -> dict[str, Any]:
    """What `ray_rs memory --format json` prints.

    Args:
        source: The session that is asked.
        sort_by: As for `memory_summary`.
        stats_only: Without the references.

    Returns:
        "references" (with the columns of `list objects`), "unlisted" (how many more there are) and "store" (sums of
        this node's object store).
    """
    rows, unlisted = reference_rows(source)
    rows.sort(
        key=lambda row: (row[ORDERS[sort_by]] is not None, row[ORDERS[sort_by]]), reverse=sort_by == "OBJECT_SIZE"
    )
    listed = {} if stats_only else {"references": rows, "unlisted": unlisted}
    return {**listed, "store": source.observer.store_stats()}


def _counts(rows: list[dict[str, Any]], units: str) -> list[list[str]]:
    counts: dict[str, list[int]] = {kind: [0, 0] for kind in _REFERENCE_TYPES}
    for row in rows:
        counts[row["reference_type"]][0] += 1
        counts[row["reference_type"]][1] += row["object_size"] or 0
    stored = sum(row["object_size"] for row in in_store(rows) if row["place"] in IN_MEMORY)
    return [
        ["Mem Used by Objects", *_REFERENCE_TYPES],
        [_size(stored, units), *(f"{number}, ({_size(size, units)})" for number, size in counts.values())],
    ]


def _cells(row: dict[str, Any], units: str) -> list[str]:
    return [
        row["ip"],
        str(row["pid"]),
        row["type"].capitalize(),
        row["call_site"],
        row["task_status"],
        str(row["attempt_number"]),
        "?" if row["object_size"] is None else _size(row["object_size"], units),
        row["place"],
        row["reference_type"],
        ", ".join(f"{number} {what}" for what, number in row["held_by"].items()) or "-",
        row["object_id"] or "-",
    ]


def _sums(rows: list[dict[str, Any]], stats: dict[str, int], units: str) -> str:
    blocks = in_store(rows)
    memory = [row["object_size"] for row in blocks if row["place"] in IN_MEMORY]
    spilled = [row["object_size"] for row in blocks if row["place"] in ("spilled", "restored")]
    capacity, granted = stats["capacity_bytes"], stats["granted_bytes"]
    taken = sum(row["block_bytes"] for row in blocks)
    return "\n".join(
        [
            "--- Aggregate object store stats across all nodes ---",
            f"Plasma memory usage {_size(sum(memory), units)}, {len(memory)} objects, "
            f"{100 * sum(memory) / max(capacity, 1):.2f}% full of {_size(capacity, units)}",
            f"With headers and rounding {_size(taken, units)}; free in the hands of processes "
            f"{_size(granted - taken, units)}; not given out {_size(capacity - granted, units)}",
            f"On disk {_size(sum(spilled), units)}, {len(spilled)} objects",
            f"Spilled so far {_size(stats['total_spilled_bytes'], units)}, {stats['total_spilled_objects']} objects; "
            f"restored {_size(stats['total_restored_bytes'], units)}, {stats['total_restored_objects']} objects",
        ]
    )


def _size(size: int, units: str) -> str:
    return f"{size} B" if units == "B" else f"{size / UNITS[units]:.3f} {units}"


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _tabbed(rows: list[list[str]]) -> list[str]:
    return ["\t".join(row) for row in rows]
