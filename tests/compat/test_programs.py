"""The same program on Ray and on ray_rs prints the same.

`expected/` holds what Ray 2.60 printed. To record anew, in an environment with Ray:
`RAY_UNDER_TEST=ray RAY_RECORD=1 pytest tests/compat`.
"""

import os
from pathlib import Path

import pytest
from under_test import run_driver

pytestmark = pytest.mark.usefixtures("no_cluster")

HERE = Path(__file__).parent
PROGRAMS = sorted((HERE / "programs").glob("*.py"))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_prints_what_ray_prints(program):
    # A program begins with `import ray`; the test puts the import of the module under test in its place.
    first, _, body = program.read_text().partition("import ray\n")
    done = run_driver(first + body, env={"RAY_IGNORE_UNHANDLED_ERRORS": "1"})
    # What the engine itself has to say about a crash is not part of the program's output.
    printed = "".join(line for line in done.stdout.splitlines(keepends=True) if "(raylet)" not in line)
    expected = HERE / "expected" / f"{program.stem}.txt"
    if os.environ.get("RAY_RECORD"):
        expected.write_text(printed)
    assert printed == expected.read_text()
