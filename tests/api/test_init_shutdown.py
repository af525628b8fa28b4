"""`ray.init`, `ray.shutdown`, `ray.is_initialized`: starting, joining and ending a cluster."""

import os
import re
import stat
import tempfile
from pathlib import Path

import pytest
from under_test import IS_RAY, exceptions, ray, ray_rs_only, run_driver, wait_until

pytestmark = pytest.mark.usefixtures("no_cluster")

FAST = {"num_cpus": 1, "include_dashboard": False}


@ray.remote
def where():
    return os.getpid()


def test_a_session_from_beginning_to_end():
    assert not ray.is_initialized()
    context = ray.init(**FAST)
    assert ray.is_initialized()

    # What init returns describes the session.
    assert context.python_version.startswith("3.")
    assert context.ray_version == ray.__version__
    assert isinstance(context.dashboard_url, str)
    assert {
        "node_ip_address",
        "object_store_address",
        "raylet_socket_name",
        "session_dir",
        "gcs_address",
        "address",
        "node_id",
    } <= set(context.address_info)
    for word in ("dashboard_url", "python_version", "ray_version", "ray_commit"):
        assert word in repr(context)
    with pytest.warns((DeprecationWarning, UserWarning), match="deprecated"):
        assert context["node_id"] == context.address_info["node_id"]
    assert ray.get(where.remote()) != os.getpid()

    # A second call is a mistake, unless it says that it is not.
    with pytest.raises(RuntimeError, match=r"Maybe you called ray\.init twice by accident"):
        ray.init(**FAST)
    again = ray.init(ignore_reinit_error=True)
    assert again.address_info["session_dir"] == context.address_info["session_dir"]

    ray.shutdown()
    assert not ray.is_initialized()
    ray.shutdown()  # twice is fine

    # Functions and classes serve the next session too; `with` ends it.
    with ray.init(**FAST):
        assert ray.get(where.remote()) != os.getpid()
        assert ray.cluster_resources()["CPU"] == 1
    assert not ray.is_initialized()


@pytest.mark.parametrize(
    "labels", [{"a b": "c"}, {"a": "b c"}, {"-a": "b"}, {"a": "b" * 64}, {"a/b/c": "d"}, {"ray.io/mine": "x"}], ids=repr
)
def test_labels_that_are_none(labels):
    with pytest.raises(ValueError, match="label"):
        ray.init(**FAST, labels=labels)
    assert not ray.is_initialized()


