"""Makes the rows of the state API of what the session says.

A question goes to the raylet on a connection of its own that registers nothing, so drivers, tasks and programs that
only look ask in the same way.
"""

from __future__ import annotations

import datetime
import json
import signal
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ray_rs import _core, _memory
from ray_rs.util.state import _tasks as _tasks_module
from ray_rs.util.state import common
from ray_rs.util.state.exception import ServerUnavailable

__all__ = [
    "KINDS",
    "Source",
    "drain_text",
    "node_rows",
    "session_directory",
]

_T = TypeVar("_T")

_ACTOR_STATES = ("PENDING_CREATION", "PENDING_CREATION", "ALIVE", "RESTARTING", "DEAD")
_DEATH_CAUSES = (
    "it is not known why",
    "its process died",
    "it was killed by ray.kill",
    "its constructor raised",
    "no handle was left",
    "it left by its own will",
    "its owner died",
    "it could not be scheduled",
    "its runtime environment could not be made",
    "its placement group was removed before it ran",
    "its placement group was removed",
    "no node can ever take it",
)
# As in `KnownEnvironment.state`.
_ENV_MADE, _ENV_FAILED = 2, 3
_GROUP_STATES = ("PENDING", "PREPARED", "CREATED", "REMOVED", "RESCHEDULING")


def session_directory(address: str | None = None) -> str:
    """Finds the session that is meant.

    Args:
        address: As of `init`; the session of this process, else the newest one, when None.

    Returns:
        The session's directory.

    Raises:
        ServerUnavailable: There is none.
    """
    import os

    if address is None and _core.is_initialized():
        return str(_core.process_info()["session_dir"])
    wanted = address or os.environ.get("RAY_ADDRESS") or "auto"
    found = _core.discover("auto" if wanted == "local" else wanted)
    if found is None:
        where = "" if wanted == "auto" else f" at {wanted}"
        raise ServerUnavailable(
            f"Could not find any running Ray instance{where}. Sessions live as long as the driver that started them: "
            "start one with ray_rs.init(), or name another with its address."
        )
    return str(json.loads(found)["session_dir"])


class Source:
    """Answers questions about one session."""

    def __init__(self, address: str | None = None, timeout: float = 30.0) -> None:
        from ray_rs.exceptions import RaySystemError

        self.directory = session_directory(address)
        try:
            self.observer = _core.Observer(self.directory, timeout=float(timeout))
        except (RaySystemError, ConnectionError) as error:
            raise ServerUnavailable(f"Failed to ask the session in {self.directory}: {error}") from None
        # What was left out since there was too much, when last asked.
        self.left_out = ""

    def rows(self, kind: str) -> list[Any]:
        """All rows of a kind, with all that is known.

        Args:
            kind: Of `KINDS`.

        Returns:
            The rows.

        Raises:
            ServerUnavailable: The session ended meanwhile, or does not answer.
        """
        return self.answer(lambda: KINDS[kind][1](self))

    def answer(self, question: Callable[[], _T]) -> _T:
        """Asks something of this source.

        Args:
            question: Asks.

        Returns:
            What it returns.

        Raises:
            ServerUnavailable: The session ended meanwhile, or does not answer.
        """
        from ray_rs.exceptions import RayError

        try:
            return question()
        except (RayError, TimeoutError) as error:
            raise ServerUnavailable(f"Failed to ask the session in {self.directory}: {error}") from None

    def addresses(self) -> dict[str, str]:
        """Address of each node by its id.

        Returns:
            The addresses.
        """
        return {node["node_id"]: node["address"] for node in self.observer.nodes()}


def _actors(source: Source) -> list[Any]:
    rows = []
    for actor in source.observer.actors():
        state = _ACTOR_STATES[actor["state"]]
        if actor["state"] == 0 and not actor["has_arguments"]:
            state = "DEPENDENCIES_UNREADY"
        cause = None
        if actor["state"] == 4 and actor["death_cause"] is not None:
            cause = ": ".join(filter(None, (_DEATH_CAUSES[actor["death_cause"]], actor["death_message"])))
        rows.append(
            common.ActorState(
                actor_id=actor["actor_id"],
                class_name=actor["class_name"],
                state=state,
                job_id=actor["job_id"],
                name=actor["name"],
                node_id=actor["node_id"],
                pid=actor["pid"],
                ray_namespace=actor["namespace"],
                serialized_runtime_env=actor["runtime_env"] or "{}",
                required_resources=actor["resources"],
                death_cause=cause,
                is_detached=actor["is_detached"],
                num_restarts=actor["num_restarts"],
            )
        )
    return rows


