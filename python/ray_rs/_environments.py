"""Runtime environments as they travel: JSON that any process of the cluster can use.

Directories are packages by then, named by what is in them (`_env_packages`); what pip and uv install has a name for its
virtual environment; a callable is its pickle. Environments are told apart by this text, so equal ones are written
equally. The engine's word for the environment of the job is the text of the job's; a process that has none says
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

__all__ = [
    "VARIABLE",
    "give",
    "give_own",
    "own_fields",
    "own_text",
    "resolved",
    "set_own",
    "set_up_hook",
    "text_for",
    "text_of",
]

# Set by the raylet in zygotes, so that workers know theirs.
VARIABLE = "RAY_RS_RUNTIME_ENV"
_PICKLED = "pickle:"

_own_text = os.environ.get(VARIABLE, "")
if _own_text:
    pass  # before the fork


def set_own(text: str) -> None:
    """Driver: the job's environment."""
    global _own_text
    _own_text = text


def own_text() -> str:
    """What this process has; empty: nothing besides what the driver has."""
    return _own_text


def own_fields() -> dict[str, Any]:
    """The same, as the user would write it."""
    fields = _parsed(_own_text)
    fields.pop("_venv", None)
    for tool in ("pip", "uv"):
        if tool in fields:
            options = fields[tool].pop("options")
            fields[tool].update({f"{tool}_pip_install_options" if tool == "uv" else "pip_install_options": options})
    return fields


def _parsed(text: str) -> dict[str, Any]:
    if not text:
        return {}
    import json

    return json.loads(text)  # type: ignore[no-any-return]


def text_of(fields: Mapping[str, Any]) -> str:
    """The one way to write an environment."""
    import json

    return json.dumps(fields, sort_keys=True, separators=(",", ":"), default=str) if fields else ""


def text_for(given: Mapping[str, Any] | None) -> str:
    """The environment of a task or actor that this process submits.

    Args:
        given: Its own `runtime_env`.

    Returns:
        That, laid over what this process has.

    Raises:
        RuntimeEnvSetupError: Its files could not be copied, or given to the cluster.
        ValueError: A path that is not there.
    """
    if not given:
        return _own_text
    from ray_rs import _core

    info = _core.process_info()
    fields = resolved(given, info["session_dir"])
    give(fields, info)
    parent = _parsed(_own_text)
    if not fields.keys().isdisjoint(("pip", "uv")):
        for name in ("pip", "uv", "_venv"):
            parent.pop(name, None)
    if "env_vars" in fields:
        fields["env_vars"] = {**parent.get("env_vars", {}), **fields["env_vars"]}
    return text_of({**parent, **fields})


def give(fields: Mapping[str, Any], info: Mapping[str, Any]) -> None:
    """Gives the cluster what nodes need for an environment.

    Args:
        fields: As `resolved` gives them.
        info: Of this process, as `_core.process_info` tells it.

    Raises:
        RuntimeEnvSetupError: It could not be stored.
    """
    if needs_session(fields):
        from ray_rs import _env_packages

        _env_packages.publish(fields, info["session_dir"], info["job_id"].hex())


def give_own() -> None:
    """Driver: the same for the job's environment. Raises as `give`."""
    from ray_rs import _core

    give(_parsed(_own_text), _core.process_info())


def needs_session(given: Mapping[str, Any]) -> bool:
    """Whether `resolved` copies anything."""
    return any(given.get(name) for name in ("working_dir", "py_modules"))


def resolved(given: Mapping[str, Any], session_dir: str) -> dict[str, Any]:
    """An environment as it travels.

    Args:
        given: A checked environment.
        session_dir: Where the session keeps its files.

    Returns:
        The fields, with packages in the place of paths.

    Raises:
        RuntimeEnvSetupError: Its files could not be copied.
        ValueError: A path that is not there.
    """
    from ray_rs import _env_install
    from ray_rs.runtime_env import requirements

    fields = {name: value for name, value in given.items() if value is not None and name != "excludes"}
    excludes = list(given.get("excludes") or [])
    if needs_session(fields):
        _package(fields, session_dir, excludes)
    for tool in ("pip", "uv"):
        if not fields.get(tool):
            fields.pop(tool, None)
            continue
        asked = fields[tool]
        packages, options = requirements(tool, asked)
        more = {
            name: asked[name]
            for name in (f"{tool}_check", f"{tool}_version")
            if isinstance(asked, dict) and asked.get(name)
        }
        fields[tool] = {"packages": packages, "options": options, **more}
        fields["_venv"] = _env_install.venv_name(tool, fields[tool])
    hook = fields.get("worker_process_setup_hook")
    if hook is not None and not isinstance(hook, str):
        fields["worker_process_setup_hook"] = _pickled(hook)
    return fields


def _package(fields: dict[str, Any], session_dir: str, excludes: list[str]) -> None:
    from ray_rs import _env_store
    from ray_rs._env_archives import digest_in
    from ray_rs.runtime_env import existing

    store = _env_store.store_of(session_dir)

    def packaged(given: Any, field: str) -> str:
        if digest_in(given) is not None:
            return str(given)
        path = existing(given, field) if isinstance(given, (str, os.PathLike)) else _env_store.module_path(given)
        return _env_store.packaged(path, store, excludes, is_module=field == "py_modules")

    if fields.get("working_dir"):
        fields["working_dir"] = packaged(fields["working_dir"], "working_dir")
    if fields.get("py_modules"):
        fields["py_modules"] = [packaged(module, "py_modules") for module in fields["py_modules"]]


def _pickled(hook: Callable[[], object]) -> str:
    import base64

    from ray_rs import _function_table

    blob = _function_table.pickle_definition(hook, "the worker_process_setup_hook")
    return _PICKLED + base64.b64encode(blob).decode()


def set_up_hook() -> Callable[[], object] | None:
    """Worker: what its environment has it call before anything else."""
    named = _parsed(_own_text).get("worker_process_setup_hook")
    return None if named is None else lambda: _called(named)


def _called(named: str) -> None:
    if named.startswith(_PICKLED):
        import base64
        import pickle

        hook = pickle.loads(base64.b64decode(named[len(_PICKLED) :]))
    else:
        from importlib import import_module

        module, _, name = named.rpartition(".")
        hook = getattr(import_module(module), name)
    hook()
