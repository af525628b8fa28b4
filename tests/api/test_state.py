"""The state API against workloads whose states are known, and the trace of tasks."""

import json
import os
import re
import sys
import time

import pytest
from under_test import PATIENCE, exceptions, ray, ray_rs_only, wait_until

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    ray_rs_only("asks the engine itself; Ray needs its dashboard, and is a second behind"),
]


@pytest.fixture(scope="module")
def state():
    import ray_rs.util.state as module

    return module


@pytest.fixture
def gate(tmp_path):
    """A file that tasks wait for; there at the end, so that they end."""
    path = tmp_path / "gate"
    yield str(path)
    path.touch()


def wait_for_file(path):
    deadline = time.monotonic() + PATIENCE
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.01)


@ray.remote
def held(path):
    wait_for_file(path)
    return 1


@ray.remote
def add(a, b):
    return a + b


@ray.remote(num_cpus=1000)
def too_large():
    pass


@ray.remote(max_retries=0)
def fails():
    raise ValueError("no")


@ray.remote(max_retries=1, retry_exceptions=True)
def fails_once(path):
    if not os.path.exists(path):
        open(path, "w").close()
        raise ValueError("once")
    return os.getpid()


@ray.remote(max_retries=0)
def dies():
    os._exit(7)


@ray.remote
def parent(path):
    return ray.get(held.remote(path))


@ray.remote
class Counter:
    def __init__(self, value=0):
        self.value = value

    def add(self, n):
        print("adds", n)
        self.value += n
        return os.getpid()


@ray.remote
class Broken:
    def __init__(self):
        raise ValueError("never")


def task_of(ref):
    return ref.task_id().hex()


def in_state(state, ref, wanted):
    def row():
        found = state.get_task(ref)
        return found if found and found.state == wanted else None

    return wait_until(row, f"the task to be {wanted}")


def test_a_task_in_each_state(state, gate):
    running = held.remote(gate)
    row = in_state(state, running, "RUNNING")
    assert (row.name, row.type, row.attempt_number) == ("held", "NORMAL_TASK", 0)
    assert row.worker_pid and row.start_time_ms >= row.creation_time_ms and row.end_time_ms is None
    waiting = add.remote(running, 1)
    in_state(state, waiting, "PENDING_ARGS_AVAIL")
    open(gate, "w").close()
    assert ray.get(waiting) == 2
    row = in_state(state, waiting, "FINISHED")
    assert row.creation_time_ms <= row.start_time_ms <= row.end_time_ms
    assert row.job_id == ray.get_runtime_context().get_job_id()
    assert row.node_id == ray.get_runtime_context().get_node_id()
    assert row.error_type is None and row["name"] == "add"


def test_a_task_that_waits_for_a_node(state, gate):
    refs = [held.remote(gate) for _ in range(12)]
    in_state(state, refs[-1], "PENDING_NODE_ASSIGNMENT")
    open(gate, "w").close()
    ray.get(refs)
    assert all(state.get_task(ref).state == "FINISHED" for ref in refs)


def test_a_task_that_sleeps_in_get(state, gate):
    outer = parent.remote(gate)
    in_state(state, outer, "RUNNING_IN_RAY_GET")
    running = [("name", "=", "held"), ("state", "=", "RUNNING")]
    inner = wait_until(lambda: state.list_tasks(filters=running, limit=1000), "the inner task to run")
    assert [row.parent_task_id for row in inner] == [task_of(outer)]
    open(gate, "w").close()
    assert ray.get(outer) == 1


def test_failed_tasks_say_why(state):
    for function, error in ((fails, "TASK_EXECUTION_EXCEPTION"), (dies, "WORKER_DIED")):
        ref = function.remote()
        with pytest.raises(ray.exceptions.RayError):
            ray.get(ref)
        row = in_state(state, ref, "FAILED")
        assert row.error_type == error and row.error_message
    # What was raised, and no more of it than a listing can bear.
    ref = fails.remote()
    assert in_state(state, ref, "FAILED").error_message == "ValueError: no"

    @ray.remote(max_retries=0)
    def fails_at_length():
        raise KeyError("x" * 5000)

    message = in_state(state, fails_at_length.remote(), "FAILED").error_message
    assert message.startswith("KeyError: 'xxx") and message.endswith("...") and len(message) == 1000
    assert "argument" in in_state(state, add.remote(ref, 1), "FAILED").error_message


