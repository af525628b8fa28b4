"""What keeps a bad release from being made: tools/check_wheel.py and tools/release.sh."""

import importlib.util
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from under_test import ray_rs_only

pytestmark = ray_rs_only("is about tools of ours")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checker():
    spec = importlib.util.spec_from_file_location("check_wheel", ROOT / "tools/check_wheel.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_version_is_that_of_the_project(checker):
    assert f'\nversion = "{checker.project_version()}"\n' in (ROOT / "pyproject.toml").read_text()


# ---------------------------------------------------------------------------------------------------------- the wheel

GOOD = "ray_rs-1.2.3-cp311-cp311-manylinux_2_34_x86_64.whl"


def wheel(checker, folder, name=GOOD, without=(), **files):
    """A wheel that is as it should be, but for what is asked."""
    about = "Metadata-Version: 2.4\nName: ray_rs\nVersion: 1.2.3\nRequires-Dist: cloudpickle>=3.0\n"
    held = dict.fromkeys(checker.NEEDED, b"") | {
        "ray_rs/_core.cpython-311-x86_64-linux-gnu.so": b"",
        "ray_rs-1.2.3.dist-info/METADATA": about.encode(),
        "ray_rs-1.2.3.dist-info/licenses/LICENSE": b"",
    }
    held |= {key.replace("__", "/"): value for key, value in files.items()}
    path = folder / name
    with zipfile.ZipFile(path, "w") as archive:
        for key, value in held.items():
            if key not in without:
                archive.writestr(key, value)
    return path


def test_a_good_wheel_passes(checker, tmp_path):
    assert list(checker.problems_of_the_file(wheel(checker, tmp_path), "1.2.3")) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ray_rs-1.2.3-py3-none-any.whl", "no name of a wheel for CPython"),
        ("ray_rs-1.2.3-cp311-cp312-manylinux_2_34_x86_64.whl", "no name of a wheel for CPython"),
        ("ray_rs-1.2.3-cp311-cp311-linux_x86_64.whl", "must be manylinux"),
        ("ray_rs-1.2.3-cp311-cp311-manylinux_2_39_x86_64.whl", "needs glibc 2.39"),
        ("ray_rs-1.2.4-cp311-cp311-manylinux_2_34_x86_64.whl", "of version 1.2.4"),
    ],
)
def test_names_that_are_wrong(checker, tmp_path, name, words):
    problems = list(checker.problems_of_the_file(wheel(checker, tmp_path, name), "1.2.3"))
    assert any(words in problem for problem in problems), problems


@pytest.mark.parametrize("missing", ["ray_rs/py.typed", "ray_rs/_page_files/index.html", "ray_rs/_core.pyi"])
def test_files_that_are_missing(checker, tmp_path, missing):
    assert list(checker.problems_of_the_file(wheel(checker, tmp_path, without=[missing]), "1.2.3")) == [
        f"{missing} is not in it"
    ]


def test_what_is_too_much(checker, tmp_path):
    path = wheel(checker, tmp_path, tests__test_x=b"", ray_rs__large=os.urandom(checker.MOST_BYTES))
    problems = list(checker.problems_of_the_file(path, "1.2.3"))
    assert len(problems) == 2
    assert "bytes, and 15,000,000 are allowed" in problems[0]
    assert problems[1] == "tests/test_x has no business in it"


def test_extensions_licenses_and_what_it_needs(checker, tmp_path):
    about = b"Name: ray_rs\nVersion: 9\nRequires-Dist: protobuf<4\n"
    path = wheel(
        checker,
        tmp_path,
        without=["ray_rs/_core.cpython-311-x86_64-linux-gnu.so", "ray_rs-1.2.3.dist-info/licenses/LICENSE"],
        **{"ray_rs-1.2.3.dist-info__METADATA": about},
    )
    problems = " ".join(checker.problems_of_the_file(path, "1.2.3"))
    for words in ("holds []", "the license is not in it", "not of version 1.2.3", "needs ['protobuf<4']"):
        assert words in problems


# --------------------------------------------------------------------------------------------------------- the release

FILES = {
    "pyproject.toml": '[project]\nversion = "1.2.3"\n',
    "Cargo.toml": '[workspace.package]\nversion = "1.2.3"\n[workspace.dependencies]\nx = { version = "4" }\n',
    "python/ray_rs/__init__.py": '__version__ = "1.2.3"\n',
    "deploy/helm/ray-rs/Chart.yaml": 'version: 7.0.0\nappVersion: "1.2.3"\n',
    "CHANGELOG.md": "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2030-01-02\n\n- Something.\n",
    "Makefile": "check wheel wheel-check:\n\t@echo made $@\n",
}


class Project:
    """A project of little more than what a release looks at."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in FILES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        (folder / "tools").mkdir()
        shutil.copy(ROOT / "tools/release.sh", folder / "tools")
        self.git("init", "--quiet")
        self.commit()

    def git(self, *words: str) -> str:
        identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.org")
        done = subprocess.run(["git", *identity, *words], cwd=self.folder, capture_output=True, text=True, check=True)
        return done.stdout

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "All")

    def release(self, *words: str) -> tuple[int, str]:
        who = {"GIT_COMMITTER_NAME": "tester", "GIT_COMMITTER_EMAIL": "tester@example.org"}
        done = subprocess.run(
            ["bash", "tools/release.sh", *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, **who},
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path)


def test_a_release_changes_nothing_unless_told(project):
    status, text = project.release("1.2.3")
    assert status == 0, text
    assert [line for line in text.splitlines() if line.startswith("made ")] == [
        "made check",
        "made wheel",
        "made wheel-check",
    ]
    assert "Nothing was changed" in text
    assert project.git("tag") == ""
    status, text = project.release("1.2.3", "--tag", "--skip-checks")
    assert status == 0, text
    assert "made check" not in text
    assert project.git("tag") == "v1.2.3\n"
    status, text = project.release("1.2.3")
    assert (status, "v1.2.3 is there already" in text) == (1, True)


@pytest.mark.parametrize("name", [name for name in FILES if name != "Makefile"])
def test_a_file_that_speaks_of_another_version(project, name):
    path = project.folder / name
    path.write_text(path.read_text().replace("1.2.3", "1.2.2"))
    project.commit()
    status, text = project.release("1.2.3")
    assert (status, name in text, "made" in text) == (1, True, False)


def test_what_is_not_committed(project):
    (project.folder / "left.txt").touch()
    status, text = project.release("1.2.3")
    assert (status, "not committed" in text) == (1, True)


def test_a_check_that_fails_ends_it(project):
    (project.folder / "Makefile").write_text("check wheel:\n\t@echo made $@\nwheel-check:\n\tfalse\n")
    project.commit()
    status, text = project.release("1.2.3", "--tag")
    assert status != 0
    assert "made wheel" in text
    assert project.git("tag") == ""


@pytest.mark.parametrize("words", [(), ("1.2",), ("v1.2.3",), ("1.2.3", "--publish"), ("1.2.3", "1.2.4")])
def test_words_that_make_no_sense(project, words):
    status, text = project.release(*words)
    assert (status, "usage:" in text) == (2, True)
