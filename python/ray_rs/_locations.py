"""Where objects are: `ray.experimental.get_object_locations`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray_rs import _core
from ray_rs._memory import blocks_by_name

__all__ = ["get_local_object_locations", "get_object_locations"]


def get_object_locations(
    obj_refs: Sequence[_core.ObjectRef[Any]], timeout_ms: int = -1
) -> dict[_core.ObjectRef[Any], dict[str, Any]]:
    """Where objects are; their owners are asked.

    Args:
        obj_refs: References.
        timeout_ms: Without effect: processes answer within two seconds, or count as silent.

    Returns:
        For each object whose owner has answered: "node_ids", with the node in whose store
        its owner knows it (none of a small object, which the owner keeps), "object_size" in bytes (None while there is
        no value), and "did_spill".

    Raises:
        RuntimeError: There is no session.
    """
    _require_session()
    wanted = {ref.hex(): ref for ref in obj_refs}
    described = _core.describe_processes(tasks=False, objects=True, stored=True, first=list(wanted))
    stored = blocks_by_name(described)
    found = {}
    for process in described["processes"]:
        for row in process["objects"]:
            ref = wanted.get(row["object_id"])
            if ref is None or row["owner"] is not None:
                continue
            node = row["node_id"] or process["process"]["node_id"]
            block = stored.get((node, row["offset"], row["generation"])) if row["place"] == "arena" else None
            found[ref] = {
                "node_ids": [node] if row["place"] == "arena" else [],
                "object_size": None if row["place"] == "pending" else row["size"],
                "did_spill": block is not None and block["place"] in ("spilled", "restored"),
            }
    return found


def get_local_object_locations(
    obj_refs: Sequence[_core.ObjectRef[Any]],
) -> dict[_core.ObjectRef[Any], dict[str, Any]]:
    """Where objects are, as far as this process knows; nobody is asked.

    Args:
        obj_refs: References.

    Returns:
        As of `get_object_locations`, without "did_spill", of the objects that this process owns or has read.

    Raises:
        RuntimeError: There is no session.
    """
    _require_session()
    found = {}
    for ref in obj_refs:
        known = ref._glance()
        size = None if known is None else known[1]
        is_stored = size is not None and size > _MAX_INLINE_BYTES
        found[ref] = {"node_ids": [_core.process_info()["node_id"].hex()] if is_stored else [], "object_size": size}
    return found


# Larger values lie in the store.
_MAX_INLINE_BYTES = 100 << 10


def _require_session() -> None:
    if not _core.is_initialized():
        raise RuntimeError("Ray hasn't been initialized.")