def test_a_failed_call_says_what_was_raised(state):
    ref = Counter.remote().add.remote("a")
    row = in_state(state, ref, "FAILED")
    assert (row.type, row.error_type) == ("ACTOR_TASK", "TASK_EXECUTION_EXCEPTION")
    assert row.error_message.startswith("TypeError: unsupported operand")


def test_tasks_that_want_to_be_in_no_listing(state, gate):
    @ray.remote(enable_task_events=False)
    def secret(path):
        wait_for_file(path)

    class Shy:
        def call(self):
            pass

        @ray.method(enable_task_events=True)
        def seen(self):
            pass

    shy = ray.remote(enable_task_events=False)(Shy).remote()
    open_one = ray.remote(Shy).remote()
    refs = [secret.remote(gate), shy.call.remote(), open_one.call.options(enable_task_events=False).remote()]
    shown = [shy.seen.remote(), open_one.call.remote(), add.remote(1, 2)]
    ray.get(refs[1:] + shown)
    for ref in shown:
        in_state(state, ref, "FINISHED")
    assert "secret" in ray.why(refs[0])
    assert [state.get_task(ref) for ref in refs] == [None, None, None]
    open(gate, "w").close()
    ray.get(refs)
    names = {row.name for row in state.list_tasks(limit=10_000)}
    assert not any("secret" in name for name in names)
    creations = state.list_tasks(filters=[("type", "=", "ACTOR_CREATION_TASK")], limit=10_000)
    assert shy._actor_id.hex() not in {row.actor_id for row in creations}
    assert open_one._actor_id.hex() in {row.actor_id for row in creations}


def test_a_creation_has_its_times_and_its_error(state):
    @ray.remote
    class Slow:
        def __init__(self):
            time.sleep(0.2)

    def row_of(actor, wanted):
        rows = state.list_tasks(filters=[("actor_id", "=", actor._actor_id.hex()), ("state", "=", wanted)], detail=True)
        return rows[0] if rows and rows[0].end_time_ms else None

    slow, broken = Slow.remote(), Broken.remote()
    row = wait_until(lambda: row_of(slow, "FINISHED"), "the creation")
    assert row.type == "ACTOR_CREATION_TASK" and row.name.endswith("Slow.__init__")
    assert row.creation_time_ms <= row.start_time_ms <= row.end_time_ms - 200
    row = wait_until(lambda: row_of(broken, "FAILED"), "the failed creation")
    assert (row.error_type, row.error_message) == ("ACTOR_CREATION_FAILED", "ValueError: never")
    assert row.start_time_ms and row.worker_pid


def test_runtime_environments(state):
    environment = {"env_vars": {"LISTED": "here"}}

    @ray.remote(runtime_env=environment)
    def pid():
        return os.getpid()

    ray.get(pid.remote())
    rows = wait_until(
        lambda: [row for row in state.list_runtime_envs(detail=True) if row.runtime_env.get("env_vars")],
        "the environment",
    )
    (row,) = rows
    assert row.runtime_env["env_vars"] == {"LISTED": "here"} and row.success is True and row.ref_cnt >= 1
    assert row.node_id == ray.get_runtime_context().get_node_id()
    assert row.creation_time_ms > 1e12 and row.error is None
    assert row.job_id == ray.get_runtime_context().get_job_id()


def test_a_cancelled_task_has_failed(state, gate):
    first = held.remote(gate)
    second = add.remote(first, 1)
    in_state(state, second, "PENDING_ARGS_AVAIL")
    ray.cancel(second)
    assert in_state(state, second, "FAILED").error_type == "TASK_CANCELLED"


def test_each_try_is_a_row(state, tmp_path):
    ref = fails_once.remote(str(tmp_path / "tried"))
    ray.get(ref)
    rows = wait_until(lambda: isinstance(state.get_task(ref), list) and state.get_task(ref), "two tries")
    assert [(row.attempt_number, row.state) for row in rows] == [(0, "FAILED"), (1, "FINISHED")]
    assert rows[0].error_type == "TASK_EXECUTION_EXCEPTION"


