"""`import ray` gives ray_rs, to programs that were written for Ray and stay as they are."""

import os
import subprocess
import sys
import textwrap

import pytest
from under_test import ray_rs_only

pytestmark = ray_rs_only("is about ray_rs standing for Ray")


def run(*command, cwd, env=None):
    """Runs Python and returns what it printed; its standard error too when it fails."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=50,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def program(tmp_path):
    """Writes a program and runs it through `python -m ray_rs`."""

    def written_and_run(body, *args, name="program.py"):
        (tmp_path / name).write_text(textwrap.dedent(body))
        code, out, err = run("-m", "ray_rs", name, *args, cwd=tmp_path)
        assert code == 0, out + err
        return out.splitlines()

    return written_and_run


def test_names_of_ray_are_the_modules_of_ray_rs(program):
    lines = program(
        """
        import ray
        import ray.exceptions
        import ray.util.actor_pool as pool
        from ray.util import ActorPool
        from ray.util.queue import Queue
        import ray_rs, ray_rs.util.queue

        print(ray is ray_rs, ray.exceptions is ray_rs.exceptions, pool.ActorPool is ray_rs.util.ActorPool is ActorPool)
        print(Queue is ray_rs.util.queue.Queue, ray.util.__spec__.name, ray.util.queue.__name__)
        """
    )
    assert lines == ["True True True", "True ray_rs.util ray_rs.util.queue"]


def test_an_import_replaces_no_function_by_the_module_of_its_name(program):
    lines = program(
        """
        import ray
        from ray.util.placement_group import PlacementGroup
        import ray.util.placement_group
        from ray.util.state.api import list_actors

        ray.init(num_cpus=1, include_dashboard=False)

        @ray.remote(num_cpus=0)
        def in_a_worker():
            import ray.util.placement_group

            return callable(ray.util.placement_group)

        group = ray.util.placement_group([{"CPU": 1}])
        print(isinstance(group, PlacementGroup), group.wait(30), ray.get(in_a_worker.remote()), list_actors())
        """
    )
    assert lines == ["True True True []"]


def test_workers_see_the_same(program):
    lines = program(
        """
        import ray

        @ray.remote
        def inside():
            import ray
            import ray_rs
            from ray.exceptions import RayTaskError
            return ray is ray_rs and RayTaskError is ray_rs.exceptions.RayTaskError

        @ray.remote
        class Actor:
            def child(self):
                import ray
                return ray.get(inside.remote())

        ray.init(num_cpus=2)
        print(ray.get([inside.remote(), Actor.remote().child.remote()]))
        """
    )
    assert lines == ["[True, True]"]


def test_script_runs_as_python_would_run_it(program, tmp_path):
    (tmp_path / "neighbour.py").write_text("value = 5")
    lines = program(
        """
        import sys
        import neighbour

        print(sys.argv, __name__, __file__, neighbour.value)
        """,
        "one",
        "--two",
    )
    assert lines == [f"['program.py', 'one', '--two'] __main__ {tmp_path / 'program.py'} 5"]


def test_exit_status_and_errors_pass_through(tmp_path):
    (tmp_path / "leaves.py").write_text("import sys; sys.exit(7)")
    (tmp_path / "fails.py").write_text("raise KeyError('this one')")
    assert run("-m", "ray_rs", "leaves.py", cwd=tmp_path)[0] == 7
    code, _, err = run("-m", "ray_rs", "fails.py", cwd=tmp_path)
    assert code == 1
    assert "KeyError: 'this one'" in err
    assert "fails.py" in err


def test_module_as_program(tmp_path):
    package = tmp_path / "somebody"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "tool.py").write_text("import ray, sys; print(ray.__name__, __name__, sys.argv[1:])")
    code, out, err = run("-m", "ray_rs", "-m", "somebody.tool", "x", cwd=tmp_path)
    assert code == 0, err
    assert out == "ray_rs __main__ ['x']\n"


def test_usage(tmp_path):
    assert run("-m", "ray_rs", cwd=tmp_path)[0] == 2
    assert run("-m", "ray_rs", "-m", cwd=tmp_path)[0] == 2
    code, out, _ = run("-m", "ray_rs", "--help", cwd=tmp_path)
    assert code == 0
    assert "script.py" in out
    code, _, err = run("-m", "ray_rs", "absent.py", cwd=tmp_path)
    assert code == 1
    assert "can't open file 'absent.py'" in err


def test_what_is_missing_says_so(program):
    lines = program(
        """
        import importlib.util

        def attempt(statement):
            try:
                exec(statement)
            except ImportError as error:
                print(type(error).__name__, error)

        attempt("import ray.data.dataset")
        attempt("from ray import tune")
        attempt("from ray.train.torch import TorchTrainer")
        attempt("import ray.util.spark")
        import ray
        print(hasattr(ray, "tune"), importlib.util.find_spec("ray.tune"), importlib.util.find_spec("ray") is None)
        """
    )
    for line, library in zip(lines, ("Ray Data", "Ray Tune", "Ray Train"), strict=False):
        assert line.startswith("ModuleNotFoundError No module named 'ray.")
        assert f"{library} is a library on top of Ray Core" in line
    assert lines[3].startswith("ModuleNotFoundError No module named 'ray.util.spark'")
    assert lines[4] == "False None False"


def test_a_function_of_ray_data_that_libraries_import_refuses_when_it_is_called(program):
    lines = program(
        """
        from ray.data import from_pandas_refs

        for attempt in (lambda: from_pandas_refs([]), lambda: __import__("ray.data").data.range(3)):
            try:
                attempt()
            except (AttributeError, NotImplementedError) as error:
                print(type(error).__name__, error)
        import ray
        print(hasattr(ray.data, "Dataset"))
        """
    )
    assert lines[0].startswith(
        "NotImplementedError ray.data.from_pandas_refs: Ray Data is a library on top of Ray Core"
    )
    assert lines[1].startswith("AttributeError module 'ray.data' has no attribute 'range': Ray Data is a library")
    assert lines[2:] == ["False"]


def test_private_modules_that_libraries_use_are_there_without_an_import(program):
    lines = program(
        """
        import ray
        print(ray._raylet.ObjectRef is ray.ObjectRef, ray._private.worker.global_worker.mode)
        print(ray._private.services.get_node_ip_address() == ray.util.get_node_ip_address())
        from ray._private.services import get_node_ip_address
        print(hasattr(ray._private, "nothing"), ray._private.ray_constants is not None)
        from ray._private.worker import BaseContext, RayContext, RESTORE_WORKER_MODE, SPILL_WORKER_MODE
        assert (SPILL_WORKER_MODE, RESTORE_WORKER_MODE) == (ray.SPILL_WORKER_MODE, ray.RESTORE_WORKER_MODE)
        with ray.init(num_cpus=1) as context:
            print(isinstance(context, BaseContext), isinstance(context, RayContext))
        """
    )
    assert lines == ["True None", "True", "False True", "True True"]


def test_methods_of_actors_say_how_much_they_return(program):
    lines = program(
        """
        import ray

        @ray.remote
        class Counts:
            def one(self): ...

            @ray.method(num_returns=2)
            def two(self): ...

            def items(self):
                yield

        counts = Counts.remote()
        print([method._num_returns for method in (counts.one, counts.two, counts.items)])
        """
    )
    assert lines == ["[1, 2, 'streaming']"]


def test_attributes_that_are_missing_say_so():
    import ray_rs as ray

    with pytest.raises(RuntimeError, match=r"dropped workflows; its last version with them is 2\.47"):
        ray.workflow
    with pytest.raises(AttributeError, match="Ray Data is a library on top of Ray Core"):
        ray.data
    with pytest.raises(AttributeError, match="module 'ray_rs' has no attribute 'cabbage'"):
        ray.cabbage
    assert not hasattr(ray, "workflow") and not hasattr(ray, "data")


def test_libraries_find_a_version_of_ray(program):
    lines = program(
        """
        import importlib.metadata
        import ray

        print(ray.__version__, importlib.metadata.version("ray"))
        print([each.version for each in importlib.metadata.distributions() if each.metadata["Name"] == "ray"])
        """
    )
    assert lines == ["2.60.0 2.60.0", "['2.60.0']"]


def test_installed_by_a_call(tmp_path):
    body = """
        import ray_rs
        assert ray_rs.__version__ != "2.60.0"
        ray_rs.install_as_ray()
        ray_rs.install_as_ray()
        import ray
        assert ray is ray_rs

        @ray.remote
        def name():
            import ray
            return ray.__name__

        ray.init(num_cpus=1)
        print(ray.get(name.remote()))
    """
    (tmp_path / "p.py").write_text(textwrap.dedent(body))
    code, out, err = run("p.py", cwd=tmp_path)
    assert code == 0, err
    assert out == "ray_rs\n"


def test_too_late_for_ray_itself(tmp_path):
    (tmp_path / "ray.py").write_text("__version__ = 'its own'")
    (tmp_path / "p.py").write_text("import ray, ray_rs\nray_rs.install_as_ray()")
    code, _, err = run("p.py", cwd=tmp_path)
    assert code == 1
    assert "RuntimeError: Ray itself is imported in this process already" in err


def test_too_late_for_a_running_session(tmp_path):
    (tmp_path / "p.py").write_text("import ray_rs\nray_rs.init(num_cpus=1)\nray_rs.install_as_ray()\nimport ray")
    code, _, err = run("p.py", cwd=tmp_path)
    assert code == 0, err
    assert "not in the workers of this session" in err


def test_pytest_plugin(tmp_path):
    (tmp_path / "conftest.py").write_text("import ray")
    body = """
        import pytest
        import ray
        from ray._common.test_utils import SignalActor, wait_for_condition
        from ray._private.test_utils import run_string_as_driver

        @pytest.fixture
        def session():
            yield ray.init(num_cpus=2)
            ray.shutdown()

        def test_signal(session):
            signal = SignalActor.remote()

            @ray.remote
            def waits():
                ray.get(signal.wait.remote())
                return 5

            ref = waits.remote()
            wait_for_condition(lambda: ray.get(signal.cur_num_waiters.remote()) == 1)
            ray.get(signal.send.remote())
            assert ray.get(ref) == 5

        def test_driver():
            assert "ray_rs" in run_string_as_driver("import ray; print(ray.__name__)")
    """
    (tmp_path / "test_theirs.py").write_text(textwrap.dedent(body))
    code, out, err = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "ray_rs.as_ray", cwd=tmp_path)
    assert code == 0, out + err
    assert "2 passed" in out


def test_import_costs_nothing_more(tmp_path):
    (tmp_path / "p.py").write_text(
        "import sys, ray_rs\n"
        "print([name for name in sys.modules if name.startswith(('ray_rs.util', 'ray_rs.dag', 'ray_rs._iterate', "
        "'ray_rs._as_ray', 'ray_rs._progress', 'ray_rs.experimental'))])"
    )
    _, out, _ = run("p.py", cwd=tmp_path)
    assert out == "[]\n"
