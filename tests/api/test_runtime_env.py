"""`init(runtime_env=...)`: variables, directories, modules and packages that a job's workers have."""

import os
import sys
import zipfile

import pytest
from under_test import exceptions, ray


@pytest.fixture(autouse=True)
def ended():
    yield
    ray.shutdown()


@ray.remote
def variable(name):
    return os.environ.get(name)


@ray.remote
def look():
    return os.getcwd(), sorted(os.listdir(".")), sys.path[0]


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_variables(monkeypatch):
    monkeypatch.setenv("RAY_RS_TEST_BASE", "base")
    ray.init(num_cpus=1, runtime_env={"env_vars": {"RAY_RS_TEST_A": "1", "RAY_RS_TEST_B": "${RAY_RS_TEST_BASE}/more"}})
    assert ray.get(variable.remote("RAY_RS_TEST_A")) == "1"
    assert ray.get(variable.remote("RAY_RS_TEST_B")) == "base/more"
    assert "RAY_RS_TEST_A" not in os.environ
    assert ray.get_runtime_context().runtime_env.env_vars()["RAY_RS_TEST_A"] == "1"

    @ray.remote
    class Actor:
        def look(self):
            return os.environ["RAY_RS_TEST_A"], ray.get_runtime_context().runtime_env.env_vars()["RAY_RS_TEST_A"]

    assert ray.get(Actor.remote().look.remote()) == ("1", "1")


def test_a_working_directory_is_copied_once_and_cleaned_up(tmp_path):
    project = tmp_path / "project"
    write(project, helper_dot_py="ANSWER = 42\n", data__x_dot_txt="x", data__secret_dot_key="k", big_dot_log="l")
    write(project, venv__lib_dot_py="", build__made_dot_o="", _dot_gitignore="*.log\n/build/\n")
    ray.init(num_cpus=1, runtime_env={"working_dir": str(project), "excludes": ["data/*.key"]})
    where, names, first = ray.get(look.remote())
    assert where != str(project)
    assert first == where
    assert names == [".gitignore", "data", "helper.py"]

    @ray.remote
    def use():
        import helper

        return helper.ANSWER, os.listdir("data")

    assert ray.get(use.remote()) == (42, ["x.txt"])
    (project / "helper.py").write_text("ANSWER = 0\n")
    assert ray.get(use.remote())[0] == 42
    ray.shutdown()
    assert not os.path.exists(where)


def test_an_archive_as_working_directory(tmp_path):
    archive = tmp_path / "project.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("inside.py", "NAME = 'zip'\n")
    ray.init(num_cpus=1, runtime_env={"working_dir": f"file://localhost/{archive}"})
    _, names, _ = ray.get(look.remote())
    assert names == ["inside.py"]


def test_modules_and_packages(tmp_path):
    write(tmp_path, single_dot_py="NAME = 'file'\n")
    wheel = tmp_path / "wheeled-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("wheeled.py", "NAME = 'wheel'\n")
        info = "wheeled-1.0.dist-info"
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: wheeled\nVersion: 1.0\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped" / "__init__.py").write_text("NAME = 'package'\n")

    @ray.remote
    def names(*modules):
        import importlib

        return [importlib.import_module(module).NAME for module in modules]

    modules = [str(tmp_path / "shipped"), str(tmp_path / "single.py")]
    ray.init(num_cpus=1, runtime_env={"py_modules": modules, "pip": ["--no-index", str(wheel)]})
    assert ray.get(names.remote("shipped", "single", "wheeled")) == ["package", "file", "wheel"]


def test_a_set_up_that_fails_is_told_and_leaves_nothing():
    with pytest.raises(exceptions.RuntimeEnvSetupError, match="no-such-package-anywhere"):
        ray.init(num_cpus=1, runtime_env={"pip": ["--no-index", "no-such-package-anywhere"]})
    assert not ray.is_initialized()
    ray.init(num_cpus=1)
    assert ray.get(variable.remote("RAY_RS_RUNTIME_ENV")) is None


@pytest.mark.parametrize(
    ("env", "error", "text"),
    [
        ({"env_vars": {"A": 1}}, TypeError, "Dict\\[str, str\\]"),
        ({"working_dir": "/no/such/folder"}, ValueError, "does not exist"),
        ({"working_dir": "s3://bucket/x.zip"}, NotImplementedError, "only local paths"),
        ({"pip": ["a"], "uv": ["b"]}, ValueError, "at the same time"),
        ({"pip": {"packages": ["a"], "pips": 1}}, ValueError, "pips"),
        ({"conda": "base"}, NotImplementedError, "'pip' or 'uv'"),
        ("text", TypeError, "must be a dict"),
    ],
    ids=str,
)
def test_bad_environments(env, error, text):
    with pytest.raises(error, match=text):
        ray.init(num_cpus=1, runtime_env=env)
    assert not ray.is_initialized()


def test_what_nobody_knows_in_the_configuration_is_ignored():
    env = ray.runtime_env.RuntimeEnv(config={"eager_install": False, "nobody_knows": 1}, nor_this=2)
    assert env["config"]["eager_install"] is False
