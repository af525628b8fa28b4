"""Whether a wheel may be published: `python tools/check_wheel.py dist/*.whl`, as `make wheel-check` does.

Looks at the file itself, asks auditwheel whether its tag is true, installs it into an empty environment beside the
newest protobuf and grpcio, and runs a task there. Prints what is wrong and exits with 1 if anything is.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES = 15_000_000
# Newer than this, and the wheel would not install on machines that people have.
NEWEST_GLIBC = (2, 34)
NEEDED = (
    "ray_rs/__init__.py",
    "ray_rs/_core.pyi",
    "ray_rs/py.typed",
    "ray_rs/_page_files/index.html",
    "ray_rs/scripts/__init__.py",
)
# Libraries that pin versions of what they share with half of the world; ray_rs must not care.
NEIGHBOURS = ("protobuf", "grpcio")
SMOKE = """
import ray_rs as ray

ray.init(num_cpus=1, include_dashboard=False)
assert ray.get(ray.remote(lambda x: x + 1).remote(1)) == 2
ray.shutdown()
import google.protobuf, grpc
"""


def project_version() -> str:
    """The version that pyproject.toml states."""
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None, "pyproject.toml states a version"
    return found[1]


def problems_of_the_file(wheel: Path, version: str) -> Iterator[str]:
    """What can be seen without installing it.

    Args:
        wheel: The file.
        version: That it must be of.

    Yields:
        A line for each thing that is wrong.
    """
    found = re.fullmatch(r"ray_rs-([^-]+)-cp(\d+)-cp\2-(.+)_(x86_64|aarch64)\.whl", wheel.name)
    if found is None:
        yield f"{wheel.name} is no name of a wheel for CPython on Linux"
        return
    if found[1] != version:
        yield f"it is of version {found[1]}, and pyproject.toml says {version}"
    if (glibc := re.fullmatch(r"manylinux_(\d+)_(\d+)", found[3])) is None:
        yield f"its tag is {found[3]}, which package indexes do not take: it must be manylinux_X_Y"
    elif (int(glibc[1]), int(glibc[2])) > NEWEST_GLIBC:
        yield f"it needs glibc {glibc[1]}.{glibc[2]}, and {NEWEST_GLIBC[0]}.{NEWEST_GLIBC[1]} is the newest allowed"
    if (size := wheel.stat().st_size) > MOST_BYTES:
        yield f"it has {size:,} bytes, and {MOST_BYTES:,} are allowed"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = [name for name in names if name.endswith(".dist-info/METADATA")]
        about = archive.read(metadata[0]).decode() if metadata else ""
    for name in NEEDED:
        if name not in names:
            yield f"{name} is not in it"
    extensions = [name for name in names if name.endswith(".so")]
    if len(extensions) != 1 or not extensions[0].startswith("ray_rs/_core."):
        yield f"it must hold one extension, ray_rs/_core, and holds {extensions}"
    if not any("licenses/" in name for name in names):
        yield "the license is not in it"
    for name in names:
        if not name.startswith(("ray_rs/", f"ray_rs-{found[1]}.dist-info/")) or "__pycache__" in name:
            yield f"{name} has no business in it"
    if f"\nVersion: {found[1]}\n" not in about:
        yield f"its metadata are not of version {found[1]}"
    requires = re.findall(r"^Requires-Dist: (\S+)", about, re.MULTILINE)
    if [re.split("[<>=!~]", each)[0] for each in requires] != ["cloudpickle"]:
        yield f"it must need cloudpickle and nothing else, and needs {requires}"


def problems_of_the_tag(wheel: Path) -> Iterator[str]:
    """Whether auditwheel agrees with the tag."""
    done = subprocess.run([sys.executable, "-m", "auditwheel", "show", str(wheel)], capture_output=True, text=True)
    said = " ".join(done.stdout.split())
    tag = wheel.stem.rpartition("-")[2]
    if done.returncode or f'platform tag: "{tag}"' not in said:
        yield f"auditwheel does not say that its tag is true: {said or done.stderr}"


def problems_of_an_install(wheel: Path) -> Iterator[str]:
    """Whether it works in an environment of its own, beside others."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = f"{folder}/bin/python"
        for words in (
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel), *NEIGHBOURS],
            [python, "-m", "pip", "check"],
            [f"{folder}/bin/ray_rs", "--version"],
            [python, "-c", SMOKE],
        ):
            done = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=folder)
            if done.returncode:
                yield f"{' '.join(words[:4])}... failed:\n{done.stdout}{done.stderr}"
                return


def main() -> int:
    """Checks each wheel that is named; returns the exit status."""
    parser = argparse.ArgumentParser(description="Says whether a wheel may be published.")
    parser.add_argument("wheels", nargs="+", type=Path)
    parser.add_argument("--file-only", action="store_true", help="look at the file only: install nothing")
    arguments = parser.parse_args()
    failed = False
    for wheel in arguments.wheels:
        problems = list(problems_of_the_file(wheel, project_version()))
        if not problems:
            problems += problems_of_the_tag(wheel)
        if not problems and not arguments.file_only:
            problems += problems_of_an_install(wheel)
        failed |= bool(problems)
        for problem in problems:
            print(f"{wheel.name}: {problem}", file=sys.stderr)
        if not problems:
            print(f"{wheel.name}: {wheel.stat().st_size:,} bytes, as it should be")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
