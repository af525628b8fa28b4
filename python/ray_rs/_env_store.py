"""Where a session keeps the directories and modules of its runtime environments.

A directory is copied once, under the hash of its content, so that what is edited while a job runs does not change under
its workers. What was copied before is known by names, sizes and times, without reading it again. All of it goes with
the session.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ray_rs.exceptions import RuntimeEnvSetupError

if TYPE_CHECKING:
    import re

__all__ = [
    "MAX_DIRECTORY_BYTES",
    "files_of",
    "module_path",
    "put_in_place",
    "store_directory",
    "store_module",
    "store_of",
]

# Decimal megabytes would be 537; Ray counts binary ones.
MAX_DIRECTORY_BYTES = 512 * 1024 * 1024
_DEFAULT_EXCLUDES = (".git", ".venv", "venv", "__pycache__")

# What was stored: (store, path, what the files look like) -> copy.
_known: dict[Any, str] = {}


def store_of(session_dir: str) -> str:
    """The session's directory for such things, made if it is not there."""
    store = os.path.join(session_dir, "runtime_resources")
    os.makedirs(store, mode=0o700, exist_ok=True)
    return store


def store_directory(path: str, store: str, excludes: list[str]) -> str:
    """Copies a directory, or what an archive holds.

    Args:
        path: The directory or archive.
        store: As `store_of` gives it.
        excludes: What to leave out, as in .gitignore.

    Returns:
        The copy, named by its content.

    Raises:
        RuntimeEnvSetupError: It is too large, or can't be copied.
    """
    try:
        return _stored(path, store, [*_DEFAULT_EXCLUDES, *excludes])
    except OSError as error:
        raise RuntimeEnvSetupError(f"{path} could not be copied: {error}") from error


def _stored(path: str, store: str, excludes: list[str]) -> str:
    # What is there already was named by its content when it came.
    if os.path.dirname(path) == store and os.path.isdir(path):
        return path
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
            put_in_place(unpacked, target)
        return target
    files = list(files_of(path, excludes))
    looks = [(name, os.stat(os.path.join(path, name))) for name in files]
    key = (store, path, tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in looks))
    if key in _known:
        return _known[key]
    size = sum(stat.st_size for _, stat in looks)
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
        put_in_place(copy, target)
    _known[key] = target
    return target


def put_in_place(made: str, target: str) -> None:
    """Renames; another process may have made the same meanwhile."""
    import shutil

    try:
        os.rename(made, target)
    except OSError:
        if not os.path.exists(target):
            raise
        shutil.rmtree(made)


def _digest(data: bytes) -> Any:
    import hashlib

    return hashlib.sha256(data)


def module_path(module: ModuleType) -> str:
    """The file or directory that a module was imported from."""
    paths = list(getattr(module, "__path__", [])) or [module.__file__]
    return os.path.abspath(paths[0] or "")


def store_module(path: str, store: str, excludes: list[str]) -> str:
    """Copies a module.

    Args:
        path: A directory, a file or a wheel.
        store: As `store_of` gives it.
        excludes: What to leave out, as in .gitignore.

    Returns:
        The entry of `sys.path` under which the copy is found.

    Raises:
        RuntimeEnvSetupError: It is too large, or can't be copied.
    """
    try:
        return _stored_module(path, store, [*_DEFAULT_EXCLUDES, *excludes])
    except OSError as error:
        raise RuntimeEnvSetupError(f"{path} could not be copied: {error}") from error


def _stored_module(path: str, store: str, excludes: list[str]) -> str:
    import shutil
    import tempfile

    name = os.path.basename(path)
    if os.path.isdir(path):
        content = _stored(path, store, excludes)
        key = os.path.basename(content)
    else:
        with open(path, "rb") as file:
            key = _digest(file.read()).hexdigest()[:32]
    target = os.path.join(store, f"module-{_digest(name.encode()).hexdigest()[:8]}-{key}")
    if os.path.exists(target):
        return target
    made = tempfile.mkdtemp(dir=store)
    if os.path.isdir(path):
        os.symlink(content, os.path.join(made, name))
    elif path.endswith(".whl"):
        # A wheel is an archive whose root is what belongs on the path.
        shutil.unpack_archive(path, made, "zip")
    else:
        shutil.copy2(path, os.path.join(made, name))
    put_in_place(made, target)
    return target


# ------------------------------------------------------------------------------------------------------------- excludes


def files_of(root: str, excludes: list[str]) -> Iterator[str]:
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