def test_calls_and_creations_are_tasks(state):
    counter = Counter.remote()
    pid = ray.get(counter.add.remote(1))
    actor_id = counter._actor_id.hex()
    rows = wait_until(
        lambda: (
            (rows := state.list_tasks(filters=[("actor_id", "=", actor_id)], detail=True)) and len(rows) == 2 and rows
        ),
        "two rows",
    )
    kinds = {row.type: row for row in rows}
    assert set(kinds) == {"ACTOR_TASK", "ACTOR_CREATION_TASK"}
    assert {row.state for row in rows} == {"FINISHED"}
    assert {row.worker_pid for row in rows} == {pid}
    assert kinds["ACTOR_TASK"].name == "Counter.add"


def test_actors_of_each_state(state, gate):
    alive, dead, broken = Counter.options(name="a name").remote(), Counter.remote(), Broken.remote()
    unready, pending = Counter.remote(held.remote(gate)), Counter.options(num_cpus=500).remote()
    pid = ray.get(alive.add.remote(1))
    ray.get(dead.add.remote(1))
    ray.kill(dead)

    def row(handle, wanted):
        def found():
            row = state.get_actor(handle._actor_id.hex())
            return row if row and row.state == wanted else None

        return wait_until(found, f"an actor that is {wanted}")

    living = row(alive, "ALIVE")
    assert (living.pid, living.name, living.class_name) == (pid, "a name", "Counter")
    assert "ray.kill" in row(dead, "DEAD").death_cause
    assert "constructor" in row(broken, "DEAD").death_cause
    row(unready, "DEPENDENCIES_UNREADY")
    row(pending, "PENDING_CREATION")
    summary = state.summarize_actors()["cluster"]
    assert set(summary["summary"]["Broken"]["state_counts"]) == {"DEAD"}
    ray.kill(pending)
    ray.kill(alive)


def test_nodes_jobs_workers_and_groups(state):
    (node,) = state.list_nodes()
    assert node.state == "ALIVE" and node.is_head_node and node.resources_total["CPU"] == 2
    assert state.get_node(node.node_id) == node
    job = state.get_job(ray.get_runtime_context().get_job_id())
    assert (job.status, job.type, job.driver_info["pid"]) == ("RUNNING", "DRIVER", os.getpid())
    drivers = state.list_workers(filters=[("worker_type", "=", "DRIVER"), ("is_alive", "=", True)])
    assert [row.pid for row in drivers] == [os.getpid()]
    group = ray.util.placement_group([{"CPU": 1}])
    ray.get(group.ready())
    row = state.get_placement_group(group.id.hex())
    assert row.state == "CREATED" and row.bundles[0]["node_id"] == node.node_id
    ray.util.remove_placement_group(group)


def test_a_worker_that_died_is_kept_and_an_event(state):
    counter = Counter.options(max_restarts=0).remote()
    pid = ray.get(counter.add.remote(1))
    os.kill(pid, 9)
    dead = [("pid", "=", pid), ("is_alive", "=", "False")]
    (row,) = wait_until(lambda: state.list_workers(filters=dead, limit=1000, detail=True), "the end of the worker")
    assert row.exit_type == "SYSTEM_ERROR" and "9" in row.exit_detail
    assert any(str(pid) in event.message for event in state.list_cluster_events(limit=1000))


@ray.remote
class Ending:
    def __init__(self, raises=False):
        if raises:
            raise KeyError

    def pid(self):
        return os.getpid()

    def exit(self, code):
        sys.exit(code)


def test_how_workers_have_ended(state):
    def ended(pid):
        filters = [("pid", "=", pid), ("is_alive", "=", "False")]
        (row,) = wait_until(lambda: state.list_workers(filters=filters, limit=1000, detail=True), "the worker's end")
        return row.exit_type, row.exit_detail

    def started():
        actor = Ending.remote()
        return actor, ray.get(actor.pid.remote())

    actor, pid = started()
    os.kill(pid, 9)
    kind, detail = ended(pid)
    assert kind == "SYSTEM_ERROR" and "OOM" in detail
    actor, pid = started()
    actor.exit.remote(4)
    assert ended(pid) == ("SYSTEM_ERROR", "exit code 4")
    actor, pid = started()
    actor.exit.remote(0)
    kind, detail = ended(pid)
    assert kind == "INTENDED_USER_EXIT" and detail.startswith("exit code 0: ")
    actor, pid = started()
    ray.kill(actor)
    kind, detail = ended(pid)
    assert kind == "INTENDED_SYSTEM_EXIT" and "ray.kill" in detail
    with pytest.raises(exceptions.ActorDiedError) as raised:
        ray.get(Ending.remote(raises=True).pid.remote())
    kind, detail = ended(int(re.search(r"pid=(\d+)", str(raised.value))[1]))
    assert kind == "USER_ERROR" and "constructor raised" in detail


