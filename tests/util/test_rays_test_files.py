"""Test files as Ray's own are written: its fixtures, with parameters, and its helpers, without a word changed."""

import os
import subprocess
import sys
import textwrap

import pytest
from under_test import ray_rs_only

pytestmark = ray_rs_only("is about what stands for Ray's helpers")

ONE_NODE = """
    import os, subprocess, sys
    import pytest
    import ray
    import ray._private.ray_constants as ray_constants
    from ray._private.test_utils import (
        client_test_enabled, dicts_equal, get_error_message, get_log_message, kill_actor_and_wait_for_failure,
        put_object, run_string_as_driver_nonblocking, run_string_as_driver_stdout_stderr, same_elements,
        wait_for_num_actors, wait_for_pid_to_exit, wait_until_succeeded_without_exception,
    )

    @ray.remote
    def identity(x):
        return x

    def test_one_cpu(ray_start_regular):
        assert ray.cluster_resources()["CPU"] == 1
        assert ray.get_runtime_context().namespace == "default_test_namespace"

    @pytest.mark.parametrize("ray_start_regular", [{"num_cpus": 3, "_system_config": {"knob": 1}}], indirect=True)
    def test_a_parameter(ray_start_regular):
        assert ray.cluster_resources()["CPU"] == 3

    @pytest.mark.parametrize("ray_start_object_store_memory", [100 * 1024 * 1024], indirect=True)
    def test_size_of_the_store(ray_start_object_store_memory):
        assert ray.cluster_resources()["object_store_memory"] == ray_start_object_store_memory

    def test_what_the_driver_hears(ray_start_2_cpus, error_pubsub, log_pubsub):
        @ray.remote(max_retries=0)
        def dies():
            print("last words")
            os._exit(1)

        with pytest.raises(ray.exceptions.WorkerCrashedError):
            ray.get(dies.remote())
        (error,) = get_error_message(error_pubsub, 1, ray_constants.WORKER_DIED_PUSH_ERROR)
        assert "died" in error.error_message
        assert get_log_message(log_pubsub, 1) == [["last words"]]

    def test_of_private_names(ray_start_regular):
        worker = ray._private.worker.global_worker
        large, small = ray.put(bytes(10**6)), ray.put(1)
        assert worker.core_worker.object_exists(large) and not worker.core_worker.object_exists(small)
        assert worker.node.unique_id == ray.get_runtime_context().get_node_id()

    @pytest.mark.parametrize("connect_to_client", [False, True])
    def test_placement_groups(ray_start_2_cpus, connect_to_client):
        from ray._private.gcs_utils import ActorTableData
        from ray._private.test_utils import (
            convert_actor_state, is_placement_group_removed, placement_group_assert_no_leak,
        )
        from ray.util.client.ray_client_helpers import connect_to_client_or_not

        @ray.remote(num_cpus=1)
        class Actor:
            def ready(self):
                return True

        with connect_to_client_or_not(connect_to_client):
            group = ray.util.placement_group([{"CPU": 1}])
            strategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(group)
            actor = Actor.options(scheduling_strategy=strategy).remote()
            ray.get(actor.ready.remote())
            info = ray._private.state.actors()[actor._actor_id.hex()]
            assert info["State"] == convert_actor_state(ActorTableData.ALIVE)
            assert info["Address"]["NodeID"] == ray.get_runtime_context().get_node_id()
            assert ray._private.state.actors(actor._actor_id.hex()) == info
            (free,) = ray._private.state.available_resources_per_node().values()
            assert free["CPU"] == 1
            assert not is_placement_group_removed(group)
            placement_group_assert_no_leak([group])
            assert is_placement_group_removed(group)

    def test_reference_counts(ray_start_regular):
        worker = ray._private.worker.global_worker.core_worker
        before = worker.get_memory_store_size()
        ref = ray.put(1)
        assert worker.get_all_reference_counts()[ref.hex().encode()] == {"local": 1, "submitted": 0}
        assert worker.get_memory_store_size() == before + 1

    def test_unhandled_errors(ray_start_regular):
        @ray.remote
        def fails():
            raise ValueError

        heard = []
        ray._private.worker._unhandled_error_handler = heard.append
        fails.remote()
        ray._private.test_utils.wait_for_condition(lambda: len(heard) == 1)

    def test_a_session_for_who_asks(shutdown_only):
        assert not ray._private.client_mode_hook.is_client_mode_enabled
        assert not ray.is_initialized()
        assert ray.get_runtime_context().get_dashboard_url() == ""
        assert ray.is_initialized()
        assert [job["IsDead"] for job in ray._private.state.jobs()] == [False]

    def test_no_node_yet(shutdown_only):
        assert not ray.is_initialized()
        driver = run_string_as_driver_nonblocking(
            "import ray, time\\nclass A: pass\\nprint(ray.__name__, flush=True)\\ntime.sleep(100)"
        )
        assert driver.stdout.readline() == b"ray_rs\\n"
        driver.kill()
        driver.communicate()
        wait_for_pid_to_exit(driver.pid)
        script = "import sys; print(1); print(2, file=sys.stderr)"
        assert run_string_as_driver_stdout_stderr(script) == ("1\\n", "2\\n")

    def test_an_actor_that_is_killed(ray_start_4_cpus):
        @ray.remote
        class Actor:
            pass

        actor = Actor.remote()
        ray.get(actor.__ray_ready__.remote())
        kill_actor_and_wait_for_failure(actor)
        wait_for_num_actors(1, state="DEAD")
        from ray.experimental.state.api import list_actors

        assert [row.state for row in list_actors()] == ["DEAD"]

    def test_small_helpers():
        calls = []

        def third_time():
            calls.append(1)
            assert len(calls) > 2

        assert wait_until_succeeded_without_exception(
            third_time, (AssertionError,), retry_interval_ms=1, timeout_ms=9e4
        )
        assert len(calls) == 3
        assert not wait_until_succeeded_without_exception(
            lambda: 1 / 0, (ArithmeticError,), timeout_ms=1, retry_interval_ms=1
        )
        assert same_elements([{}, 1], [1, {}]) and not same_elements([1], [1, 2])
        assert dicts_equal({1: 1.0}, {1: 1.00001})
        assert not dicts_equal({1: 1.0}, {1: 1.1}) and not dicts_equal({1: 1}, {})
"""

