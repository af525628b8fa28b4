"""Clusters that grow as work waits and shrink when nodes are idle, with real nodes on this machine."""

import glob
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import traces
from under_test import command, ray, wait_until

IDLE_MINUTES = 0.03


@pytest.fixture
def autoscaling(no_cluster):
    """Starts clusters with worker nodes of the given types, and connects this process to them."""
    from ray_rs.cluster_utils import AutoscalingCluster

    made = []

    def make(types, head=None, connect=True, **config):
        cluster = AutoscalingCluster(
            head or {"CPU": 0},
            {name: {"min_workers": 0, "max_workers": 3, **value} for name, value in types.items()},
            **{"idle_timeout_minutes": IDLE_MINUTES, **config},
        )
        made.append(cluster)
        cluster.start()
        if connect:
            ray.init(address=cluster.address, logging_level="error", log_to_driver=False)
        return cluster

    yield make
    ray.shutdown()
    for cluster in made:
        cluster.shutdown()
    wait_until(lambda: not traces.processes() and not traces.session_files(), "nothing to be left behind")


def workers():
    """Living nodes but the head."""
    return [node for node in ray.nodes() if node["Alive"] and "ray.io/node-group" in node["Labels"]]


def types():
    return sorted(node["Labels"]["ray.io/node-group"] for node in workers())


def cluster_state():
    from ray_rs import _core

    return _core.Observer(_core.process_info()["session_dir"]).cluster()


@ray.remote(num_cpus=1)
def where(seconds=0.0):
    time.sleep(seconds)
    return ray.get_runtime_context().get_node_id()


def test_nodes_come_for_tasks_and_go_when_they_are_idle(autoscaling):
    autoscaling({"worker": {"resources": {"CPU": 2}, "labels": {"zone": "a"}}})
    assert workers() == []

    @ray.remote(num_cpus=2)
    def whole(gate):
        wait_until(lambda: os.path.exists(gate), "the gate")
        return ray.get_runtime_context().get_node_id()

    gate = f"{os.environ['RAY_RS_TEST_SCRATCH']}/gate-{os.getpid()}"
    # As tasks of their own: a driver asks for several workers only once it knows that its tasks are long.
    refs = [whole.options(name=f"whole-{index}").remote(gate) for index in range(2)]
    other = ray.remote(num_cpus=1, resources={"never": 1})(lambda: 1).remote()
    wait_until(workers, "a node to come")
    assert types()[0] == "worker" and workers()[0]["Labels"]["zone"] == "a"
    text = command("status")
    assert re.search(r"\{'CPU': 1\.0, 'never': 1\.0\}: 1\+ pending tasks/actors \(infeasible\)", text)
    open(gate, "w").close()
    assert set(ray.get(refs, timeout=60)) <= {node["NodeID"] for node in ray.nodes()}
    wait_until(lambda: not workers(), "idle nodes to go")
    gone = [node for node in ray.nodes() if not node["Alive"]]
    # It was drained first.
    assert {node["DeathReason"] for node in gone} == {4}
    assert "idle" in gone[0]["DeathReasonMessage"]
    # And again.
    assert ray.get(where.remote(), timeout=60)
    ray.cancel(other)
    os.unlink(gate)


def test_as_many_nodes_as_actors_need_and_no_more_than_may_be(autoscaling):
    autoscaling({"worker": {"resources": {"CPU": 1}, "max_workers": 3}}, max_workers=2)

    @ray.remote(num_cpus=1)
    class Actor:
        def node(self):
            return ray.get_runtime_context().get_node_id()

    actors = [Actor.remote() for _ in range(3)]
    refs = [actor.node.remote() for actor in actors]
    # Any two of them.
    placed, (third,) = ray.wait(refs, num_returns=2, timeout=60)
    nodes = ray.get(placed)
    assert len(set(nodes)) == 2
    assert ray.wait([third], timeout=1.5)[0] == []
    assert len(workers()) == 2
    assert cluster_state()["autoscaler"]["delayed"]
    del actors[refs.index(placed[0])]
    assert ray.get(third, timeout=60) in nodes


def test_placement_groups_bring_the_nodes_that_they_need(autoscaling):
    from ray_rs.util import placement_group, remove_placement_group

    autoscaling({"small": {"resources": {"CPU": 1}}, "large": {"resources": {"CPU": 4}}})
    spread = placement_group([{"CPU": 1}] * 2, strategy="STRICT_SPREAD")
    assert spread.wait(60)
    assert types() == ["small", "small"]
    packed = placement_group([{"CPU": 2}] * 2, strategy="STRICT_PACK")
    assert packed.wait(60)
    assert types() == ["large", "small", "small"]
    time.sleep(60 * IDLE_MINUTES + 1)
    assert len(workers()) == 3, "bundles keep their nodes, used or not"
    remove_placement_group(packed)
    wait_until(lambda: types() == ["small", "small"], "the large node to go")
    remove_placement_group(spread)
    wait_until(lambda: not workers(), "all to go")


