"""The options of tasks, actors and methods: one table, and the rules between its rows.

`OPTIONS` says for each name who takes it, of what type it is, which values it may have and what it is when nobody says.
Values are checked when they are given (at the decorator and at `.options()`); what depends on several options is
decided when a call is first made, by `task_plan`, `actor_plan` and `method_plan`, which turn a merged dictionary into
what the engine wants to know. The hot paths keep that plan, so nothing here runs twice for the same options.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from ray_rs import _scheduling
from ray_rs._spelling import hint

__all__ = [
    "OPTIONS",
    "ActorPlan",
    "MethodPlan",
    "Option",
    "TaskPlan",
    "actor_plan",
    "method_plan",
    "task_plan",
    "validate_actor_options",
    "validate_method_options",
    "validate_task_options",
]

Check = Callable[[Any], "str | None"]

TASK: Final = "T"
ACTOR: Final = "A"
METHOD: Final = "M"

_NoneType = type(None)


class Option(NamedTuple):
    """One row of the table.

    Attributes:
        takers: Any of `TASK`, `ACTOR`, `METHOD`, as one string.
        types: What `isinstance` must hold for.
        check: Gives the text of a `ValueError`, or None when the value is good.
        default: Value when it is not given.
    """

    takers: str
    types: type | tuple[type, ...]
    check: Check | None = None
    default: Any = None

    def validate(self, name: str, value: Any) -> None:
        """Checks one value.

        Raises:
            TypeError: Of the wrong type.
            ValueError: Out of range.
            NotImplementedError: Ray has it and this engine has not.
        """
        if not isinstance(value, self.types):
            raise TypeError(f"The type of keyword '{name}' must be {self.types}, but received type {type(value)}")
        problem = self.check(value) if self.check is not None else None
        if problem:
            raise (NotImplementedError if isinstance(problem, _Unsupported) else ValueError)(problem)


# ------------------------------------------------------------------------------------------------------------- checks


def _count(name: str, *, infinite: bool) -> Check:
    def check(value: int | None) -> str | None:
        if value is None or value >= (-1 if infinite else 0):
            return None
        if infinite:
            return f"The keyword '{name}' only accepts None, 0, -1 or a positive integer, where -1 represents infinity."
        return f"The keyword '{name}' only accepts None, 0 or a positive integer."

    return check


def _quantity_problem(name: str, amount: Any) -> str | None:
    if not isinstance(amount, (int, float)):
        return f"The quantity of resource {name} must be a number, not {type(amount).__name__}"
    if amount != amount or amount in (float("inf"), float("-inf")):
        return f"The quantity of resource {name} must be finite"
    if amount < 0:
        return f"The quantity of resource {name} cannot be negative"
    if isinstance(amount, float) and amount != 0.0 and int(amount * 10_000) == 0:
        return f"The precision of the fractional quantity of resource {name} cannot go beyond 0.0001"
    return None


def _quantity(name: str) -> Check:
    return lambda amount: None if amount is None else _quantity_problem(name, amount)


def _resources(resources: dict[Any, Any] | None) -> str | None:
    if resources is None:
        return None
    if "CPU" in resources or "GPU" in resources:
        return "Use the 'num_cpus' and 'num_gpus' keyword instead of 'CPU' and 'GPU' in 'resources' keyword"
    for name, amount in resources.items():
        if not isinstance(name, str):
            return f"The names in 'resources' must be strings, not {type(name).__name__}"
        problem = _quantity_problem(name, amount)
        if problem:
            return problem
    return None


def _num_returns(value: int | str | None) -> str | None:
    if value in ("streaming", "dynamic"):
        return None
    if isinstance(value, str) or (value is not None and value < 0):
        return (
            "The keyword 'num_returns' only accepts None, a non-negative integer, 'streaming' (for generators), or "
            f"'dynamic', but got {value!r}."
        )
    return None


def _retry_exceptions(value: bool | list[Any] | tuple[Any, ...]) -> str | None:
    if isinstance(value, bool) or all(isinstance(each, type) and issubclass(each, Exception) for each in value):
        return None
    return "retry_exceptions must be either a boolean or a list of exceptions"


def _lifetime(value: str | None) -> str | None:
    if value in (None, "detached", "non_detached"):
        return None
    return "actor `lifetime` argument must be one of 'detached', 'non_detached' and 'None'."


def _backpressure(name: str) -> Check:
    return lambda count: (
        None
        if count is None or count == -1 or count > 0
        else f"{name}={count} is not allowed: it must be positive, or -1 for none."
    )


def _timeout(seconds: float | None) -> str | None:
    if seconds is None or (seconds > 0 and seconds == seconds):
        return None
    return f"The keyword 'timeout_s' only accepts None or a positive number of seconds, but got {seconds!r}."


def _checkpoint_every(calls: int | None) -> str | None:
    if calls is None or 1 <= calls < 2**31:
        return None
    return f"The keyword 'checkpoint_every' only accepts None or a positive number of calls, but got {calls!r}."


def _checkpoint_interval(seconds: float | None) -> str | None:
    if seconds is None or (seconds > 0 and seconds == seconds):
        return None
    return (
        f"The keyword 'checkpoint_interval_s' only accepts None or a positive number of seconds, but got {seconds!r}."
    )


def concurrency_groups(given: dict[str, int] | list[dict[str, Any]] | None) -> dict[str, int]:
    """`concurrency_groups` in its one form: name to the most calls that run at once."""
    if not given:
        return {}
    if isinstance(given, dict):
        return dict(given)
    return {group["name"]: group["max_concurrency"] for group in given}


def _groups(given: dict[str, int] | list[dict[str, Any]] | None) -> str | None:
    try:
        groups = concurrency_groups(given)
    except (KeyError, TypeError):
        return "concurrency_groups must be a dict of names to numbers of calls, such as {'io': 2}."
    for name, limit in groups.items():
        if not isinstance(name, str) or not name:
            return f"The names in 'concurrency_groups' must be non-empty strings, not {name!r}."
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            return f"The concurrency group {name!r} needs a positive number of calls, not {limit!r}."
    return None


class _Unsupported(str):
    """Why a value that Ray takes is refused."""

    __slots__ = ()


def _runtime_env(given: dict[str, Any] | None) -> str | None:
    if given:
        from ray_rs.runtime_env import RuntimeEnv

        RuntimeEnv(**given)  # raises what is wrong with it
    return None


def _strategy(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return None
    from ray_rs.util import scheduling_strategies as known

    if isinstance(
        value,
        (
            known.PlacementGroupSchedulingStrategy,
            known.NodeAffinitySchedulingStrategy,
            known.NodeLabelSchedulingStrategy,
        ),
    ):
        return None
    raise TypeError(
        f"The type of keyword 'scheduling_strategy' must be str or one of the strategies of "
        f"ray_rs.util.scheduling_strategies, but received type {type(value)}"
    )


def _selector(value: dict[Any, Any] | None) -> str | None:
    return None if value is None else _scheduling.selector_problem(value, "label_selector")


def _fallback(value: list[Any] | None) -> str | None:
    for each in value or []:
        if not isinstance(each, dict) or set(each) != {"label_selector"}:
            return (
                "Each entry of 'fallback_strategy' must be a dictionary whose only key is 'label_selector', not "
                f"{each!r}."
            )
        problem = _scheduling.selector_problem(each["label_selector"], "fallback_strategy")
        if problem:
            return problem
    return None


def _group(value: Any) -> str | None:
    from ray_rs.util.placement_group import PlacementGroup

    if value is None or value == "default" or isinstance(value, PlacementGroup):
        return None
    return f"The option 'placement_group' must be a PlacementGroup or None, not {value!r}."


def _only(name: str, *allowed: Any, why: str = "it is not there yet") -> Check:
    """For what Ray has and this engine has not: nothing but the values that change nothing."""
    return lambda value: (
        None
        if value in allowed
        else _Unsupported(f"The option '{name}' is not supported by ray_rs: {why}. Leave it out to run without it.")
    )


# -------------------------------------------------------------------------------------------------------------- table

_NUMBER = (float, int, _NoneType)
_INT = (int, _NoneType)
_STR = (str, _NoneType)
_DICT = (dict, _NoneType)
_BOOL = (bool, _NoneType)

OPTIONS: Final[dict[str, Option]] = {
    # What it needs.
    "num_cpus": Option(TASK + ACTOR, _NUMBER, _quantity("num_cpus")),
    "num_gpus": Option(TASK + ACTOR, _NUMBER, _quantity("num_gpus")),
    "memory": Option(TASK + ACTOR, _NUMBER, _quantity("memory")),
    "resources": Option(TASK + ACTOR, _DICT, _resources),
    "accelerator_type": Option(TASK + ACTOR, _STR),
    # What it is called.
    "name": Option(TASK + ACTOR + METHOD, _STR),
    "namespace": Option(ACTOR, _STR),
    "get_if_exists": Option(ACTOR, bool, default=False),
    "lifetime": Option(ACTOR, _STR, _lifetime),
    # What it gives, and what happens when it fails.
    "num_returns": Option(TASK + METHOD, (int, str, _NoneType), _num_returns),
    "max_retries": Option(TASK, _INT, _count("max_retries", infinite=True), 3),
    "retry_exceptions": Option(TASK + METHOD, (bool, list, tuple), _retry_exceptions, False),
    "max_calls": Option(TASK, _INT, _count("max_calls", infinite=False), 0),
    "max_restarts": Option(ACTOR, _INT, _count("max_restarts", infinite=True), 0),
    "max_task_retries": Option(ACTOR + METHOD, _INT, _count("max_task_retries", infinite=True), 0),
    # What becomes of its state when its process ends.
    "durable": Option(ACTOR, bool, default=False),
    "checkpoint_every": Option(ACTOR, _INT, _checkpoint_every),
    "checkpoint_interval_s": Option(ACTOR, _NUMBER, _checkpoint_interval),
    # How calls are run.
    "timeout_s": Option(TASK + METHOD, _NUMBER, _timeout),
    "max_concurrency": Option(ACTOR, _INT, _count("max_concurrency", infinite=False)),
    "max_pending_calls": Option(ACTOR, _INT, _count("max_pending_calls", infinite=True), -1),
    "allow_out_of_order_execution": Option(ACTOR, _BOOL),
    "runtime_env": Option(TASK + ACTOR, _DICT, _runtime_env),
    # Known to Ray; here only with the value that asks for nothing.
    "scheduling_strategy": Option(TASK + ACTOR, object, _strategy),
    "label_selector": Option(TASK + ACTOR, _DICT, _selector),
    "fallback_strategy": Option(TASK + ACTOR, (list, _NoneType), _fallback),
    "placement_group": Option(TASK + ACTOR, object, _group, "default"),
    "placement_group_bundle_index": Option(TASK + ACTOR, int, None, -1),
    "placement_group_capture_child_tasks": Option(TASK + ACTOR, _BOOL),
    # What a listing of tasks shows. Labels are taken, so that libraries that set them run.
    "enable_task_events": Option(TASK + ACTOR + METHOD, bool, None, True),
    "_labels": Option(TASK + ACTOR + METHOD, _DICT),
    "object_store_memory": Option(
        TASK + ACTOR,
        _INT,
        lambda value: None if value is None else "Setting 'object_store_memory' is not implemented for tasks or actors",
    ),
    "concurrency_groups": Option(ACTOR, (list, dict, _NoneType), _groups),
    "concurrency_group": Option(METHOD, _STR),
    "enable_tensor_transport": Option(ACTOR, _BOOL, _only("enable_tensor_transport", None, False)),
    "tensor_transport": Option(METHOD, _STR, _only("tensor_transport", None)),
    "_generator_backpressure_num_objects": Option(
        TASK + METHOD, _INT, _backpressure("_generator_backpressure_num_objects")
    ),
    "_num_objects_per_yield": Option(TASK + METHOD, _INT, _only("_num_objects_per_yield", None, 1), 1),
    "_actor_generator_backpressure_num_objects": Option(
        ACTOR, _INT, _only("_actor_generator_backpressure_num_objects", None, -1)
    ),
}

_TASK_OPTIONS = {name: option for name, option in OPTIONS.items() if TASK in option.takers}
_ACTOR_OPTIONS = {name: option for name, option in OPTIONS.items() if ACTOR in option.takers}
_METHOD_OPTIONS = {name: option for name, option in OPTIONS.items() if METHOD in option.takers}
# The subset that the `method` decorator takes.
_DECORATOR_OPTIONS = [name for name in _METHOD_OPTIONS if name not in ("name", "_labels")]

REMOTE_USAGE: Final = (
    "The @ray.remote decorator must be applied either with no arguments and no parentheses, for example '@ray.remote', "
    f"or it must be applied using some of the arguments in the list {list(OPTIONS)}, for example "
    "'@ray.remote(num_returns=2, resources={\"CustomResource\": 1})'."
)
METHOD_USAGE: Final = (
    "The @ray.method decorator must be applied using no arguments or at least one of the arguments in the list "
    f"{_DECORATOR_OPTIONS}, for example '@ray.method(num_returns=2)'."
)


def validate_task_options(options: Mapping[str, Any], *, in_options: bool) -> None:
    """Checks options given for a remote function.

    Args:
        options: What was given.
        in_options: They come from `.options()`, not from the decorator.

    Raises:
        TypeError: A value of the wrong type.
        ValueError: An unknown name, or a value that is out of range or not supported.
        NotImplementedError: A field of `runtime_env` that ray_rs does not have.
    """
    for name, value in options.items():
        if name not in _TASK_OPTIONS:
            raise ValueError(
                f"Invalid option keyword {name} for remote functions. Valid ones are {list(_TASK_OPTIONS)}."
                + hint(name, _TASK_OPTIONS)
            )
        _TASK_OPTIONS[name].validate(name, value)
    if in_options:
        for name in ("max_calls", "_num_objects_per_yield"):
            if name in options:
                raise ValueError(f"Setting '{name}' is not supported in '.options()'.")


def validate_actor_options(options: Mapping[str, Any], *, in_options: bool) -> None:
    """Checks options given for an actor class.

    Args:
        options: What was given.
        in_options: They come from `.options()`, not from the decorator.

    Raises:
        TypeError: A value of the wrong type.
        ValueError: An unknown name, a value that is out of range or not supported, or a contradiction.
    """
    for name, value in options.items():
        if name not in _ACTOR_OPTIONS:
            raise ValueError(
                f"Invalid option keyword {name} for actors. Valid ones are {list(_ACTOR_OPTIONS)}."
                + hint(name, _ACTOR_OPTIONS)
            )
        _ACTOR_OPTIONS[name].validate(name, value)
    if in_options and "concurrency_groups" in options:
        raise ValueError("Setting 'concurrency_groups' is not supported in '.options()'.")
    if options.get("get_if_exists") and not options.get("name"):
        raise ValueError("The actor name must be specified to use `get_if_exists`.")


def validate_method_options(options: Mapping[str, Any], *, in_options: bool) -> None:
    """Checks options given for an actor's method.

    Args:
        options: What was given.
        in_options: They come from `.options()`, not from the decorator.

    Raises:
        AssertionError: An unknown name at the decorator.
        TypeError: An unknown name in `.options()`, or a value of the wrong type.
        ValueError: A value that is out of range or not supported.
    """
    for name, value in options.items():
        if name not in (_METHOD_OPTIONS if in_options else _DECORATOR_OPTIONS):
            if in_options:
                raise TypeError(
                    f"ActorMethod.options() got an unexpected keyword argument {name!r}; it takes "
                    f"{list(_METHOD_OPTIONS)}"
                )
            raise AssertionError(
                f"Unexpected keyword argument to @ray.method: {name!r}. The supported keyword arguments are "
                f"{_DECORATOR_OPTIONS}"
            )
        _METHOD_OPTIONS[name].validate(name, value)


# -------------------------------------------------------------------------------------------------------------- plans


class TaskPlan(NamedTuple):
    """What the engine is told of a remote function with one set of options."""

    name: str
    resources: dict[str, float]
    num_returns: int
    max_retries: int
    retry_exceptions: bool | tuple[type[Exception], ...]
    max_calls: int
    timeout_s: float | None
    backpressure: int
    strategy: _scheduling.Strategy | None
    captures_children: bool
    follows_caller: bool
    unlisted: bool


class ActorPlan(NamedTuple):
    """What the engine is told of an actor. An empty namespace is the job's."""

    placement_resources: dict[str, float]
    running_resources: dict[str, float]
    max_restarts: int
    max_task_retries: int
    max_concurrency: int
    max_pending_calls: int
    detached: bool
    name: str
    namespace: str
    get_if_exists: bool
    concurrency_groups: dict[str, int]
    strategy: _scheduling.Strategy | None
    captures_children: bool
    unlisted: bool
    durability: tuple[int, float | None] | None


