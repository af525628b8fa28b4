"""`ray_rs start`, `ray_rs stop` and programs that join: as somebody at a shell sees it."""

import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
import time

import pytest
import traces
from under_test import command, contents, ray, run_driver, wait_until


@pytest.fixture
def shell(no_cluster):
    """Whatever a test starts is stopped, and then nothing is left."""
    yield
    ray.shutdown()
    command("stop")
    wait_until(lambda: not traces.processes() and not traces.session_files(), "everything to be gone")


def token_file(path, text):
    """One that others may not read: any other is refused."""
    path.touch(mode=0o600)
    path.write_text(text + "\n")
    return path


def start_head(*arguments, **environment):
    """The address of a new head, and the file with its token."""
    text = command("start", "--head", "--port=0", "--num-cpus=1", *arguments, **environment)
    (address,) = re.findall(r"--address=(\S+)", text)
    (token,) = re.findall(r"^\s+(/\S+/token)$", text, re.MULTILINE)
    return address, token


def test_start_join_use_and_stop(shell):
    address, token = start_head("--labels=zone=a")
    assert stat.S_IMODE(os.stat(token).st_mode) == 0o600
    command(
        "start", f"--address={address}", "--num-cpus=2", '--resources={"there": 2}', "--labels=zone=b", "--node-name=n2"
    )
    # Both live on after the commands that started them.
    source = """
        import sys

        ray.init(address=sys.argv[1], logging_level="error")

        @ray.remote(resources={"there": 1})
        def where():
            return ray.get_runtime_context().get_node_id()

        there = ray.get(where.remote(), timeout=60)
        nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
        print(len(nodes), there in nodes, nodes[there]["Labels"]["zone"], ray.cluster_resources()["CPU"])
    """
    for how in (address, "auto"):
        assert run_driver(source, how).stdout.split() == ["2", "True", "b", "3.0"]
    text = command("status")
    assert re.search(r"/3\.0 CPU", text)
    assert command("stop") == "Stopped 2 nodes.\n"
    assert "Did not find" in command("stop")


def test_a_program_where_only_a_joined_node_is(shell):
    """As on another machine: nothing of the head's session is to be seen there."""
    address, token = start_head("--labels=zone=a")
    with tempfile.TemporaryDirectory(prefix="rrs-", dir="/tmp") as elsewhere:
        there = {"RAY_RS_TMPDIR": elsewhere}
        assert "--token-file" in command("start", f"--address={address}", status=1, **there)
        command("start", f"--address={address}", f"--token-file={token}", "--num-cpus=1", "--labels=zone=b", **there)
        source = """
            import sys

            ray.init(address=sys.argv[1], logging_level="error")

            @ray.remote(num_cpus=1)
            def zone(value):
                labels = ray.get_runtime_context().get_node_labels()
                return labels["zone"], len(value), b"x" * 1_000_000

            @ray.remote(num_cpus=0, name="counter")
            class Counter:
                def zone(self):
                    return ray.get_runtime_context().get_node_labels()["zone"]

            from ray_rs.util.scheduling_strategies import In, NodeLabelSchedulingStrategy

            at_head = NodeLabelSchedulingStrategy(hard={"zone": In("a")})
            large = ray.put(b"y" * 1_000_000)
            for options in ({}, {"scheduling_strategy": at_head}):
                where, size, back = ray.get(zone.options(**options).remote(large), timeout=60)
                print(where, size, len(back))
            print(ray.get(Counter.options(scheduling_strategy=at_head).remote().zone.remote(), timeout=60))
        """
        for how in ("auto", address):
            out = run_driver(source, how, env=there).stdout.split()
            assert out == ["b", "1000000", "1000000", "a", "1000000", "1000000", "a"]
        assert re.search(r"/2\.0 CPU", command("status", **there))
        assert command("stop", **there) == "Stopped 1 node.\n"
        wait_until(lambda: "1.0 CPU" in command("status"), "the head to miss it")
        assert not [name for name in os.listdir(elsewhere) if os.path.exists(f"{elsewhere}/{name}/sockets")]