def test_minimum_and_requests(autoscaling):
    from ray_rs.autoscaler import sdk

    autoscaling({"worker": {"resources": {"CPU": 2}, "min_workers": 1}})
    wait_until(lambda: len(workers()) == 1, "the minimum")
    sdk.request_resources(num_cpus=3)
    wait_until(lambda: len(workers()) == 2, "the request")
    assert "{'CPU': 1.0}: 3 from request_resources()" in command("status")
    time.sleep(60 * IDLE_MINUTES + 1)
    assert len(workers()) == 2, "they are requested"
    sdk.request_resources(bundles=[{"CPU": 2}, {"CPU": 2}, {"CPU": 2}])
    wait_until(lambda: len(workers()) == 3, "the other request")
    sdk.request_resources()
    wait_until(lambda: len(workers()) == 1, "all but the minimum to go")
    with pytest.raises(ValueError, match="negative"):
        sdk.request_resources(num_cpus=-1)
    with pytest.raises(TypeError):
        sdk.request_resources(bundles={"CPU": 1})


def test_a_value_that_is_held_keeps_its_node(autoscaling):
    autoscaling({"worker": {"resources": {"CPU": 1}}})

    @ray.remote(num_cpus=1)
    def large():
        return b"x" * 1_000_000

    ref = large.remote()
    ray.wait([ref], timeout=60)
    time.sleep(60 * IDLE_MINUTES + 1.5)
    assert len(workers()) == 1
    assert len(ray.get(ref, timeout=60)) == 1_000_000
    del ref
    wait_until(lambda: not workers(), "the node to go")


def test_a_node_that_dies_is_replaced_as_work_needs_it(autoscaling):
    autoscaling({"worker": {"resources": {"CPU": 1}}})

    @ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)
    class Actor:
        def node(self):
            return ray.get_runtime_context().get_node_id()

        def session(self):
            from ray_rs import _core

            return _core.process_info()["session_dir"]

    actor = Actor.remote()
    first = ray.get(actor.node.remote(), timeout=60)
    os.kill(raylet_of(ray.get(actor.session.remote())), signal.SIGKILL)
    wait_until(lambda: first not in {node["NodeID"] for node in workers()}, "the node to be missed")
    assert ray.get(actor.node.remote(), timeout=60) != first
    failures = cluster_state()["autoscaler"]["failures"]
    assert "left the cluster unasked" in failures[-1]["why"]
    assert "left the cluster unasked" in command("status")


def raylet_of(session_dir):
    """The process of the raylet of a node that has joined."""
    with open(f"{session_dir}/session.json") as file:
        return json.load(file)["raylet_pid"]


def test_the_end_of_the_control_store_is_that_of_all_nodes(autoscaling):
    cluster = autoscaling({"worker": {"resources": {"CPU": 1}}})
    ray.get(where.remote(), timeout=60)
    with open(f"{cluster._session['session_dir']}/session.json") as file:
        session = json.load(file)
    ray.shutdown()
    for daemon in ("gcs_pid", "raylet_pid"):
        os.kill(session[daemon], signal.SIGKILL)
    # Waited for by the fixture, too: sockets and memory are gone as well.
    wait_until(lambda: not traces.processes(), "all processes to end")
    cluster.shutdown()
    command("stop")


# ---- ray_rs start, and commands -----------------------------------------------------------------------------------


def config_file(path, **config):
    path.write_text(json.dumps(config))
    return f"--autoscaling-config={path}"


@pytest.fixture
def shell(no_cluster):
    yield
    ray.shutdown()
    command("stop")
    wait_until(lambda: not traces.processes() and not traces.session_files(), "nothing to be left behind")


def start_head(config):
    text = command("start", "--head", "--port=0", "--num-cpus=0", config)
    (address,) = re.findall(r"--address=(\S+)", text)
    ray.init(address=address, logging_level="error", log_to_driver=False)


def test_ray_rs_start_with_nodes_on_this_machine(shell, tmp_path):
    config = config_file(
        tmp_path / "cluster.json",
        max_workers=1,
        idle_timeout_minutes=10,
        available_node_types={"worker": {"resources": {"CPU": 1}}},
        provider={"type": "local"},
    )
    start_head(config)
    ray.get(where.remote(), timeout=60)
    ray.shutdown()
    # With the head all of them end.
    assert command("stop") == "Stopped 1 node.\n"
    wait_until(lambda: not traces.processes(), "all processes to end")