@ray_rs_only("Ray's directories are open to the machine's other users")
def test_only_the_user_can_open_the_session():
    context = ray.init(**FAST)
    session = Path(context.address_info["session_dir"])
    assert session.parent == Path(os.environ["RAY_RS_TMPDIR"])
    assert stat.S_IMODE(session.stat().st_mode) == 0o700
    assert stat.S_IMODE((session / "token").stat().st_mode) == 0o600
    assert (session.parent / "session_latest").resolve() == session
    assert re.fullmatch(r"session_[0-9-]+_[0-9-]+(_[0-9]+)*", session.name)
    assert context.address_info["gcs_address"].startswith("127.0.0.1:")


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"no_such_option": 1}, RuntimeError, "Unknown keyword argument"),
        ({"local_mode": True}, RuntimeError, "local_mode|local mode"),
        ({"namespace": 5}, TypeError, "namespace"),
        ({"namespace": ""}, ValueError, "namespace"),
        ({"address": "nonsense"}, ValueError, "Invalid address format"),
        ({"address": "http://127.0.0.1:1"}, ValueError, "Invalid Ray address"),
        ({"address": "auto"}, ConnectionError, "Could not find any running"),
        ({"resources": {"CPU": 1}}, (ValueError, AssertionError), "num_cpus|CPU"),
        ({"object_store_memory": 1000}, ValueError, "object_store_memory|object store|memory"),
        ({"_system_config": 5}, TypeError, "_system_config|dict"),
        (
            {"_system_config": {"object_spilling_config": "[]"}},
            (ValueError, TypeError),
            "object_spilling_config|indices",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_bad_arguments(kwargs, error, text):
    with pytest.raises(error, match=text):
        ray.init(**kwargs)
    assert not ray.is_initialized()


@ray_rs_only("Ray waits and retries for minutes")
def test_an_address_where_nothing_listens():
    with pytest.raises(ConnectionError, match="Failed to connect"):
        ray.init(address="127.0.0.1:1")


def test_state_functions_do_not_start_a_cluster():
    for function in (ray.nodes, ray.cluster_resources, ray.available_resources):
        with pytest.raises(exceptions.RaySystemError, match="has not been started yet"):
            function()
    assert not ray.is_initialized()


def test_first_use_starts_a_local_cluster():
    run_driver(
        """
        @ray.remote
        def f():
            return 7

        assert not ray.is_initialized()
        assert ray.get(f.remote()) == 7
        assert ray.is_initialized()
        """
    )


def test_first_use_can_be_told_not_to():
    out = run_driver(
        """
        try:
            ray.put(1)
        except ray.exceptions.RaySystemError as error:
            print("refused:", error)
        """,
        env={"RAY_ENABLE_AUTO_CONNECT": "0"},
    ).stdout
    assert "refused:" in out
    assert "has not been started yet" in out


def test_a_second_driver_joins():
    context = ray.init(num_cpus=2, namespace="shared", include_dashboard=False)

    @ray.remote
    class Board:
        def __init__(self):
            self.lines = []

        def write(self, line):
            self.lines.append(line)

        def read(self):
            return self.lines

    board = Board.options(name="board").remote()
    ray.get(board.write.remote("first driver"))
    out = run_driver(
        f"""
        import os

        context = ray.init(address={"auto"!r}, namespace="shared")
        assert context.address_info["session_dir"] == {context.address_info["session_dir"]!r}
        board = ray.get_actor("board")
        assert ray.get(board.read.remote()) == ["first driver"]
        ray.get(board.write.remote("second driver"))

        @ray.remote
        def f(x):
            return x + 1

        assert ray.get([f.remote(i) for i in range(10)]) == list(range(1, 11))
        print("job", ray.get_runtime_context().get_job_id())
        try:
            ray.shutdown()
            ray.init(address="auto", num_cpus=4)
        except ValueError as error:
            print(error)
        """,
        env={"RAY_ADDRESS": context.address_info["address"]} if IS_RAY else {},
    ).stdout
    assert "When connecting to an existing cluster" in out
    assert f"job {ray.get_runtime_context().get_job_id()}" not in out
    # The guest's end is not the cluster's.
    assert ray.get(board.read.remote()) == ["first driver", "second driver"]


def test_worker_processes_end_with_the_session():
    ray.init(**FAST)
    pid = ray.get(where.remote())
    assert Path(f"/proc/{pid}").exists()
    ray.shutdown()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the worker to end")


def test_shutdown_at_interpreter_exit_is_clean():
    done = run_driver(
        """
        ray.init(num_cpus=1)

        @ray.remote
        class A:
            def f(self):
                return 1

        a = A.remote()
        assert ray.get(a.f.remote()) == 1
        keep = ray.put(b"x" * 1_000_000)
        """
    )
    assert "Traceback" not in done.stderr


def test_hidden_keywords_that_libraries_set():
    ray.init(
        num_cpus=1,
        _memory=123 * 2**20,
        _metrics_export_port=8080,
        _redis_password="secret",
        include_dashboard=False,
    )
    assert ray.cluster_resources()["memory"] == 123 * 2**20


def test_a_session_lies_in_the_directory_that_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match="absolute path"):
        ray.init(_temp_dir="relative/path")
    before = os.environ.get("RAY_RS_TMPDIR")
    # The paths of sockets may not be long.
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as directory:
        context = ray.init(num_cpus=1, _temp_dir=f"{directory}/mine", include_dashboard=False)
        assert os.path.dirname(context.address_info["session_dir"]) == f"{directory}/mine"

        @ray.remote
        def lies_in():
            return ray.get_runtime_context().get_temp_dir(), ray.get(ray.put(1))

        assert ray.get(lies_in.remote()) == (f"{directory}/mine", 1)
        ray.shutdown()
    assert os.environ.get("RAY_RS_TMPDIR") == before


def test_nodes_and_resources():
    ray.init(num_cpus=3, resources={"magnet": 2}, include_dashboard=False)
    resources = ray.cluster_resources()
    assert resources["CPU"] == 3
    assert resources["magnet"] == 2
    assert resources["memory"] > 0
    assert resources["object_store_memory"] > 0
    assert "GPU" not in resources
    assert any(name.startswith("node:") for name in resources)
    (node,) = ray.nodes()
    assert node["Alive"] is True
    assert node["alive"] is True
    assert node["NodeID"] == ray.get_runtime_context().get_node_id()
    assert node["Resources"]["magnet"] == 2

    @ray.remote(num_cpus=2, resources={"magnet": 1})
    def hold():
        return ray.available_resources()

    ray.get(hold.remote())
    wait_until(lambda: ray.available_resources().get("CPU") == 3, "the CPUs to come back")
    wait_until(lambda: ray.available_resources().get("magnet") == 2, "the custom resource to come back")
