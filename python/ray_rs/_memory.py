"""What the object store holds and who holds it: the rows behind `list_objects` and `ray_rs memory`."""

from __future__ import annotations

import datetime
from collections import defaultdict
from typing import Any

from ray_rs import _core

_UNITS = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30}
_GROUPS = {"NODE_ADDRESS": "ip", "STACK_TRACE": "call_site"}
_ORDERS = {"PID": "pid", "OBJECT_SIZE": "object_size", "REFERENCE_TYPE": "reference_type"}
_REFERENCE_TYPES = (
    "LOCAL_REFERENCE",
    "PINNED_IN_MEMORY",
    "USED_BY_PENDING_TASK",
    "CAPTURED_IN_OBJECT",
    "ACTOR_HANDLE",
    "UNKNOWN_STATUS",
)
_IN_MEMORY = ("arena", "restored")
_NO_SITE = "disabled"
_NO_REFERENCE = "(no reference: an argument on its way, or memory that is still looked at)"


def reference_rows() -> list[dict[str, Any]]:
    """Every reference of every process of the node, and blocks of the store that no reference names.

    Returns:
        A dict each, with Ray's columns (`object_id`, `object_size`, `task_status`, `attempt_number`, `reference_type`,
        `call_site`, `type`, `pid`, `ip`) and: `place` ("arena", "spilled", "restored", "inline", "none", "error",
        "pending"), `is_owner`, `pins` (processes that look at it).
    """
    said = _core.describe_processes(tasks=False, objects=True)
    stored = {(block["offset"], block["generation"]): block for block in _core.store_objects()}
    ip = _core.process_info()["node_ip"]
    rows = []
    named = set()
    for process in said["processes"]:
        for known in process["objects"]:
            block = None
            if known["place"] == "arena":
                key = (known["offset"], known["generation"])
                block = stored.get(key)
                named.add(key)
            size = None if known["place"] == "pending" else known["size"]
            rows.append(
                {
                    "object_id": known["object_id"],
                    "object_size": size if block is None else block["length"],
                    "task_status": _status_of(known),
                    "attempt_number": known["attempt_number"] + 1,
                    "reference_type": _reference_type(known),
                    "call_site": known["site"] or _NO_SITE,
                    "type": "DRIVER" if process["is_driver"] else "WORKER",
                    "pid": process["process"]["pid"],
                    "ip": ip,
                    "place": known["place"] if block is None else block["place"],
                    "is_owner": known["owner"] is None,
                    "pins": 0 if block is None else block["pins"],
                }
            )
    for key, block in stored.items():
        if key not in named:
            rows.append(
                {
                    "object_id": "",
                    "object_size": block["length"],
                    "task_status": "NIL",
                    "attempt_number": 0,
                    "reference_type": "PINNED_IN_MEMORY" if block["pins"] else "UNKNOWN_STATUS",
                    "call_site": _NO_REFERENCE,
                    "type": "WORKER",
                    "pid": block["owner_pid"] or block["holder_pid"],
                    "ip": ip,
                    "place": block["place"],
                    "is_owner": True,
                    "pins": block["pins"],
                }
            )
    return rows


def _status_of(known: dict[str, Any]) -> str:
    if known["is_actor_handle"]:
        return "NIL"
    return str(known["task_state"]) if known["place"] == "pending" else "FINISHED"


def _reference_type(known: dict[str, Any]) -> str:
    if known["is_actor_handle"]:
        return "ACTOR_HANDLE"
    if known["pinned"]:
        return "PINNED_IN_MEMORY"
    if known["submitted"]:
        return "USED_BY_PENDING_TASK"
    if known["local"]:
        return "LOCAL_REFERENCE"
    return "CAPTURED_IN_OBJECT" if known["contained"] else "UNKNOWN_STATUS"


