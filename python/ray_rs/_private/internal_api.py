"""Of Ray's `ray._private.internal_api`: the report on memory."""

from __future__ import annotations

from ray_rs import _memory_report
from ray_rs.util.state._rows import Source

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
    """What `ray memory` prints.

    Args:
        address: Of the session; this process's, else the newest one, when None.
        group_by: "NODE_ADDRESS" or "STACK_TRACE".
        sort_by: "PID", "OBJECT_SIZE" or "REFERENCE_TYPE".
        units: "B", "KB", "MB" or "GB".
        line_wrap: Columns below each other; else there is a tab between them.
        stats_only: Only the sums.
        num_entries: Most rows of a group.

    Returns:
        The text.

    Raises:
        ValueError: `group_by`, `sort_by` or `units` is none of these.
        ServerUnavailable: There is no session.
    """
    return _memory_report.memory_summary(Source(address), group_by, sort_by, units, stats_only, num_entries, line_wrap)
