"""Runtime environments: what a job's workers have besides what their driver has.

    ray.init(runtime_env={"env_vars": {"A": "1"}, "working_dir": "./project", "pip": ["requests"]})

Directories are copied once for each session into its directory, under the hash of their content, so that what is edited
while the job runs does not change under its workers. Packages are installed into a directory of their own, which comes
before the driver's on `sys.path`. All of it goes with the session.

An environment belongs to a job; one for a single task or actor is not supported yet.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ray_rs.exceptions import RuntimeEnvSetupError

if TYPE_CHECKING:
    import re

__all__ = ["RuntimeEnv", "RuntimeEnvConfig"]

# Decimal megabytes would be 537; Ray counts binary ones.
MAX_DIRECTORY_BYTES = 512 * 1024 * 1024
_DEFAULT_EXCLUDES = (".git", ".venv", "venv", "__pycache__")
_ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar.xz")
_SUPPORTED = ("config", "env_vars", "excludes", "pip", "py_modules", "uv", "working_dir")
_UNSUPPORTED = {
    "conda": "use 'pip' or 'uv'",
    "container": "workers are processes of this machine",
    "image_uri": "workers are processes of this machine",
    "java_jars": "there are no Java workers",
    "nsight": "start the profiler around the driver instead",
    "_nsight": "start the profiler around the driver instead",
    "py_executable": "workers run the driver's interpreter",
    "rocprof_sys": "start the profiler around the driver instead",
    "_rocprof_sys": "start the profiler around the driver instead",
    "worker_process_setup_hook": "do the set-up in the task or the actor's constructor",
}
# How workers learn of their job's environment.
VARIABLE = "RAY_RS_RUNTIME_ENV"


class RuntimeEnvConfig(dict[str, Any]):
    """How an environment is set up.

    Args:
        setup_timeout_seconds: Longest time that installing packages may take; -1: no limit.
        eager_install: Accepted; the environment of a job is always made at `init`.
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
            of a requirements file, or dict with "packages"), `config`. Fields that are None are left out; names that
            nobody knows are kept and ignored, as plug-ins of Ray's would be.

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
        return dict(self.get("env_vars", {}))

    def working_dir(self) -> str:
        return str(self.get("working_dir", ""))

    def to_dict(self) -> dict[str, Any]:
        return dict(self)


def _validate_fields(fields: dict[str, Any]) -> None:
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
    directory = fields.get("working_dir")
    if directory is not None:
        if not isinstance(directory, (str, os.PathLike)):
            raise TypeError(f"`working_dir` must be a string or path, got {type(directory)}.")
        _existing(directory, "working_dir")
    modules = fields.get("py_modules", [])
    if not isinstance(modules, list):
        raise TypeError(f"`py_modules` must be a list of strings or modules, got {type(modules)}.")
    for module in modules:
        if not isinstance(module, (str, os.PathLike, ModuleType)):
            raise TypeError(f"`py_modules` must be a list of strings or modules, got a {type(module)} in it.")
        if not isinstance(module, ModuleType):
            _existing(module, "py_modules")
    excludes = fields.get("excludes", [])
    if not isinstance(excludes, list) or not all(isinstance(each, str) for each in excludes):
        raise TypeError("runtime_env['excludes'] must be a list of strings.")


def _existing(path: str | os.PathLike[str], field: str) -> str:
    text = os.fspath(path)
    scheme, separator, rest = text.partition("://")
    if separator:
        if scheme != "file":
            raise NotImplementedError(f"{field}={text!r}: only local paths and file:// are supported.")
        text = rest
    text = os.path.abspath(os.path.expanduser(text))
    if not os.path.exists(text):
        raise ValueError(f"{field}: {text} does not exist.")
    if os.path.isfile(text) and field == "working_dir" and not text.endswith(_ARCHIVES):
        raise ValueError(f"{field}: {text} is neither a directory nor one of {', '.join(_ARCHIVES)}.")
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


# -------------------------------------------------------------------------------------------------------- setting it up


