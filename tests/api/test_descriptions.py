"""What processes say of themselves: tasks, what runs, who waits. From the processes, whatever they are doing."""

import os
import signal
import threading
import time

import pytest
from under_test import ray, ray_rs_only, wait_until

pytestmark = [
    pytest.mark.usefixtures("cluster"),
    ray_rs_only("processes that describe themselves are an extension"),
]


def describe(**parts):
    from ray_rs import _core

    return _core.describe_processes(**parts)


def rows(kind, **parts):
    return [row for process in describe(**parts)["processes"] for row in process[kind]]


def task_of(ref):
    return ref.task_id().hex()


def state_of(ref):
    states = {row["task_id"]: row["state"] for row in rows("tasks")}
    return states.get(task_of(ref))


@ray.remote
def spin(path):
    """Keeps the GIL until the file is there."""
    while not os.path.exists(path):
        for _ in range(100_000):
            pass
    return os.getpid()


@ray.remote
def pass_on(value):
    return value


@ray.remote
class Waiting:
    def pid(self):
        return os.getpid()

    def get(self, refs):
        return ray.get(refs[0])

    def later(self, value):
        return value


def test_tasks_tell_where_they_stand(tmp_path):
    gate = str(tmp_path / "gate")
    runs = spin.remote(gate)
    waits = pass_on.remote(runs)
    infeasible = pass_on.options(num_cpus=1000).remote(1)
    wait_until(lambda: state_of(runs) == "RUNNING", "the task to run")
    assert state_of(waits) == "PENDING_ARGS_AVAIL"
    assert state_of(infeasible) == "PENDING_NODE_ASSIGNMENT"
    tasks = {row["task_id"]: row for row in rows("tasks")}
    assert tasks[task_of(waits)]["missing"] == [runs.hex()]
    assert "Waits for a lease" in tasks[task_of(infeasible)]["why"]
    executing = {row["task_id"]: row for row in rows("executing")}
    assert executing[task_of(runs)]["name"] == "spin"
    assert executing[task_of(runs)]["started_us"] <= time.time() * 1e6
    wait_until(lambda: any(row["infeasible"] for row in describe(waiting=True)["waiting"]), "the request at the raylet")
    open(gate, "w").close()
    assert ray.get(waits) == tasks[task_of(runs)]["worker"]["pid"]
    wait_until(lambda: state_of(runs) is None and state_of(waits) is None, "the ended tasks to be gone")
    ray.cancel(infeasible)


def test_a_wait_names_its_task_and_what_it_waits_for(tmp_path):
    gate = str(tmp_path / "gate")
    runs = spin.remote(gate)
    actor = Waiting.remote()
    call = actor.get.remote([runs])
    queued = actor.later.remote(2)
    (wait,) = wait_until(lambda: [row for row in rows("waits") if row["task_id"] == task_of(call)], "the wait")
    assert wait["missing"] == [runs.hex()]
    assert wait["all_of"] and not wait["has_timeout"]
    assert state_of(queued) == "SUBMITTED_TO_WORKER"
    (host,) = [process for process in describe()["processes"] if process["actor"]]
    assert host["actor"]["class_name"] == "Waiting"
    assert [row["task_id"] for row in host["executing"]] == [task_of(call)]
    (again,) = [row for row in rows("waits") if row["task_id"] == task_of(call)]
    assert again == wait
    open(gate, "w").close()
    assert ray.get(queued) == 2


def test_waits_of_a_driver_have_serial_numbers_of_their_own(tmp_path):
    gate = str(tmp_path / "gate")
    runs = [spin.remote(gate), pass_on.remote(1)]
    ray.get(runs[1])
    threads = [
        threading.Thread(target=ray.get, args=(runs,)),
        threading.Thread(target=ray.wait, args=(runs,), kwargs={"num_returns": 2, "timeout": 60}),
        threading.Thread(target=ray.get, args=(runs[0],)),
    ]
    for thread in threads:
        thread.start()
    waits = wait_until(lambda: [found for found in [rows("waits")] if len(found) == 3], "three waits")[0]
    assert len({row["serial"] for row in waits}) == 3
    assert sorted(row["has_timeout"] for row in waits) == [False, False, True]
    assert all(row["missing"] == [runs[0].hex()] and row["task_id"] is None for row in waits)
    open(gate, "w").close()
    for thread in threads:
        thread.join()
    assert rows("waits") == []


def test_calls_behind_one_whose_argument_is_not_there(tmp_path):
    gate = str(tmp_path / "gate")
    runs = spin.remote(gate)
    actor = Waiting.remote()
    ray.get(actor.pid.remote())
    first, second = actor.later.remote(runs), actor.later.remote(2)
    tasks = {row["task_id"]: row for row in rows("tasks")}
    assert tasks[task_of(first)]["behind"] is None
    assert tasks[task_of(second)]["behind"] == task_of(first)
    open(gate, "w").close()
    assert ray.get(second) == 2


def test_objects_with_their_counts():
    ref = ray.put(b"x" * 1000)
    outer = ray.put([ref])
    objects = {row["object_id"]: row for row in rows("objects", tasks=False, objects=True)}
    assert (objects[ref.hex()]["place"], objects[ref.hex()]["size"]) == ("inline", 1000)
    assert objects[ref.hex()]["local"] >= 1 and objects[ref.hex()]["contained"] == 1
    assert objects[outer.hex()]["owner"] is None


def test_there_are_no_more_rows_than_asked_for_and_the_wanted_ones_come_first():
    refs = [ray.put(index) for index in range(50)]
    wanted = refs[37].hex()
    answer = describe(tasks=False, objects=True, limit=5, first=[wanted])
    (driver,) = [process for process in answer["processes"] if process["is_driver"]]
    assert len(driver["objects"]) == 5
    assert driver["objects"][0]["object_id"] == wanted
    assert driver["total_objects"] >= 50


def test_who_does_not_answer_is_named_and_who_ended_is_forgotten():
    actor, other = Waiting.remote(), Waiting.remote()
    pid, other_pid = ray.get([actor.pid.remote(), other.pid.remote()])
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: [address["pid"] for address in describe()["silent"]] == [pid], "the stopped one to be named")
    finally:
        os.kill(pid, signal.SIGCONT)
    os.kill(other_pid, signal.SIGKILL)

    def gone():
        answer = describe()
        pids = [process["process"]["pid"] for process in answer["processes"]]
        return other_pid not in pids and pid in pids and not answer["silent"]

    wait_until(gone, "the ended process to be gone, and the stopped one to be back")


def test_many_who_ask_at_once_are_all_answered():
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(describe(objects=True))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 16 and all(answer["processes"] for answer in answers)


def test_no_task_is_lost_while_processes_describe_themselves(tmp_path):
    """A worker that describes itself takes tasks from its lanes on another thread than the one that sleeps for them."""

    @ray.remote
    def touch(path):
        open(path, "w").close()

    ray.get(touch.remote(tmp_path / "warm"))
    for number in range(150):
        path = tmp_path / str(number)
        ref = touch.remote(path)  # nobody gets it: no other message wakes its worker
        wait_until(lambda path=path: describe() and path.exists(), "the task to run")
        del ref
