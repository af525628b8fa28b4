"""The command line: what it prints, and its exit status."""

import json
import os
import re
import time

import pytest
from under_test import command as run
from under_test import ray, ray_rs_only, wait_until

pytestmark = [pytest.mark.usefixtures("cluster"), ray_rs_only("ray_rs has its own program")]


@ray.remote
def listed():
    return os.getpid()


@ray.remote
class Speaker:
    def speak(self):
        print("spoken")
        return os.getpid()


def test_the_console_script_is_installed():
    import importlib.metadata

    (script,) = [each for each in importlib.metadata.entry_points(group="console_scripts") if each.name == "ray_rs"]
    assert callable(script.load())
    assert run("--version").startswith("ray_rs, version ")


def test_status():
    text = run("status", "-v")
    assert "======== Autoscaler status:" in text
    assert re.search(r"Total Usage:\n \S+/2\.0 CPU", text)
    assert "Pending Demands:\n (no resource demands)" in text
    assert ray.get_runtime_context().get_node_id() in text


def test_status_shows_what_waits():
    @ray.remote(num_cpus=64)
    def too_much():
        pass

    ref = too_much.remote()
    wait_until(lambda: "too_much" in run("status"), "the demand")
    ray.cancel(ref)


def test_status_shows_shapes_and_reasons_of_all_that_waits(tmp_path):
    gate = tmp_path / "gate"

    @ray.remote(num_cpus=2)
    def holds():
        while not gate.exists():
            time.sleep(0.01)

    @ray.remote(num_cpus=2)
    def waits():
        pass

    @ray.remote(num_gpus=3)
    class Impossible:
        pass

    holder = holds.remote()
    wait_until(lambda: "2.0/2.0 CPU" in run("status"), "the CPUs to be taken")
    refs = [waits.remote() for _ in range(7)]
    actor = Impossible.remote()
    group = ray.util.placement_group([{"CPU": 50}], strategy="SPREAD")

    def demands():
        text = run("status").partition("Pending Demands:")[2]
        wanted = ("waits: 7, ", "'GPU': 3.0", "{'CPU': 50.0} * 1 (SPREAD): 1+ pending placement groups")
        return text if all(each in text for each in wanted) else None

    text = wait_until(demands, "all three demands")
    assert "\n {'CPU': 2.0}: 7+ pending tasks/actors\n  waits: 7, " in text
    assert re.search(r"'GPU': 3\.0\}: 1\+ pending tasks/actors \(infeasible\)\n  .*Impossible: 1, .* is missing", text)
    ray.kill(actor)
    ray.util.remove_placement_group(group)
    gate.touch()
    ray.get([holder, *refs])
    wait_until(lambda: "(no resource demands)" in run("status"), "nothing to wait")


def test_why(tmp_path):
    gate = tmp_path / "gate"

    @ray.remote
    def blocks():
        while not gate.exists():
            time.sleep(0.01)
        return 1

    @ray.remote
    def follows(value):
        return value

    running = blocks.remote()
    last = follows.remote(running)
    wait_until(lambda: "runs since" in run("why", running.hex()), "the task to run")
    for target in (last.hex(), last.task_id().hex().upper(), "follows"):
        text = run("why", target)
        assert "'follows' waits for an argument that is not there:" in text and "'blocks' runs since" in text
    assert ray.why(last).partition(" runs since ")[0] == run("why", last.hex()).partition(" runs since ")[0]
    # The same name several times, and as data.
    more = [follows.remote(running) for _ in range(3)]
    assert "And 2 more of that name" in run("why", "follows", "--limit", "2")
    (story, *_) = json.loads(run("why", "follows", "--format", "json"))
    assert story["id"] == last.task_id().hex() and story["kind"] == "task" and "blocks" in story["why"]
    gate.touch()
    ray.get([last, *more])
    assert "is there: " in run("why", last.hex())
    assert "4 tasks of that name have ended" in run("why", "follows", status=1)
    assert "no unfinished task or living actor is called 'nobody'" in run("why", "nobody", status=1)


def test_why_of_actors():
    speaker = Speaker.options(name="loud", num_cpus=0).remote()
    pid = ray.get(speaker.speak.remote())
    for target in ("loud", speaker._actor_id.hex()):
        assert f"The actor Speaker (pid {pid})" in run("why", target)
    impossible = Speaker.options(num_cpus=77).remote()
    wait_until(lambda: "{CPU: 75} is missing" in run("why", impossible._actor_id.hex()), "the reason")


