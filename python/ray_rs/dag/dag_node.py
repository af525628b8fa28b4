"""What all nodes have in common, and how they are run."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

__all__ = ["DAGNode"]


class DAGNode:
    """A call that is described, and not made yet.

    Args:
        args: Its positional arguments; nodes among them stand for their results.
        kwargs: Its keyword arguments.
        options: What the call was given with `.options()`.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]) -> None:
        self._bound_args = args
        self._bound_kwargs = kwargs
        self._bound_options = options
        self._stable_uuid = uuid.uuid4().hex

    def get_args(self) -> tuple[Any, ...]:
        """Its positional arguments."""
        return self._bound_args

    def get_kwargs(self) -> dict[str, Any]:
        """Its keyword arguments."""
        return dict(self._bound_kwargs)

    def get_options(self) -> dict[str, Any]:
        """What the call was given with `.options()`."""
        return dict(self._bound_options)

    def get_stable_uuid(self) -> str:
        """Tells the node from others; it is the same in copies."""
        return self._stable_uuid

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the node and all it needs, each node once.

        Args:
            *args: What `InputNode` stands for.
            **kwargs: The same, by name.

        Returns:
            What the call itself returns: a reference, a list of them, or an actor's handle.

        Example:
            >>> with InputNode() as x:
            ...     graph = add.bind(double.bind(x), 1)
            >>> ray.get(graph.execute(3))
            7
        """
        results: dict[int, Any] = {}

        def resolve(value: Any) -> Any:
            return _replace(value, lambda node: results[id(node)])

        # Without recursion: a chain of nodes may be long.
        path: list[tuple[DAGNode, Iterator[DAGNode]]] = [(self, self._needs())]
        begun = {id(self)}
        while path:
            node, needs = path[-1]
            for needed in needs:
                if id(needed) not in begun:
                    begun.add(id(needed))
                    path.append((needed, needed._needs()))
                    break
            else:
                results[id(node)] = node._run(resolve, args, kwargs)
                path.pop()
        return results[id(self)]

    def experimental_compile(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not there.

        Args:
            *args: Ray's.
            **kwargs: Ray's.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "ray_rs has no compiled graphs. `execute` runs the same graph; calls between processes of one node go "
            "through shared memory without compiling anything."
        )

    def _needs(self) -> Iterator[DAGNode]:
        """The nodes that must have run before."""
        found: list[DAGNode] = []

        def note(node: DAGNode) -> DAGNode:
            found.append(node)
            return node

        _replace((self._bound_args, self._bound_kwargs), note)
        return iter(found)

    def _run(self, resolve: Callable[[Any], Any], inputs: tuple[Any, ...], named_inputs: dict[str, Any]) -> Any:
        """Makes the call; `resolve` puts results in the place of nodes."""
        raise NotImplementedError


def _replace(value: Any, result_of: Callable[[DAGNode], Any]) -> Any:
    """A copy of `value` with something else in the place of each node, also inside lists, tuples and dictionaries."""
    if isinstance(value, DAGNode):
        return result_of(value)
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(_replace(item, result_of) for item in value)
    if type(value) is dict:
        return {_replace(key, result_of): _replace(item, result_of) for key, item in value.items()}
    return value