def test_any_command_starts_and_ends_nodes(shell, tmp_path):
    ray_rs = f"{sys.executable} -m ray_rs.scripts"
    there = "/tmp/rrs-{instance}"
    start = (
        f"mkdir -m 700 {there} && "
        f'echo "$RAY_RS_NODE_TYPE {{num_cpus}} {{labels}} {{start}}" > {tmp_path}/{{instance}} && '
        f"RAY_RS_TMPDIR={there} {ray_rs} start --address={{address}} --token-file={{token_file}} "
        "--node-name={instance} --num-cpus={num_cpus} --resources={resources} --labels={labels}"
    )
    end = f"RAY_RS_TMPDIR={there} {ray_rs} stop; rm -r {there}; echo ended >> {tmp_path}/{{instance}}"
    config = config_file(
        tmp_path / "cluster.json",
        max_workers=2,
        idle_timeout_minutes=IDLE_MINUTES,
        available_node_types={"my_type": {"resources": {"CPU": 1, "special": 2}, "labels": {"zone": "b"}}},
        provider={"type": "command", "start_command": start, "end_command": ["/bin/sh", "-c", end]},
    )
    start_head(config)
    ray.get(where.options(resources={"special": 1}).remote(), timeout=60)
    (node,) = workers()
    assert node["Labels"]["zone"] == "b" and node["Labels"]["ray.io/node-group"] == "my_type"
    assert node["Resources"]["special"] == 2
    instance = node["Labels"]["ray_rs.io/instance"]
    told = (tmp_path / instance).read_text()
    assert told.startswith("my_type 1 ") and "ray_rs start --address=" in told
    wait_until(lambda: "ended" in (tmp_path / instance).read_text(), "the command that ends it")
    assert workers() == [] and not os.path.exists(f"/tmp/rrs-{instance}")
    # One that is in use is ended with the cluster.
    ray.get(where.remote(), timeout=60)
    (node,) = workers()
    ray.shutdown()
    command("stop")
    assert "ended" in (tmp_path / node["Labels"]["ray_rs.io/instance"]).read_text()


def test_starts_that_fail_are_told_and_tried_again(shell, tmp_path):
    attempts = tmp_path / "attempts"
    ray_rs = f"{sys.executable} -m ray_rs.scripts"
    config = config_file(
        tmp_path / "cluster.json",
        available_node_types={"worker": {"resources": {"CPU": 1}}},
        provider={
            "type": "command",
            # It works from the third time on.
            "start_command": f"echo x >> {attempts}; test $(wc -l < {attempts}) -ge 3 || {{ echo no quota; exit 4; }}; "
            f"{ray_rs} start --address={{address}} --num-cpus=1 --labels={{labels}} --node-name={{instance}}",
        },
    )
    start_head(config)
    ref = where.remote()
    failed = wait_until(lambda: cluster_state()["autoscaler"]["failures"], "a failure")
    assert failed[0]["why"].startswith("the start command failed (exit status: 4): no quota")
    text = command("status")
    assert "no quota" in text and "the next is tried in" in text
    assert ray.get(ref, timeout=60)
    assert attempts.read_text() == "x\n" * 3


def test_a_node_that_never_joins_is_ended(shell, tmp_path):
    config = config_file(
        tmp_path / "cluster.json",
        available_node_types={"worker": {"resources": {"CPU": 1}}},
        provider={
            "type": "command",
            "start_timeout_minutes": 0.02,
            "start_command": "true",
            "end_command": f"touch {tmp_path}/ended-{{instance}}",
        },
    )
    start_head(config)
    ref = where.remote()
    failed = wait_until(lambda: cluster_state()["autoscaler"]["failures"], "a failure")
    assert "has not joined within 1.2 s" in failed[0]["why"]
    wait_until(lambda: glob.glob(f"{tmp_path}/ended-*"), "the command that ends it")
    assert ray.wait([ref], timeout=0)[0] == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_workers": -1}, "max_workers"),
        ({"maximum": 3}, "maximum"),
        ({"provider": {"type": "aws"}}, "provider.type"),
        ({"provider": {"type": "command"}}, "provider.start_command"),
        ({"available_node_types": {"w": {"resources": {"CPU": "2"}}}}, "available_node_types.w.resources.CPU"),
    ],
)
def test_a_configuration_that_makes_no_sense_starts_nothing(shell, tmp_path, change, named):
    good = {
        "max_workers": 1,
        "available_node_types": {"w": {"resources": {"CPU": 1}}},
        "provider": {"type": "local"},
    }
    config = config_file(tmp_path / "cluster.json", **{**good, **change})
    error = command("start", "--head", "--port=0", config, status=1)
    assert f"cluster.json: {named}: " in error
    assert "Did not find" in command("stop")


def test_only_a_head_takes_a_configuration(shell, tmp_path):
    config = config_file(tmp_path / "cluster.json")
    error = subprocess.run(
        [sys.executable, "-m", "ray_rs.scripts", "start", "--address=127.0.0.1:1", config],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert error.returncode == 1 and "--autoscaling-config is of a head" in error.stderr
