"""The stub of the extension module says what the module has, and the package's types hold for a user's program."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from under_test import ray_rs_only

pytestmark = [ray_rs_only("is about ray_rs's own stub"), pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]

PROGRAM = """
import ray_rs as ray


@ray.remote
def f(x: int, y: str = "") -> float:
    return float(x)


ref = f.remote(1)
reveal_type(ref)
reveal_type(ray.get(ref))
reveal_type(ray.get([ref]))
reveal_type(ray.put("text"))
"""


def test_stub_matches_the_module(tmp_path):
    # PyO3 lists all names in `__all__`, the private ones too; they are checked one by one.
    (tmp_path / "allowed").write_text("ray_rs._core.__all__\n")
    command = [
        sys.executable,
        "-m",
        "mypy.stubtest",
        "ray_rs._core",
        "--concise",
        f"--allowlist={tmp_path / 'allowed'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_types_reach_the_user(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--config-file=", "--no-incremental", "program.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    # Older versions of mypy say where a builtin comes from.
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout.replace("builtins.", ""))
    assert revealed == ["ray_rs._core.ObjectRef[float]", "float", "list[float]", "ray_rs._core.ObjectRef[str]"]
