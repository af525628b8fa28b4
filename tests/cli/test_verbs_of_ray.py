"""Commands that Ray has as well: ports, the microbenchmark, one line for all machines; and those that are absent."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import traces
from hosts import network  # noqa: F401 - a fixture
from ray_rs.scripts._absent import ABSENT
from under_test import command, contents, ray_rs_only, run_command, run_driver, start_driver, wait_until

pytestmark = [pytest.mark.usefixtures("no_cluster"), ray_rs_only("ray_rs has its own program")]

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
PROGRAM = """
import json, os, sys
import ray_rs as ray

ray.init(logging_level="error")

@ray.remote
def where():
    return ray.get_runtime_context().get_node_id()

print(json.dumps([len([node for node in ray.nodes() if node["Alive"]]), os.environ["RAY_ADDRESS"], sys.argv[1:]]))
sys.exit(int(sys.argv[1]))
"""


def listing() -> list[dict]:
    return json.loads(command("check-open-ports", "--format=json"))


def nothing_is_left() -> None:
    wait_until(lambda: not traces.processes() and not traces.session_files(), "everything to be gone")


# --------------------------------------------------------------------------------------------------------------- ports


def test_ports_of_daemons_and_workers_and_who_reaches_them():
    assert "No session of this user" in command("check-open-ports", status=1)
    program = """
        import socket, sys

        ray.init(num_cpus=1, logging_level="error")

        @ray.remote
        class Listener:
            def listen(self, host):
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                self.socket = socket.create_server((host, 0), family=family)
                return self.socket.getsockname()[1]

        listeners = [Listener.options(num_cpus=0).remote() for _ in range(3)]
        hosts = ["0.0.0.0", "127.0.0.1", "::1"]
        print(*ray.get([each.listen.remote(host) for each, host in zip(listeners, hosts)]), flush=True)
        sys.stdin.readline()
    """
    with socket.create_server(("0.0.0.0", 0)) as other:
        driver = start_driver(program, stdin=subprocess.PIPE)
        everywhere, here, here_too = map(int, driver.stdout.readline().split())
        rows = {row["port"]: row for row in listing()}
        assert (rows[everywhere]["host"], rows[everywhere]["is_reachable"]) == ("0.0.0.0", True)
        assert (rows[here]["host"], rows[here]["is_reachable"]) == ("127.0.0.1", False)
        assert (rows[here_too]["host"], rows[here_too]["is_reachable"]) == ("::1", False)
        assert {rows[port]["process"] for port in (everywhere, here, here_too)} == {"ray::Listener"}
        assert len({rows[port]["pid"] for port in (everywhere, here, here_too)}) == 3
        # Of no session, though it is this user's.
        assert other.getsockname()[1] not in rows
        assert {row["process"] for row in rows.values()} <= {"ray::Listener", "ray_rs::gcs", "ray_rs::raylet"}
        # As Ray asks for it.
        text = command("check-open-ports", "-y")
        assert re.search(rf"0\.0\.0\.0 +{everywhere} +other machines", text)
        assert f"1 of {len(rows)} can be reached from other machines" in text
        driver.stdin.close()
        assert driver.wait(30) == 0


# ------------------------------------------------------------------------------------------------------ microbenchmark


def test_the_microbenchmark_measures_every_row():
    done = json.loads(run_command("microbenchmark", "--seconds=0.01", "--format=json").stdout)
    names = [row["name"] for row in done]
    assert len(set(names)) == len(names) == 19
    assert {"single client tasks sync", "n:n actor calls async", "single client put gigabytes"} <= set(names)
    assert all(row["per_second"] > 0 and row["deviation"] >= 0 for row in done)
    nothing_is_left()


def test_some_rows_of_the_microbenchmark():
    text = command("microbenchmark", "--seconds=0.01", "--rows=tasks sync,get calls")
    lines = [re.fullmatch(r"(.*) per second [\d.]+ \+- [\d.]+", line)[1] for line in text.splitlines()]
    assert lines == ["single client get calls (Plasma Store)", "single client tasks sync"]
    assert "No row has 'nothing'" in command("microbenchmark", "--seconds=0.01", "--rows=nothing", status=1)
    assert "is no number of seconds" in command("microbenchmark", "--seconds=nan", status=2)


# -------------------------------------------------------------------------------------------------------- all machines


@pytest.fixture
def program(tmp_path) -> str:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return str(path)


def test_one_machine_runs_the_command_and_leaves_nothing(program):
    # What a head takes; the cluster's token is nobody else's business.
    words = ("symmetric-run", "--address=127.0.0.1:0", "--num-cpus=2", "--dashboard-port=0", "--", sys.executable)
    done = run_command(*words, program, "3", "--num-cpus", "--", "x", status=3)
    (address,) = re.findall(r"^The head listens at (\S+)\.$", done.stderr, re.MULTILINE)
    assert json.loads(done.stdout) == [1, address, ["3", "--num-cpus", "--", "x"]]
    nothing_is_left()


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["--", "true"], "required: --address", 2),
        (["--address=127.0.0.1:0"], "No command is given", 1),
        (["--address=127.0.0.1:0", "true"], "No command is given", 1),
        (["--address=127.0.0.1:0", "--"], "No command is given", 1),
        (["--address=127.0.0.1", "--", "true"], "not of the form HOST:PORT", 1),
        (["--address=no-such-host.invalid:1", "--", "true"], "is not known", 1),
        (["--address=127.0.0.1:0", "--", "no-such-program"], "no program 'no-such-program'", 1),
        (["--address=127.0.0.1:0", "--min-nodes=0", "--", "true"], "is no number of nodes", 2),
        (["--address=127.0.0.1:0", "--min-nodes=2", "--", "true"], "is this machine on every machine", 1),
        (["--address=192.0.2.1:1", "--min-nodes=2", "--", "true"], "--token-file or in RAY_RS_TOKEN", 1),
        (["--address=127.0.0.1:0", "--head", "--", "true"], "unrecognized arguments: --head", 2),
    ],
)
def test_what_a_line_for_all_machines_needs(arguments, words, status):
    assert words in command("symmetric-run", *arguments, status=status)
    assert not traces.session_files()


def test_how_long_nodes_wait_is_a_number(program):
    words = ("symmetric-run", "--address=127.0.0.1:0", "--", sys.executable, program, "0")
    text = command(*words, status=1, RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT="soon")
    assert "RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT='soon' is no number of seconds" in text


def test_a_command_that_is_killed_or_asked_to_end(tmp_path):
    started = tmp_path / "started"
    body = f"import os, time; open({str(started)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    words = [sys.executable, "-m", "ray_rs.scripts", "symmetric-run", "--address=127.0.0.1:0"]
    words += ["--dashboard-port=0", "--", sys.executable, "-c", body]
    for number, status in ((signal.SIGKILL, 137), (signal.SIGTERM, 143)):
        started.unlink(missing_ok=True)
        with subprocess.Popen(words) as run:
            pid = int(wait_until(lambda: contents(started), "the command to begin"))
            # To the command itself, or to the line that runs it, which passes it on.
            os.kill(pid if number == signal.SIGKILL else run.pid, number)
            assert run.wait(30) == status
        nothing_is_left()


def test_the_same_line_on_three_machines(network, program, tmp_path):  # noqa: F811
    token = tmp_path / "token"
    token.touch(mode=0o600)
    token.write_text(os.urandom(32).hex())
    hosts = [network.add_host() for _ in range(3)]
    address = f"{hosts[0].address}:6379"
    line = [sys.executable, "-m", "ray_rs.scripts", "symmetric-run", f"--address={address}", "--min-nodes=3"]
    # Of the head alone, and yet in the line of all.
    line += [f"--token-file={token}", "--dashboard-port=0", "--num-cpus=1", "--", sys.executable, program, "5"]
    # The head comes last: the others wait for it.
    runs = [
        subprocess.Popen(
            host.words(*line), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=host.environment()
        )
        for host in reversed(hosts)
    ]
    try:
        told = [run.communicate(timeout=90) for run in runs]
    finally:
        for run in runs:
            run.kill()
            run.wait()
    assert [run.returncode for run in runs] == [0, 0, 5], told
    assert json.loads(told[2][0]) == [3, address, ["5"]]
    assert "3 of 3 nodes are there." in told[2][1]
    for out, err in told[:2]:
        assert out == ""
        assert "This node is part of the cluster" in err
        assert err.endswith("The cluster has ended.\n")


def test_machines_that_wait_in_vain(network, program, tmp_path):  # noqa: F811
    host = network.add_host()
    short = {"RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT": "0.5", "RAY_RS_TOKEN": os.urandom(32).hex()}
    line = ["--num-cpus=1", "--dashboard-port=0", "--min-nodes=2", "--", sys.executable, program, "0"]
    lonely = host.ray_rs("symmetric-run", f"--address={host.address}:6379", *line, status=1, **short)
    assert "Only 1 of 2 nodes have come within 0.5 s (RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT)" in lonely
    text = host.ray_rs("symmetric-run", f"--address={network.prefix}.77:6379", *line, status=1, **short)
    assert f"Cannot join the cluster at {network.prefix}.77:6379" in text
    # Not for half a minute: a wrong token will not become right.
    network.start(host, "--num-cpus=1")
    wrong = {**short, "RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT": "600"}
    other = network.add_host()
    text = other.ray_rs("symmetric-run", f"--address={network.gcs_address}", *line, status=1, **wrong)
    assert "The token is not that of this cluster" in text


# -------------------------------------------------------------------------------------------------------------- absent


@pytest.mark.parametrize("verb", sorted(ABSENT))
def test_what_is_absent_says_why_and_what_there_is(verb):
    text = command(verb, "--yes", "cluster.yaml", status=2)
    assert text.startswith(f"Error: There is no `{verb}` here: ")
    assert " Instead: " in text
    assert f"`{verb}`" in PAGE.read_text()


def test_nothing_is_told_that_could_be_disabled():
    assert "nothing to disable" in command("disable-usage-stats")
    assert "`disable-usage-stats`" in PAGE.read_text()


def test_flags_of_ray_that_mean_nothing_here():
    words = ["--disable-usage-stats", "--node-manager-port=1", "--metrics-export-port=2", "--worker-port-list=3,4"]
    text = command("start", "--head", "--port=0", "--dashboard-port=0", "--num-cpus=1", "--memory=1073741824", *words)
    assert "Ray runtime started." in text
    assert "/1.00GiB memory" in command("status")
    assert command("stop", "-g", "3") == "Stopped 1 node.\n"
    nothing_is_left()
    assert "set RAY_RS_TMPDIR=/x instead" in command("start", "--head", "--temp-dir=/x", status=2)


def test_where_a_started_node_writes_what_finds_no_room(tmp_path):
    folder = tmp_path / "spilled"
    folder.mkdir()
    words = ["--port=0", "--dashboard-port=0", "--num-cpus=1", f"--object-store-memory={80 << 20}"]
    command("start", "--head", *words, f"--object-spilling-directory={os.path.relpath(folder)}")
    body = """
        ray.init("auto", logging_level="error")
        refs = [ray.put(bytes(16 << 20)) for _ in range(10)]
        assert all(len(ray.get(ref)) == 16 << 20 for ref in refs)
        import os, sys
        print(any(os.scandir(sys.argv[1])))
    """
    assert run_driver(body, str(folder)).stdout == "True\n"
    command("stop")
    nothing_is_left()
