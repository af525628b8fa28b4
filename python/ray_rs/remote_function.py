"""Remote functions: what `@remote` makes of a function.

The class itself is native, as every call goes through it. Here is what happens once: checking options, reading the
signature, and, at the first call in a session, pickling the function and settling what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ray_rs import _core, _reloads
from ray_rs import options as _table
from ray_rs._signature import Signature, is_async, is_generator, signature_of

if TYPE_CHECKING:
    from ray_rs._typing import RemoteFunction
else:
    RemoteFunction = _core.RemoteFunction

__all__ = ["RemoteFunction"]


def make_remote(function: Callable[..., Any], options: Mapping[str, Any]) -> RemoteFunction[Any, Any]:
    """Makes a remote function.

    Args:
        function: A plain function.
        options: What was given to the decorator.

    Returns:
        The remote function.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: A bad option, or a function that can't be a task.
    """
    if is_async(function) and not is_generator(function):
        raise ValueError(
            "'async def' should not be used for remote tasks. You can wrap the async function with `asyncio.run(f())`, "
            "or make it a method of an actor."
        )
    _check_num_returns(function, options)
    _table.validate_task_options(options, in_options=False)
    return _build(function, f"{function.__module__}.{function.__qualname__}", signature_of(function), options)


def _build(
    function: Callable[..., Any], name: str, signature: Signature, options: Mapping[str, Any]
) -> RemoteFunction[Any, Any]:
    made: RemoteFunction[Any, Any] = RemoteFunction(function, name, signature, options)
    made.__doc__ = getattr(function, "__doc__", None)
    made.__dict__["remote"] = made._call
    return made


def _check_num_returns(function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    num_returns = options.get("num_returns")
    if num_returns in ("streaming", "dynamic") and not is_generator(function):
        raise ValueError(
            f"num_returns={num_returns!r} can only be used with generator functions (functions that use 'yield'). The "
            "decorated function is not a generator function."
        )


# ---------------------------------------------------------------------------------------- called by the extension


def _options(function: RemoteFunction[Any, Any], options: dict[str, Any]) -> RemoteFunction[Any, Any]:
    """`f.options(**options)`."""
    _check_num_returns(function._function, options)
    _table.validate_task_options(options, in_options=True)
    return function._with_options({**function._default_options, **options})  # type: ignore[return-value]


def _prepare(function: RemoteFunction[Any, Any]) -> dict[str, Any]:
    """Settles, at the first call in a session, what the engine must know of a function with its options."""
    from ray_rs import _environments, _function_table

    session = _core.process_info()["worker_id"], _reloads.newest()
    shared = function._shared
    if shared.get("session") != session:
        shared["blob"] = _function_table.pickle_definition(
            function._function, f"the function {function._function_name}"
        )
        shared["session"] = session
    plan = _table.task_plan(
        function._default_options, function._function.__name__, is_generator=is_generator(function._function)
    )
    return {
        "blob": shared["blob"],
        "name": plan.name,
        "resources": plan.resources,
        "runtime_env": _environments.text_for(function._default_options.get("runtime_env")),
        "strategy": plan.strategy,
        "captures_children": plan.captures_children,
        "follows_caller": plan.follows_caller,
        "max_retries": plan.max_retries,
        "retry_exceptions": _function_table.pickle_classes(plan.retry_exceptions),
        "max_calls": plan.max_calls,
        "num_returns": plan.num_returns,
        "timeout_s": plan.timeout_s,
        "backpressure": plan.backpressure,
        "unlisted": plan.unlisted,
    }


def _rebuild(
    function: Callable[..., Any], name: str, signature: Signature, options: Mapping[str, Any]
) -> RemoteFunction[Any, Any]:
    """Unpickles a remote function."""
    return _build(function, name, signature, options)