class MethodPlan(NamedTuple):
    """What the engine is told of an actor's method."""

    num_returns: int
    max_task_retries: int
    retry_exceptions: bool | tuple[type[Exception], ...]
    timeout_s: float | None
    backpressure: int


# Says to workers that actors of their job live on unless they say otherwise.
LIFETIME_VARIABLE: Final = "RAY_RS_DEFAULT_ACTOR_LIFETIME"

# As a plan's number of returns.
STREAMING: Final = -1
DYNAMIC: Final = -2


def _planned_returns(options: Mapping[str, Any], *, is_generator: bool) -> int:
    num_returns = options.get("num_returns")
    return counted_returns((STREAMING if is_generator else 1) if num_returns is None else num_returns)


def counted_returns(num_returns: int | str) -> int:
    """`num_returns` as a plan holds it."""
    return {"streaming": STREAMING, "dynamic": DYNAMIC}.get(num_returns, num_returns)  # type: ignore[arg-type]


def _planned_backpressure(options: Mapping[str, Any]) -> int:
    """Items of a generator that may wait for its consumer; 0: any number."""
    return max(options.get("_generator_backpressure_num_objects") or 0, 0)


def task_plan(options: Mapping[str, Any], function_name: str, *, is_generator: bool = False) -> TaskPlan:
    """Turns the merged options of a remote function into what the engine wants to know.

    Args:
        options: Decorator options overlaid by those of `.options()`.
        function_name: Name of the task when the options give none.
        is_generator: The function is a generator, of either kind.

    Returns:
        The plan.

    Raises:
        ValueError: A contradiction between options, or a resource that can't be asked for.
    """
    name = options.get("name") or function_name
    placed = _scheduling.place(options, [_demand(options, default_cpus=1)], name)
    max_retries = options.get("max_retries")
    if max_retries is None:
        max_retries = int(os.environ.get("RAY_TASK_MAX_RETRIES", OPTIONS["max_retries"].default))
    max_calls = options.get("max_calls")
    if max_calls is None:
        # A process that has used a GPU may keep memory on it, so it is not used for other tasks.
        max_calls = 1 if options.get("num_gpus") else 0
    return TaskPlan(
        name=name,
        resources=placed.demands[0],
        num_returns=_planned_returns(options, is_generator=is_generator),
        max_retries=max_retries,
        retry_exceptions=retried_classes(options.get("retry_exceptions", False)),
        max_calls=max_calls,
        timeout_s=options.get("timeout_s"),
        backpressure=_planned_backpressure(options),
        strategy=placed.strategy,
        captures_children=placed.captures_children,
        follows_caller=placed.follows_caller,
        unlisted=not options.get("enable_task_events", True),
    )


