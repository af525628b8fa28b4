"""`ray.get_runtime_context()`: where code runs."""

import os

import pytest
from under_test import ray

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


def test_process_titles():
    @ray.remote
    def titled():
        with open("/proc/self/cmdline") as file:
            return os.getpid(), file.read()

    pid, title = ray.get(titled.remote())
    assert title.startswith("ray::") and "titled" in title
    assert pid != os.getpid()


def test_gpu_ids_without_gpus():
    assert ray.get_gpu_ids() == []

    @ray.remote
    def gpus():
        return ray.get_gpu_ids()

    assert ray.get(gpus.remote()) == []