def variables_of(env: dict[str, Any]) -> dict[str, str]:
    """The variables to set; `${NAME}` in a value stands for what NAME is here."""
    import string

    known = {**os.environ}
    made = {}
    for name, value in env.get("env_vars", {}).items():
        made[name] = string.Template(value).safe_substitute(known) if "$" in value else value
    return made


def has_files(env: dict[str, Any]) -> bool:
    """Whether anything has to be copied or installed."""
    return any(env.get(name) for name in ("working_dir", "py_modules", "pip", "uv"))


def apply_files(env: dict[str, Any], session_dir: str, config: dict[str, Any]) -> None:
    """Copies and installs what the environment needs, and has `config` say where workers find it.

    Args:
        env: A checked environment.
        session_dir: Where the session keeps its files.
        config: The driver's configuration; its "cwd" and "sys_path" are changed.

    Raises:
        RuntimeEnvSetupError: Something could not be copied or installed.
    """
    store = os.path.join(session_dir, "runtime_resources")
    os.makedirs(store, mode=0o700, exist_ok=True)
    excludes = [*_DEFAULT_EXCLUDES, *env.get("excludes", [])]
    first = []
    try:
        directory = env.get("working_dir")
        if directory is not None:
            config["cwd"] = _stored(_existing(directory, "working_dir"), store, excludes)
            first.append(config["cwd"])
        for module in env.get("py_modules", []):
            first.append(_stored_module(module, store, excludes))
    except OSError as error:
        raise RuntimeEnvSetupError(f"Its files could not be copied: {error}") from error
    for tool in ("pip", "uv"):
        if env.get(tool):
            seconds = env.get("config", {}).get("setup_timeout_seconds", 600)
            first.append(_installed(tool, env[tool], store, None if seconds == -1 else seconds))
    config["sys_path"] = [*dict.fromkeys(first), *config["sys_path"]]


def _stored(path: str, store: str, excludes: list[str]) -> str:
    """A copy of a directory, or of what an archive holds, named by its content."""
    import hashlib
    import shutil
    import tempfile

    if os.path.isfile(path):
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else _digest(file.read())
        target = os.path.join(store, digest.hexdigest()[:32])
        if not os.path.exists(target):
            unpacked = tempfile.mkdtemp(dir=store)
            shutil.unpack_archive(path, unpacked)
            os.rename(unpacked, target)
        return target
    files = list(_files(path, excludes))
    size = sum(os.path.getsize(os.path.join(path, name)) for name in files)
    if size > MAX_DIRECTORY_BYTES:
        raise RuntimeEnvSetupError(
            f"{path} is larger ({size / 2**20:.0f} MiB) than the {MAX_DIRECTORY_BYTES // 2**20} MiB that are allowed. "
            "Leave out what workers do not need with 'excludes', or a .rayignore file."
        )
    total = _digest(b"")
    for name in files:
        total.update(name.encode() + b"\0")
        with open(os.path.join(path, name), "rb") as file:
            total.update(_digest(file.read()).digest())
    target = os.path.join(store, total.hexdigest()[:32])
    if not os.path.exists(target):
        copy = tempfile.mkdtemp(dir=store)
        for name in files:
            destination = os.path.join(copy, name)
            os.makedirs(os.path.dirname(destination), exist_ok=True)
            shutil.copy2(os.path.join(path, name), destination)
        os.rename(copy, target)
    return target


def _digest(data: bytes) -> Any:
    import hashlib

    return hashlib.sha256(data)


def _stored_module(module: Any, store: str, excludes: list[str]) -> str:
    """The entry of `sys.path` under which a copy of a module is found."""
    import shutil

    if isinstance(module, ModuleType):
        paths = list(getattr(module, "__path__", [])) or [module.__file__]
        path = os.path.abspath(paths[0] or "")
    else:
        path = _existing(module, "py_modules")
    if path.endswith(".whl"):
        # A wheel is an archive whose root is what belongs on the path.
        target = os.path.join(store, "wheel-" + _digest(path.encode()).hexdigest()[:16])
        if not os.path.exists(target):
            shutil.unpack_archive(path, target, "zip")
        return target
    parent = os.path.join(store, "module-" + _digest(path.encode()).hexdigest()[:16])
    os.makedirs(parent, exist_ok=True)
    destination = os.path.join(parent, os.path.basename(path))
    if not os.path.exists(destination):
        if os.path.isdir(path):
            os.symlink(_stored(path, store, excludes), destination)
        else:
            shutil.copy2(path, destination)
    return parent


