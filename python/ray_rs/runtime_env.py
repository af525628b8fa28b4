"""Runtime environments: what workers have besides what their driver has.

    ray.init(runtime_env={"env_vars": {"A": "1"}, "working_dir": "./project", "pip": ["requests"]})

    @ray.remote(runtime_env={"env_vars": {"B": "2"}})
    def f(): ...

That of a task or actor is laid over its parent's: its fields replace those of the job or the submitting task, and
`env_vars` are merged name by name. What a task submits inherits what the task has. Workers of different environments
are different processes.
"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

from ray_rs._spelling import hint

__all__ = ["RuntimeEnv", "RuntimeEnvConfig"]

_UNSUPPORTED = {
    "conda": "use 'pip' or 'uv'",
    "container": "workers are processes of this machine",
    "image_uri": "workers are processes of this machine",
    "java_jars": "there are no Java workers",
    "nsight": "start the profiler around the driver instead",
    "_nsight": "start the profiler around the driver instead",
    "rocprof_sys": "start the profiler around the driver instead",
    "_rocprof_sys": "start the profiler around the driver instead",
}

_KNOWN = (
    "config",
    "env_vars",
    "excludes",
    "pip",
    "py_executable",
    "py_modules",
    "uv",
    "worker_process_setup_hook",
    "working_dir",
)


class RuntimeEnvConfig(dict[str, Any]):
    """How an environment is set up.

    Args:
        setup_timeout_seconds: Longest time that installing packages may take; -1: no limit.
        eager_install: False: the packages of a job are not installed by `init`, but when its first worker is needed.
        log_files: Accepted, without effect.
    """

    def __init__(
        self, setup_timeout_seconds: int = 600, eager_install: bool = True, log_files: list[str] | None = None
    ) -> None:
        if not isinstance(setup_timeout_seconds, int) or (setup_timeout_seconds <= 0 and setup_timeout_seconds != -1):
            raise ValueError(f"setup_timeout_seconds must be greater than zero or equal to -1: {setup_timeout_seconds}")
        super().__init__(
            setup_timeout_seconds=setup_timeout_seconds, eager_install=eager_install, log_files=log_files or []
        )


class RuntimeEnv(dict[str, Any]):
    """A runtime environment, checked. Accepted wherever a plain dict is.

    Args:
        **fields: `env_vars` (dict of strings), `working_dir` (a directory or archive), `excludes` (patterns as in
            .gitignore), `py_modules` (directories, files, wheels or modules), `pip` or `uv` (list of requirements, path
            of a requirements file, or dict with "packages"), `worker_process_setup_hook` (a callable, or its name as
            "module.function"), `py_executable` (a command of the same Python), `config`. Fields that are None are left
            out; names that nobody knows are kept and ignored, as plug-ins of Ray's would be.

    Raises:
        TypeError: A field of the wrong type.
        ValueError: A contradiction, or a path that is not there.
        NotImplementedError: A field that ray_rs does not have; the text says what to do instead.
    """

    def __init__(self, *, _validate: bool = True, **fields: Any) -> None:
        super().__init__({name: value for name, value in fields.items() if value is not None})
        if _validate:
            _validate_fields(self)

    def env_vars(self) -> dict[str, str]:
        """The environment variables by name."""
        return dict(self.get("env_vars", {}))

    def working_dir(self) -> str:
        """The directory that is copied; "" when there is none."""
        return str(self.get("working_dir", ""))

    def to_dict(self) -> dict[str, Any]:
        """The fields that are set, as a plain dictionary."""
        return dict(self)


def _validate_fields(fields: dict[str, Any]) -> None:
    for name in fields:
        # A plug-in's, or a slip.
        if name not in _KNOWN and name not in _UNSUPPORTED and (meant := hint(name, _KNOWN, likeness=0.75)):
            import logging

            logging.getLogger("ray_rs").warning(
                "runtime_env has a field %r, which nobody knows, and which is ignored.%s", name, meant
            )
    for name, instead in _UNSUPPORTED.items():
        if fields.get(name):
            raise NotImplementedError(f"runtime_env[{name!r}] is not supported by ray_rs: {instead}.")
    variables = fields.get("env_vars", {})
    if not isinstance(variables, dict):
        raise TypeError(f"runtime_env['env_vars'] must be of type Dict[str, str], got {type(variables)}")
    for name, value in variables.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(
                f"runtime_env['env_vars'] must be of type Dict[str, str], but got {type(value).__name__} for {name!r}"
            )
    if fields.get("pip") and fields.get("uv"):
        raise ValueError("The 'pip' field and 'uv' field of runtime_env cannot be specified at the same time.")
    for tool in ("pip", "uv"):
        if tool in fields:
            requirements(tool, fields[tool])
    hook = fields.get("worker_process_setup_hook")
    if hook is not None and not callable(hook) and not (isinstance(hook, str) and "." in hook):
        raise TypeError(
            f"runtime_env['worker_process_setup_hook'] must be a callable or 'module.function', got {hook!r}"
        )
    executable = fields.get("py_executable")
    if executable is not None and not (isinstance(executable, str) and executable.strip()):
        raise TypeError(f"runtime_env['py_executable'] must be a non-empty string, got {executable!r}")
    config = fields.get("config")
    if config is not None:
        if not isinstance(config, dict):
            raise TypeError(f"runtime_env['config'] must be a dict or a RuntimeEnvConfig, got {type(config)}")
        known = {"setup_timeout_seconds", "eager_install", "log_files"}
        if set(config) - known:
            import logging

            logging.getLogger("ray_rs").warning(
                "runtime_env['config'] has unknown fields, which are ignored: %s", sorted(set(config) - known)
            )
        RuntimeEnvConfig(**{name: value for name, value in config.items() if name in known})
    directory = fields.get("working_dir")
    if directory is not None:
        if not isinstance(directory, (str, os.PathLike)):
            raise TypeError(f"`working_dir` must be a string or path, got {type(directory)}.")
        existing(directory, "working_dir")
    modules = fields.get("py_modules", [])
    if not isinstance(modules, list):
        raise TypeError(f"`py_modules` must be a list of strings or modules, got {type(modules)}.")
    for module in modules:
        if not isinstance(module, (str, os.PathLike, ModuleType)):
            raise TypeError(f"`py_modules` must be a list of strings or modules, got a {type(module)} in it.")
        if not isinstance(module, ModuleType):
            existing(module, "py_modules")
    excludes = fields.get("excludes", [])
    if not isinstance(excludes, list) or not all(isinstance(each, str) for each in excludes):
        raise TypeError("runtime_env['excludes'] must be a list of strings.")


def existing(path: str | os.PathLike[str], field: str) -> str:
    """The absolute path that a field means; the address of a package as it is.

    Raises:
        NotImplementedError: It lies on another machine.
        ValueError: There is nothing, or nothing that could be used.
    """
    from ray_rs._env_archives import SUFFIXES, digest_in

    text = os.fspath(path)
    if digest_in(text) is not None:
        return text
    scheme, separator, rest = text.partition("://")
    if separator:
        if scheme != "file":
            raise NotImplementedError(f"{field}={text!r}: only local paths and file:// are supported.")
        # A URL may name the machine, if it is this one.
        this_machine = "localhost/"
        text = "/" + rest[len(this_machine) :].lstrip("/") if rest.startswith(this_machine) else rest
    text = os.path.abspath(os.path.expanduser(text))
    if not os.path.exists(text):
        raise ValueError(f"{field}: {text} does not exist.")
    if os.path.isfile(text) and field == "working_dir" and not text.endswith(SUFFIXES):
        raise ValueError(f"{field}: {text} is neither a directory nor one of {', '.join(SUFFIXES)}.")
    return text


def requirements(tool: str, given: Any) -> tuple[list[str], list[str]]:
    """What to install, and with which options.

    Args:
        tool: "pip" or "uv".
        given: The field as the user wrote it.

    Returns:
        Requirements, and options of the installer.

    Raises:
        TypeError: Not a list, a path or a dict.
        ValueError: A dict with a name that is not known, or without "packages".
    """
    options: list[str] = []
    if isinstance(given, dict):
        unknown = set(given) - {"packages", f"{tool}_check", f"{tool}_version", f"{tool}_pip_install_options"}
        unknown -= {"pip_install_options"}
        if unknown or "packages" not in given:
            raise ValueError(
                f"runtime_env[{tool!r}] must be a dict with 'packages', and may have '{tool}_check', '{tool}_version' "
                f"and 'pip_install_options'; got {sorted(given)}"
            )
        options = list(given.get("pip_install_options") or given.get(f"{tool}_pip_install_options") or [])
        given = given["packages"]
    if isinstance(given, (str, os.PathLike)):
        with open(given) as file:
            given = [line.strip() for line in file if line.strip() and not line.lstrip().startswith("#")]
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise TypeError(f"runtime_env[{tool!r}] must be a list of requirements, a path or a dict, got {given!r}")
    return given, options