def _tasks(source: Source) -> list[Any]:
    return list(_tasks_module.every(source))


def _nodes(source: Source) -> list[Any]:
    return node_rows(source.observer.nodes())


def node_rows(nodes: list[dict[str, Any]]) -> list[Any]:
    """Makes the rows of nodes.

    Args:
        nodes: As `Observer.nodes` gives them.

    Returns:
        A row for each.
    """
    return [
        common.NodeState(
            node_id=node["node_id"],
            node_ip=node["address"],
            is_head_node=node["is_head"],
            state="ALIVE" if node["alive"] else "DEAD",
            state_message=_node_message(node),
            node_name=node["name"] or node["address"],
            resources_total=node["total"],
            labels={"ray.io/node-id": node["node_id"], **node["labels"]},
        )
        for node in nodes
    ]


def _node_message(node: dict[str, Any]) -> str | None:
    return drain_text(node["drain"]) if node["alive"] and node["drain"] else node["death_reason"] or None


def drain_text(drain: dict[str, Any]) -> str:
    """Why a node is about to leave, in words.

    Args:
        drain: As `Observer.nodes` gives it.

    Returns:
        A phrase.
    """
    text = "draining: " + {1: "it is idle", 2: "preemption"}.get(drain["reason"], "unspecified reason")
    if drain["message"]:
        text += f" ({drain['message']})"
    if drain["deadline_ms"]:
        deadline = datetime.datetime.fromtimestamp(drain["deadline_ms"] / 1000)
        text += f", until {deadline.isoformat(sep=' ', timespec='seconds')} at the latest"
    return text


def _exit_type(worker: dict[str, Any]) -> str:
    if worker["out_of_memory"]:
        return "NODE_OUT_OF_MEMORY"
    # What the raylet ends itself, it says so.
    if worker["detail"]:
        return "USER_ERROR" if worker["detail"].endswith(_CONSTRUCTOR_RAISED) else "INTENDED_SYSTEM_EXIT"
    return "INTENDED_USER_EXIT" if worker["exit_code"] == 0 else "SYSTEM_ERROR"


# The end of the raylet's words for it.
_CONSTRUCTOR_RAISED = "the actor's constructor raised"


def _exit_detail(worker: dict[str, Any]) -> str:
    if worker["detail"]:
        return str(worker["detail"])
    if worker["signal"] == signal.SIGKILL:
        return "signal 9 (SIGKILL): it was killed, or the kernel was out of memory (OOM)"
    if worker["signal"]:
        return f"signal {worker['signal']}"
    if worker["exit_code"] == 0:
        how = "ray.shutdown() or the end of the program" if worker["is_driver"] else "sys.exit, exit_actor or max_calls"
        return f"exit code 0: {how}"
    return f"exit code {worker['exit_code']}" if worker["exit_code"] > 0 else "it is not known how it ended"


def _workers(source: Source) -> list[Any]:
    described = source.observer.describe_processes()
    addresses = source.addresses()
    living = [(process["process"], process["is_driver"]) for process in described["processes"]]
    living += [(process, False) for process in described["silent"]]
    rows = [
        common.WorkerState(
            worker_id=process["worker_id"],
            is_alive=True,
            worker_type="DRIVER" if is_driver else "WORKER",
            exit_type=None,
            node_id=process["node_id"],
            ip=addresses.get(process["node_id"], ""),
            pid=process["pid"],
        )
        for process, is_driver in living
    ]
    known = {row.worker_id for row in rows}
    rows += [
        common.WorkerState(
            worker_id=worker["worker_id"],
            is_alive=False,
            worker_type="DRIVER" if worker["is_driver"] else "WORKER",
            exit_type=_exit_type(worker),
            node_id=worker["node_id"],
            ip=addresses.get(worker["node_id"], ""),
            pid=worker["pid"],
            exit_detail=_exit_detail(worker),
            end_time_ms=worker["end_ms"],
        )
        for worker in source.observer.dead_workers()
        if worker["worker_id"] not in known
    ]
    return rows


