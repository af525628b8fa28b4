"""Rows of the state API, one class for each kind of thing; its fields are the columns.

A field whose metadata say `detail` is None unless details were asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

__all__ = [
    "ActorState",
    "ClusterEventState",
    "JobState",
    "NodeState",
    "ObjectState",
    "PlacementGroupState",
    "RuntimeEnvState",
    "StateSchema",
    "TaskState",
    "WorkerState",
]


_DETAIL = {"detail": True}


@dataclasses.dataclass
class StateSchema:
    """A row: its columns are attributes, and items as of a dictionary."""

    @classmethod
    def list_columns(cls, detail: bool = True) -> list[str]:
        """Names of the columns.

        Args:
            detail: With those that only detailed rows have.

        Returns:
            The names in their order.
        """
        return [each.name for each in dataclasses.fields(cls) if detail or not each.metadata.get("detail")]

    def asdict(self) -> dict[str, Any]:
        """The row as a dictionary.

        Returns:
            Every column, whether it is known or None.
        """
        return {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}

    def get(self, key: str, default: Any = None) -> Any:
        """A column by name.

        Args:
            key: The name.
            default: What is returned when there is no such column.

        Returns:
            The value.
        """
        return getattr(self, key) if key in self.list_columns() else default

    def __getitem__(self, key: str) -> Any:
        if key not in self.list_columns():
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.list_columns())

    def keys(self) -> list[str]:
        """Names of all columns.

        Returns:
            The names in their order.
        """
        return self.list_columns()


@dataclasses.dataclass
class ActorState(StateSchema):
    """An actor. States: DEPENDENCIES_UNREADY, PENDING_CREATION, ALIVE, RESTARTING, DEAD."""

    actor_id: str
    class_name: str
    state: str
    job_id: str
    name: str | None
    node_id: str | None
    pid: int | None
    ray_namespace: str
    serialized_runtime_env: str | None = dataclasses.field(default=None, metadata=_DETAIL)
    required_resources: dict[str, float] | None = dataclasses.field(default=None, metadata=_DETAIL)
    death_cause: str | None = dataclasses.field(default=None, metadata=_DETAIL)
    is_detached: bool | None = dataclasses.field(default=None, metadata=_DETAIL)
    num_restarts: int | None = dataclasses.field(default=None, metadata=_DETAIL)


@dataclasses.dataclass
class TaskState(StateSchema):
    """One try of a task. States as Ray names them; of those that have ended FINISHED or FAILED."""

    task_id: str
    attempt_number: int
    name: str
    state: str
    job_id: str
    actor_id: str | None
    type: str
    func_or_class_name: str
    parent_task_id: str | None
    node_id: str | None
    worker_id: str | None
    worker_pid: int | None
    error_type: str | None
    language: str | None = dataclasses.field(default=None, metadata=_DETAIL)
    creation_time_ms: float | None = dataclasses.field(default=None, metadata=_DETAIL)
    start_time_ms: float | None = dataclasses.field(default=None, metadata=_DETAIL)
    end_time_ms: float | None = dataclasses.field(default=None, metadata=_DETAIL)
    error_message: str | None = dataclasses.field(default=None, metadata=_DETAIL)


@dataclasses.dataclass
class NodeState(StateSchema):
    """A node. States: ALIVE, DEAD. The message says that a living one is drained, or why a dead one is gone."""

    node_id: str
    node_ip: str
    is_head_node: bool
    state: str
    state_message: str | None
    node_name: str
    resources_total: dict[str, float]
    labels: dict[str, str]


@dataclasses.dataclass
class WorkerState(StateSchema):
    """A driver's or worker's process. Those that have ended are kept too, the latest thousand of them."""

    worker_id: str
    is_alive: bool
    worker_type: str
    exit_type: str | None
    node_id: str
    ip: str
    pid: int
    exit_detail: str | None = dataclasses.field(default=None, metadata=_DETAIL)
    end_time_ms: int | None = dataclasses.field(default=None, metadata=_DETAIL)


@dataclasses.dataclass
class JobState(StateSchema):
    """A job: what one driver runs, or a command that was submitted; that has no `job_id` before its driver is there."""

    job_id: str | None
    submission_id: str | None
    entrypoint: str
    type: str
    status: str
    message: str | None
    error_type: str | None
    driver_info: dict[str, Any] | None
    start_time: int | None = dataclasses.field(default=None, metadata=_DETAIL)
    end_time: int | None = dataclasses.field(default=None, metadata=_DETAIL)


@dataclasses.dataclass
class ObjectState(StateSchema):
    """One process's reference to an object; an object that several processes know has several rows.

    Places: "arena", "spilled", "restored" (both), "written" (in the arena, not to its end), "inline" (in its owner's
    own memory), "none" (nothing but None), "error", "pending".
    """

    object_id: str
    object_size: int | None
    task_status: str
    attempt_number: int
    reference_type: str
    call_site: str
    type: str
    pid: int
    ip: str
    place: str
    is_owner: bool | None = dataclasses.field(default=None, metadata=_DETAIL)
    held_by: dict[str, int] | None = dataclasses.field(default=None, metadata=_DETAIL)
    block_bytes: int | None = dataclasses.field(default=None, metadata=_DETAIL)


@dataclasses.dataclass
class PlacementGroupState(StateSchema):
    """A placement group. States: PENDING, PREPARED, CREATED, REMOVED, RESCHEDULING."""

    placement_group_id: str
    name: str
    creator_job_id: str
    state: str
    bundles: list[dict[str, Any]] | None = dataclasses.field(default=None, metadata=_DETAIL)
    is_detached: bool | None = dataclasses.field(default=None, metadata=_DETAIL)
    stats: dict[str, Any] | None = dataclasses.field(default=None, metadata=_DETAIL)


@dataclasses.dataclass
class RuntimeEnvState(StateSchema):
    """A runtime environment of a job on a node: the job's own, or one of its tasks and actors.

    `success` is None until it was made. `ref_cnt` counts the worker processes that have it.
    """

    runtime_env: dict[str, Any]
    success: bool | None
    creation_time_ms: float | None
    node_id: str
    job_id: str | None = None
    ref_cnt: int | None = dataclasses.field(default=None, metadata=_DETAIL)
    error: str | None = dataclasses.field(default=None, metadata=_DETAIL)


@dataclasses.dataclass
class ClusterEventState(StateSchema):
    """Something that went wrong: the end of a process that nobody asked for."""

    severity: str
    time: str
    source_type: str
    message: str
    event_id: str
    custom_fields: dict[str, Any] | None = dataclasses.field(default=None, metadata=_DETAIL)