SEVERAL_NODES = """
    import os
    import pytest
    import ray
    from ray._private.test_utils import get_non_head_nodes, get_other_nodes, wait_for_num_nodes
    from ray.cluster_utils import Cluster, cluster_not_supported

    @pytest.mark.xfail(cluster_not_supported, reason="cluster not supported")
    @pytest.mark.parametrize("ray_start_cluster", [{"num_nodes": 2, "num_cpus": 1}], indirect=True)
    def test_a_cluster(ray_start_cluster):
        cluster = ray_start_cluster
        wait_for_num_nodes(2, 30)
        node = cluster.add_node(num_cpus=1, memory=10**9, env_vars={"OF_A_NODE": "yes"}, resources={"third": 1})

        @ray.remote(resources={"third": 1})
        def variable():
            return os.environ.get("OF_A_NODE")

        assert ray.get(variable.remote()) == "yes"
        assert "OF_A_NODE" not in os.environ
        others = get_other_nodes(cluster)
        assert node in others and len(others) == 2 and set(others) == set(get_non_head_nodes(cluster))

    def test_no_node(ray_start_cluster):
        assert ray_start_cluster.list_all_nodes() == [] and not ray.is_initialized()

    def test_a_head(ray_start_cluster_head):
        assert len(ray.nodes()) == 1

    COMMAND = "ray start --head --num-cpus=3 --min-worker-port=0 --max-worker-port=0 --port 0"

    @pytest.mark.parametrize("call_ray_start", [COMMAND], indirect=True)
    def test_the_command_line(call_ray_start):
        ray.init(address=call_ray_start)
        assert ray.cluster_resources()["CPU"] == 3
"""


def pytest_of(directory, body, *before):
    (directory / "test_theirs.py").write_text(textwrap.dedent(body))
    done = subprocess.run(
        [sys.executable, *before, "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=directory,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(120)
def test_one_node(tmp_path):
    assert "12 passed, 1 skipped" in pytest_of(tmp_path, ONE_NODE, "-m", "ray_rs", "-m", "pytest")


@pytest.mark.timeout(120)
def test_several_nodes(tmp_path):
    assert "4 passed" in pytest_of(tmp_path, SEVERAL_NODES, "-m", "pytest", "-p", "ray_rs.as_ray")


def test_a_conftest_of_their_own(tmp_path):
    (tmp_path / "conftest.py").write_text("from ray.tests.conftest import *  # noqa\n")
    body = """
        import ray
        from ray._private.test_utils import client_test_enabled, object_memory_usage, put_object
        from ray.tests.client_test_utils import create_remote_signal_actor

        sessions = set()

        def test_one(ray_start_regular_shared):
            sessions.add(ray_start_regular_shared.address_info["session_dir"])
            assert ray.get([put_object(1, True), put_object(2, False)]) == [1, 2]
            assert object_memory_usage() == 0 and not client_test_enabled()

        def test_another(ray_start_regular_shared):
            sessions.add(ray_start_regular_shared.address_info["session_dir"])
            signal = create_remote_signal_actor(ray).remote()
            waits = signal.wait.remote()
            ray.get(signal.send.remote())
            assert ray.get(waits) is None
            assert len(sessions) == 1
    """
    assert "2 passed" in pytest_of(tmp_path, body, "-m", "ray_rs", "-m", "pytest")
