"""The same program on Ray and on ray_rs prints the same.

`expected/` holds what Ray 2.60 printed. To record anew, in an environment with Ray:
`RAY_UNDER_TEST=ray RAY_RECORD=1 pytest tests/compat`.
"""

import os
import re
from pathlib import Path

import pytest
from under_test import NAME, run_driver

pytestmark = pytest.mark.usefixtures("no_cluster")

HERE = Path(__file__).parent
PROGRAMS = sorted((HERE / "programs").glob("*.py"))
# What the program prints goes to the real standard output; what an engine says about crashes and retries does not.
OWN_OUTPUT = "import functools, sys; print = functools.partial(print, file=sys.stdout); sys.stdout = sys.stderr\n"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_prints_what_ray_prints(program):
    # A program begins with `import ray`; the test puts the module under test in its place, also in later imports.
    first, line, body = program.read_text().partition("import ray\n")
    assert line
    assert not first
    body = re.sub(r"^(import|from) ray\b", rf"\1 {NAME}", body, flags=re.M)
    printed = run_driver(OWN_OUTPUT + body, env={"RAY_IGNORE_UNHANDLED_ERRORS": "1"}).stdout
    expected = HERE / "expected" / f"{program.stem}.txt"
    if os.environ.get("RAY_RECORD"):
        expected.write_text(printed)
    assert printed == expected.read_text()


def test_every_recording_has_its_program():
    assert {path.stem for path in (HERE / "expected").iterdir()} == {path.stem for path in PROGRAMS}
