"""What `init` is given: checked, or refused with a reason, before anything is started."""

from __future__ import annotations

import os
from typing import Any

from ray_rs import _logs, _processes
from ray_rs._spelling import hint

__all__ = [
    "check_hidden",
    "check_object_store_memory",
    "check_resources",
    "checked_job",
    "checked_logging",
    "laid_over",
    "of_submitted_job",
    "refuse",
    "spill_directory",
]

# Hidden keywords of Ray: those that ask for nothing are taken, the others name what is not there yet.
_HIDDEN = (
    "object_spilling_directory",
    "_node_ip_address",
    "_memory",
    "_temp_dir",
    "_system_config",
    "_metrics_export_port",
    "_node_name",
    "_plasma_directory",
    "_enable_object_reconstruction",
    "_driver_object_store_memory",
    "_redis_username",
    "_redis_password",
    "_skip_env_hook",
    "allow_multiple",
)

_WITHOUT_EFFECT = (
    "_skip_env_hook",
    "_metrics_export_port",
    "_driver_object_store_memory",
    "_enable_object_reconstruction",
    "_redis_username",
    "_redis_password",
    # Ray Client may have several connections with it; here it is refused where there would be a second one.
    "allow_multiple",
)

_REASONS = {
    "enable_resource_isolation": "the engine's processes are not put into control groups",
    "cgroup_path": "the engine's processes are not put into control groups",
}


def check_hidden(given: dict[str, Any]) -> dict[str, Any]:
    """Refuses what is not there; returns what new sessions are told."""
    unknown = [name for name in given if name not in _HIDDEN]
    if unknown:
        from inspect import signature

        from ray_rs.api import init

        meant = hint(unknown[0], [name for name in signature(init).parameters if name != unknown[0]])
        raise RuntimeError(f"Unknown keyword argument(s): {', '.join(unknown)}{meant and '.'}{meant}")
    system_config = given.pop("_system_config", None)
    if system_config is not None and not isinstance(system_config, dict):
        raise TypeError("The _system_config must be a dict.")
    # Of what there is none here, or nothing to set.
    for name in _WITHOUT_EFFECT:
        given.pop(name, None)
    directory = given.pop("_temp_dir", None)
    if directory is not None and not os.path.isabs(directory):
        raise ValueError(f"_temp_dir must be an absolute path, not {directory!r}")
    memory = given.pop("_memory", None)
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, (int, float))):
        raise TypeError(f"_memory must be a number of bytes, not {type(memory).__name__}")
    if memory is not None and memory < 0:
        raise ValueError(f"Resource quantities must be nonnegative. Violated by resource 'memory': {memory}")
    spill_directory = given.pop("object_spilling_directory", None)
    if spill_directory is not None and not isinstance(spill_directory, (str, os.PathLike)):
        raise TypeError(f"object_spilling_directory must be a path or a URL, not {type(spill_directory).__name__}")
    if system_config:
        spill_directory = spill_directory or _configured_directory(system_config)
    refuse(**given)
    return {
        "object_spilling_directory": None if spill_directory is None else os.fspath(spill_directory),
        "_memory": memory,
        "_system_config": system_config or None,
        "_temp_dir": None if directory is None else os.fspath(directory),
    }


def _configured_directory(system_config: dict[str, Any]) -> str | None:
    """Where Ray's knobs say that objects go. Of the others, which are of Ray's engine, none has an effect."""
    without_effect = [name for name in system_config if name != "object_spilling_config"]
    if without_effect:
        _logs.info(f"Entries of _system_config without effect: {', '.join(map(str, without_effect))}")
    text = system_config.get("object_spilling_config")
    if not text:
        return None
    import json

    try:
        found = json.loads(text)
        kind, directory = found["type"], found["params"]["directory_path"]
    except (ValueError, TypeError, KeyError):
        raise ValueError(
            "object_spilling_config must be JSON such as "
            '{"type": "filesystem", "params": {"directory_path": "/tmp/spill"}}, not ' + repr(text)
        ) from None
    if kind != "filesystem":
        raise NotImplementedError(
            f"object_spilling_config of type {kind!r} is not supported: pass object_spilling_directory a URL instead."
        )
    # Ray takes several, and spreads over them; it makes them, too.
    directory = str(directory[0] if isinstance(directory, list) else directory)
    os.makedirs(directory, exist_ok=True)
    return directory


def refuse(**options: Any) -> None:
    """Raises `NotImplementedError`, with the reason, if any of these options asks for something."""
    for name, value in options.items():
        if value:
            raise NotImplementedError(
                f"The option '{name}' of ray_rs.init() is not supported: {_REASONS.get(name, 'it is not there yet')}. "
                "Leave it out to run without it."
            )


