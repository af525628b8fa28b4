"""Workers that end at their very start: who waits is told why, and forks become rare."""

import pytest
from under_test import contents, ray_rs_only, run_driver

pytestmark = ray_rs_only("how workers start is ray_rs's own affair")

# Zygotes import numpy when the driver has it, and each worker seeds it first of all. This one breaks every worker.
BROKEN = """
import os

def seed():
    here = os.path.dirname(os.path.dirname(__file__))
    if os.path.exists(here + "/broken"):
        with open(here + "/forks", "a") as file:
            file.write("x")
        raise RuntimeError("this package is broken")
"""

BEGIN = """
import os, sys, time
folder = sys.argv[1]
sys.path.insert(0, folder)
import numpy
"""

TASKS = """
ray.init(num_cpus=2)

@ray.remote
def f():
    return 1

for _ in range(2):
    refs = [f.remote() for _ in range(20)]
    for ref in refs:
        try:
            ray.get(ref, timeout=40)
        except ray.exceptions.RaySystemError as error:
            assert "this package is broken" in str(error), error
        else:
            raise AssertionError("a broken worker has run a task")
os.unlink(folder + "/broken")
deadline = time.monotonic() + 40
while True:
    try:
        assert ray.get(f.remote(), timeout=40) == 1
        break
    except ray.exceptions.RaySystemError:
        assert time.monotonic() < deadline
print("done")
"""

ACTORS = """
ray.init(num_cpus=2)

@ray.remote
class A:
    def f(self):
        return 1

try:
    ray.get(A.remote().f.remote(), timeout=40)
except ray.exceptions.RayActorError as error:
    assert "this package is broken" in str(error), error
else:
    raise AssertionError("a broken worker has become an actor")
print("done")
"""


@pytest.mark.parametrize("body", [TASKS, ACTORS], ids=["tasks", "actors"])
def test_whoever_waits_is_told_and_forks_are_few(tmp_path, body):
    package = tmp_path / "numpy"
    package.mkdir()
    (package / "__init__.py").write_text("from numpy import random\n")
    (package / "random.py").write_text(BROKEN)
    (tmp_path / "broken").touch()
    done = run_driver(BEGIN + body, str(tmp_path), timeout=100)
    assert done.stdout.splitlines()[-1:] == ["done"]
    assert 0 < len(contents(tmp_path / "forks")) < 40
