"""What commands print for programs, as docs/command-line.md says it; what they say to people in narrow terminals."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from under_test import command as run
from under_test import ray, ray_rs_only, run_command, wait_until

pytestmark = [pytest.mark.usefixtures("cluster"), ray_rs_only("ray_rs has its own program")]

PAGE = Path(__file__).parents[2] / "docs" / "command-line.md"


def documented() -> dict[str, set[str]]:
    """The fields of each command's document."""
    found = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| `") and len(cells) == 2:
            for name in re.findall(r"`([^`]+)`", cells[0]):
                found[name] = set(re.findall(r"`(\w+)`", cells[1]))
    return found


def parsed(*arguments: str):
    """What a command says that is asked for JSON."""
    words = list(arguments)
    # What follows the dashes is another command's.
    words.insert(words.index("--") if "--" in words else len(words), "--format=json")
    return json.loads(run_command(*words).stdout)


@ray.remote
class Kept:
    def echo(self, x):
        return x


@ray.remote
def done(x):
    return x


@pytest.fixture
def busy():
    kept = Kept.options(name="kept", num_cpus=0).remote()
    ref = ray.put(bytes(2**20))
    assert ray.get([kept.echo.remote(1), done.remote(1)]) == [1, 1]
    yield ref
    ray.kill(kept)


@pytest.mark.parametrize(
    "command",
    ["status", "memory", "top --once", "health-check", "summary tasks", "summary actors", "summary objects"],
)
def test_objects_have_the_fields_of_the_page(busy, command):
    fields = documented()[{"summary": "summary RESOURCE"}.get(command.split()[0], command)]
    told = parsed(*command.split())
    assert fields and fields <= told.keys()
    if not command.startswith("summary"):
        assert fields == told.keys()


@pytest.mark.parametrize("command", ["stack", "doctor", "why Kept"])
def test_lists_have_the_fields_of_the_page(busy, command):
    wanted = documented()[{"why Kept": "why TARGET"}.get(command, command)]
    # Whether this machine is well is not the question.
    rows = json.loads(run_command(*command.split(), "--format=json", status=0).stdout)
    assert rows
    for row in rows:
        assert wanted - {"stack", "error"} <= row.keys() <= wanted


def test_status_for_programs(busy):
    @ray.remote(num_gpus=64)
    def never():
        pass

    @ray.remote(num_cpus=2, num_gpus=1)
    def not_here():
        pass

    group = ray.util.placement_group([{"CPU": 40}] * 2, strategy="SPREAD")
    refs = [never.remote(), *(not_here.remote() for _ in range(3))]
    wait_until(lambda: len(parsed("status")["demands"]) == 2, "both demands")
    told = parsed("status")
    (node,) = told["nodes"]
    assert (node["node_id"], node["state"]) == (ray.get_runtime_context().get_node_id(), "ALIVE")
    assert told["resources"]["CPU"]["total"] == node["resources"]["CPU"]["total"] == 2
    by_gpus = {row["resources"]["GPU"]: row for row in told["demands"]}
    assert by_gpus[64]["infeasible"] and by_gpus[1]["infeasible"]
    (waits,) = by_gpus[1]["waiting"]
    assert (waits["name"], waits["count"], by_gpus[1]["count"]) == ("not_here", 3, 3)
    assert "is missing" in waits["why"]
    (pending,) = told["placement_groups"]
    assert (pending["bundles"], pending["strategy"], pending["count"]) == ([{"CPU": 40.0}] * 2, "SPREAD", 1)
    for ref in refs:
        ray.cancel(ref)
    ray.util.remove_placement_group(group)


def test_memory_and_top_for_programs(busy):
    told = parsed("memory")
    assert [row["object_size"] for row in told["references"] if row["object_id"] == busy.hex()] == [2**20]
    sizes = [row["object_size"] for row in told["references"] if row["object_size"] is not None]
    assert sizes == sorted(sizes, reverse=True)
    assert parsed("memory", "--stats-only").keys() == {"store"}
    (row,) = [row for row in parsed("top", "--once")["tasks"] if row["name"] == "done"]
    assert row["finished"] >= 1 and row["failed"] == 0
    pictures = run("top", "-n", "2", "-d", "0.1", "--format", "json").splitlines()
    assert [json.loads(line)["time_ms"] > 10**12 for line in pictures] == [True, True]


def test_small_answers(busy, tmp_path):
    path = str(tmp_path / "trace.json")
    assert parsed("timeline", "-o", path) == {"path": path}
    assert "raylet.log" in parsed("logs")["raylet"]
    assert parsed("debug", "--list") == []
    assert parsed("get-auth-token").keys() == documented()["get-auth-token"]
    assert parsed("get", "actors", busy_actor())["name"] == "kept"
    assert "healthy: true" in run("health-check", "--format", "yaml")
    assert run("health-check") == ""


def busy_actor() -> str:
    (row,) = parsed("list", "actors", "-f", "name=kept", "-f", "state=ALIVE")
    return str(row["actor_id"])


def test_kill_actor():
    handles = [Kept.options(name="twin", namespace=name, num_cpus=0).remote() for name in ("one", "other")]
    assert ray.get([handle.echo.remote(1) for handle in handles]) == [1, 1]
    assert "Several namespaces" in run("kill-actor", "--name", "twin", status=1)
    told = parsed("kill-actor", "--name", "twin", "--namespace", "other")
    assert told == {"actor_id": handles[1]._actor_id.hex(), "name": "twin", "namespace": "other"}
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(handles[1].echo.remote(1))
    assert "Killed the actor twin" in run("kill-actor", "--name", "twin")
    with pytest.raises(ray.exceptions.RayActorError):
        ray.get(handles[0].echo.remote(1))
    assert "no living actor of the name 'twin'" in run("kill-actor", "--name", "twin", status=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["statsu"], "invalid choice: 'statsu'"),
        (["statsu"], "Did you mean status?"),
        (["list", "task"], "Did you mean tasks?"),
        (["list", "tasks", "--fromat", "json"], "unrecognized arguments: --fromat json. Did you mean --format?"),
        (["list", "tasks", "--fromat=json"], "Did you mean --format?"),
        (["job", "submti"], "Did you mean submit?"),
        (["job", "list", "--formt", "json"], "Did you mean --format? See ray_rs job list --help."),
        (["status", "--format", "xml"], "choose from default, json, yaml"),
        (["drain"], "required: --node-id. See ray_rs drain --help."),
    ],
)
def test_wrong_words_are_named_with_right_ones(arguments, words):
    assert words in run(*arguments, status=2)


