"""Packages of runtime environments on their way through a cluster whose nodes do not share a disk.

A directory is copied once, into the store of the node on which it lies (`_env_store`). Whoever names it in an
environment gives it to the control store, in parts that belong to the job and go with it; the first worker of another
node that needs it has it fetched (`_env_install`), checked against its name, and unpacked into that node's store. So
an environment reads the same on every node. Programs that submit jobs over HTTP upload archives instead, which the
head's node unpacks.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from ray_rs import _env_archives, _env_store
from ray_rs._env_archives import PREFIX
from ray_rs.exceptions import RuntimeEnvSetupError

__all__ = ["fetch", "publish", "uploaded", "with_packages"]

# The control store keeps what is in this name space in files; see `rust/gcs/src/packages.rs`.
_NAMESPACE = "_packages"
_PART_BYTES = 4 << 20
# Of the largest package: names and the archive's own words come to what is in it.
_MAX_PARTS = 2 * _env_archives.MAX_BYTES // _PART_BYTES
_NAME = "_ray_pkg_{}.zip"

# (session, job, package) that this process knows the control store to have.
_published: set[tuple[str, str, str]] = set()


def _addresses(fields: Mapping[str, Any]) -> list[str]:
    directory = fields.get("working_dir")
    return [*([directory] if directory else []), *(fields.get("py_modules") or [])]


def publish(fields: Mapping[str, Any], session_dir: str, job: str) -> None:
    """Gives the cluster the packages of an environment. Nothing happens to those that it has for this job.

    Args:
        fields: As `_environments.resolved` gives them.
        session_dir: This node's session.
        job: Hexadecimal digits of the job that they are for.

    Raises:
        RuntimeEnvSetupError: One could not be stored, or nobody has it.
    """
    for address in _addresses(fields):
        digest = _env_archives.digest_in(address)
        if digest is None:
            raise RuntimeEnvSetupError(f"{address!r} is not the address of a package.")
        if (session_dir, job, digest) in _published:
            continue
        try:
            _publish(address, f"{job}/{digest}", _env_store.store_of(session_dir))
        except (OSError, RuntimeError) as error:
            raise RuntimeEnvSetupError(f"The package {address} could not be given to the cluster: {error}") from error
        _published.add((session_dir, job, digest))


def _publish(address: str, key: str, store: str) -> None:
    from ray_rs import _core

    if _core.kv_get(_NAMESPACE, key.encode()) is not None:
        return
    directory = _env_store.local(address, store)
    if not os.path.isdir(directory):
        raise RuntimeEnvSetupError(f"The package {address} is not in this cluster, and no part of this job.")
    with tempfile.NamedTemporaryFile(dir=store, prefix="packing-") as archive:
        packed = _env_archives.pack(directory, _env_archives.all_files(directory), archive.name)
        if address != _env_archives.address_of(packed):
            raise RuntimeEnvSetupError(f"The copy of {address} in {directory} was changed.")
        count = 0
        while part := archive.read(_PART_BYTES):
            _core.kv_put(_NAMESPACE, f"{key}/{count}".encode(), part, False)
            count += 1
    # Last, since it says that all the others are there.
    _core.kv_put(_NAMESPACE, key.encode(), str(count).encode(), False)


def fetch(env: Mapping[str, Any], session_dir: str, job: str, deadline: float | None) -> None:
    """Has this node get the packages of an environment, if it has not.

    Args:
        env: An environment as it travels.
        session_dir: This node's session.
        job: Hexadecimal digits of the job whose environment it is.
        deadline: Of `time.monotonic`; None: there is none.

    Raises:
        RuntimeEnvSetupError: One is not there, is not what its name says, or takes too long.
    """
    import fcntl

    store = _env_store.store_of(session_dir)
    for address in _addresses(env):
        target = _env_store.local(address, store)
        if os.path.isdir(target):
            continue
        with open(f"{target}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # held by the process that fetches the same, if any
            if not os.path.isdir(target):
                _fetch(address, f"{job}/{os.path.basename(target)}", store, session_dir, deadline)


def _fetch(address: str, key: str, store: str, session_dir: str, deadline: float | None) -> None:
    import shutil
    import time

    from ray_rs import _core

    observer = _core.Observer(session_dir)
    whole = observer.kv_get(_NAMESPACE, key.encode())
    if whole is None or not whole.isdigit() or int(whole) > _MAX_PARTS:
        raise RuntimeEnvSetupError(f"The package {address} is not in this cluster: its job may have ended.")
    with tempfile.NamedTemporaryFile(dir=store, prefix="fetching-") as archive:
        for number in range(int(whole)):
            if deadline is not None and time.monotonic() > deadline:
                raise RuntimeEnvSetupError(
                    f"Fetching the package {address} took too long: {number} of {int(whole)} parts came. Set "
                    "config={'setup_timeout_seconds': ...} in the runtime_env."
                )
            part = observer.kv_get(_NAMESPACE, f"{key}/{number}".encode())
            if part is None:
                raise RuntimeEnvSetupError(f"The package {address} went while it was fetched: its job has ended.")
            archive.write(part)
        archive.flush()
        made = tempfile.mkdtemp(dir=store)
        try:
            if _env_archives.address_of(_env_archives.unpack(archive.name, made)) != address:
                raise RuntimeEnvSetupError(f"The package {address} is damaged: it does not hold what its name says.")
            _env_store.put_in_place(made, _env_store.local(address, store))
        except (OSError, ValueError) as error:
            raise RuntimeEnvSetupError(f"The package {address} can't be unpacked: {error}") from error
        finally:
            shutil.rmtree(made, ignore_errors=True)


# ------------------------------------------------------------------------------------------- jobs that come over HTTP


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
            name = _archive_name(path)
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


def _archive_name(path: str) -> str:
    """What an archive is called that is uploaded as it is."""
    import hashlib

    # The name of a wheel says what it is for.
    if path.endswith(".whl"):
        return os.path.basename(path)
    total = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            total.update(piece)
    return _NAME.format(total.hexdigest()[:32])


def _packed(path: str, inside: str, excludes: list[str], directory: str) -> tuple[str, str]:
    """Packs a directory or a file; returns the archive and the digest of its content."""
    import zipfile

    names = [""] if os.path.isfile(path) else list(_env_store.files_of(path, excludes))
    sources = [os.path.join(path, name) if name else path for name in names]
    _env_store.check_size(path, [os.path.getsize(source) for source in sources])
    archive = os.path.join(directory, "package.zip")
    content = _env_archives.Content()
    # It goes over HTTP, perhaps a long way.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for name, source in zip(names, sources, strict=True):
            member = os.path.join(inside, name) if name else inside
            mode = os.stat(source).st_mode
            # Times are no part of it: the same content has the same name.
            entry = zipfile.ZipInfo(member)
            entry.external_attr = (mode & 0o777) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            with open(source, "rb") as file, packed.open(entry, "w") as target:
                content.copy(member, mode, file, target)
    return archive, content.digest()


def with_packages(runtime_env: dict[str, Any]) -> dict[str, Any]:
    """An environment whose uploaded archives have been unpacked into this node's store.

    Args:
        runtime_env: As it was submitted.

    Returns:
        The same with addresses of what is there.

    Raises:
        ValueError: An archive was not uploaded, or is none.
    """
    from ray_rs import _core

    store = _env_store.store_of(_core.process_info()["session_dir"])
    fields = dict(runtime_env)
    working_dir = fields.get("working_dir")
    if isinstance(working_dir, str) and working_dir.startswith(PREFIX):
        fields["working_dir"] = _from_upload(working_dir, store)
    if isinstance(fields.get("py_modules"), list):
        fields["py_modules"] = [
            _from_upload(module, store) if isinstance(module, str) and module.startswith(PREFIX) else module
            for module in fields["py_modules"]
        ]
    return fields


def _from_upload(address: str, store: str) -> str:
    name = address.removeprefix(PREFIX)
    path = os.path.join(store, "packages", name)
    if os.path.basename(name) != name or not os.path.isfile(path):
        raise ValueError(f"The package {address} was not uploaded to this cluster.")
    try:
        # Modules were packed with their names around them.
        return _env_store.packaged(path, store, [], is_module=name.endswith(".whl"))
    except RuntimeEnvSetupError as error:
        raise ValueError(f"The package {address} can't be unpacked: {error.error_message}") from error
