"""What a graph is given when it runs: `InputNode`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray_rs.dag.dag_node import DAGNode

__all__ = ["DAGInputData", "InputAttributeNode", "InputNode"]


class InputNode(DAGNode):
    """Stands for the arguments of `execute`.

    With one argument it is that argument, and `inp[key]` and `inp.name` are its items and attributes. With several,
    `inp[0]` is the first and `inp.name` the one of that name.

    Args:
        *args: There are none.
        input_type: Without effect.
        **kwargs: There are none.

    Raises:
        ValueError: There were some.

    Example:
        >>> with InputNode() as inp:
        ...     graph = add.bind(inp[0], inp.factor)
        >>> graph.execute(1, factor=2)
    """

    _is_input = True

    def __init__(self, *args: Any, input_type: Any = None, **kwargs: Any) -> None:
        if args or kwargs:
            raise ValueError("InputNode should not take any args or kwargs.")
        super().__init__((), {}, {})
        self._entered = False

    def __enter__(self) -> InputNode:
        self._entered = True
        return self

    def __exit__(self, *exc_info: object) -> None:
        """The node goes on to stand for the input."""

    def __getattr__(self, name: str) -> InputAttributeNode:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return InputAttributeNode(self, name, is_item=False)

    def __getitem__(self, key: int | str) -> InputAttributeNode:
        assert isinstance(key, (int, str)), "Please only use int index or str as first-level key of the input."
        return InputAttributeNode(self, key, is_item=True)

    def _run(self, resolve: Callable[[Any], Any], inputs: tuple[Any, ...], named_inputs: dict[str, Any]) -> Any:
        assert self._entered, (
            "InputNode is a singleton instance that should be only used in context manager: `with InputNode() as inp:`."
        )
        if len(inputs) == 1 and not named_inputs:
            return inputs[0]
        return DAGInputData(*inputs, **named_inputs)

    def __repr__(self) -> str:
        return "InputNode()"


class InputAttributeNode(DAGNode):
    """A part of the input: `inp[0]`, `inp.name`.

    Args:
        dag_input_node: The input.
        key: Index, key or name.
        is_item: Whether it is looked up as an item rather than as an attribute.
    """

    def __init__(self, dag_input_node: InputNode, key: Any, *, is_item: bool) -> None:
        super().__init__((dag_input_node,), {}, {})
        self.key = key
        self._is_item = is_item

    def _run(self, resolve: Callable[[Any], Any], inputs: tuple[Any, ...], named_inputs: dict[str, Any]) -> Any:
        given = resolve(self._bound_args[0])
        if isinstance(given, DAGInputData):
            return given[self.key]
        return given[self.key] if self._is_item else getattr(given, self.key)

    def __repr__(self) -> str:
        return f"InputAttributeNode({self.key!r})"


class DAGInputData:
    """Several arguments of `execute`, where a call was given all of them.

    Args:
        *args: By position.
        **kwargs: By name.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._args = args
        self._kwargs = kwargs

    def __getitem__(self, key: int | str) -> Any:
        return self._args[key] if isinstance(key, int) else self._kwargs[key]
