"""The table of options, and the plans made from it. No cluster."""

import pytest
from ray_rs import options
from under_test import ray


def function():
    return 1


class Plain:
    def method(self):
        pass


@pytest.mark.parametrize("name", options.OPTIONS)
def test_every_option_takes_its_default(name):
    option = options.OPTIONS[name]
    assert set(option.takers) <= set("TAM")
    assert option.takers
    option.validate(name, option.default)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"nonsense": 1}, ValueError, "Invalid option keyword nonsense for remote functions"),
        ({"lifetime": "detached"}, ValueError, "Invalid option keyword lifetime for remote functions"),
        ({"num_cpu": 1}, ValueError, r"Did you mean num_cpus\?$"),
        ({"num_cpus": "1"}, TypeError, "The type of keyword 'num_cpus' must be .*, but received type <class 'str'>"),
        ({"num_cpus": -1}, ValueError, "The quantity of resource num_cpus cannot be negative"),
        ({"num_cpus": 0.00001}, ValueError, "cannot go beyond 0.0001"),
        ({"memory": float("nan")}, ValueError, "finite"),
        ({"resources": {"GPU": 1}}, ValueError, "'num_gpus' keyword instead"),
        ({"resources": {"magnet": "one"}}, ValueError, "must be a number"),
        ({"num_returns": "many"}, ValueError, "num_returns"),
        ({"max_retries": -2}, ValueError, "-1 represents infinity"),
        ({"max_calls": -1}, ValueError, "only accepts None, 0 or a positive integer"),
        ({"retry_exceptions": [int]}, ValueError, "either a boolean or a list of exceptions"),
        ({"runtime_env": {"pip": ["x"], "uv": ["y"]}}, ValueError, "at the same time"),
        ({"object_store_memory": 1}, ValueError, "not implemented"),
    ],
    ids=str,
)
def test_bad_task_options(given, error, text):
    with pytest.raises(error, match=text):
        options.validate_task_options(given, in_options=False)
    with pytest.raises(error, match=text):
        ray.remote(**given)(function)


@pytest.mark.parametrize("given", [{"max_calls": 1}, {"_num_objects_per_yield": 1}], ids=str)
def test_what_only_the_decorator_takes(given):
    options.validate_task_options(given, in_options=False)
    with pytest.raises(ValueError, match="is not supported in"):
        ray.remote(function).options(**given)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"num_returns": 1}, ValueError, "Invalid option keyword num_returns for actors"),
        ({"max_restarts": "x"}, TypeError, "The type of keyword 'max_restarts' must be"),
        ({"lifetime": "eternal"}, ValueError, "must be one of 'detached', 'non_detached' and 'None'"),
        ({"get_if_exists": True}, ValueError, "must be specified to use `get_if_exists`"),
        ({"concurrency_groups": {"io": 0}}, ValueError, "needs a positive number of calls"),
    ],
    ids=str,
)
def test_bad_actor_options(given, error, text):
    with pytest.raises(error, match=text):
        options.validate_actor_options(given, in_options=False)
    with pytest.raises(error, match=text):
        ray.remote(**given)(Plain)


def test_bad_method_options():
    with pytest.raises(AssertionError, match=r"Unexpected keyword argument to @ray.method: 'nonsense'"):
        ray.method(nonsense=1)
    with pytest.raises(AssertionError, match=r"The @ray.method decorator must be applied"):
        ray.method(5)
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        options.validate_method_options({"nonsense": 1}, in_options=True)


def test_a_task_plan():
    plan = options.task_plan({}, "f")
    assert plan == options.TaskPlan("f", {"CPU": 1.0}, 1, 3, False, 0, None, 0, None, False, True, False)
    plan = options.task_plan(
        {"num_cpus": 0, "num_gpus": 0.5, "memory": 10.9, "accelerator_type": "A100", "resources": {"x": 2}}, "f"
    )
    assert plan.resources == {"GPU": 0.5, "memory": 10.0, "accelerator_type:A100": 0.001, "x": 2.0}
    assert plan.max_calls == 1  # it has used a GPU
    assert options.task_plan({"retry_exceptions": [OSError]}, "f").retry_exceptions == (OSError,)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"num_gpus": 1.5}, "whole numbers"),
        ({"scheduling_strategy": "ANYWHERE"}, "Invalid scheduling_strategy value"),
        ({"resources": {"memory": 1}}, "must not contain the key 'memory'"),
        ({"resources": {"bundle": 1}}, "reserved"),
    ],
    ids=str,
)
def test_what_no_plan_can_be_made_of(given, text):
    options.validate_task_options(given, in_options=False)
    with pytest.raises(ValueError, match=text):
        options.task_plan(given, "f")


@pytest.mark.parametrize(
    ("given", "placed", "running"),
    [
        ({}, {"CPU": 1.0}, {}),
        ({"memory": 5}, {"CPU": 1.0, "memory": 5.0}, {"memory": 5.0}),
        ({"num_gpus": 1}, {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}),
        ({"num_cpus": 0}, {}, {}),
        ({"num_cpus": 2}, {"CPU": 2.0}, {"CPU": 2.0}),
    ],
    ids=str,
)
def test_what_an_actor_holds(given, placed, running):
    plan = options.actor_plan(given, is_async=False)
    assert (plan.placement_resources, plan.running_resources) == (placed, running)


def test_concurrency_of_actors():
    assert options.actor_plan({}, is_async=False).max_concurrency == 1
    assert options.actor_plan({}, is_async=True).max_concurrency == 1000
    assert options.actor_plan({"max_concurrency": 4}, is_async=True).max_concurrency == 4
    with pytest.raises(ValueError, match="allow_out_of_order_execution"):
        options.actor_plan({"max_concurrency": 4, "allow_out_of_order_execution": False}, is_async=False)


def test_a_method_inherits_the_actors_retries():
    assert options.method_plan({}, 5).max_task_retries == 5
    assert options.method_plan({"max_task_retries": 0}, 5).max_task_retries == 0
    assert options.method_plan({"num_returns": 2}, 0).num_returns == 2
