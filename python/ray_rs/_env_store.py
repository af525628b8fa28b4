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

from ray_rs._env_archives import MAX_BYTES, MAX_FILES, SUFFIXES, Content, address_of, all_files, digest_in, unpack
from ray_rs.exceptions import RuntimeEnvSetupError

if TYPE_CHECKING:
    import re

__all__ = [
    "DEFAULT_EXCLUDES",
    "check_size",
    "files_of",
    "local",
    "module_path",
    "packaged",
    "put_in_place",
    "store_of",
]

DEFAULT_EXCLUDES = (".git", ".venv", "venv", "__pycache__")

# What was stored: (store, path, name around it, what the files look like) -> address.
_known: dict[Any, str] = {}


def store_of(session_dir: str) -> str:
    """The session's directory for such things, made if it is not there."""
    store = os.path.join(session_dir, "runtime_resources")
    os.makedirs(store, mode=0o700, exist_ok=True)
    return store


def packaged(path: str, store: str, excludes: list[str], *, is_module: bool = False) -> str:
    """Copies a directory, a file or an archive.

    Args:
        path: Where it lies.
        store: As `store_of` gives it.
        excludes: What to leave out, as in .gitignore; of archives nothing is.
        is_module: It is for `sys.path`, so its own name belongs around it. Of archives, wheels may be.

    Returns:
        The address of a package. The copy is what is in it, and is found by `local`.

    Raises:
        RuntimeEnvSetupError: It is too large, or can't be copied.
    """
    try:
        if os.path.isfile(path) and path.endswith(".whl" if is_module else SUFFIXES):
            return _unpacked(path, store)
        inside = os.path.basename(path.rstrip("/")) if is_module else ""
        return _copied(path, store, [*DEFAULT_EXCLUDES, *excludes], inside)
    except OSError as error:
        raise RuntimeEnvSetupError(f"{path} could not be copied: {error}") from error


def local(address: str, store: str) -> str:
    """Where what is in a package lies, if this node has it.

    Args:
        address: Of a package.
        store: As `store_of` gives it.

    Returns:
        A directory.
    """
    return os.path.join(store, digest_in(address) or "")


def _unpacked(path: str, store: str) -> str:
    import shutil
    import tempfile

    stat = os.stat(path)
    key = (store, path, stat.st_size, stat.st_mtime_ns, stat.st_ino)
    if key in _known:
        return _known[key]
    made = tempfile.mkdtemp(dir=store)
    try:
        unpack(path, made)
    except ValueError as error:
        shutil.rmtree(made)
        raise RuntimeEnvSetupError(f"{path} can't be unpacked: {error}") from error
    except BaseException:
        shutil.rmtree(made)
        raise
    # Not in the order of the archive: whoever packs it again has only the files.
    content = Content()
    for name in all_files(made):
        with open(os.path.join(made, name), "rb") as source:
            content.copy(name, os.fstat(source.fileno()).st_mode, source)
    put_in_place(made, os.path.join(store, content.digest()))
    _known[key] = address_of(content.digest())
    return _known[key]


def _copied(path: str, store: str, excludes: list[str], inside: str) -> str:
    import shutil
    import tempfile

    names = [""] if os.path.isfile(path) else list(files_of(path, excludes))
    looks = [(name, os.stat(os.path.join(path, name) if name else path)) for name in names]
    key = (store, path, inside, tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in looks))
    if key in _known:
        return _known[key]
    check_size(path, [stat.st_size for _, stat in looks])
    content = Content()
    made = tempfile.mkdtemp(dir=store)
    try:
        # One pass, so that what is named is what was copied, whoever writes meanwhile.
        for name in names:
            member = os.path.join(inside, name) if name else inside
            target = os.path.join(made, member)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(os.path.join(path, name) if name else path, "rb") as source, open(target, "wb") as copy:
                stat = os.fstat(source.fileno())
                content.copy(member, stat.st_mode, source, copy)
            os.chmod(target, 0o700 if stat.st_mode & 0o100 else 0o600)
    except BaseException:
        shutil.rmtree(made)
        raise
    put_in_place(made, os.path.join(store, content.digest()))
    _known[key] = address_of(content.digest())
    return _known[key]


def check_size(path: str, sizes: list[int]) -> None:
    """Refuses what is too large.

    Args:
        path: What it is.
        sizes: Bytes of each file.

    Raises:
        RuntimeEnvSetupError: It is too large, or of too many files.
    """
    advice = "Leave out what workers do not need with 'excludes', or a .rayignore file."
    size = sum(sizes)
    if size > MAX_BYTES:
        raise RuntimeEnvSetupError(
            f"{path} is larger ({size / 2**20:.0f} MiB) than the {MAX_BYTES // 2**20} MiB that are allowed. {advice}"
        )
    if len(sizes) > MAX_FILES:
        raise RuntimeEnvSetupError(f"{path} has {len(sizes)} files, and {MAX_FILES} are allowed. {advice}")


def put_in_place(made: str, target: str) -> None:
    """Renames; another process may have made the same meanwhile."""
    import shutil

    try:
        os.rename(made, target)
    except OSError:
        if not os.path.exists(target):
            raise
        shutil.rmtree(made)


def module_path(module: ModuleType) -> str:
    """The file or directory that a module was imported from."""
    paths = list(getattr(module, "__path__", [])) or [module.__file__]
    return os.path.abspath(paths[0] or "")


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
