"""Every example runs to its end, as a user would run it: from another directory, in its own process."""

import subprocess
import sys
from pathlib import Path

import pytest
from under_test import IS_RAY

pytestmark = pytest.mark.usefixtures("no_cluster")

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
# Words that show that it did what it is for; and arguments that keep it short.
SHOWS = {
    "actor_pool": (["300 numbers factorised"], []),
    "map_reduce": (["pairs of letters"], []),
    "monte_carlo_pi": (["pi is about 3.1"], []),
    "parameter_server": (["in step", "out of step"], []),
    "quickstart": (["different ones", "most used", "times as fast", "Empty tasks"], ["120"]),
}


def source_of(path, tmp_path):
    """The example itself; with Ray's import in its place when Ray is what is tested."""
    if not IS_RAY:
        return path
    copy = tmp_path / path.name
    copy.write_text(path.read_text().replace("import ray_rs as ray", "import ray"))
    return copy


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path, tmp_path):
    words, args = SHOWS[path.stem]
    done = subprocess.run(
        [sys.executable, str(source_of(path, tmp_path)), *args],
        capture_output=True,
        text=True,
        timeout=55,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stdout


@pytest.mark.filterwarnings("ignore")  # the notebook tools' own
@pytest.mark.timeout(120)
def test_notebook(tmp_path):
    import nbclient
    import nbformat

    source = source_of(EXAMPLES / "notebook.ipynb", tmp_path)
    notebook = nbformat.read(source, as_version=4)
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute(cwd=str(tmp_path))
    outputs = str([cell.get("outputs") for cell in notebook.cells if cell.cell_type == "code"])
    assert "caught RayTaskError(ZeroDivisionError)" in outputs