def checked_logging(given: Any) -> Any:
    """What `init(logging_config=)` is given, or what the environment says."""
    from ray_rs import _logging_config

    if given is None:
        return _logging_config.default_config()
    if not isinstance(given, _logging_config.LoggingConfig):
        raise TypeError(f"logging_config must be a ray_rs.LoggingConfig, not {type(given).__name__}")
    return given


def checked_job(
    given: Any, namespace: str | None, runtime_env: dict[str, Any] | None
) -> tuple[str | None, dict[str, Any] | None, str]:
    """Namespace, runtime environment and lifetime of actors: those of `init`, else those of the job's configuration."""
    if given is None:
        return namespace, runtime_env, "non_detached"
    from ray_rs.job_config import JobConfig

    if not isinstance(given, JobConfig):
        raise TypeError(f"job_config must be a ray_rs.job_config.JobConfig, not {type(given).__name__}")
    return namespace or given.ray_namespace, runtime_env or given.runtime_env or None, given.default_actor_lifetime


def of_submitted_job() -> dict[str, Any]:
    """What the supervisor of a submitted job says to its driver; empty: this is none."""
    text = os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")
    if not text:
        return {}
    import json

    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"RAY_JOB_CONFIG_JSON_ENV_VAR is no JSON object: {error}") from None


def laid_over(submitted: dict[str, Any] | None, own: dict[str, Any] | None) -> dict[str, Any] | None:
    """The environment of a submitted job's driver: both may not say the same thing differently.

    Ray refuses that too, unless RAY_OVERRIDE_JOB_RUNTIME_ENV is 1: then the driver's own word counts.
    """
    if not submitted or not own:
        return own or submitted
    if os.environ.get("RAY_OVERRIDE_JOB_RUNTIME_ENV") != "1":
        variables, own_variables = submitted.get("env_vars", {}), own.get("env_vars", {})
        contradicted = [name for name in own if name != "env_vars" and own[name] != submitted.get(name, own[name])]
        contradicted += [
            name for name in own_variables if own_variables[name] != variables.get(name, own_variables[name])
        ]
        if contradicted:
            raise ValueError(
                f"Failed to merge the Job's runtime env {submitted} with a ray.init's runtime env {own} because of a "
                f"conflict in {', '.join(contradicted)}. Specifying the same runtime_env fields or the same "
                "environment variable keys is not allowed; RAY_OVERRIDE_JOB_RUNTIME_ENV=1 lets those of ray.init count."
            )
    merged = {**submitted, **own}
    if "env_vars" in submitted and "env_vars" in own:
        merged["env_vars"] = {**submitted["env_vars"], **own["env_vars"]}
    return merged


def check_object_store_memory(size: Any) -> None:
    """Raises `TypeError` or `ValueError` for a number of bytes that no store can have on this machine."""
    if isinstance(size, bool) or not isinstance(size, (int, float)):
        raise TypeError(f"object_store_memory must be a number, not {type(size).__name__}")
    if not size >= _processes.MIN_OBJECT_STORE_BYTES:
        raise ValueError(
            f"Attempting to cap object store memory usage at {size} bytes, but the minimum allowed is "
            f"{_processes.MIN_OBJECT_STORE_BYTES} bytes."
        )
    total = _processes.total_memory_bytes()
    if size > total:
        raise ValueError(
            f"object_store_memory is {size} bytes, and this machine has {total} bytes of memory. What does not fit in "
            "the object store goes to disk, so a smaller one does as well."
        )


def spill_directory(wished: str | None) -> str:
    """Where objects go when the store is full: an absolute path, a URL, or "" for the session's directory."""
    place = wished or os.environ.get("RAY_object_spilling_directory", "")  # noqa: SIM112
    if not place or "://" in place:
        return place
    place = os.path.abspath(place)
    if not os.path.isdir(place):
        raise ValueError(f"object_spilling_directory is no directory: {place}")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"object_spilling_directory cannot be written to: {place}")
    return place


def check_resources(resources: dict[str, float] | None) -> None:
    """Raises `TypeError` or `ValueError` unless these are amounts of custom resources."""
    if resources is None:
        return
    if not isinstance(resources, dict):
        raise TypeError(f"resources must be a dictionary, not {type(resources).__name__}")
    for name, amount in resources.items():
        if name in ("CPU", "GPU", "memory", "object_store_memory"):
            keyword = {"CPU": "num_cpus", "GPU": "num_gpus"}.get(name, name)
            raise ValueError(
                f"`{name}` cannot be a custom resource because it is one of the default resources. Use `{keyword}` "
                "instead."
            )
        if not isinstance(amount, (int, float)) or not 0 <= amount < float("inf"):
            raise ValueError(f"Resource quantities must be nonnegative. Violated by resource {name!r}: {amount}")
