"""When tasks waited and ran, as a trace that Chrome's and Perfetto's viewers open."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["timeline", "trace"]


def timeline(filename: str | os.PathLike[str] | None = None) -> list[dict[str, Any]] | None:
    """Traces the tasks that have ended, the latest 100,000 at most.

    Args:
        filename: Where to write the trace as JSON; it is returned when None.

    Returns:
        Events in Chrome's format: for each try an execution on its worker's row ("X"), and its way from submission to
        start ("b", "e"). None when it is written to a file.

    Raises:
        RaySystemError: There is no session.

    Example:
        >>> ray.timeline("trace.json")  # doctest: +SKIP
    """
    from ray_rs import api

    api._require_session()
    events = trace(None)
    if filename is None:
        return events
    import json

    with open(filename, "w") as file:
        json.dump(events, file)
    return None


def trace(address: str | None) -> list[dict[str, Any]]:
    """The trace of a session.

    Args:
        address: Of the session; this process's, else the newest one, when None.

    Returns:
        Chrome's events.
    """
    from ray_rs.util.state._rows import Source

    source = Source(address)
    nodes = source.addresses()
    # Rows of the viewer: a process for each node, a thread for each worker; and one where tasks wait.
    numbers = {node: number for number, node in enumerate(nodes, 1)}
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": number, "tid": 0, "args": {"name": f"node {nodes[node]}"}}
        for node, number in numbers.items()
    ]
    named = set()
    for row in source.rows("tasks"):
        if row.start_time_ms is None or row.end_time_ms is None:
            continue
        node, thread = numbers.setdefault(row.node_id, len(numbers) + 1), row.worker_pid
        if (node, thread) not in named:
            named.add((node, thread))
            arguments = {"name": f"worker {thread}"}
            events.append({"name": "thread_name", "ph": "M", "pid": node, "tid": thread, "args": arguments})
        start, end = row.start_time_ms * 1000, row.end_time_ms * 1000
        about = {"task_id": row.task_id, "attempt": row.attempt_number, "job_id": row.job_id, "state": row.state}
        if row.actor_id:
            about["actor_id"] = row.actor_id
        common = {"name": row.name, "pid": node, "tid": thread}
        events.append(
            {
                **common,
                "cat": "task:execution",
                "ph": "X",
                "ts": start,
                "dur": max(end - start, 0),
                "cname": "rail_load" if row.state == "FINISHED" else "terrible",
                "args": about,
            }
        )
        if row.creation_time_ms is not None:
            waiting = {**common, "cat": "task:queued", "id": f"{row.task_id}-{row.attempt_number}"}
            events.append({**waiting, "ph": "b", "ts": row.creation_time_ms * 1000, "args": about})
            events.append({**waiting, "ph": "e", "ts": start, "args": {}})
    return events
