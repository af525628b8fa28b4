"""Of Ray's `ray._private.internal_api`: the report on memory."""

from __future__ import annotations

from ray_rs import _memory

__all__ = ["memory_summary"]


def memory_summary(
    address: str | None = None,
    group_by: str = "NODE_ADDRESS",
    sort_by: str = "OBJECT_SIZE",
    units: str = "B",
    line_wrap: bool = True,
    stats_only: bool = False,
    num_entries: int | None = None,
) -> str:
    """What `ray memory` prints, of the cluster that this process is connected to.

    Args:
        address: Ignored; the connection that there is counts.
        group_by: "NODE_ADDRESS" or "STACK_TRACE".
        sort_by: "PID", "OBJECT_SIZE" or "REFERENCE_TYPE".
        units: "B", "KB", "MB" or "GB".
        line_wrap: Ignored; lines are as long as they are.
        stats_only: Only the sums.
        num_entries: Most rows of a group.

    Returns:
        The text.

    Raises:
        ValueError: `group_by`, `sort_by` or `units` is none of these.
    """
    del address, line_wrap
    return _memory.memory_summary(group_by, sort_by, units, stats_only, num_entries)