def test_list_in_all_formats():
    refs = [listed.remote() for _ in range(3)]
    ray.get(refs)
    filters = ("-f", "name=listed", "--filter", "state!=FAILED")
    table = run("list", "tasks", *filters)
    assert "======== List: " in table and "Stats:" in table and "Total: 3" in table and "TASK_ID" in table
    rows = json.loads(run("list", "tasks", *filters, "--format", "json"))
    assert {row["task_id"] for row in rows} == {ref.task_id().hex() for ref in refs}
    assert "start_time_ms" not in rows[0]
    detailed = run("list", "tasks", *filters, "--detail", "--limit", "1")
    assert detailed.startswith("---\n- task_id: ") and "\n  start_time_ms: " in detailed
    assert "Shown: 2 (see --limit)" in run("list", "tasks", *filters, "--limit", "2")


@pytest.mark.parametrize(
    "resource", ["actors", "cluster-events", "jobs", "nodes", "objects", "placement-groups", "runtime-envs", "workers"]
)
def test_every_kind_is_listed(resource):
    assert isinstance(json.loads(run("list", resource, "--format", "json", "--detail")), list)


def test_looking_is_no_job():
    before = run("list", "jobs", "--format", "json")
    run("status")
    assert run("list", "jobs", "--format", "json") == before


def test_get_and_summary():
    speaker = Speaker.remote()
    ray.get(speaker.speak.remote())
    actor_id = speaker._actor_id.hex()
    assert json.loads(run("get", "actors", actor_id, "--format", "json"))["class_name"] == "Speaker"
    assert "state: ALIVE" in run("get", "actors", actor_id)
    assert "no actor with id 1234" in run("get", "actors", "1234", status=1)
    assert "FINISHED" in run("summary", "tasks")
    assert "ALIVE: " in run("summary", "actors")


def test_memory():
    ref = ray.put(bytes(2**20))
    rows = json.loads(run("list", "objects", "-f", f"object_id={ref.hex()}", "--format", "json", "--detail"))
    assert [(row["pid"], row["place"], row["held_by"]) for row in rows] == [
        (os.getpid(), "arena", {"local references": 1})
    ]
    assert "LOCAL_REFERENCE: " in run("summary", "objects")
    assert "place: arena" in run("get", "objects", ref.hex())
    text = run("memory")
    assert "Grouping by node address...        Sorting by object size..." in text
    assert re.search(rf" {os.getpid()} +Driver +{re.escape(__file__)}:\d+ .* {ref.hex()}", text)
    assert "--- Summary for stack trace: " in run("memory", "--group-by", "STACK_TRACE", "--sort-by", "PID", "-n", "1")
    assert re.search(r"\t1\.000 MB\tarena\t", run("memory", "--units", "MB", "--no-format"))
    assert run("memory", "--stats-only").startswith(
        "--- Aggregate object store stats across all nodes ---\nPlasma memory"
    )
    assert "invalid choice" in run("memory", "--units", "TB", status=2)


def test_logs():
    speaker = Speaker.remote()
    pid = ray.get(speaker.speak.remote())
    wait_until(lambda: "spoken" in run("logs", "actor", "--id", speaker._actor_id.hex()), "the line")
    assert "spoken" in run("logs", "worker", "--pid", str(pid))
    assert "raylet.log" in run("logs")
    assert "spoken" in run("logs", f"worker-*-{pid}.out")
    assert "no log file" in run("logs", "nothing*", status=1)
    assert "--id" in run("logs", "actor", status=1)


def test_timeline(tmp_path):
    ray.get(listed.remote())
    path = tmp_path / "trace.json"
    assert str(path) in run("timeline", "-o", str(path))
    assert any(event["ph"] == "X" for event in json.loads(path.read_text()))


def test_errors():
    assert "invalid choice" in run("list", "cabbages", status=2)
    assert "Columns that can be filtered by" in run("list", "tasks", "-f", "colour=red", status=1)
    assert "k=v" in run("list", "tasks", "-f", "colour", status=1)
    assert "at 127.0.0.1:1" in run("status", "--address", "127.0.0.1:1", status=1)


def test_no_session(tmp_path):
    text = run("status", status=1, RAY_RS_TMPDIR=str(tmp_path))
    assert "Could not find any running Ray instance" in text
    run("health-check", status=1, RAY_RS_TMPDIR=str(tmp_path))
    run("health-check")
