"""`runtime_env` of single tasks and actors: what it adds to the job's, who inherits it, and what happens without it."""

import os
import subprocess
import sys
import time
import zipfile

import pytest
from under_test import exceptions, ray, ray_rs_only, wait_until

pytestmark = ray_rs_only("local directories are taken for single tasks as well; texts and processes are ray_rs's")


@ray.remote
def variables(*names):
    return [os.environ.get(name) for name in names]


@ray.remote
def pid():
    return os.getpid()


@ray.remote
def pid_beside(path):
    """This process's number, told once as many run at once as the session has CPUs."""
    own = f"{path}.{os.getpid()}"
    open(own, "w").close()
    name = os.path.basename(path)
    while sum(each.startswith(name) for each in os.listdir(os.path.dirname(path))) < 2:
        time.sleep(0.001)
    return os.getpid()


@ray.remote
def imported(name):
    import importlib

    return importlib.import_module(name).NAME


def wheel(folder, name, text, version="1.0", requires=()):
    """A wheel of one module, made without a network."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    needed = "".join(f"Requires-Dist: {each}\n" for each in requires)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", text)
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return str(path)


def children_running(text):
    found = []
    for each in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{each}/cmdline", "rb") as file:
                if text.encode() in file.read():
                    found.append(int(each))
        except OSError:
            continue
    return found


@pytest.fixture
def session():
    ray.init(num_cpus=2, runtime_env={"env_vars": {"RRT_JOB": "job", "RRT_BOTH": "job"}})
    yield
    ray.shutdown()


def test_variables_are_merged_and_nobody_shares_a_worker(session, tmp_path):
    names = ("RRT_JOB", "RRT_BOTH", "RRT_TASK")
    special = variables.options(runtime_env={"env_vars": {"RRT_BOTH": "${RRT_BOTH}+task", "RRT_TASK": "task"}})
    assert ray.get(variables.remote(*names)) == ["job", "job", None]
    assert ray.get(special.remote(*names)) == ["job", "${RRT_BOTH}+task", "task"]
    assert ray.get([variables.remote(*names) for _ in range(20)]) == [["job", "job", None]] * 20
    env = {"env_vars": {"RRT_TASK": "1"}}
    ours = set(ray.get([pid.remote() for _ in range(20)]))
    # Both CPUs' workers of this environment, so that none can be missing below.
    theirs = set(ray.get([pid_beside.options(runtime_env=env).remote(f"{tmp_path}/at") for _ in range(2)]))
    others = set(ray.get([pid.options(runtime_env={"env_vars": {"RRT_TASK": "2"}}).remote() for _ in range(20)]))
    assert ours.isdisjoint(theirs) and ours.isdisjoint(others) and theirs.isdisjoint(others)
    # Equal environments are one environment, however they are written.
    again = {"config": None, "env_vars": {"RRT_TASK": "1"}}
    assert set(ray.get([pid.options(runtime_env=again).remote() for _ in range(20)])) <= theirs


def test_node_variables_are_expanded(monkeypatch):
    monkeypatch.setenv("RRT_BASE", "base")
    ray.init(num_cpus=1)
    try:
        env = {"env_vars": {"RRT_A": "${RRT_BASE}/more", "PATH": "/first:${PATH}"}}
        made, path = ray.get(variables.options(runtime_env=env).remote("RRT_A", "PATH"))
        assert made == "base/more"
        assert path.split(":")[:2] == ["/first", os.environ["PATH"].split(":")[0]]
    finally:
        ray.shutdown()


def test_children_inherit_and_may_replace(session):
    names = ("RRT_JOB", "RRT_TASK", "RRT_CHILD")

    @ray.remote(num_cpus=0, runtime_env={"env_vars": {"RRT_TASK": "task"}})
    def parent():
        @ray.remote(num_cpus=0)
        class Child:
            def look(self):
                return [os.environ.get(name) for name in names]

        own = ray.get_runtime_context().runtime_env["env_vars"]
        child = variables.options(num_cpus=0, runtime_env={"env_vars": {"RRT_CHILD": "child"}})
        inherited = variables.options(num_cpus=0)
        actor = Child.remote()
        return own, ray.get([inherited.remote(*names), child.remote(*names), actor.look.remote()])

    own, (inherited, replaced, actor) = ray.get(parent.remote())
    assert own == {"RRT_JOB": "job", "RRT_BOTH": "job", "RRT_TASK": "task"}
    assert inherited == actor == ["job", "task", None]
    assert replaced == ["job", "task", "child"]
    assert ray.get(variables.remote(*names)) == ["job", None, None]


def test_actors_have_environments_and_keep_them_over_restarts(session):
    @ray.remote(max_restarts=1, max_task_retries=2, runtime_env={"env_vars": {"RRT_ACTOR": "a"}})
    class Actor:
        def look(self):
            return os.environ["RRT_JOB"], os.environ.get("RRT_ACTOR"), os.getpid()

        def die(self):
            os._exit(1)

    actor = Actor.remote()
    first = ray.get(actor.look.remote())
    assert first[:2] == ("job", "a")
    with pytest.raises(exceptions.RayActorError):
        ray.get(actor.die.options(max_task_retries=0).remote())
    second = ray.get(actor.look.remote())
    assert second[:2] == ("job", "a")
    assert second[2] != first[2]
    other = Actor.options(runtime_env={"env_vars": {"RRT_ACTOR": "b"}}).remote()
    assert ray.get(other.look.remote())[1] == "b"


def test_directories_and_modules_of_single_tasks(tmp_path, session):
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "rrt_helper.py").write_text(f"NAME = {version!r}\n")
        (tmp_path / version / "left.out").write_text("")
    package = tmp_path / "rrt_package"
    package.mkdir()
    (package / "__init__.py").write_text("NAME = 'package'\n")

    def env(version):
        return {"working_dir": str(tmp_path / version), "excludes": ["*.out"], "py_modules": [str(package)]}

    @ray.remote
    def look():
        import rrt_helper
        import rrt_package

        return rrt_helper.NAME, rrt_package.NAME, sorted(os.listdir(".")), os.getcwd()

    one, two = ray.get([look.options(runtime_env=env("one")).remote(), look.options(runtime_env=env("two")).remote()])
    assert one[:3] == ("one", "package", ["rrt_helper.py"])
    assert two[:3] == ("two", "package", ["rrt_helper.py"])
    assert ray.get(look.options(runtime_env=env("one")).remote())[3] == one[3]
    (tmp_path / "one" / "rrt_helper.py").write_text("NAME = 'changed'\n")
    assert ray.get(look.options(runtime_env=env("one")).remote())[0] == "changed"
    with pytest.raises(exceptions.RayTaskError, match="rrt_helper"):
        ray.get(look.remote())

    archive = tmp_path / "packed.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("rrt_packed.py", "NAME = 'zip'\n")
    assert ray.get(imported.options(runtime_env={"working_dir": str(archive)}).remote("rrt_packed")) == "zip"


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_packages_are_installed_once_and_seen_by_programs_too(tmp_path, session, tool):
    first = wheel(tmp_path, "rrt_wheeled", "NAME = 'first'\n")
    env = {tool: {"packages": [first], f"{tool}_pip_install_options": ["--no-index"]}}
    if tool == "pip":
        env = {tool: ["--no-index", first]}

    @ray.remote(runtime_env=env)
    def look():
        import rrt_wheeled

        program = [sys.executable, "-c", "import rrt_wheeled, cloudpickle; print(rrt_wheeled.NAME)"]
        printed = subprocess.run(program, capture_output=True, text=True, check=True).stdout.strip()
        return rrt_wheeled.NAME, printed, rrt_wheeled.__file__, os.environ["VIRTUAL_ENV"]

    results = ray.get([look.remote() for _ in range(4)])
    assert {result[:2] for result in results} == {("first", "first")}
    assert len({result[3] for result in results}) == 1
    assert all(result[2].startswith(result[3]) for result in results)
    before = os.stat(results[0][3]).st_mtime_ns
    second = wheel(tmp_path, "rrt_other", "NAME = 'second'\n")
    assert ray.get(imported.options(runtime_env={**env, "env_vars": {"A": "1"}}).remote("rrt_wheeled")) == "first"
    assert os.stat(results[0][3]).st_mtime_ns == before, "the same packages are installed once"
    assert ray.get(imported.options(runtime_env={tool: ["--no-index", second]}).remote("rrt_other")) == "second"
    with pytest.raises(exceptions.RayTaskError, match="rrt_wheeled"):
        ray.get(imported.remote("rrt_wheeled"))


def test_a_failed_installation_is_the_callers_error_and_nobody_elses(session):
    env = {"pip": ["--no-index", "no-such-package-anywhere"]}

    @ray.remote(runtime_env=env)
    class Actor:
        def look(self):
            return 1

    broken = [pid.options(runtime_env=env).remote() for _ in range(3)]
    actor = Actor.remote()
    assert ray.get(variables.remote("RRT_JOB")) == ["job"]
    for ref in broken:
        with pytest.raises(exceptions.RuntimeEnvSetupError, match="no-such-package-anywhere"):
            ray.get(ref)
    with pytest.raises(exceptions.RuntimeEnvSetupError, match="no-such-package-anywhere"):
        ray.get(actor.look.remote())
    # A value that another task waits for.
    with pytest.raises(exceptions.RuntimeEnvSetupError):
        ray.get(variables.remote(pid.options(runtime_env=env).remote()))
    assert ray.available_resources()["CPU"] == 2


def test_other_work_goes_on_while_packages_are_installed(tmp_path, session):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    slow = tmp_path / "slow"
    slow.mkdir()
    # The installation of this package waits until somebody writes into the gate.
    (slow / "rrt_backend.py").write_text(
        "import os, shutil\n"
        "def build_wheel(directory, config_settings=None, metadata_directory=None):\n"
        f"    open({str(gate)!r}).read()\n"
        f"    return os.path.basename(shutil.copy({wheel(tmp_path, 'rrt_slow', 'NAME = 1')!r}, directory))\n"
    )
    (slow / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "rrt_backend"\nbackend-path = ["."]\n'
        '[project]\nname = "rrt_slow"\nversion = "1.0"\n'
    )
    waiting = imported.options(runtime_env={"pip": ["--no-index", str(slow)]}).remote("rrt_slow")
    for number in range(50):
        env = {"env_vars": {"N": str(number % 2)}}
        assert ray.get(variables.options(runtime_env=env).remote("N")) == [str(number % 2)]
    assert ray.wait([waiting], timeout=0)[0] == []
    with open(gate, "w"):
        pass
    assert ray.get(waiting) == 1


def test_a_set_up_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path, session):
    gate = tmp_path / "never"
    os.mkfifo(gate)
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "rrt_backend.py").write_text(
        f"def build_wheel(directory, config_settings=None, metadata_directory=None):\n    open({str(gate)!r}).read()\n"
    )
    (slow / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "rrt_backend"\nbackend-path = ["."]\n'
        '[project]\nname = "rrt_slow"\nversion = "1.0"\n'
    )
    env = {"pip": ["--no-index", str(slow)], "config": {"setup_timeout_seconds": 4}}
    with pytest.raises(exceptions.RuntimeEnvSetupError, match="took longer than 4 s"):
        ray.get(imported.options(runtime_env=env).remote("rrt_slow"))
    wait_until(lambda: not children_running(str(slow)), "the end of the installation")


def test_set_up_hooks(tmp_path, session):
    (tmp_path / "rrt_hooks.py").write_text("import os\ndef hook():\n    os.environ['RRT_HOOKED'] = 'by name'\n")

    def hook():
        os.environ["RRT_HOOKED"] = "by value"

    env = {"worker_process_setup_hook": hook}
    assert ray.get(variables.options(runtime_env=env).remote("RRT_HOOKED")) == ["by value"]
    env = {"worker_process_setup_hook": "rrt_hooks.hook", "py_modules": [str(tmp_path / "rrt_hooks.py")]}
    assert ray.get(variables.options(runtime_env=env).remote("RRT_HOOKED")) == ["by name"]


def test_a_set_up_hook_that_fails_is_told(session):
    def hook():
        raise ValueError("the hook is broken")

    env = {"worker_process_setup_hook": hook}
    refs = [variables.options(runtime_env=env).remote("A") for _ in range(4)]
    for ref in refs:
        with pytest.raises(exceptions.RuntimeEnvSetupError, match="the hook is broken"):
            ray.get(ref)
    assert ray.get(variables.remote("RRT_JOB")) == ["job"]


def test_another_executable(tmp_path, session):
    script = tmp_path / "rrt_python"
    script.write_text(f'#!/bin/sh\nRRT_WRAPPED=$1; export RRT_WRAPPED; shift\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    env = {"py_executable": f"{script} word"}
    assert ray.get(variables.options(runtime_env=env).remote("RRT_WRAPPED")) == ["word"]
    with pytest.raises(exceptions.RuntimeEnvSetupError, match="cannot be started"):
        ray.get(variables.options(runtime_env={"py_executable": "/no/such/python"}).remote("A"))


def test_idle_environments_end(session):
    @ray.remote(runtime_env={"env_vars": {"RRT_IDLE": "rrt-idle-mark"}})
    def me():
        return os.getpid(), os.getppid()

    worker, zygote = ray.get(me.remote())
    wait_until(lambda: not os.path.exists(f"/proc/{worker}"), "the end of the idle worker")
    wait_until(lambda: not os.path.exists(f"/proc/{zygote}"), "the end of the idle zygote", 60)
    again, another = ray.get(me.remote())
    assert (again, another) != (worker, zygote)


@pytest.mark.parametrize(
    ("env", "error", "text"),
    [
        ({"env_vars": {"A": 1}}, TypeError, "Dict\\[str, str\\]"),
        ({"working_dir": "/no/such/folder"}, ValueError, "does not exist"),
        ({"pip": ["a"], "uv": ["b"]}, ValueError, "at the same time"),
        ({"conda": "base"}, NotImplementedError, "'pip' or 'uv'"),
        ({"image_uri": "x"}, NotImplementedError, "image_uri"),
        ({"worker_process_setup_hook": 3}, TypeError, "setup_hook"),
        ({"config": {"setup_timeout_seconds": 0}}, ValueError, "greater than zero"),
        ("text", TypeError, "runtime_env"),
    ],
    ids=str,
)
def test_bad_environments_are_told_where_they_are_given(env, error, text):
    for give in (ray.remote(runtime_env=env), lambda function: ray.remote(function).options(runtime_env=env)):
        with pytest.raises(error, match=text):
            give(lambda: 1)

    class A:
        pass

    with pytest.raises(error, match=text):
        ray.remote(runtime_env=env)(A)
    assert not ray.is_initialized()