def test_filters_limits_and_details(state):
    exception = __import__("ray_rs.util.state.exception", fromlist=["x"]).RayStateApiException
    ray.get([add.remote(1, n) for n in range(5)])
    assert {row.name for row in state.list_tasks(filters=[("name", "!=", "add")], limit=10_000)}.isdisjoint({"add"})
    with pytest.warns(RuntimeWarning, match="Limit: 2 of"):
        rows = state.list_tasks(filters=[("name", "=", "add")], limit=2)
    assert len(rows) == 2 and rows[0].start_time_ms is None
    with pytest.raises(exception, match="task_id"):
        state.list_tasks(filters=[("colour", "=", "red")])
    with pytest.raises(ValueError, match="predicate"):
        state.list_tasks(filters=[("name", "<", "add")])
    with pytest.raises(exception, match="10000"):
        state.list_tasks(limit=10_001)
    with pytest.raises(KeyError):
        rows[0]["colour"]
    assert state.get_actor("00" * 16) is None


@pytest.fixture(scope="module")
def tasks():
    from ray_rs.util.state import _rows, _tasks

    def page(**query):
        return _tasks.page(_rows.Source(), **query)

    return page


@ray.remote
def numbered(n):
    return n


def test_pages_show_each_task_once_the_latest_first(state, tasks):
    refs = [numbered.options(name=f"numbered {n % 3}").remote(n) for n in range(300)]
    ray.get(refs)
    query = {"filters": [("name", "=", "numbered 1")], "limit": 7}
    wait_until(lambda: tasks(**query).total == 100, "a hundred tasks")
    found = [tasks(**query)]
    while found[-1].cursor:
        # What ends meanwhile does not move the pages.
        ray.get(numbered.options(name="numbered 1").remote(0))
        found.append(tasks(**query, cursor=found[-1].cursor))
    rows = [row.task_id for page in found for row in page.rows]
    assert sorted(rows) == sorted(task_of(ref) for ref in refs[1::3])
    times = [row.end_time_ms for page in found for row in page.rows]
    assert times[0] >= times[-1]


def test_what_has_not_ended_comes_first_and_is_counted_beyond_the_limit(state, tasks, gate):
    first = held.options(name="first in line").remote(gate)
    in_state(state, first, "RUNNING")
    waiting = [add.options(name="in line").remote(first, n) for n in range(50)]
    wait_until(lambda: tasks(filters=[("name", "=", "in line")]).total == 50, "all to be told")
    page = tasks(filters=[("name", "=", "in line")], limit=3)
    assert (len(page.rows), page.total) == (3, 50)
    assert {row.state for row in page.rows} == {"PENDING_ARGS_AVAIL"}
    page = tasks(filters=[("state", "=", "running"), ("name", "=", "first in line")], limit=1)
    assert ([row.task_id for row in page.rows], page.total) == ([task_of(first)], 1)
    assert tasks(limit=1).rows[0].end_time_ms is None
    counts = state.summarize_tasks()["cluster"]["summary"]
    assert counts["in line"]["state_counts"] == {"PENDING_ARGS_AVAIL": 50}
    assert counts["first in line"]["state_counts"] == {"RUNNING": 1}
    open(gate, "w").close()
    ray.get(waiting)
    assert state.summarize_tasks()["cluster"]["summary"]["in line"]["state_counts"] == {"FINISHED": 50}


def test_the_call_that_runs_is_found_among_many_that_wait(state, tasks, gate):
    @ray.remote
    class Queue:
        def call(self, path):
            wait_for_file(path)

    queue = Queue.remote()
    calls = [queue.call.remote(gate) for _ in range(40)]
    in_state(state, calls[0], "RUNNING")
    mine = ("actor_id", "=", queue._actor_id.hex())
    page = tasks(filters=[mine, ("state", "=", "RUNNING")], limit=1)
    assert ([row.task_id for row in page.rows], page.total) == ([task_of(calls[0])], 1)
    page = tasks(filters=[mine, ("state", "!=", "RUNNING"), ("type", "=", "ACTOR_TASK")], limit=5)
    assert (len(page.rows), page.total) == (5, 39)
    assert {row.state for row in page.rows} == {"SUBMITTED_TO_WORKER"}
    open(gate, "w").close()
    ray.get(calls)


