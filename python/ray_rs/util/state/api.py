"""What is in a session and what it does: actors, tasks, nodes, workers, jobs, placement groups, and their logs.

Every function asks the session of this process, or with `address` another one (of this user, on this machine); a
program that only looks needs no `init`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ray_rs.util.state._rows import KINDS, Source
from ray_rs.util.state.common import (
    ActorState,
    ClusterEventState,
    JobState,
    NodeState,
    PlacementGroupState,
    StateSchema,
    TaskState,
    WorkerState,
)
from ray_rs.util.state.exception import RayStateApiException

__all__ = [
    "get_actor",
    "get_job",
    "get_node",
    "get_placement_group",
    "get_task",
    "get_worker",
    "list_actors",
    "list_cluster_events",
    "list_jobs",
    "list_nodes",
    "list_placement_groups",
    "list_tasks",
    "list_workers",
    "summarize_actors",
    "summarize_tasks",
]

MAX_LIMIT = 10_000
Filters = Sequence[tuple[str, str, Any]]


def check_filters(schema: type[StateSchema], filters: Filters | None) -> list[tuple[str, str, Any]]:
    """Checks filters before anything is asked.

    Args:
        schema: Whose columns they are about.
        filters: Tuples of column, "=" or "!=", and value.

    Returns:
        The filters.

    Raises:
        ValueError: Not such tuples.
        RayStateApiException: There is no such column.
    """
    columns = schema.list_columns()
    checked = []
    for each in filters or ():
        if not isinstance(each, (tuple, list)) or len(each) != 3:
            raise ValueError(f"A filter is a tuple (column, predicate, value), not {each!r}")
        key, predicate, value = each
        if predicate not in ("=", "!="):
            raise ValueError(f"Unsupported filter predicate {predicate!r} is given. Available predicates: =, !=.")
        if key not in columns:
            raise RayStateApiException(
                f"Invalid filter key {key!r}. Columns that can be filtered by: {', '.join(sorted(columns))}."
            )
        checked.append((key, predicate, value))
    return checked


def _matches(actual: Any, wanted: Any) -> bool:
    """Filters of the command line are text, so text stands for numbers and truth values too."""
    if actual is None or wanted is None:
        return actual is wanted
    if isinstance(actual, bool):
        return str(actual).lower() == str(wanted).lower()
    if isinstance(actual, (int, float)):
        try:
            return float(actual) == float(wanted)
        except (TypeError, ValueError):
            return False
    return str(actual).lower() == str(wanted).lower()


def list_rows(
    kind: str,
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = 100,
    timeout: float = 30,
    detail: bool = False,
) -> tuple[list[Any], int, str]:
    """Rows of a kind, as the command line lists them.

    Args:
        kind: Of `KINDS`.
        address: Of the session; this process's, else the newest one, when None.
        filters: All of these hold.
        limit: So many rows at most.
        timeout: Seconds to wait for an answer.
        detail: With the columns that only detailed rows have.

    Returns:
        The rows, how many there were before the limit, and a warning or "".

    Raises:
        ValueError: A bad filter or limit.
        RayStateApiException: An unknown column, or too high a limit.
        ServerUnavailable: There is no session.
    """
    if limit > MAX_LIMIT:
        raise RayStateApiException(
            f"Given limit {limit} exceeds the supported limit {MAX_LIMIT}. Use a lower limit, or filters."
        )
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    schema = KINDS[kind][0]
    checked = check_filters(schema, filters)
    source = Source(address, timeout)
    rows = [
        row
        for row in source.rows(kind)
        if all(_matches(row[key], value) == (predicate == "=") for key, predicate, value in checked)
    ]
    total = len(rows)
    if not detail:
        only_detailed = set(schema.list_columns()) - set(schema.list_columns(detail=False))
        rows = [dataclasses.replace(row, **dict.fromkeys(only_detailed)) for row in rows[:limit]]
    warning = ""
    if kind == "tasks" and source.dropped_tasks:
        warning = f"{source.dropped_tasks} tasks are not listed: of those that have ended the latest 100000 are kept."
    return rows[:limit], total, warning


def _list(
    kind: str,
    address: str | None,
    filters: Filters | None,
    limit: int,
    timeout: float,
    detail: bool,
    raise_on_missing_output: bool,
) -> list[Any]:
    rows, total, warning = list_rows(kind, address, filters, limit, timeout, detail)
    if total > len(rows):
        _warn(f"Limit: {len(rows)} of {total} {kind} are returned; use filters or a higher limit.")
    if warning:
        if raise_on_missing_output:
            raise RayStateApiException(f"{warning} Pass raise_on_missing_output=False to get the others.")
        _warn(warning)
    return rows


def _warn(text: str) -> None:
    import warnings

    warnings.warn(text, RuntimeWarning, stacklevel=4)


def _get(kind: str, key: str, wanted: Any, address: str | None, timeout: float) -> Any:
    rows, _, _ = list_rows(kind, address, [(key, "=", wanted)], MAX_LIMIT, timeout, detail=True)
    return rows or None


def list_actors(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = 100,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[ActorState]:
    """Lists actors, the dead ones too.

    Args:
        address: Of the session; this process's, else the newest one, when None.
        filters: Tuples (column, "=" or "!=", value); all of them hold.
        limit: So many rows at most.
        timeout: Seconds to wait for an answer.
        detail: With the columns that only detailed rows have.
        raise_on_missing_output: Raise when not everything is known.
        _explain: Without effect.

    Returns:
        The rows.

    Raises:
        ValueError: A bad filter.
        RayStateApiException: An unknown column, too high a limit, or missing output.
        ServerUnavailable: There is no session.

    Example:
        >>> list_actors(filters=[("state", "=", "ALIVE")])  # doctest: +SKIP
    """
    return _list("actors", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_tasks(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = 100,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[TaskState]:
    """Lists tasks: the latest 100,000 that have ended, each try a row, and those that have not.

    Args, returned value and errors are those of `list_actors`.
    """
    return _list("tasks", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_nodes(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = 100,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[NodeState]:
    """Lists nodes. Args, returned value and errors are those of `list_actors`."""
    return _list("nodes", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_workers(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = 100,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[WorkerState]:
    """Lists drivers and workers, also those that have ended. Args and the rest are those of `list_actors`."""
    return _list("workers", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_jobs(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = 100,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[JobState]:
    """Lists jobs. Args, returned value and errors are those of `list_actors`."""
    return _list("jobs", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_placement_groups(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = 100,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[PlacementGroupState]:
    """Lists placement groups. Args, returned value and errors are those of `list_actors`."""
    return _list("placement-groups", address, filters, limit, timeout, detail, raise_on_missing_output)


def list_cluster_events(
    address: str | None = None,
    filters: Filters | None = None,
    limit: int = 100,
    timeout: float = 30,
    detail: bool = False,
    raise_on_missing_output: bool = True,
    _explain: bool = False,
) -> list[ClusterEventState]:
    """Lists what went wrong: ends of processes that nobody asked for. Args and the rest are those of `list_actors`."""
    return _list("cluster-events", address, filters, limit, timeout, detail, raise_on_missing_output)


def get_actor(id: str, address: str | None = None, timeout: float = 30, _explain: bool = False) -> ActorState | None:
    """One actor, with all details.

    Args:
        id: Its id in hexadecimal digits.
        address: Of the session; this process's, else the newest one, when None.
        timeout: Seconds to wait for an answer.
        _explain: Without effect.

    Returns:
        Its row; None when there is no such actor.

    Raises:
        ServerUnavailable: There is no session.
    """
    rows = _get("actors", "actor_id", id, address, timeout)
    return rows[0] if rows else None


def get_task(id: Any, address: str | None = None, timeout: float = 30, _explain: bool = False) -> Any:
    """One task, by its id or a reference to what it returns; a list of its tries when there were several.

    The rest is as of `get_actor`.
    """
    task_id = id if isinstance(id, str) else id.task_id().hex()
    rows = _get("tasks", "task_id", task_id, address, timeout)
    if not rows:
        return None
    return rows[0] if len(rows) == 1 else sorted(rows, key=lambda row: row.attempt_number)


def get_node(id: str, address: str | None = None, timeout: float = 30, _explain: bool = False) -> NodeState | None:
    """One node; as `get_actor`."""
    rows = _get("nodes", "node_id", id, address, timeout)
    return rows[0] if rows else None


def get_worker(id: str, address: str | None = None, timeout: float = 30, _explain: bool = False) -> WorkerState | None:
    """One driver or worker; as `get_actor`."""
    rows = _get("workers", "worker_id", id, address, timeout)
    return rows[0] if rows else None


def get_job(id: str, address: str | None = None, timeout: float = 30, _explain: bool = False) -> JobState | None:
    """One job; as `get_actor`."""
    rows = _get("jobs", "job_id", id, address, timeout)
    return rows[0] if rows else None


def get_placement_group(
    id: str, address: str | None = None, timeout: float = 30, _explain: bool = False
) -> PlacementGroupState | None:
    """One placement group; as `get_actor`."""
    rows = _get("placement-groups", "placement_group_id", id, address, timeout)
    return rows[0] if rows else None


def summarize_tasks(
    address: str | None = None, timeout: float = 30, raise_on_missing_output: bool = True, _explain: bool = False
) -> dict[str, Any]:
    """Counts tasks by function and state.

    Args:
        address: Of the session; this process's, else the newest one, when None.
        timeout: Seconds to wait for an answer.
        raise_on_missing_output: Without effect.
        _explain: Without effect.

    Returns:
        Under "cluster": "summary" (by function: "func_or_class_name", "type", "state_counts"), "total_tasks",
        "total_actor_tasks", "total_actor_scheduled" and "summary_by".

    Raises:
        ServerUnavailable: There is no session.
    """
    summary: dict[str, Any] = {}
    totals = dict.fromkeys(("NORMAL_TASK", "ACTOR_TASK", "ACTOR_CREATION_TASK"), 0)
    for row in Source(address, timeout).rows("tasks"):
        entry = summary.setdefault(
            row.func_or_class_name,
            {"func_or_class_name": row.func_or_class_name, "type": row.type, "state_counts": {}},
        )
        counts = entry["state_counts"]
        counts[row.state] = counts.get(row.state, 0) + 1
        totals[row.type] += 1
    return {
        "cluster": {
            "summary": summary,
            "total_tasks": totals["NORMAL_TASK"],
            "total_actor_tasks": totals["ACTOR_TASK"],
            "total_actor_scheduled": totals["ACTOR_CREATION_TASK"],
            "summary_by": "func_name",
        }
    }


def summarize_actors(
    address: str | None = None, timeout: float = 30, raise_on_missing_output: bool = True, _explain: bool = False
) -> dict[str, Any]:
    """Counts actors by class and state.

    Args and errors are those of `summarize_tasks`.

    Returns:
        Under "cluster": "summary" (by class: "class_name", "state_counts"), "total_actors" and "summary_by".
    """
    rows = Source(address, timeout).rows("actors")
    summary: dict[str, Any] = {}
    for row in rows:
        entry = summary.setdefault(row.class_name, {"class_name": row.class_name, "state_counts": {}})
        entry["state_counts"][row.state] = entry["state_counts"].get(row.state, 0) + 1
    return {"cluster": {"summary": summary, "total_actors": len(rows), "summary_by": "class"}}
