"""What the object store holds and who holds it: the rows behind `list_objects` and `ray_rs memory`."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ray_rs.util.state._rows import Source

NO_SITE = "disabled"
# Of blocks of the store that nobody's table names.
_NO_REFERENCE = "(no reference: an argument on its way, or memory that is still looked at)"
_WRITTEN = "(being written)"
_COPY = "(a copy of an object of another node)"
IN_MEMORY = ("arena", "restored", "written", "copy")
# What holds an object, by the counts of its row.
_HOLDERS = {
    "local": "local references",
    "submitted": "arguments of pending tasks",
    "contained": "objects that contain it",
    "borrowers": "borrowing processes",
}


def reference_rows(source: Source, first: Sequence[str] = (), limit: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Every reference of every process, and blocks of the nodes' stores that no reference names.

    Args:
        source: The session that is asked.
        first: Ids of objects whose references are in the rows, however many there are besides.
        limit: So many references at most of each process; 0, and at most: 10,000, and less where there are many nodes.

    Returns:
        The rows, a dict each, with the columns of `ObjectState`; and how many references are not among them, since a
        process has too many (those to objects in the store come first).
    """
    said = source.observer.describe_processes(tasks=False, objects=True, stored=True, limit=limit, first=list(first))
    stored = blocks_by_name(said)
    addresses = source.addresses()
    rows = []
    named = set()
    unlisted = 0
    all_stored = True
    for process in said["processes"]:
        missing = process["total_objects"] - len(process["objects"])
        unlisted += missing
        # Those to objects in the store come before others: there may be more of them.
        all_stored = all_stored and not (missing and process["objects"][-1]["place"] == "arena")
        who = process["process"]
        ip = addresses.get(who["node_id"], "")
        for known in process["objects"]:
            block = None
            if known["place"] == "arena":
                key = (known["node_id"] or who["node_id"], known["offset"], known["generation"])
                block = stored.get(key)
                named.add(key)
            rows.append(_row(known, block, process["is_driver"], who["pid"], ip))
    if all_stored:
        left = ((key[0], block) for key, block in stored.items() if key not in named)
        rows += [_without_reference(block, addresses.get(node, "")) for node, block in left]
    return rows, unlisted


def blocks_by_name(said: dict[str, Any]) -> dict[tuple[str, int, int], dict[str, Any]]:
    """What the stores of all nodes hold.

    Args:
        said: Of `describe_processes(stored=True)`.

    Returns:
        The blocks by node, offset and generation.
    """
    return {
        (store["node_id"], block["offset"], block["generation"]): block
        for store in said["stores"]
        for block in store["objects"]
    }


def _row(known: dict[str, Any], block: dict[str, Any] | None, is_driver: bool, pid: int, ip: str) -> dict[str, Any]:
    size = None if known["place"] == "pending" else known["size"]
    held = {word: known[count] for count, word in _HOLDERS.items() if known[count]}
    if block is not None and block["pins"]:
        held["processes that look at it"] = block["pins"]
    if known["place"] == "pending" and known["owner"] is None and not known["is_actor_handle"]:
        held["the task that makes it"] = 1
    return {
        "object_id": known["object_id"],
        "object_size": size if block is None else block["length"],
        "task_status": _status_of(known),
        "attempt_number": known["attempt_number"] + 1,
        "reference_type": _reference_type(known),
        "call_site": known["site"] or NO_SITE,
        "type": "DRIVER" if is_driver else "WORKER",
        "pid": pid,
        "ip": ip,
        "place": known["place"] if block is None else block["place"],
        "is_owner": known["owner"] is None,
        "held_by": held,
        "block_bytes": 0 if block is None else block["block_bytes"],
    }


def _without_reference(block: dict[str, Any], ip: str) -> dict[str, Any]:
    return {
        "object_id": "",
        "object_size": block["length"],
        "task_status": "NIL",
        "attempt_number": 0,
        "reference_type": "PINNED_IN_MEMORY" if block["pins"] else "UNKNOWN_STATUS",
        "call_site": {"written": _WRITTEN, "copy": _COPY}.get(block["place"], _NO_REFERENCE),
        "type": "WORKER",
        "pid": block["owner_pid"] or block["holder_pid"],
        "ip": ip,
        "place": block["place"],
        "is_owner": True,
        "held_by": {"processes that look at it": block["pins"]} if block["pins"] else {},
        "block_bytes": block["block_bytes"],
    }


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
    """Of these rows one for each block of the store: the owner's, or else any.

    Args:
        rows: Of `reference_rows`.

    Returns:
        Some of them.
    """
    best: dict[Any, dict[str, Any]] = {}
    for number, row in enumerate(rows):
        if row["place"] in (*IN_MEMORY, "spilled"):
            key = row["object_id"] or number
            if key not in best or row["is_owner"]:
                best[key] = row
    return list(best.values())


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Ray's `summarize_objects`: by the line that made them.

    Args:
        rows: Of `reference_rows`.

    Returns:
        The sums under "cluster".
    """
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
            "callsite_enabled": any(row["call_site"] not in (NO_SITE, _NO_REFERENCE, _WRITTEN, _COPY) for row in rows),
            "summary_by": "callsite",
        }
    }
