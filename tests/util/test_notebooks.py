"""What makes work in a notebook pleasant: modules that are edited and reloaded, and objects that show themselves."""

import pytest
from under_test import ray, ray_rs_only, run_driver

pytestmark = ray_rs_only("Ray's workers keep what they have imported")

RELOADING = """
    import importlib
    import pathlib
    import sys
    import tempfile

    sys.dont_write_bytecode = True
    folder = pathlib.Path(tempfile.mkdtemp())
    sys.path.insert(0, str(folder))

    def write(text):
        (folder / "helpers_of_mine.py").write_text(text)

    write("def give(): return 'one'\\nclass Base:\\n    def give(self): return 'one'\\n")
    ray.init(num_cpus=1)
    import helpers_of_mine as helpers
"""


def test_a_reloaded_module_is_seen_by_workers():
    done = run_driver(
        RELOADING
        + """
    @ray.remote
    def use():
        return helpers.give()

    @ray.remote
    class Actor:
        def give(self):
            return helpers.Base().give(), helpers.give()

    direct = ray.remote(helpers.give)
    old = Actor.remote()
    print(ray.get([use.remote(), direct.remote()]), ray.get(old.give.remote()))
    write("def give(): return 'the second'\\nclass Base:\\n    def give(self): return 'the second'\\n")
    importlib.reload(helpers)
    # The same remote function and class, and one of the function that is new.
    print(ray.get([use.remote(), ray.remote(helpers.give).remote()]), ray.get(Actor.remote().give.remote()))
    print(ray.get(old.give.remote()))  # an actor that lives stays what it is
    print(ray.get([use.remote() for _ in range(3)]))
    """
    )
    assert done.stdout.splitlines() == [
        "['one', 'one'] ('one', 'one')",
        "['the second', 'the second'] ('the second', 'the second')",
        "('one', 'one')",
        "['the second', 'the second', 'the second']",
    ]


def test_a_module_that_does_not_load_is_the_tasks_error():
    done = run_driver(
        RELOADING
        + """
    @ray.remote(max_retries=0)
    def use():
        return helpers.give()

    print(ray.get(use.remote()))
    write("def give(): return 'good'")
    importlib.reload(helpers)
    write("raise LookupError('half an edit')")
    try:
        ray.get(use.remote())
    except LookupError as error:
        print("LookupError")
    write("def give(): return 'mended'")
    print(ray.get(use.remote()))
    """
    )
    assert done.stdout.split() == ["one", "LookupError", "mended"]


@pytest.fixture
def session():
    with ray.init(num_cpus=1) as context:
        yield context


def test_references_and_handles_show_themselves(session):
    @ray.remote
    class Gate:
        async def wait(self):
            import asyncio

            await asyncio.sleep(100)

        def fail(self):
            raise ValueError

    gate = Gate.remote()
    pending = gate.wait.remote()
    ready = ray.put(b"x" * 1000)
    assert "pending" in pending._repr_html_()
    assert "ready" in ready._repr_html_()
    assert ready.hex() in ready._repr_html_()
    size = ray.put(b"x" * 3_000_000)._repr_html_()
    assert "3,000," in size
    failed = gate.fail.remote()
    ray.wait([failed])
    assert "failed" in failed._repr_html_()
    assert "Gate" in gate._repr_html_()
    assert "wait" in gate._repr_html_()
    assert session.address_info["session_dir"] in session._repr_html_()
    with pytest.raises(ValueError):
        ray.get(failed)


CELLS = [
    """
import pathlib, sys, tempfile
folder = pathlib.Path(tempfile.mkdtemp())
sys.path.insert(0, str(folder))
(folder / "edited_by_hand.py").write_text("def give(): return 'first'")
%load_ext autoreload
%autoreload 2
import ray_rs as ray
import edited_by_hand
ray.init(num_cpus=1)
""",
    """
@ray.remote
def speak(text):
    print("said", text, edited_by_hand.give())

ref = speak.remote("in its cell")
ray.get(ref)
import time; time.sleep(1)
""",
    "ref",
    "(folder / 'edited_by_hand.py').write_text(\"def give(): return 'second, longer'\");",
    "ray.get(speak.remote('later')); time.sleep(1)",
    "await ray.put(5)",
    "ray.shutdown()",
]


@pytest.mark.filterwarnings("ignore")  # the notebook tools' own
@pytest.mark.timeout(120)
@pytest.mark.usefixtures("no_cluster")
def test_cells_show_what_they_caused_and_autoreload_reaches_workers(tmp_path):
    import nbclient
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute(cwd=str(tmp_path))
    outputs = [
        "".join(str(output.get("text", "")) + str(output.get("data", {})) for output in cell.outputs)
        for cell in notebook.cells
    ]
    assert "RayContext" in outputs[0]
    assert "<table>" in outputs[0]
    assert "said in its cell first" in outputs[1]
    assert "ready" in outputs[2]
    assert "said later second, longer" in outputs[4]
    assert "'text/plain': '5'" in outputs[5]