def test_a_listing_right_after_get_has_every_task(state):
    for _ in range(20):
        refs = [numbered.options(name="right after").remote(n) for n in range(50)]
        ray.get(refs)
        with pytest.warns(RuntimeWarning, match="Limit"):
            rows = state.list_tasks(filters=[("name", "=", "right after"), ("state", "=", "FINISHED")], limit=49)
        assert {row.task_id for row in rows} <= {task_of(ref) for ref in refs} and len(rows) == 49


def test_tasks_by_the_thousand_are_all_on_record(state, tasks):
    """More than one batch, and none is sent late or dropped."""
    before = tasks(filters=[("name", "=", "by the thousand")]).total
    many = numbered.options(name="by the thousand")
    for _ in range(20):
        ray.get([many.remote(n) for n in range(1000)])
    assert tasks(filters=[("name", "=", "by the thousand")], limit=1).total == before + 20_000


def test_filters_on_every_column(state):
    ref = fails.options(name="has columns").remote()
    with pytest.raises(ValueError, match="no"):
        ray.get(ref)
    row = in_state(state, ref, "FAILED")
    for column, value in row.asdict().items():
        same = state.list_tasks(filters=[("task_id", "=", row.task_id), (column, "=", value)], detail=True)
        assert same == [row], column
        assert state.list_tasks(filters=[("task_id", "=", row.task_id), (column, "!=", value)]) == [], column


def test_no_session_says_so(state):
    from ray_rs.util.state.exception import ServerUnavailable

    with pytest.raises(ServerUnavailable, match=r"127\.0\.0\.1:1"):
        state.list_nodes(address="127.0.0.1:1")


def test_a_task_asks_as_well(state):
    @ray.remote
    def asks():
        from ray_rs.util.state import list_tasks

        return [row.name for row in list_tasks(filters=[("state", "=", "RUNNING")], limit=1000)]

    assert any("asks" in name for name in ray.get(asks.remote()))


def test_summary_counts_by_function(state):
    before = state.summarize_tasks()["cluster"]["summary"].get("add", {"state_counts": {}})
    ray.get([add.remote(1, n) for n in range(7)])
    summary = state.summarize_tasks()["cluster"]
    counts = summary["summary"]["add"]["state_counts"]
    assert counts["FINISHED"] == before["state_counts"].get("FINISHED", 0) + 7
    assert summary["summary_by"] == "func_name" and summary["total_tasks"] >= 7


def test_logs(state):
    counter = Counter.remote()
    call = counter.add.remote(12345)
    pid = ray.get(call)
    for locator in ({"actor_id": counter._actor_id.hex()}, {"pid": pid}, {"task_id": task_of(call)}):
        wait_until(lambda locator=locator: "adds 12345" in "".join(state.get_log(**locator)), "the line")
    names = state.list_logs()
    assert names["raylet"] and any(f"-{pid}.out" in name for name in names["worker_out"])
    assert list(state.list_logs(glob_filter="raylet*")) == ["raylet"]
    with pytest.raises(ValueError, match="Exactly one"):
        state.get_log()
    exception = __import__("ray_rs.util.state.exception", fromlist=["x"]).RayStateApiException
    with pytest.raises(exception, match="no log file"):
        state.get_log(filename="../session.json")


def test_timeline_has_an_execution_of_each_task_on_its_worker(tmp_path):
    @ray.remote
    def traced():
        time.sleep(0.01)
        return os.getpid()

    pids = ray.get([traced.remote() for _ in range(6)])
    path = tmp_path / "trace.json"
    assert ray.timeline(str(path)) is None
    events = json.loads(path.read_text())
    name = next(event["name"] for event in events if "traced" in event["name"])
    executions = [event for event in events if event["ph"] == "X" and event["name"] == name]
    assert sorted(event["tid"] for event in executions) == sorted(pids)
    assert all(event["dur"] >= 10_000 and event["args"]["state"] == "FINISHED" for event in executions)
    begins = {event["id"]: event["ts"] for event in events if event["ph"] == "b" and event["name"] == name}
    ends = {event["id"]: event["ts"] for event in events if event["ph"] == "e" and event["name"] == name}
    assert begins.keys() == ends.keys() and all(begins[id] <= ends[id] for id in ends)
    assert {event["args"]["name"] for event in events if event["name"] == "thread_name"} >= {
        f"worker {pid}" for pid in pids
    }
