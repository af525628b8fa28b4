"""The source distribution holds what a build needs, and nothing else. Packing it compiles nothing."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The files of the source distribution, by name, with their contents."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "maturin", "sdist", "--out", str(out)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=50,
        # Nothing is to be fetched: the crates' list is in Cargo.lock.
        env={**os.environ, "CARGO_NET_OFFLINE": "true"},
    )
    (archive,) = out.glob("ray_rs-*.tar.gz")
    with tarfile.open(archive) as tar:
        members = {member.name.partition("/")[2]: tar.extractfile(member) for member in tar if member.isfile()}
        return {name: file.read() for name, file in members.items() if file is not None}


def sources(*patterns):
    found = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    return {str(path.relative_to(ROOT)) for path in found if path.suffix != ".so" and "__pycache__" not in path.parts}


def test_what_a_build_needs_is_there(packed):
    needed = sources(
        "rust/*/Cargo.toml",
        "rust/*/build.rs",
        "rust/*/src/**/*",
        "proto/**/*.proto",
        "python/**/*",
        "Cargo.toml",
        "Cargo.lock",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    )
    # A crate for tests only is no part of a build.
    needed = {name for name in needed if not name.startswith("rust/testing/")}
    assert sorted(needed - packed.keys()) == []


def test_nothing_else_is(packed):
    allowed = sources("rust/**/*", "proto/**/*", "python/**/*", "*.md", "*.toml", "Cargo.lock", "LICENSE")
    assert sorted(packed.keys() - allowed - {"PKG-INFO"}) == []


def test_the_package_says_what_it_is(packed):
    about = packed["PKG-INFO"].decode()
    for line in ("Name: ray_rs", "License-Expression: Apache-2.0", "Requires-Dist: cloudpickle>=3.0"):
        assert f"\n{line}\n" in about, about[:2000]
    assert "Ray Core, rebuilt in Rust" in about