def _jobs(source: Source) -> list[Any]:
    from ray_rs import _jobs

    addresses = source.addresses()
    submitted = _jobs.records(source.observer)
    rows = []
    drivers = set()
    for submission, (info, driver) in submitted.items():
        drivers.add(driver["id"] if driver else None)
        rows.append(
            common.JobState(
                job_id=driver["id"] if driver else None,
                submission_id=submission,
                entrypoint=info.entrypoint,
                type="SUBMISSION",
                status=info.status.value,
                message=info.message,
                error_type=None if info.error_type is None else info.error_type.value,
                driver_info={**driver, "node_id": info.driver_node_id} if driver else None,
                start_time=info.start_time,
                end_time=info.end_time,
            )
        )
    for job in source.observer.jobs():
        # Drivers of the engine's own services are nobody's jobs.
        if job["job_id"] in drivers or job["namespace"].startswith("_ray_internal"):
            continue
        rows.append(
            common.JobState(
                job_id=job["job_id"],
                submission_id=None,
                entrypoint=job["entrypoint"],
                type="DRIVER",
                status="SUCCEEDED" if job["finished"] else "RUNNING",
                message=None,
                error_type=None,
                driver_info={
                    "id": job["job_id"],
                    "node_id": job["driver_node_id"],
                    "node_ip_address": addresses.get(job["driver_node_id"], ""),
                    "pid": job["driver_pid"],
                },
                start_time=job["start_ms"],
                end_time=job["end_ms"] or None,
            )
        )
    return rows


def _objects(source: Source) -> list[Any]:
    rows, unlisted = _memory.reference_rows(source)
    if unlisted:
        source.left_out = _unlisted(unlisted)
    return [common.ObjectState(**row) for row in rows]


def _unlisted(references: int) -> str:
    return f"{references} references to small objects are not listed: their processes have too many."


def object_rows(source: Source, filters: Sequence[tuple[str, str, Any]], limit: int) -> tuple[list[Any], int]:
    """As many references to objects as an answer needs, of which a process may have millions.

    Args:
        source: The session that is asked; its `left_out` tells what was left out that may pass the filters.
        filters: Column, "=" or "!=", value. The rows are not filtered yet.
        limit: Of the answer.

    Returns:
        The rows, and how many were left out that pass the filters for sure.
    """
    wanted = [str(value) for key, predicate, value in filters if key == "object_id" and predicate == "="]
    rows, unlisted = _memory.reference_rows(source, first=wanted, limit=0 if filters else limit)
    source.left_out = _unlisted(unlisted) if unlisted and filters and not wanted else ""
    return [common.ObjectState(**row) for row in rows], 0 if filters else unlisted


def _placement_groups(source: Source) -> list[Any]:
    return [
        common.PlacementGroupState(
            placement_group_id=group["placement_group_id"],
            name=group["name"],
            creator_job_id=group["job_id"],
            state=_GROUP_STATES[group["state"]],
            bundles=group["bundles"],
            is_detached=group["is_detached"],
            stats={"scheduling_state": group["detail"]},
        )
        for group in source.observer.placement_groups()
    ]


def _runtime_envs(source: Source) -> list[Any]:
    described = source.observer.describe_processes(tasks=False, environments=True)
    return [
        common.RuntimeEnvState(
            runtime_env=json.loads(row["text"] or "{}"),
            success={_ENV_MADE: True, _ENV_FAILED: False}.get(row["state"]),
            creation_time_ms=row["since_us"] / 1000,
            node_id=row["node_id"],
            job_id=row["job_id"],
            ref_cnt=row["workers"],
            error=row["error"] or None,
        )
        for row in described["environments"]
    ]


def _cluster_events(source: Source) -> list[Any]:
    rows = []
    for worker in source.observer.dead_workers():
        kind = _exit_type(worker)
        if kind.startswith("INTENDED") or kind == "USER_ERROR":
            continue
        what = "driver" if worker["is_driver"] else "worker"
        rows.append(
            common.ClusterEventState(
                severity="ERROR",
                time=datetime.datetime.fromtimestamp(worker["end_ms"] / 1000).isoformat(sep=" ", timespec="seconds"),
                source_type="RAYLET",
                message=f"The {what} with pid {worker['pid']} ended unexpectedly: {_exit_detail(worker)}",
                event_id=worker["worker_id"],
                custom_fields={"exit_type": kind, "pid": worker["pid"], "node_id": worker["node_id"]},
            )
        )
    return rows


# Columns, and where the rows come from, by the names that the command line has.
KINDS: dict[str, tuple[type[common.StateSchema], Callable[[Source], list[Any]]]] = {
    "actors": (common.ActorState, _actors),
    "cluster-events": (common.ClusterEventState, _cluster_events),
    "jobs": (common.JobState, _jobs),
    "nodes": (common.NodeState, _nodes),
    "objects": (common.ObjectState, _objects),
    "placement-groups": (common.PlacementGroupState, _placement_groups),
    "runtime-envs": (common.RuntimeEnvState, _runtime_envs),
    "tasks": (common.TaskState, _tasks),
    "workers": (common.WorkerState, _workers),
}
