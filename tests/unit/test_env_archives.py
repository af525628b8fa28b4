"""What packages of runtime environments are, and what is taken out of archives."""

import os
import stat
import zipfile

import pytest
from ray_rs import _env_archives


def tree(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder)


def packed(folder, archive):
    return _env_archives.pack(folder, _env_archives.all_files(folder), str(archive))


def test_the_same_content_is_the_same_package_wherever_and_whenever(tmp_path):
    first = tree(tmp_path / "first", b__x="1", a="2", b__y__z="3")
    second = tree(tmp_path / "second", a="2", b__y__z="3", b__x="1")
    os.utime(tmp_path / "second" / "a", (1, 1))
    (tmp_path / "second" / "a").chmod(0o444)  # as long as nobody may execute it
    names = [packed(first, tmp_path / "1.zip"), packed(second, tmp_path / "2.zip")]
    assert names[0] == names[1]
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    for change in (
        lambda: (tmp_path / "second" / "a").chmod(0o755),
        lambda: (tmp_path / "second" / "b" / "x").write_text("2"),
        lambda: (tmp_path / "second" / "b" / "x").rename(tmp_path / "second" / "c"),
    ):
        change()
        names.append(packed(second, tmp_path / "2.zip"))
    assert len(set(names)) == 4


def test_what_is_unpacked_can_be_packed_again(tmp_path):
    folder = tree(tmp_path / "folder", b__x="1", run="#!/bin/sh\n")
    (tmp_path / "folder" / "run").chmod(0o750)
    name = packed(folder, tmp_path / "1.zip")
    (tmp_path / "out").mkdir()
    assert _env_archives.unpack(str(tmp_path / "1.zip"), str(tmp_path / "out")) == name
    assert stat.S_IMODE((tmp_path / "out" / "run").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "out" / "b" / "x").stat().st_mode) == 0o600
    assert packed(str(tmp_path / "out"), tmp_path / "2.zip") == name
    assert _env_archives.digest_in(_env_archives.address_of(name)) == name


@pytest.mark.parametrize(
    "address", ["gcs://x.zip", f"gcs://_ray_pkg_{'A' * 32}.zip", "gcs://_ray_pkg_../x.zip", 1, None]
)
def test_other_addresses_are_none(address):
    assert _env_archives.digest_in(address) is None


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "..", "a\\..\\x"])
def test_members_outside_are_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("good", "1")
        archive.writestr(zipfile.ZipInfo(name), "2")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="outside of it"):
        _env_archives.unpack(str(tmp_path / "bad.zip"), str(tmp_path / "out"))
    assert not (tmp_path / "x").exists()


def test_links_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="link"):
        _env_archives.unpack(str(tmp_path / "bad.zip"), str(tmp_path / "out"))
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04" + bytes(40)])
def test_what_is_no_archive(tmp_path, content):
    (tmp_path / "bad.zip").write_bytes(content)
    with pytest.raises(ValueError):
        _env_archives.unpack(str(tmp_path / "bad.zip"), str(tmp_path))


def test_what_holds_too_much_is_not_begun(tmp_path, monkeypatch):
    folder = tree(tmp_path / "folder", a="12345", b="12345")
    packed(folder, tmp_path / "1.zip")
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(_env_archives, "MAX_BYTES", 9)
    with pytest.raises(ValueError, match="are allowed"):
        _env_archives.unpack(str(tmp_path / "1.zip"), str(tmp_path / "out"))
    monkeypatch.setattr(_env_archives, "MAX_BYTES", 10)
    monkeypatch.setattr(_env_archives, "MAX_FILES", 1)
    with pytest.raises(ValueError, match="2 files"):
        _env_archives.unpack(str(tmp_path / "1.zip"), str(tmp_path / "out"))
    assert os.listdir(tmp_path / "out") == []
