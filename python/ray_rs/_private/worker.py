"""`ray._private.worker`: the process as Ray's libraries look at it."""

from __future__ import annotations

import os
from typing import Any

from ray_rs import RESTORE_WORKER_MODE, SCRIPT_MODE, SPILL_WORKER_MODE, WORKER_MODE, _core, _logs
from ray_rs._core import cancel, get, is_initialized, kill, put, wait
from ray_rs.api import RayContext, get_actor, init, remote, shutdown

__all__ = [
    "RESTORE_WORKER_MODE",
    "SCRIPT_MODE",
    "SPILL_WORKER_MODE",
    "WORKER_MODE",
    "BaseContext",
    "CoreWorker",
    "RayContext",
    "Worker",
    "cancel",
    "get",
    "get_actor",
    "global_worker",
    "init",
    "is_initialized",
    "kill",
    "put",
    "remote",
    "shutdown",
    "wait",
]

# What `init` returns, in annotations. In Ray there is a second one, of Ray Client.
BaseContext = RayContext


class CoreWorker:
    """Of Ray's core worker what test files ask."""

    def object_exists(self, object_ref: _core.ObjectRef[Any]) -> bool:
        """Whether the value lies in an object store; small ones do not, as their owners keep them.

        Args:
            object_ref: The reference; its owner must be this process, or have told it.
        """
        from ray_rs._locations import get_local_object_locations

        found = get_local_object_locations([object_ref]).get(object_ref)
        return found is not None and bool(found["node_ids"])

    def get_all_reference_counts(self) -> dict[bytes, dict[str, int]]:
        """What holds the objects that this process knows: "local", its own references; "submitted", pending tasks.

        Returns:
            The counts by the objects' ids as hexadecimal digits. Handles of actors are not among them.
        """
        return {
            known["object_id"].encode(): {"local": known["local"], "submitted": known["submitted"]}
            for known in self._known()
        }

    def get_memory_store_size(self) -> int:
        """How many values, or errors, this process keeps in its own memory."""
        return sum(known["place"] in ("inline", "none", "error") for known in self._known())

    def _known(self) -> list[dict[str, Any]]:
        from ray_rs.util.state._rows import Source

        own = _core.process_info()["worker_id"].hex()
        said = Source(None).observer.describe_processes(tasks=False, objects=True, stored=False)
        mine = (process for process in said["processes"] if process["process"]["worker_id"] == own)
        return [known for process in mine for known in process["objects"] if not known["is_actor_handle"]]


class Worker:
    """This process, or its connection to the cluster.

    Attributes:
        mode: `SCRIPT_MODE` in a driver, `WORKER_MODE` in a worker, None when not connected.
    """

    @property
    def mode(self) -> int | None:
        if not _core.is_initialized():
            return None
        return SCRIPT_MODE if _core.process_info()["is_driver"] else WORKER_MODE

    @property
    def connected(self) -> bool:
        """Whether there is a session."""
        return _core.is_initialized()

    @property
    def node(self) -> Node | None:
        """Where the session lies; None when not connected."""
        return Node() if _core.is_initialized() else None

    @property
    def core_worker(self) -> CoreWorker:
        """What is known of objects."""
        return CoreWorker()

    def check_connected(self) -> None:
        """Raises `RaySystemError` when there is no session."""
        _core.process_info()

    @property
    def worker_id(self) -> bytes:
        """The id of this process."""
        return _core.process_info()["worker_id"].binary()  # type: ignore[no-any-return]

    @property
    def current_job_id(self) -> _core.JobID:
        """The job."""
        return _core.process_info()["job_id"]  # type: ignore[no-any-return]

    @property
    def current_node_id(self) -> _core.NodeID:
        """The node that this process runs on."""
        return _core.process_info()["node_id"]  # type: ignore[no-any-return]

    @property
    def current_task_id(self) -> _core.TaskID:
        """The running task; nil when none runs."""
        task = _core.current_task()
        return _core.TaskID.nil() if task is None else task.task_id

    @property
    def actor_id(self) -> _core.ActorID:
        """The actor that this process hosts; nil when it hosts none."""
        actor = _core.current_actor()
        return _core.ActorID.nil() if actor is None else actor[0]

    @property
    def namespace(self) -> str:
        """The job's namespace."""
        return _core.process_info()["namespace"]  # type: ignore[no-any-return]

    @property
    def node_ip_address(self) -> str:
        """Address of the node."""
        return _core.process_info()["node_ip"]  # type: ignore[no-any-return]

    @property
    def session_name(self) -> str:
        """Name of the session's directory."""
        return str(os.path.basename(_core.process_info()["session_dir"]))


class Node:
    """Where the session of this process lies."""

    def get_session_dir_path(self) -> str:
        """The session's directory."""
        return str(_core.process_info()["session_dir"])

    def get_logs_dir_path(self) -> str:
        """The directory of its log files."""
        return os.path.join(self.get_session_dir_path(), "logs")

    @property
    def unique_id(self) -> str:
        """The node's id, as hexadecimal digits."""
        return str(_core.process_info()["node_id"].hex())

    @property
    def node_ip_address(self) -> str:
        """Address of the node."""
        return str(_core.process_info()["node_ip"])

    @property
    def gcs_address(self) -> str:
        """Address of the control store."""
        return str(_core.process_info()["gcs_address"])


global_worker = Worker()


def _unhandled_error_handler(error: Exception) -> None:
    """Called with each error that nobody asked for; a test puts another function here. The driver prints it anyway."""


def _on_event(kind: str, *details: Any) -> None:
    if kind == "unseen_error":
        from ray_rs.exceptions import RayError

        _unhandled_error_handler(RayError(details[0]))


_logs.listeners.append(_on_event)


def __getattr__(name: str) -> Any:
    # None before `init` and after `shutdown`, as callers ask.
    if name == "_global_node":
        return Node() if _core.is_initialized() else None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
