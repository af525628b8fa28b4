"""Where code runs: `get_runtime_context()`."""

from __future__ import annotations

import os
from typing import Any

from ray_rs import _core, _logs
from ray_rs._scheduling import ordinary_names

__all__ = ["RuntimeContext", "get_runtime_context"]


class RuntimeContext:
    """Answers about the process, and about the task or actor that the caller runs in."""

    def _require(self) -> dict[str, Any]:
        if not _core.is_initialized():
            from ray_rs import api

            api._auto_init()
        return _core.process_info()

    def _task(self) -> _core.TaskContext | None:
        info = self._require()
        if info["is_driver"]:
            _logs.warning("This method is only available when the process is a worker. Current mode: 0")
            return None
        return _core.current_task()

    def get_job_id(self) -> str:
        """The job's id, as hexadecimal digits."""
        return self._require()["job_id"].hex()  # type: ignore[no-any-return]

    def get_node_id(self) -> str:
        """The id of the node that this process runs on, as hexadecimal digits."""
        return self._require()["node_id"].hex()  # type: ignore[no-any-return]

    def get_worker_id(self) -> str:
        """The id of this process, as hexadecimal digits; a driver's is made of its job's."""
        info = self._require()
        if info["is_driver"]:
            return info["job_id"].hex() + "ff" * 24  # type: ignore[no-any-return]
        return info["worker_id"].hex()  # type: ignore[no-any-return]

    def get_task_id(self) -> str | None:
        """The id of the running task, as hexadecimal digits; None in a driver."""
        task = self._task()
        return None if task is None else task.task_id.hex()

    def get_task_name(self) -> str | None:
        """The name of the running task; None in a driver."""
        task = self._task()
        return None if task is None else task.name

    def get_task_function_name(self) -> str | None:
        """The function of the running task, with its module; None in a driver."""
        task = self._task()
        function = None if task is None else task.function
        if function is None:
            return None if task is None else task.name
        return f"{function.__module__}.{function.__qualname__}"

    def get_actor_id(self) -> str | None:
        """The id of the actor that the caller runs in, as hexadecimal digits; None elsewhere."""
        self._require()
        actor = _core.current_actor()
        return None if actor is None else actor[0].hex()

    def get_actor_name(self) -> str | None:
        """The name the actor is registered under, empty when it has none; None outside actors."""
        if self._require()["is_driver"]:
            _logs.warning("This method is only available when the process is a worker. Current mode: 0")
        return None if _core.current_actor() is None else str(_actor_info["name"])

    @property
    def namespace(self) -> str:
        """The namespace of the job, where named actors are looked up by default."""
        return self._require()["namespace"]  # type: ignore[no-any-return]

    @property
    def gcs_address(self) -> str:
        """Address of the control store."""
        return self._require()["gcs_address"]  # type: ignore[no-any-return]

    def get_assigned_resources(self) -> dict[str, float]:
        """Resources held by the running task, or by the actor.

        Raises:
            AssertionError: Called in a driver.
        """
        assert not self._require()["is_driver"], "This method is only available when the process is a worker."
        if _core.current_actor() is not None:
            return ordinary_names(_actor_info["resources"])
        task = _core.current_task()
        return {} if task is None else ordinary_names(task.resources)

    def get_placement_group_id(self) -> str | None:
        """The id of the placement group that the caller runs in, as hexadecimal digits; None outside of one."""
        self._require()
        current = _core.current_placement_group()
        return None if current is None else current[0].hex()

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether the tasks and actors that the caller makes run in its placement group, unless they say otherwise."""
        self._require()
        current = _core.current_placement_group()
        return current is not None and current[1]

    def get_node_labels(self) -> dict[str, str]:
        """The labels of the node that this process runs on."""
        own = self.get_node_id()
        from ray_rs import api

        return next((dict(node["Labels"]) for node in api.nodes() if node["NodeID"] == own), {})

    @property
    def current_actor(self) -> _core.ActorHandle[Any]:
        """A handle to the actor that the caller runs in; it does not keep the actor alive.

        Raises:
            RuntimeError: Not called in an actor.
        """
        self._require()
        handle = _core.own_actor_handle()
        if handle is None:
            raise RuntimeError("This method is only available in an actor.")
        return handle

    def is_canceled(self) -> bool:
        """Whether the task or call that asks was cancelled, for code that takes no interrupts: it should return soon.

        Raises:
            RuntimeError: Called in a driver, or in an actor with `async def` methods (those get a `CancelledError`).
        """
        self._require()
        if _actor_info.get("is_async"):
            raise RuntimeError("is_canceled() is not available in async actors: catch asyncio.CancelledError instead.")
        cancelled = _core.is_current_task_cancelled()
        if cancelled is None:
            raise RuntimeError("This method is only available in a task or an actor's method.")
        return cancelled

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the actor was restarted after its process died.

        Raises:
            AssertionError: Called in a driver.
        """
        assert not self._require()["is_driver"], "This method is only available when the process is a worker."
        return bool(_core.current_actor() is not None and _actor_info["incarnation"] > 0)

    @property
    def runtime_env(self) -> Any:
        """The `ray_rs.runtime_env.RuntimeEnv` of this task, actor or driver; empty when it has none."""
        from ray_rs.runtime_env import RuntimeEnv

        return RuntimeEnv(_validate=False, **self._runtime_env())

    def get_runtime_env_string(self) -> str:
        """The same as JSON."""
        import json

        return json.dumps(self._runtime_env())

    def _runtime_env(self) -> dict[str, Any]:
        from ray_rs import _environments

        self._require()
        return _environments.own_fields()

    def get_session_name(self) -> str:
        """Name of the session's directory."""
        return str(os.path.basename(self._require()["session_dir"]))

    def get_temp_dir(self) -> str:
        """The directory that sessions lie in."""
        return str(os.path.dirname(self._require()["session_dir"]))

    def get_dashboard_url(self) -> str:
        """Where the web service listens, as host:port: what RAY_OVERRIDE_DASHBOARD_URL says, if that is set.

        Returns:
            The address; empty where there is no such service, and on other nodes than the head, which do not know it.
        """
        directory = self._require()["session_dir"]
        override = os.environ.get("RAY_OVERRIDE_DASHBOARD_URL")
        if override:
            return override
        from ray_rs import _processes

        return _processes.web_address(directory)

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """Accelerators of each family that the task or actor may use: their ids as strings."""
        self._require()
        return {"GPU": [str(number) for number in self._gpu_ids()]}

    # Deprecated in Ray; as it does, they warn.

    def get(self) -> dict[str, Any]:
        """Ids by name: "job_id", "node_id", "namespace", and in workers "task_id" and "actor_id"."""
        _deprecated("get()", "the method for what you need")
        info = self._require()
        found = {"job_id": info["job_id"], "node_id": info["node_id"], "namespace": info["namespace"]}
        if not info["is_driver"]:
            task, actor = _core.current_task(), _core.current_actor()
            found.update({} if task is None else {"task_id": task.task_id})
            found.update({} if actor is None else {"actor_id": actor[0]})
        return found

    @property
    def job_id(self) -> _core.JobID:
        """Deprecated: `get_job_id()` gives it as hexadecimal digits."""
        _deprecated("job_id", "get_job_id()")
        return self._require()["job_id"]  # type: ignore[no-any-return]

    @property
    def node_id(self) -> _core.NodeID:
        """Deprecated: `get_node_id()` gives it as hexadecimal digits."""
        _deprecated("node_id", "get_node_id()")
        return self._require()["node_id"]  # type: ignore[no-any-return]

    @property
    def task_id(self) -> _core.TaskID | None:
        """Deprecated: `get_task_id()` gives it as hexadecimal digits."""
        _deprecated("task_id", "get_task_id()")
        task = self._task()
        return None if task is None else task.task_id

    @property
    def actor_id(self) -> _core.ActorID | None:
        """Deprecated: `get_actor_id()` gives it as hexadecimal digits."""
        _deprecated("actor_id", "get_actor_id()")
        self._require()
        actor = _core.current_actor()
        return None if actor is None else actor[0]

    @property
    def current_placement_group_id(self) -> _core.PlacementGroupID | None:
        """Deprecated: `get_placement_group_id()` gives it as hexadecimal digits."""
        _deprecated("current_placement_group_id", "get_placement_group_id()")
        self._require()
        current = _core.current_placement_group()
        return None if current is None else current[0]

    def get_resource_ids(self) -> dict[str, list[str]]:
        """Deprecated: `get_accelerator_ids()`."""
        _deprecated("get_resource_ids()", "get_accelerator_ids()")
        return self.get_accelerator_ids()

    def _gpu_ids(self) -> list[Any]:
        if not _core.is_initialized() or _core.process_info()["is_driver"]:
            return []
        task = _core.current_task()
        numbers = _actor_info["gpu_ids"] or ([] if task is None else task.gpu_ids)
        names = _visible_devices
        return [names[number] for number in numbers] if names else list(numbers)


# Of the actor that this process hosts; set by the worker before its constructor runs.
_actor_info: dict[str, Any] = {"name": "", "resources": {}, "incarnation": 0, "gpu_ids": []}
# Devices that CUDA_VISIBLE_DEVICES named when the process started; GPU numbers are indices into it.
_visible_devices = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each.strip()]

_context = RuntimeContext()


def _deprecated(name: str, better: str) -> None:
    import warnings

    from ray_rs.util.annotations import RayDeprecationWarning

    text = f"RuntimeContext.{name} is deprecated. Use {better} instead."
    warnings.warn(text, RayDeprecationWarning, stacklevel=3)


def get_runtime_context() -> RuntimeContext:
    """Gives the one object that answers where code runs. Starts a session when there is none, as `remote` does.

    Returns:
        It.
    """
    if not _core.is_initialized():
        from ray_rs import api

        api._auto_init()
    return _context
