"""Strict pyright and mypy: programs of users pass, and each mistake in them is found."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ray_rs import options
from under_test import ray_rs_only

pytestmark = [ray_rs_only("is about ray_rs's own types"), pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
MYPY = "[mypy]\nstrict = true\nplugins = ray_rs.mypy_plugin\n"


def pyright(folder: Path, extra: str = "") -> list[tuple[str, int]]:
    """Where in the folder pyright finds errors: file and line."""
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    return errors(command, folder, r"^ *(?:.*/)?(\w+\.py):(\d+):\d+ - error", r"^(\d+) errors?, ")


def mypy(folder: Path, extra: str = "") -> list[tuple[str, int]]:
    """The same by mypy, with the plugin."""
    (folder / "mypy.ini").write_text(MYPY + extra)
    command = [sys.executable, "-m", "mypy", "--config-file=mypy.ini", f"--cache-dir={folder.parent / 'mypy'}", "."]
    return errors(command, folder, r"^(\w+\.py):(\d+): error", r"^(?:Success|Found )")


CHECKERS = pytest.mark.parametrize("check", [pyright, mypy])


def errors(command: list[str], folder: Path, pattern: str, summary: str) -> list[tuple[str, int]]:
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if not re.search(summary, done.stdout, re.MULTILINE):
        pytest.fail(f"the checker did not run:\n{done.stdout}{done.stderr}")
    found = sorted({(name, int(line)) for name, line in re.findall(pattern, done.stdout, re.MULTILINE)})
    if bool(found) != (done.returncode != 0):
        pytest.fail(f"the checker said something else:\n{done.stdout}{done.stderr}")
    print(done.stdout)
    return found


@CHECKERS
def test_what_is_right_is_known_to_the_letter(check, tmp_path):
    shutil.copy(PROGRAMS / "right.py", tmp_path)
    assert check(tmp_path) == []


@CHECKERS
def test_each_mistake_is_found(check, tmp_path):
    shutil.copy(PROGRAMS / "wrong.py", tmp_path)
    marked = re.compile(r"# error\b")
    lines = (PROGRAMS / "wrong.py").read_text().splitlines()
    expected = [("wrong.py", number) for number, line in enumerate(lines, 1) if marked.search(line)]
    assert check(tmp_path) == expected


@CHECKERS
def test_examples_pass_in_strict_mode(check, tmp_path):
    for example in (ROOT / "examples").glob("*.py"):
        shutil.copy(example, tmp_path)
    assert check(tmp_path) == []


@CHECKERS
def test_a_program_without_annotations_passes(check, tmp_path):
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[:1]
    (tmp_path / "readme.py").write_text("# pyright: basic\n" + snippet)
    loose = "disallow_untyped_calls = false\ndisallow_untyped_defs = false\n"
    assert check(tmp_path, extra=loose) == []


def test_plain_methods_are_known_to_mypy(tmp_path):
    """Ray's typing, and so pyright, knows methods under `@ray.method`; the plugin knows all."""
    (tmp_path / "plain.py").write_text(
        "from collections.abc import Iterator\n"
        "import ray_rs as ray\n"
        "@ray.remote(num_cpus=0)\n"
        "class Plain:\n"
        "    def one(self, k: int) -> str: return str(k)\n"
        "    async def two(self) -> float: return 1.0\n"
        "    def three(self) -> Iterator[int]: yield 1\n"
        "    @staticmethod\n"
        "    def four(k: int) -> bytes: return b''\n"
        "plain = Plain.remote()\n"
        "reveal_type(plain.one.remote(1))\n"
        "reveal_type(plain.one.remote(ray.put(1)))\n"
        "reveal_type(plain.two.remote())\n"
        "reveal_type(plain.three.remote())\n"
        "reveal_type(plain.four.remote(k=1))\n"
        "reveal_type(plain.__ray_ready__.remote())\n"
        "plain.one.remote('1')\n"
        "plain.five.remote()\n"
    )
    (tmp_path / "mypy.ini").write_text(MYPY)
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file=mypy.ini",
        f"--cache-dir={tmp_path.parent / 'mypy'}",
        "plain.py",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    shown = done.stdout.replace("builtins.", "").replace("ray_rs._core.", "").replace("ray_rs._generator.", "")
    assert re.findall(r'Revealed type is "(.*)"', shown) == [
        "ObjectRef[str]",
        "ObjectRef[str]",
        "ObjectRef[float]",
        "ObjectRefGenerator[int]",
        "ObjectRef[bytes]",
        "Any",
    ], done.stdout
    assert {int(line) for line in re.findall(r"plain.py:(\d+): error", shown)} == {17, 18}, done.stdout


def test_options_have_the_names_of_the_table():
    """`_typing.pyi` names each option once more, so that `.options(num_cpu=1)` is an error while it is typed."""
    text = (ROOT / "python/ray_rs/_typing.pyi").read_text()

    def named(*classes: str) -> set[str]:
        bodies = [re.search(rf"^class {name}\(.*\):\n((?:    .*\n|\n)+)", text, re.MULTILINE) for name in classes]
        return {name for body in bodies for name in re.findall(r"^    (\w+):", body[1], re.MULTILINE)}

    def taken(kind: str) -> set[str]:
        return {name for name, option in options.OPTIONS.items() if kind in option.takers} - {"num_returns"}

    assert named("_Options", "TaskOptions") == taken(options.TASK)
    assert named("_Options", "ActorOptions") == taken(options.ACTOR)
    assert named("MethodOptions") == taken(options.METHOD)
