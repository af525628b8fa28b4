"""Makes the rows of the state API of what the session says.

A question goes to the raylet on a connection of its own that registers nothing, so drivers, tasks and programs that
only look ask in the same way.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from typing import Any, TypeVar

from ray_rs import _core, _memory
from ray_rs.util.state import common
from ray_rs.util.state.exception import ServerUnavailable

__all__ = ["KINDS", "Source", "drain_text", "session_directory"]

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
_FAILED_CREATION = (3, 7, 8, 9, 11)
# As in `KnownEnvironment.state`.
_ENV_MADE, _ENV_FAILED = 2, 3
_GROUP_STATES = ("PENDING", "PREPARED", "CREATED", "REMOVED", "RESCHEDULING")
_RAISED = 1
# As in `TaskEvents.outcome`.
_ERROR_TYPES = (
    None,
    "TASK_EXECUTION_EXCEPTION",
    "TASK_CANCELLED",
    "WORKER_DIED",
    "OUT_OF_MEMORY",
    "ACTOR_DIED",
    "ACTOR_UNAVAILABLE",
    "RUNTIME_ENV_SETUP_FAILED",
    "TASK_UNSCHEDULABLE_ERROR",
    "TASK_PLACEMENT_GROUP_REMOVED",
    "WORKER_DIED",
)
_ERROR_MESSAGES = (
    None,
    "One of the task's arguments is an error; `get` of its result raises it.",
    "The task was cancelled.",
    "The worker that ran the task died unexpectedly.",
    "The task's worker was ended since the node's memory was running out.",
    "The actor died.",
    "The actor could not be reached.",
    "The runtime environment could not be made.",
    "No node can ever run the task.",
    "The placement group that the task was to run in was removed.",
    "The engine failed the task.",
)


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


def _task(**columns: Any) -> common.TaskState:
    return common.TaskState(func_or_class_name=columns["name"], language="PYTHON", **columns)


def _tasks(source: Source) -> list[Any]:
    # In this order: owners send what has ended before they say what has not.
    processes = source.observer.describe_processes()["processes"]
    events, dropped = source.observer.task_events()
    if dropped:
        source.left_out = f"{dropped} tasks are not listed: of those that have ended the latest 100000 are kept."
    rows: dict[tuple[str, int], common.TaskState] = {}
    for task_id, attempt, name, outcome, job, actor, parent, node, worker, (created, start, end), text in events:
        is_creation = actor is not None and task_id == _creation_of(actor)
        rows[task_id, attempt] = _task(
            task_id=task_id,
            attempt_number=attempt,
            name=name,
            state="FAILED" if outcome else "FINISHED",
            job_id=job,
            actor_id=actor,
            type="ACTOR_CREATION_TASK" if is_creation else "ACTOR_TASK" if actor else "NORMAL_TASK",
            parent_task_id=parent,
            node_id=node,
            worker_id=worker and worker[0],
            worker_pid=worker and worker[1],
            error_type="ACTOR_CREATION_FAILED" if is_creation and outcome else _ERROR_TYPES[outcome],
            creation_time_ms=created / 1000,
            start_time_ms=start / 1000 if worker else None,
            end_time_ms=end / 1000,
            error_message=_error_message(outcome, text),
        )
    _add_unfinished(rows, processes)
    _add_creations(rows, source.observer.actors())
    return list(rows.values())


def _creation_of(actor_id: str) -> str:
    """Id of the task that makes an actor."""
    return actor_id[:16] + actor_id


def _error_message(outcome: int, text: str | None) -> str | None:
    kind = _ERROR_MESSAGES[outcome]
    # What was raised speaks for itself; what befell a task is told first.
    return text if outcome == _RAISED and text else " ".join(filter(None, (kind, text))) or None


def _add_unfinished(rows: dict[tuple[str, int], common.TaskState], processes: list[dict[str, Any]]) -> None:
    running = {task["task_id"]: (task, process) for process in processes for task in process["executing"]}
    # A coroutine that awaits runs, as in Ray.
    waits = [wait for process in processes for wait in process["waits"] if not wait["is_await"]]
    waiting = {wait["task_id"]: wait for wait in waits if wait["task_id"]}
    answered = {process["process"]["worker_id"] for process in processes}
    for owner in processes:
        for task in owner["tasks"]:
            key = (task["task_id"], task["attempt_number"])
            if key in rows or task["type"] == "PLACEMENT_GROUP" or task["unlisted"]:
                continue
            worker, state, start, created = task["worker"], task["state"], None, task["submitted_us"] / 1000
            if task["task_id"] in running:
                execution, process = running[task["task_id"]]
                worker, state, start = process["process"], "RUNNING", execution["started_us"] / 1000
                # The clock of submissions is some milliseconds coarse.
                created = min(created, start)
                if wait := waiting.get(task["task_id"]):
                    state = "RUNNING_IN_RAY_GET" if wait["all_of"] else "RUNNING_IN_RAY_WAIT"
            elif state == "RUNNING" and worker and worker["worker_id"] in answered:
                # Taken by a worker that has not begun with it.
                state = "SUBMITTED_TO_WORKER"
            rows[key] = _task(
                task_id=task["task_id"],
                attempt_number=task["attempt_number"],
                name=task["name"],
                state=state,
                job_id=owner["job_id"],
                actor_id=task["actor_id"],
                type=task["type"],
                parent_task_id=task["parent_task_id"],
                node_id=worker and worker["node_id"],
                worker_id=worker and worker["worker_id"],
                worker_pid=worker and worker["pid"],
                error_type=None,
                creation_time_ms=created,
                start_time_ms=start,
            )


def _add_creations(rows: dict[tuple[str, int], common.TaskState], actors: list[dict[str, Any]]) -> None:
    """Of actors whose constructor has ended, and whose process could not say when: the control store knows them."""
    told = {task_id for task_id, _ in rows}
    for actor in actors:
        task_id = _creation_of(actor["actor_id"])
        if actor["state"] < 2 or actor["unlisted"] or task_id in told:
            continue
        failed = actor["state"] == 4 and actor["death_cause"] in _FAILED_CREATION
        rows[task_id, 0] = _task(
            task_id=task_id,
            attempt_number=0,
            name=f"{actor['class_name']}.__init__",
            state="FAILED" if failed else "FINISHED",
            job_id=actor["job_id"],
            actor_id=actor["actor_id"],
            type="ACTOR_CREATION_TASK",
            parent_task_id=None,
            node_id=actor["node_id"],
            worker_id=actor["worker_id"],
            worker_pid=actor["pid"],
            error_type="ACTOR_CREATION_FAILED" if failed else None,
            creation_time_ms=actor["created_us"] / 1000 or None,
            error_message=actor["death_message"] if failed else None,
        )


def _nodes(source: Source) -> list[Any]:
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
        for node in source.observer.nodes()
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
    if worker["exit_code"] == 0:
        return "INTENDED_USER_EXIT" if worker["is_driver"] else "INTENDED_SYSTEM_EXIT"
    # What the raylet ends itself, it says so.
    if worker["detail"]:
        return "INTENDED_SYSTEM_EXIT"
    return "USER_ERROR" if worker["exit_code"] > 0 else "SYSTEM_ERROR"


def _exit_detail(worker: dict[str, Any]) -> str:
    if worker["detail"]:
        return str(worker["detail"])
    if worker["signal"]:
        return f"signal {worker['signal']}"
    return f"exit code {worker['exit_code']}" if worker["exit_code"] >= 0 else "it is not known how it ended"


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
        source.left_out = f"{unlisted} references to small objects are not listed: their processes have too many."
    return [common.ObjectState(**row) for row in rows]


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
        if kind.startswith("INTENDED"):
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