def test_a_word_that_is_like_nothing_gets_no_advice():
    assert "Did you mean" not in run("xyzzy", status=2)


def at_a_terminal(columns: int, *arguments: str) -> list[str]:
    """What `ray_rs` prints to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "ray_rs.scripts", *arguments],
        stdout=theirs,
        stderr=subprocess.STDOUT,
        env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm"},
    ) as process:
        os.close(theirs)
        printed = b""
        while True:
            with contextlib.suppress(OSError):  # EIO, as Linux tells the end of a terminal
                piece = os.read(ours, 65536)
                printed += piece
                continue
            break
        os.close(ours)
        assert process.wait(timeout=30) == 0
    return printed.decode().replace("\r\n", "\n").split("\n")


def test_a_terminal_of_forty_columns(busy):
    node = ray.get_runtime_context().get_node_id()
    narrow = at_a_terminal(40, "list", "nodes")
    assert "--- 0" in narrow and f"NODE_ID: {node}" in narrow
    wide = at_a_terminal(400, "list", "nodes")
    (heads,) = [line for line in wide if "NODE_ID" in line]
    assert "STATE" in heads
    # Into a pipe it is a table, however wide.
    assert any("NODE_ID" in line and "STATE" in line for line in run("list", "nodes", COLUMNS="40").splitlines())
    assert max(map(len, at_a_terminal(40, "list", "--help"))) <= 40
    picture = at_a_terminal(40, "top", "--once")
    assert max(len(line.replace("\x1b[H\x1b[2J", "")) for line in picture) < 40


def test_starting_jobs_and_stopping_for_programs():
    fields = documented()
    started = parsed("start", "--head", "--port=0", "--dashboard-port=0", "--num-cpus=1")
    try:
        assert fields["start"] == started.keys()
        there = f"--address={started['session_dir']}"
        assert parsed("status", there)["resources"]["CPU"]["total"] == 1
        url = parsed("dashboard", there)["url"]
        assert url.startswith(f"http://{started['web_address']}/#key={parsed('get-auth-token', there)['token']}")
        web = f"--address=http://{started['web_address']}"
        done = run_command("job", "submit", web, "--format=json", "--submission-id=a", "--", "echo said")
        told = json.loads(done.stdout)
        assert (told["submission_id"], told["status"], told["driver_exit_code"]) == ("a", "SUCCEEDED", 0)
        assert "said" in done.stderr and "submitted successfully" in done.stderr
        failed = run_command("job", "submit", web, "--format=json", "--submission-id=b", "--", "exit 3", status=1)
        assert json.loads(failed.stdout)["status"] == "FAILED"
        running = parsed("job", "submit", web, "--no-wait", "--submission-id=c", "--", "sleep 1000")
        assert running["submission_id"] == "c"
        assert parsed("job", "stop", web, "c")["status"] == "STOPPED"
        assert parsed("job", "status", web, "a") == told
        assert {row["submission_id"] for row in parsed("job", "list", web)} == {"a", "b", "c"}
        printed = parsed("job", "logs", web, "a")
        assert printed.keys() == fields["job logs"] and printed["logs"].splitlines()[-1] == "said"
        assert parsed("job", "delete", web, "a") == {"submission_id": "a", "is_deleted": True}
        (head,) = parsed("list", "nodes", there)
        token = f"--token-file={started['token_file']}"
        assert parsed("start", f"--address={started['address']}", token, "--num-cpus=1")["web_address"] is None
        (joined,) = [node["node_id"] for node in parsed("list", "nodes", there) if node["node_id"] != head["node_id"]]
        told = parsed("drain", f"--node-id={joined}", f"--address={started['address']}", token)
        assert told == {"node_id": joined, "is_accepted": True}
    finally:
        stopped = parsed("stop")["stopped"]
    # The drained node may have left by itself.
    assert stopped[-1] == started["session_dir"]