def test_a_wrong_token_is_refused_before_anything_is_started(shell, tmp_path):
    address, token = start_head()
    wrong = token_file(tmp_path / "wrong", "ab" * 32)
    error = command("start", f"--address={address}", f"--token-file={wrong}", status=1)
    assert "token is not that of this cluster" in error
    error = command("start", f"--address={address}", status=1, RAY_RS_TOKEN="ab" * 32)
    assert "token is not that of this cluster" in error
    error = command("start", f"--address={address}", status=1, RAY_RS_TOKEN="nonsense")
    assert "no token in" in error
    # The right one, by its text.
    command("start", f"--address={address}", "--num-cpus=1", RAY_RS_TOKEN=contents(token))
    assert command("stop") == "Stopped 2 nodes.\n"


def test_a_missing_token_is_asked_for(shell):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        error = command("start", f"--address=127.0.0.1:{nobody.getsockname()[1]}", status=1)
    assert "--token-file" in error and "RAY_RS_TOKEN" in error


def test_an_address_at_which_nobody_answers(shell, tmp_path):
    token = token_file(tmp_path / "token", "ab" * 32)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # It accepts, and says nothing.
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        error = command("start", f"--address={address}", f"--token-file={token}", status=1)
        assert f"Cannot join the cluster at {address}" in error
        assert time.monotonic() - began < 30, "the limit is promised"
    # And now nobody listens.
    assert "refused" in command("start", f"--address={address}", f"--token-file={token}", status=1)
    assert "is not known" in command("start", "--address=no.such.host.invalid:1", f"--token-file={token}", status=1)
    assert "HOST:PORT" in command("start", "--address=nonsense", f"--token-file={token}", status=1)


def test_a_port_that_is_taken(shell):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = command("start", "--head", f"--port={port}", "--num-cpus=1", status=1)
    assert f"cannot listen on 127.0.0.1:{port}" in error
    assert "Did not find" in command("stop")


def test_one_token_for_several_clusters(shell, tmp_path):
    mine = token_file(tmp_path / "token", "cd" * 32)
    first, kept = start_head(f"--token-file={mine}")
    assert contents(kept).strip() == "cd" * 32
    second, _ = start_head(RAY_RS_TOKEN="cd" * 32)
    assert first != second
    mine.chmod(0o644)
    assert "mode 0600" in command("start", "--head", "--port=0", f"--token-file={mine}", status=1)
    assert command("stop") == "Stopped 2 nodes.\n"


def test_stop_leaves_programs_alone(shell):
    ray.init(num_cpus=1)
    start_head()
    assert command("stop") == "Stopped 1 node.\n"
    assert ray.get(ray.remote(lambda: 1).remote(), timeout=60) == 1


def test_block_stays_until_it_is_ended(shell):
    words = [sys.executable, "-m", "ray_rs.scripts", "start", "--head", "--port=0", "--num-cpus=1", "--block"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as blocked:
        assert any("ray_rs stop" in line for line in blocked.stdout)
        assert blocked.poll() is None
        blocked.terminate()
        assert blocked.wait(30) == 130
    assert "Did not find" in command("stop")


def test_a_node_of_another_version_is_refused_by_name(ray_cluster):
    from ray_rs import _processes

    cluster = ray_cluster(nodes=1, num_cpus=1, connect=False)
    session = _processes.launch_head(
        num_cpus=1,
        num_gpus=0,
        resources={},
        object_store_memory=50_000_000,
        labels={},
        driver_config=None,
        listen="127.0.0.1:0",
        python_version="2.7",
        join={"gcs_address": cluster.address, "token_path": f"{cluster.head_node.session_dir}/token"},
    )
    wait_until(lambda: not _processes.is_running(session["raylet_pid"]), "the node to end")
    ours = f"{sys.version_info[0]}.{sys.version_info[1]}"
    log = contents(f"{session['session_dir']}/logs/raylet.log")
    assert "Python 2.7" in log and f"Python {ours}" in log
    _processes.stop_node(session["session_dir"])
    assert len(cluster.list_all_nodes()) == 1


@pytest.mark.parametrize("bad", ["--resources=[1]", "--resources=x", "--labels=zone", "--labels==b"])
def test_bad_arguments(shell, bad):
    assert bad.partition("=")[0] in command("start", "--head", bad, status=2)
