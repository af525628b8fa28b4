"""`ray.get_runtime_context()`: where code runs."""

import os

import pytest
from under_test import ray, wait_until

pytestmark = pytest.mark.usefixtures("cluster")


def test_in_the_driver():
    context = ray.get_runtime_context()
    job = context.get_job_id()
    assert len(bytes.fromhex(job)) == 4
    assert len(bytes.fromhex(context.get_node_id())) == 28
    assert context.get_worker_id().startswith(job)
    assert context.namespace == "tests"
    assert context.get_task_name() is None
    assert context.get_actor_id() is None
    assert context.get_actor_name() is None
    with pytest.raises(RuntimeError):
        context.current_actor
    with pytest.raises(AssertionError):
        context.get_assigned_resources()


def test_in_a_task():
    @ray.remote
    def look():
        context = ray.get_runtime_context()
        return {
            "job": context.get_job_id(),
            "node": context.get_node_id(),
            "worker": context.get_worker_id(),
            "task": context.get_task_id(),
            "name": context.get_task_name(),
            "function": context.get_task_function_name(),
            "actor": context.get_actor_id(),
            "resources": context.get_assigned_resources(),
            "namespace": context.namespace,
        }

    seen = ray.get(look.remote())
    here = ray.get_runtime_context()
    assert seen["job"] == here.get_job_id()
    assert seen["node"] == here.get_node_id()
    assert seen["worker"] != here.get_worker_id()
    assert len(bytes.fromhex(seen["worker"])) == 28
    assert seen["actor"] is None
    assert seen["name"].endswith("look")
    assert seen["function"].endswith("look")
    assert seen["resources"] == {"CPU": 1.0}
    assert seen["namespace"] == "tests"
    ref = look.remote()
    assert ray.get(ref)["task"] == ref.task_id().hex()
    assert ray.get(look.options(name="renamed").remote())["name"] == "renamed"


def test_in_an_actor():
    @ray.remote
    class Look:
        def look(self):
            context = ray.get_runtime_context()
            return (
                context.get_actor_id(),
                context.get_actor_name(),
                context.get_task_name(),
                context.was_current_actor_reconstructed,
                context.get_assigned_resources(),
            )

    plain, named = Look.remote(), Look.options(name="looker").remote()
    actor_id, name, task_name, again, resources = ray.get(plain.look.remote())
    assert actor_id == plain._actor_id.hex()
    assert name == ""
    assert task_name == "Look.look"
    assert again is False
    assert resources == {}
    assert ray.get(named.look.remote())[1] == "looker"


def title_of(pid):
    with open(f"/proc/{pid}/cmdline") as file:
        return file.read().rstrip("\0")


@ray.remote
def titled():
    return os.getpid(), title_of("self")


@ray.remote
class Titled:
    def __init__(self):
        self.at_first = title_of("self")

    def titles(self):
        return os.getpid(), self.at_first, title_of("self")


def test_process_titles():
    pid, title = ray.get(titled.remote())
    assert pid != os.getpid()
    assert title.removesuffix("()") == "ray::titled"
    assert ray.get(titled.options(name="another name").remote())[1].startswith("ray::another name")
    wait_until(lambda: title_of(pid) == "ray::IDLE", "the worker to be called idle")
    assert ray.get(titled.remote())[1].startswith("ray::titled")


def test_process_titles_of_actors():
    actor = Titled.remote()
    pid, at_first, title = ray.get(actor.titles.remote())
    assert at_first.startswith("ray::Titled.__init__")
    assert title.removesuffix("()") == "ray::Titled.titles"
    wait_until(lambda: title_of(pid) == "ray::Titled", "the actor to be called idle")
    threads = Titled.options(max_concurrency=2).remote()
    assert ray.get(threads.titles.remote())[2].startswith("ray::Titled")


def test_threads_of_libraries_follow_the_cpus():
    """Unless the driver's environment says how many there are to be."""
    assert "OMP_NUM_THREADS" not in os.environ

    @ray.remote
    def threads():
        return os.environ["OMP_NUM_THREADS"]

    many, few = threads.options(num_cpus=2), threads.options(num_cpus=0.5)
    assert ray.get([many.remote(), few.remote(), many.remote(), threads.remote()]) == ["2", "1", "2", "1"]


def test_gpu_ids_without_gpus():
    assert ray.get_gpu_ids() == []

    @ray.remote
    def gpus():
        return ray.get_gpu_ids()

    assert ray.get(gpus.remote()) == []
