"""Packages: archives of directories, named by what is in them, and what is taken out of archives.

The name is a hash of the names of the files, of whether they may be executed, and of what they hold, in order. So a
package can be made anywhere from what was unpacked, and whoever unpacks one sees that it is the one that was meant.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

__all__ = [
    "MAX_BYTES",
    "MAX_FILES",
    "PREFIX",
    "SUFFIXES",
    "Content",
    "address_of",
    "all_files",
    "digest_in",
    "pack",
    "unpack",
]

# As Ray's addresses of packages in its control store.
PREFIX = "gcs://"
# Decimal megabytes would be 537; Ray counts binary ones.
MAX_BYTES = 512 * 1024 * 1024
# Archives tell sizes before they are unpacked; one of more members is not looked at further.
MAX_FILES = 200_000
_ADDRESS = re.compile(r"gcs://_ray_pkg_([0-9a-f]{32})\.zip")
_PIECE = 1 << 20

SUFFIXES = (".zip", ".tar.gz", ".tgz", ".tar.xz")


def address_of(digest: str) -> str:
    """What a package is called in a runtime environment."""
    return f"{PREFIX}_ray_pkg_{digest}.zip"


def digest_in(address: Any) -> str | None:
    """The hash that an address names; None: it is no address of a package."""
    match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    return match and match[1]


class Content:
    """What names a package: files are added in the order in which they lie in it."""

    def __init__(self) -> None:
        import hashlib

        self._total = hashlib.sha256()
        self._sha256 = hashlib.sha256

    def copy(self, member: str, mode: int, source: Any, target: Any = None) -> None:
        """Adds a file.

        Args:
            member: Its name in the package.
            mode: Its permissions; all that counts is whether its owner may execute it.
            source: A binary file to read to its end.
            target: Where what is read is written, if anywhere.
        """
        content = self._sha256()
        while piece := source.read(_PIECE):
            content.update(piece)
            if target is not None:
                target.write(piece)
        kind = b"x" if mode & 0o100 else b"-"
        self._total.update(member.encode("utf-8", "surrogateescape") + b"\0" + kind + content.digest())

    def digest(self) -> str:
        """32 hexadecimal digits."""
        return self._total.hexdigest()[:32]


def all_files(directory: str) -> list[str]:
    """All files under a directory, relative to it, in the order in which they lie in a package."""
    found = []
    for folder, _, names in os.walk(directory):
        inside = os.path.relpath(folder, directory)
        found += [name if inside == "." else os.path.join(inside, name) for name in names]
    return sorted(found)


def pack(directory: str, names: Iterable[str], archive: str) -> str:
    """Makes an archive, the same wherever it is made: nothing is compressed, and times are no part of it.

    Args:
        directory: Where the files lie.
        names: Their names in it, in order.
        archive: The file to write.

    Returns:
        The hash of what was packed.
    """
    import zipfile

    content = Content()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for name in names:
            path = os.path.join(directory, name)
            mode = os.stat(path).st_mode
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o755 if mode & 0o100 else 0o644) << 16
            with open(path, "rb") as source, packed.open(entry, "w") as target:
                content.copy(name, mode, source, target)
    return content.digest()


def unpack(archive: str, directory: str) -> str:
    """Takes an archive apart.

    Args:
        archive: A file of one of `SUFFIXES`, or a wheel.
        directory: An empty one.

    Returns:
        The hash of what was packed, in the order in which it lay there.

    Raises:
        ValueError: It is no archive, holds too much, or names what lies outside of the directory.
        OSError: It can't be read, or written.
    """
    import tarfile
    import zipfile

    content = Content()
    try:
        if tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                _unpack_tar(tar, directory, content)
        else:
            with zipfile.ZipFile(archive) as packed:
                _unpack_zip(packed, directory, content)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(str(error)) from error
    return content.digest()


def _unpack_zip(packed: Any, directory: str, content: Content) -> None:
    import stat

    members = packed.infolist()
    _check_size(len(members), sum(member.file_size for member in members))
    for member in members:
        mode = member.external_attr >> 16
        path = _path_of(member.filename, directory)
        if stat.S_ISLNK(mode):
            raise ValueError(f"it holds the link {member.filename!r}")
        if member.is_dir():
            os.makedirs(path, exist_ok=True)
            continue
        # What is read ends where its size that was told does.
        with packed.open(member) as source:
            _write(member.filename, mode, source, path, content)


def _unpack_tar(tar: Any, directory: str, content: Content) -> None:
    count, size = 0, 0
    for member in tar:
        count, size = count + 1, size + member.size
        _check_size(count, size)
        path = _path_of(member.name, directory)
        if member.isdir():
            os.makedirs(path, exist_ok=True)
        elif member.isfile():
            source = tar.extractfile(member)
            _write(member.name, member.mode, source, path, content)
        else:
            raise ValueError(f"it holds {member.name!r}, which is a link or a device")


def _check_size(count: int, size: int) -> None:
    if count > MAX_FILES or size > MAX_BYTES:
        raise ValueError(
            f"it holds {count} files of {size / 2**20:.0f} MiB together, and {MAX_FILES} of {MAX_BYTES // 2**20} "
            "MiB are allowed"
        )


def _path_of(name: str, directory: str) -> str:
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise ValueError(f"it holds {name!r}, which would lie outside of it")
    return os.path.join(directory, name)


def _write(name: str, mode: int, source: Any, path: str, content: Content) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # No link is ever made in the directory, so none is followed.
    with open(path, "wb") as target:
        content.copy(name, mode, source, target)
    os.chmod(path, 0o700 if mode & 0o100 else 0o600)
