"""What is in a session and what it does: actors, tasks, nodes, workers, jobs, placement groups, and their logs.

Every function asks the session of this process, or with `address` another one (of this user, on this machine); a
program that only looks needs no `init`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

from ray_rs import _memory
from ray_rs.util.state import _tasks
from ray_rs.util.state._rows import KINDS, Source, object_rows
from ray_rs.util.state.common import (
    ActorState,
    ClusterEventState,
    JobState,
    NodeState,
    ObjectState,
    PlacementGroupState,
    RuntimeEnvState,
    StateSchema,
    TaskState,
    WorkerState,
)
from ray_rs.util.state.exception import RayStateApiException

__all__ = [
    "get_actor",
    "get_job",
    "get_node",
    "get_objects",
    "get_placement_group",
    "get_task",
    "get_worker",
    "list_actors",
    "list_cluster_events",
    "list_jobs",
    "list_nodes",
    "list_objects",
    "list_placement_groups",
    "list_runtime_envs",
    "list_tasks",
    "list_workers",
    "summarize_actors",
    "summarize_objects",
    "summarize_tasks",
]

MAX_LIMIT = 10_000
Filters = Sequence[tuple[str, str, Any]]
_Row = TypeVar("_Row", bound=StateSchema)
_RowOf = TypeVar("_RowOf", bound=StateSchema, covariant=True)


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
    if kind == "tasks":
        page = _tasks.page(source, checked, limit, detail=detail)
        return page.rows, page.total, page.warning
    more = 0
    if kind == "objects":
        found, more = source.answer(lambda: object_rows(source, checked, limit))
    else:
        found = source.rows(kind)
    rows = [
        row
        for row in found
        if all(_matches(row[key], value) == (predicate == "=") for key, predicate, value in checked)
    ]
    total = len(rows) + more
    if not detail:
        only_detailed = set(schema.list_columns()) - set(schema.list_columns(detail=False))
        rows = [dataclasses.replace(row, **dict.fromkeys(only_detailed)) for row in rows[:limit]]
    return rows[:limit], total, source.left_out


def _warn(text: str) -> None:
    import warnings

    warnings.warn(text, RuntimeWarning, stacklevel=3)


def _get(kind: str, key: str, wanted: Any, address: str | None, timeout: float) -> list[Any]:
    return list_rows(kind, address, [(key, "=", wanted)], MAX_LIMIT, timeout, detail=True)[0]


class _List(Protocol, Generic[_Row]):
    """Signature of `list_actors` and its kin."""

    def __call__(
        self,
        address: str | None = None,
        filters: Filters | None = None,
        limit: int = 100,
        timeout: float = 30,
        detail: bool = False,
        raise_on_missing_output: bool = True,
        _explain: bool = False,
    ) -> list[_Row]: ...


class _Get(Protocol, Generic[_RowOf]):
    """Signature of `get_actor` and its kin."""

    def __call__(
        self, id: str, address: str | None = None, timeout: float = 30, _explain: bool = False
    ) -> _RowOf | None: ...


_LIST_ARGS = """

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
    >>> {name}(limit=10)  # doctest: +SKIP
"""
_GET_ARGS = """

Args:
    id: Its id in hexadecimal digits.
    address: Of the session; this process's, else the newest one, when None.
    timeout: Seconds to wait for an answer.
    _explain: Without effect.

Returns:
    Its row; None when there is none.

Raises:
    ServerUnavailable: There is no session.