def actor_plan(options: Mapping[str, Any], *, is_async: bool, class_name: str = "the actor") -> ActorPlan:
    """Turns the merged options of an actor class into what the engine wants to know.

    Args:
        options: Decorator options overlaid by those of `.options()`.
        is_async: The class has `async def` methods.
        class_name: What to call the actor in messages.

    Returns:
        The plan.

    Raises:
        TypeError: A name that is not a string.
        ValueError: A contradiction between options, or a resource that can't be asked for.
    """
    name = options.get("name")
    if name == "":
        raise ValueError("Actor name cannot be an empty string.")
    namespace = options.get("namespace")
    check_namespace(namespace)
    max_concurrency = options.get("max_concurrency")
    if max_concurrency is None:
        max_concurrency = 1000 if is_async else 1
    max_concurrency = max(max_concurrency, 1)
    if options.get("allow_out_of_order_execution") is False and (is_async or max_concurrency > 1):
        raise ValueError(
            "If you're using async or threaded actors, allow_out_of_order_execution can't be False: their calls run "
            "at the same time."
        )
    running = _demand(options, default_cpus=None)
    # An actor that names no resource needs a CPU to be placed, so that they spread, but holds none while it runs.
    # One that names any besides memory holds a CPU for life.
    placement = dict(running)
    if options.get("num_cpus") is None:
        if set(running) - {"memory"}:
            running["CPU"] = 1.0
        placement["CPU"] = 1.0
    placed = _scheduling.place(options, [placement, running], class_name)
    durability = None
    max_restarts = options.get("max_restarts")
    if options.get("durable"):
        every = options.get("checkpoint_every")
        interval = options.get("checkpoint_interval_s")
        durability = (CHECKPOINT_EVERY if every is None else every, None if interval is None else float(interval))
        if max_restarts is None:
            max_restarts = -1
    return ActorPlan(
        placement_resources=placed.demands[0],
        running_resources=placed.demands[1],
        max_restarts=_clamped(max_restarts),
        max_task_retries=_clamped(options.get("max_task_retries")),
        max_concurrency=max_concurrency,
        max_pending_calls=-1 if options.get("max_pending_calls") is None else options["max_pending_calls"],
        detached=(options.get("lifetime") or _default_lifetime()) == "detached",
        name=name or "",
        namespace=namespace or "",
        get_if_exists=options.get("get_if_exists", False),
        concurrency_groups=concurrency_groups(options.get("concurrency_groups")),
        strategy=placed.strategy,
        captures_children=placed.captures_children,
        unlisted=not options.get("enable_task_events", True),
        durability=durability,
    )