def in_store(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of these rows one for each block of the store: the owner's, or else any."""
    best: dict[Any, dict[str, Any]] = {}
    for number, row in enumerate(rows):
        if row["place"] in (*_IN_MEMORY, "spilled"):
            key = row["object_id"] or number
            if key not in best or row["is_owner"]:
                best[key] = row
    return list(best.values())


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Ray's `summarize_objects`: by the line that made them."""
    summary: dict[str, dict[str, Any]] = {}
    pids: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        site = row["call_site"]
        entry = summary.setdefault(
            site,
            {
                "total_objects": 0,
                "total_size_mb": 0.0,
                "total_num_workers": 0,
                "total_num_nodes": 1,
                "task_state_counts": defaultdict(int),
                "task_attempt_number_counts": defaultdict(int),
                "ref_type_counts": defaultdict(int),
            },
        )
        pids[site].add(row["pid"])
        entry["total_objects"] += 1
        entry["total_size_mb"] += (row["object_size"] or 0) / 2**20
        entry["total_num_workers"] = len(pids[site])
        entry["task_state_counts"][row["task_status"]] += 1
        entry["task_attempt_number_counts"][str(row["attempt_number"])] += 1
        entry["ref_type_counts"][row["reference_type"]] += 1
    plain = {
        site: {name: dict(value) if isinstance(value, defaultdict) else value for name, value in entry.items()}
        for site, entry in summary.items()
    }
    return {
        "cluster": {
            "summary": plain,
            "total_objects": len(rows),
            "total_size_mb": sum((row["object_size"] or 0) for row in rows) / 2**20,
            "callsite_enabled": any(row["call_site"] not in (_NO_SITE, _NO_REFERENCE) for row in rows),
            "summary_by": "callsite",
        }
    }


def memory_summary(
    group_by: str = "NODE_ADDRESS",
    sort_by: str = "OBJECT_SIZE",
    units: str = "B",
    stats_only: bool = False,
    num_entries: int | None = None,
) -> str:
    """What `ray_rs memory` prints.

    Args:
        group_by: "NODE_ADDRESS", or "STACK_TRACE": the lines of the program that made the objects.
        sort_by: "PID", "OBJECT_SIZE" or "REFERENCE_TYPE".
        units: "B", "KB", "MB" or "GB".
        stats_only: Only the sums at the end.
        num_entries: Most rows of a group.

    Returns:
        The text.

    Raises:
        ValueError: One of the words is none of these.
    """
    for name, word, words in (("group_by", group_by, _GROUPS), ("sort_by", sort_by, _ORDERS), ("units", units, _UNITS)):
        if word not in words:
            raise ValueError(f"{name} must be one of {', '.join(words)}, not {word!r}")
    rows = reference_rows()
    stats = _core.store_stats()
    if stats_only:
        return _sums(rows, stats, units)
    shown = "all" if num_entries is None else str(num_entries)
    lines = [
        f"======== Object references status: {datetime.datetime.now()} ========",
        f"Grouping by {group_by.lower().replace('_', ' ')}...        "
        f"Sorting by {sort_by.lower().replace('_', ' ')}...        Display {shown} entries per group...",
        "",
    ]
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row[_GROUPS[group_by]]].append(row)
    for name, members in sorted(groups.items()):
        lines += _group(f"{group_by.lower().replace('_', ' ')}: {name}", members, sort_by, units, num_entries)
    if all(row["call_site"] == _NO_SITE for row in rows):
        lines.append(
            "To record where each reference is made, set the environment variable RAY_record_ref_creation_sites=1"
        )
        lines.append("")
    lines.append(_sums(rows, stats, units))
    return "\n".join(lines)


def _group(title: str, rows: list[dict[str, Any]], sort_by: str, units: str, num_entries: int | None) -> list[str]:
    counts: dict[str, list[int]] = {kind: [0, 0] for kind in _REFERENCE_TYPES}
    for row in rows:
        counts[row["reference_type"]][0] += 1
        counts[row["reference_type"]][1] += row["object_size"] or 0
    stored = sum(row["object_size"] for row in in_store(rows) if row["place"] in _IN_MEMORY)
    sums = [["Mem Used by Objects", *_REFERENCE_TYPES]]
    sums.append(
        [_size(stored, units), *(f"{number}, ({_size(size, units)})" for number, size in counts.values())],
    )
    order = _ORDERS[sort_by]
    rows = sorted(rows, key=lambda row: (row[order] is not None, row[order]), reverse=order == "object_size")
    table = [
        ["IP Address", "PID", "Type", "Call Site", "Status", "Attempt", "Size", "Where", "Reference Type", "Object Ref"]
    ]
    for row in rows[:num_entries]:
        pins = f" (seen by {row['pins']})" if row["pins"] else ""
        table.append(
            [
                row["ip"],
                str(row["pid"]),
                row["type"].capitalize(),
                row["call_site"],
                row["task_status"],
                str(row["attempt_number"]),
                "?" if row["object_size"] is None else _size(row["object_size"], units),
                row["place"] + pins,
                row["reference_type"],
                row["object_id"] or "-",
            ]
        )
    return [
        f"--- Summary for {title} ---",
        *_table(sums),
        "",
        f"--- Object references for {title} ---",
        *_table(table),
        "",
    ]


def _sums(rows: list[dict[str, Any]], stats: dict[str, int], units: str) -> str:
    blocks = in_store(rows)
    memory = [row["object_size"] for row in blocks if row["place"] in _IN_MEMORY]
    spilled = [row["object_size"] for row in blocks if row["place"] != "arena"]
    capacity = stats["capacity_bytes"]
    return "\n".join(
        [
            "--- Aggregate object store stats across all nodes ---",
            f"Plasma memory usage {_size(sum(memory), units)}, {len(memory)} objects, "
            f"{100 * sum(memory) / max(capacity, 1):.2f}% full of {_size(capacity, units)}",
            f"On disk {_size(sum(spilled), units)}, {len(spilled)} objects",
            f"Spilled so far {_size(stats['total_spilled_bytes'], units)}, {stats['total_spilled_objects']} objects; "
            f"restored {_size(stats['total_restored_bytes'], units)}, {stats['total_restored_objects']} objects",
        ]
    )


def _size(size: int, units: str) -> str:
    return f"{size} B" if units == "B" else f"{size / _UNITS[units]:.3f} {units}"


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
