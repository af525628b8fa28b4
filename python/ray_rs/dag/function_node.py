"""A task that will be submitted: `f.bind(...)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray_rs import _signature
from ray_rs.dag.dag_node import DAGNode

__all__ = ["FunctionNode"]


class FunctionNode(DAGNode):
    """What `f.bind(...)` gives.

    Args:
        remote_function: The remote function, with its options.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Raises:
        TypeError: They do not fit the function.
    """

    def __init__(self, remote_function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if remote_function._signature is not None:
            _signature.raise_mismatch(remote_function._signature, args, kwargs)
        super().__init__(args, kwargs, dict(remote_function._default_options))
        self._remote_function = remote_function

    def _run(self, resolve: Callable[[Any], Any], inputs: tuple[Any, ...], named_inputs: dict[str, Any]) -> Any:
        return self._remote_function.remote(*resolve(self._bound_args), **resolve(self._bound_kwargs))

    def __repr__(self) -> str:
        return f"FunctionNode({self._remote_function._function_name})"