# Calls after which the state of a durable actor is saved, if nobody says.
CHECKPOINT_EVERY: Final = 100


def _default_lifetime() -> str | None:
    from ray_rs import api

    return api._session.get("default_actor_lifetime") or os.environ.get(LIFETIME_VARIABLE)


def method_plan(options: Mapping[str, Any], actor_max_task_retries: int, *, is_generator: bool = False) -> MethodPlan:
    """Turns the options of a method into what the engine wants to know.

    Args:
        options: Those of the `method` decorator.
        actor_max_task_retries: The actor's own setting, used when the method has none.
        is_generator: The method is a generator, of either kind.

    Returns:
        The plan.
    """
    max_task_retries = options.get("max_task_retries")
    return MethodPlan(
        num_returns=_planned_returns(options, is_generator=is_generator),
        max_task_retries=actor_max_task_retries if max_task_retries is None else _clamped(max_task_retries),
        retry_exceptions=retried_classes(options.get("retry_exceptions", False)),
        timeout_s=options.get("timeout_s"),
        backpressure=_planned_backpressure(options),
    )


def check_namespace(namespace: object) -> None:
    """Checks the name of a namespace.

    Raises:
        TypeError: Neither a string nor None.
        ValueError: An empty string.
    """
    if namespace is None:
        return
    if not isinstance(namespace, str):
        raise TypeError("namespace must be None or a string.")
    if not namespace:
        raise ValueError('"" is not a valid namespace. Pass None to not specify a namespace.')