def _installed(tool: str, given: Any, store: str, timeout_s: float | None) -> str:
    """The directory into which the packages were installed."""
    import subprocess
    import sys

    packages, options = requirements(tool, given)
    key = _digest(repr((tool, packages, options, sys.version)).encode()).hexdigest()[:32]
    target = os.path.join(store, f"{tool}-{key}")
    if os.path.exists(target):
        return target
    installer = [sys.executable, "-m", "pip"] if tool == "pip" else ["uv", "pip"]
    command = [*installer, "install", "--quiet", "--target", target, *options, *packages]
    if tool == "pip":
        command.insert(4, "--disable-pip-version-check")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise RuntimeEnvSetupError(f"{installer[0]} was not found: install it, or use 'pip'.") from None
    except subprocess.TimeoutExpired:
        raise RuntimeEnvSetupError(
            f"Installing {', '.join(packages)} took longer than {timeout_s} s; "
            "set config={'setup_timeout_seconds': ...} in the runtime_env."
        ) from None
    if done.returncode != 0:
        raise RuntimeEnvSetupError(f"{' '.join(command)}\nfailed:\n{(done.stderr or done.stdout)[-4000:]}")
    return target


# ------------------------------------------------------------------------------------------------------------- excludes


def _files(root: str, excludes: list[str]) -> Iterator[str]:
    """The files under a directory that are not excluded, relative to it, sorted."""
    rules = _Rules()
    rules.add("", excludes)
    pending = [""]
    found = []
    while pending:
        folder = pending.pop()
        here = os.path.join(root, folder)
        for name in (".gitignore", ".rayignore"):
            try:
                with open(os.path.join(here, name), encoding="utf-8", errors="replace") as file:
                    rules.add(folder, file.read().splitlines())
            except OSError:
                continue
        for entry in os.scandir(here):
            path = os.path.join(folder, entry.name)
            is_directory = entry.is_dir()
            if rules.excludes(path, is_directory=is_directory):
                continue
            if is_directory:
                pending.append(path)
            elif entry.is_file():
                found.append(path)
    yield from sorted(found)


class _Rules:
    """Patterns as in .gitignore: the last one that fits decides."""

    def __init__(self) -> None:
        self._rules: list[tuple[re.Pattern[str], bool, bool]] = []

    def add(self, folder: str, lines: list[str]) -> None:
        import re

        for line in lines:
            pattern = line.rstrip()
            if not pattern or pattern.startswith("#"):
                continue
            negated = pattern.startswith("!")
            pattern = pattern.lstrip("!") if negated else pattern
            only_directories = pattern.endswith("/")
            pattern = pattern.rstrip("/")
            anchored = "/" in pattern
            body = _as_regex(pattern.lstrip("/"))
            prefix = re.escape(folder + "/") if folder else ""
            if not anchored:
                prefix += "(?:.*/)?"
            self._rules.append((re.compile(prefix + body), negated, only_directories))

    def excludes(self, path: str, *, is_directory: bool) -> bool:
        excluded = False
        for pattern, negated, only_directories in self._rules:
            if (is_directory or not only_directories) and pattern.fullmatch(path):
                excluded = not negated
        return excluded


def _as_regex(pattern: str) -> str:
    import re

    regex, rest = "", pattern
    while rest:
        for token, meaning in (("**/", "(?:.*/)?"), ("/**", "/.*"), ("**", ".*"), ("*", "[^/]*"), ("?", "[^/]")):
            if rest.startswith(token):
                regex, rest = regex + meaning, rest[len(token) :]
                break
        else:
            if rest[0] == "[" and "]" in rest[2:]:
                end = rest.index("]", 2) + 1
                regex, rest = regex + rest[:end].replace("[!", "[^"), rest[end:]
            else:
                regex, rest = regex + re.escape(rest[0]), rest[1:]
    return regex
