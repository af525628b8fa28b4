"""What the page shows of other nodes."""

import json
import os

import pytest
from heads import Service
from ray_rs.cluster_utils import Cluster
from ray_rs.util import state
from under_test import command, ray, wait_until

pytestmark = pytest.mark.ray_rs_only("Ray's dashboard is another program")


@pytest.fixture
def two_nodes(no_cluster):
    cluster = Cluster()
    cluster.add_node(num_cpus=1, include_dashboard=True, dashboard_port=0)
    cluster.add_node(num_cpus=1, resources={"other": 1})
    ray.init(address=cluster.address, logging_level="error")
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_worker_of_another_node_shows_its_stack_and_its_log(two_nodes):
    @ray.remote(resources={"other": 1})
    class There:
        def place(self):
            print("printed there", flush=True)
            return os.getpid(), ray.get_runtime_context().get_node_id()

    service = Service(two_nodes.head_node.session_dir)
    there = There.remote()
    pid, node = ray.get(there.place.remote(), timeout=30)
    assert node != ray.get_runtime_context().get_node_id()
    status, text = service.request("POST", "/api/page/stack", {"pid": pid, "node_id": node})
    assert status == 200, text
    assert "_worker_main.py" in text
    printed = service.fetched(f"/api/page/worker_log?pid={pid}&node_id={node}")["text"]
    assert f"-{pid}.out" in printed
    assert "printed there" in printed
    for wrong, words in (
        (f"pid=1&node_id={node}", "no log of a worker with pid 1"),
        (f"pid={pid}&node_id=00", "no living node"),
        (f"pid=x&node_id={node}", "must be a number"),
    ):
        status, text = service.request("GET", f"/api/page/worker_log?{wrong}")
        assert status in (400, 503)
        assert words in text
    # The same number on the head's node is nobody, or somebody else.
    head = ray.get_runtime_context().get_node_id()
    status, text = service.request("POST", "/api/page/stack", {"pid": pid, "node_id": head})
    assert (status, "There is no worker" in text) == (400, True)


def test_logs_of_another_node_are_listed_read_and_searched(two_nodes):
    @ray.remote(num_cpus=0, resources={"other": 0.5})
    class There:
        def say(self, text):
            print(text, flush=True)
            return os.getpid(), ray.get_runtime_context().get_node_id()

    @ray.remote(num_cpus=0, resources={"other": 0.5})
    def told():
        print("told by a task", flush=True)

    there = There.remote()
    pid, node = ray.get(there.say.remote("said there"), timeout=30)
    head = ray.get_runtime_context().get_node_id()
    service = Service(two_nodes.head_node.session_dir)
    address = f"--address={two_nodes.address}"

    # The list.
    name = f"-{pid}.out"
    for query, known in ((f"node_id={node}", True), (f"node_id={head}", False), ("", False)):
        found = service.fetched(f"/api/v0/logs?{query}")["data"]["result"]
        assert any(file.endswith(name) for file in found.get("worker_out", ())) == known, query
        assert ("gcs_server" in found) != known, query
    (file,) = service.fetched(f"/api/v0/logs?node_id={node}&glob=worker-*{name}")["data"]["result"]["worker_out"]
    listed = json.loads(command("logs", address, "--node-id", node, "--format", "json"))
    assert file in listed["worker_out"] and "gcs_server" not in listed
    assert "There is no living node 00" in command("logs", address, "--node-id", "00", status=1)

    # The text: the actor is looked for where it is.
    actor = there._actor_id.hex()
    assert "said there" in command("logs", "actor", address, "--id", actor)
    assert "said there" in command("logs", file, address, "--node-id", node)
    assert "said there" in command("logs", "worker", address, "--pid", str(pid), "--node-id", node)
    assert "no log file of a worker with pid 1" in command(
        "logs", "worker", address, "--pid", "1", "--node-id", node, status=1
    )
    ray.get(told.remote(), timeout=30)
    ray.get([there.say.remote(f"line {number}") for number in range(50)], timeout=30)
    assert command("logs", "actor", address, "--id", actor, "--tail", "2") == "line 48\nline 49\n"
    (task,) = wait_until(
        lambda: [row for row in state.list_tasks(detail=True) if row.name == "told" and row.worker_pid], "the task"
    )
    assert "told by a task" in "".join(state.get_log(task_id=task.task_id))

    # Followed, from here: what comes later comes, too.
    follower = state.get_log(actor_id=actor, follow=True, tail=1)
    assert next(follower) == "line 49\n"
    ray.get(there.say.remote("later"), timeout=30)
    assert next(follower) == "later\n"
    follower.close()

    # Searched, and read piece by piece, as the page does.
    found = service.fetched(f"/api/page/search?text=SAID%20THERE&node_id={node}")
    assert [row["file"] for row in found["found"]] == [file] and found["complete"]
    assert service.fetched("/api/page/search?text=said%20there")["found"] == []
    piece = service.fetched(f"/api/page/log?file={file}&offset=0&node_id={node}")
    assert "said there" in piece["text"] and piece["bytes"] >= len(piece["text"])
    for query, words in (
        (f"file=none&node_id={node}", "There is no log file 'none'"),
        (f"file=..%2Ftoken&node_id={node}", "There is no log file '../token'"),
        (f"file={file}&node_id=00", "There is no living node '00'"),
        (f"file={file}", "There is no log file"),
    ):
        status, text = service.request("GET", f"/api/page/log?{query}")
        assert (status, words in text) == (400, True), text
