"""Directories of runtime environments as archives, for a cluster that can't see the disk they lie on.

An archive is named by its content, so it is uploaded once. Whoever packs leaves out what `excludes`, .gitignore and
.rayignore name, as for the session's own store.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

from ray_rs import _env_store
from ray_rs.exceptions import RuntimeEnvSetupError

__all__ = ["PREFIX", "uploaded", "with_packages"]

# As Ray's addresses of packages in its control store.
PREFIX = "gcs://"
_NAME = "_ray_pkg_{}.zip"
# Archives tell sizes before they are unpacked; one of more members is not looked at further.
_MAX_MEMBERS = 200_000


def uploaded(
    runtime_env: dict[str, Any], has: Callable[[str], bool], put: Callable[[str, str], None]
) -> dict[str, Any]:
    """An environment whose directories and modules have been uploaded.

    Args:
        runtime_env: As the user wrote it.
        has: Whether the cluster has an archive of this name.
        put: Gives it one: its name, and the path of a file.

    Returns:
        The environment with addresses of archives in the place of paths.

    Raises:
        ValueError: A path that is not there.
        RuntimeEnvSetupError: A directory is too large.
    """
    from ray_rs.runtime_env import existing

    fields = dict(runtime_env)
    excludes = list(fields.pop("excludes", None) or [])

    def address(path: str, *, inside: str) -> str:
        if os.path.isfile(path) and path.endswith((".zip", ".whl")):
            name = _archive_name(_digest_of(path), path)
            if not has(name):
                put(name, path)
            return PREFIX + name
        with tempfile.TemporaryDirectory(prefix="ray_rs_package_") as directory:
            archive, digest = _packed(path, inside, excludes, directory)
            name = _NAME.format(digest)
            if not has(name):
                put(name, archive)
            return PREFIX + name

    working_dir = fields.get("working_dir")
    if working_dir and not _is_address(working_dir):
        fields["working_dir"] = address(existing(working_dir, "working_dir"), inside="")
    modules = fields.get("py_modules")
    if modules:
        packed = []
        for module in modules:
            if isinstance(module, str) and _is_address(module):
                packed.append(module)
                continue
            path = existing(module, "py_modules") if isinstance(module, (str, os.PathLike)) else None
            path = _env_store.module_path(module) if path is None else path
            packed.append(address(path, inside=os.path.basename(path.rstrip("/"))))
        fields["py_modules"] = packed
    return fields


def _is_address(text: Any) -> bool:
    return isinstance(text, str) and "://" in text and not text.startswith("file://")


def _archive_name(digest: str, path: str) -> str:
    # The name of a wheel says what it is for.
    return os.path.basename(path) if path.endswith(".whl") else _NAME.format(digest)


def _digest_of(path: str) -> str:
    import hashlib

    total = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            total.update(piece)
    return total.hexdigest()[:32]


def _packed(path: str, inside: str, excludes: list[str], directory: str) -> tuple[str, str]:
    """Packs a directory or a file; returns the archive and the digest of its content."""
    import hashlib
    import zipfile

    names = [""] if os.path.isfile(path) else list(_env_store.files_of(path, excludes))
    size = sum(os.path.getsize(os.path.join(path, name) if name else path) for name in names)
    if size > _env_store.MAX_DIRECTORY_BYTES:
        raise RuntimeEnvSetupError(
            f"{path} is larger ({size / 2**20:.0f} MiB) than the {_env_store.MAX_DIRECTORY_BYTES // 2**20} MiB that "
            "are allowed. Leave out what workers do not need with 'excludes', or a .rayignore file."
        )
    archive = os.path.join(directory, "package.zip")
    total = hashlib.sha256()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for name in names:
            source = os.path.join(path, name) if name else path
            member = os.path.join(inside, name) if name else inside
            # Times are no part of it: the same content has the same name.
            entry = zipfile.ZipInfo(member)
            entry.external_attr = (os.stat(source).st_mode & 0o777) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            with open(source, "rb") as file, packed.open(entry, "w") as target:
                total.update(member.encode() + b"\0" + str(entry.external_attr).encode() + b"\0")
                content = hashlib.sha256()
                while piece := file.read(1 << 20):
                    content.update(piece)
                    target.write(piece)
                total.update(content.digest())
    return archive, total.hexdigest()[:32]


# ------------------------------------------------------------------------------------------------- the cluster's side


def with_packages(runtime_env: dict[str, Any]) -> dict[str, Any]:
    """An environment with what was uploaded in the place of its address.

    Args:
        runtime_env: As it was submitted.

    Returns:
        The same with paths of this machine.

    Raises:
        ValueError: An archive was not uploaded, or is none.
    """
    from ray_rs import _core

    store = _env_store.store_of(_core.process_info()["session_dir"])
    fields = dict(runtime_env)
    working_dir = fields.get("working_dir")
    if isinstance(working_dir, str) and working_dir.startswith(PREFIX):
        fields["working_dir"] = _unpacked(working_dir, store)
    if isinstance(fields.get("py_modules"), list):
        fields["py_modules"] = [
            _module(module, store) if isinstance(module, str) and module.startswith(PREFIX) else module
            for module in fields["py_modules"]
        ]
    return fields


def _module(address: str, store: str) -> str:
    if address.endswith(".whl"):
        return _archive(address, store)
    directory = _unpacked(address, store)
    names = os.listdir(directory)
    # Packed with its own name around it.
    return os.path.join(directory, names[0]) if len(names) == 1 else directory


def _archive(address: str, store: str) -> str:
    name = address.removeprefix(PREFIX)
    path = os.path.join(store, "packages", name)
    if os.path.basename(name) != name or not os.path.isfile(path):
        raise ValueError(f"The package {address} was not uploaded to this cluster.")
    return path


def _unpacked(address: str, store: str) -> str:
    """The directory with an archive's content; unpacked once."""
    import shutil
    import zipfile

    archive = _archive(address, store)
    target = os.path.join(store, "unpacked-" + os.path.basename(archive))
    if os.path.isdir(target):
        return target
    made = tempfile.mkdtemp(dir=store)
    try:
        with zipfile.ZipFile(archive) as packed:
            _unpack(packed, address, made)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        shutil.rmtree(made)
        raise ValueError(f"The package {address} can't be unpacked: {error}") from error
    _env_store.put_in_place(made, target)
    return target


def _unpack(packed: Any, address: str, directory: str) -> None:
    members = packed.infolist()
    size = sum(member.file_size for member in members)
    if len(members) > _MAX_MEMBERS or size > _env_store.MAX_DIRECTORY_BYTES:
        raise ValueError(
            f"it holds {len(members)} files of {size / 2**20:.0f} MiB together, and {_MAX_MEMBERS} of "
            f"{_env_store.MAX_DIRECTORY_BYTES // 2**20} MiB are allowed"
        )
    for member in members:
        # `extract` keeps names inside the directory, and reads no more than the size that was told.
        path = packed.extract(member, directory)
        mode = (member.external_attr >> 16) & 0o777
        if mode and not member.is_dir():
            os.chmod(path, mode | 0o600)