"""


def _named(function: Any, name: str, doc: str) -> Any:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


def _lister(kind: str, row: type[_Row], what: str) -> _List[_Row]:
    """Makes the function that lists rows of a kind."""

    def listing(
        address: str | None = None,
        filters: Filters | None = None,
        limit: int = 100,
        timeout: float = 30,
        detail: bool = False,
        raise_on_missing_output: bool = True,
        _explain: bool = False,
    ) -> list[_Row]:
        rows, total, warning = list_rows(kind, address, filters, limit, timeout, detail)
        if total > len(rows):
            _warn(f"Limit: {len(rows)} of {total} {kind} are returned; use filters or a higher limit.")
        if warning:
            if raise_on_missing_output:
                raise RayStateApiException(f"{warning} Pass raise_on_missing_output=False to get the others.")
            _warn(warning)
        return rows

    assert KINDS[kind][0] is row
    name = f"list_{kind.replace('-', '_')}"
    function: _List[_Row] = _named(listing, name, what + _LIST_ARGS.format(name=name))
    return function


def _getter(kind: str, row: type[_Row], key: str) -> _Get[_Row]:
    """Makes the function that gets one row of a kind, by its id."""

    def getting(id: str, address: str | None = None, timeout: float = 30, _explain: bool = False) -> _Row | None:
        rows = _get(kind, key, id, address, timeout)
        return rows[0] if rows else None

    assert KINDS[kind][0] is row
    thing = key.removesuffix("_id")
    doc = f"One {thing.replace('_', ' ')}, with all details.{_GET_ARGS}"
    function: _Get[_Row] = _named(getting, f"get_{thing}", doc)
    return function


# The texts below each are for readers of the sources and for the reference; `help` has them with the arguments.
list_actors = _lister("actors", ActorState, "Lists actors, the dead ones too.")
"""Lists actors, the dead ones too."""
list_tasks = _lister(
    "tasks",
    TaskState,
    "Lists tasks, each try a row: those that have not ended, then the latest 100,000 that have, the latest first.",
)
"""Lists tasks, each try a row: those that have not ended, then the latest 100,000 that have, the latest first."""
list_nodes = _lister("nodes", NodeState, "Lists nodes.")
"""Lists nodes."""
list_objects = _lister(
    "objects",
    ObjectState,
    "Lists references to objects, a row for each process that has one: what holds it, where it is, which line made it.",
)
"""Lists references to objects, a row for each process that has one: what holds it, where it is, which line made it."""
list_workers = _lister("workers", WorkerState, "Lists drivers and workers, also those that have ended.")
"""Lists drivers and workers, also those that have ended."""
list_jobs = _lister("jobs", JobState, "Lists jobs.")
"""Lists jobs."""
list_placement_groups = _lister("placement-groups", PlacementGroupState, "Lists placement groups.")
"""Lists placement groups."""
list_runtime_envs = _lister(
    "runtime-envs",
    RuntimeEnvState,
    "Lists runtime environments: the jobs' own, and those of tasks and actors; whether they could be made.",
)
"""Lists runtime environments: the jobs' own, and those of tasks and actors; whether they could be made."""
list_cluster_events = _lister(
    "cluster-events", ClusterEventState, "Lists what went wrong: ends of processes that nobody asked for."
)
"""Lists what went wrong: ends of processes that nobody asked for."""

get_actor = _getter("actors", ActorState, "actor_id")
"""One actor, with all details; None when there is none of this id."""
get_node = _getter("nodes", NodeState, "node_id")
"""One node, with all details; None when there is none of this id."""
get_worker = _getter("workers", WorkerState, "worker_id")
"""One worker, with all details; None when there is none of this id."""
get_job = _getter("jobs", JobState, "job_id")
"""One job, with all details; None when there is none of this id."""
get_placement_group = _getter("placement-groups", PlacementGroupState, "placement_group_id")
"""One placement group, with all details; None when there is none of this id."""


def get_task(id: Any, address: str | None = None, timeout: float = 30, _explain: bool = False) -> Any:
    """One task, by its id or a reference to what it returns; a list of its tries when there were several.

    The rest is as of `get_actor`.
    """
    task_id = id if isinstance(id, str) else id.task_id().hex()
    rows = _get("tasks", "task_id", task_id, address, timeout)
    if not rows:
        return None
    return rows[0] if len(rows) == 1 else sorted(rows, key=lambda row: row.attempt_number)


def get_objects(id: str, address: str | None = None, timeout: float = 30, _explain: bool = False) -> list[ObjectState]:
    """An object, as each process that has a reference to it sees it.

    Args:
        id: Its id in hexadecimal digits.
        address: Of the session; this process's, else the newest one, when None.
        timeout: Seconds to wait for an answer.
        _explain: Without effect.

    Returns:
        The rows.

    Raises:
        ServerUnavailable: There is no session.
    """
    return _get("objects", "object_id", id, address, timeout)


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
    for name, kind, state, count in _tasks.counts(Source(address, timeout)):
        entry = summary.setdefault(name, {"func_or_class_name": name, "type": kind, "state_counts": {}})
        states = entry["state_counts"]
        states[state] = states.get(state, 0) + count
        totals[kind] += count
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


def summarize_objects(
    address: str | None = None, timeout: float = 30, raise_on_missing_output: bool = True, _explain: bool = False
) -> dict[str, Any]:
    """Counts references to objects by the line that made them.

    Args and errors are those of `summarize_tasks`.

    Returns:
        Under "cluster": "summary" (by line: "total_objects", "total_size_mb", "total_num_workers", "total_num_nodes",
        "task_state_counts", "task_attempt_number_counts", "ref_type_counts"), "total_objects", "total_size_mb",
        "callsite_enabled" and "summary_by".
    """
    source = Source(address, timeout)
    return _memory.summarize(source.answer(lambda: _memory.reference_rows(source))[0])