def _demand(options: Mapping[str, Any], *, default_cpus: float | None) -> dict[str, float]:
    resources = options.get("resources") or {}
    if "memory" in resources or "object_store_memory" in resources:
        raise ValueError("The resources dictionary must not contain the key 'memory' or 'object_store_memory'")
    if "bundle" in resources:
        raise ValueError(f"The resource should not include `bundle` which is reserved for Ray. resources: {resources}")
    demand = {name: float(amount) for name, amount in resources.items()}
    cpus = options.get("num_cpus")
    demand["CPU"] = default_cpus if cpus is None else cpus  # type: ignore[assignment]
    gpus = options.get("num_gpus")
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        raise ValueError(f"GPU resource quantities >1 must be whole numbers. The specified quantity {gpus} is invalid.")
    demand["GPU"] = gpus  # type: ignore[assignment]
    memory = options.get("memory")
    demand["memory"] = None if memory is None else int(memory)  # type: ignore[assignment]
    accelerator = options.get("accelerator_type")
    if accelerator is not None:
        demand[f"accelerator_type:{accelerator}"] = 0.001
    return {name: float(amount) for name, amount in demand.items() if amount}


def retried_classes(value: bool | list[Any] | tuple[Any, ...]) -> bool | tuple[type[Exception], ...]:
    """`retry_exceptions` as a plan holds it."""
    return value if isinstance(value, bool) else tuple(value)


def _clamped(count: int | None) -> int:
    """The engine counts in 32 bits; nobody will see the two thousand millionth restart."""
    return 0 if count is None else min(count, 2**31 - 1)
