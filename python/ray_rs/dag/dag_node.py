"""What all nodes have in common, and how they are run."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

__all__ = ["PARENT_CLASS_NODE_KEY", "PREV_CLASS_METHOD_CALL_KEY", "DAGNode"]

# In what `get_other_args_to_resolve` gives.
PARENT_CLASS_NODE_KEY = "parent_class_node"
PREV_CLASS_METHOD_CALL_KEY = "prev_class_method_call"


class DAGNode:
    """A call that is described, and not made yet. It can't be pickled.

    Args:
        args: Its positional arguments; nodes among them stand for their results.
        kwargs: Its keyword arguments.
        options: What the call was given with `.options()`.
        other_args_to_resolve: What else has to be there first.
    """

    def __init__(
        self,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        options: dict[str, Any],
        other_args_to_resolve: dict[str, Any] | None = None,
    ) -> None:
        self._bound_args = tuple(args)
        self._bound_kwargs = kwargs
        self._bound_options = options
        self._bound_other_args = other_args_to_resolve or {}
        self._stable_uuid = uuid.uuid4().hex

    # Whether it stands for the arguments of `execute`.
    _is_input = False

    def get_args(self) -> tuple[Any, ...]:
        """Its positional arguments."""
        return self._bound_args

    def get_kwargs(self) -> dict[str, Any]:
        """Its keyword arguments."""
        return dict(self._bound_kwargs)

    def get_options(self) -> dict[str, Any]:
        """What the call was given with `.options()`."""
        return dict(self._bound_options)

    def get_other_args_to_resolve(self) -> dict[str, Any]:
        """What else has to be there first: the actor, and the call that was bound before."""
        return dict(self._bound_other_args)

    def get_stable_uuid(self) -> str:
        """Tells the node from others."""
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
        the_input: DAGNode | None = None

        def resolve(value: Any) -> Any:
            return _replace(value, lambda node: results[id(node)])

        # Without recursion: a chain of nodes may be long.
        path: list[tuple[DAGNode, Iterator[DAGNode]]] = [(self, self._needs())]
        begun = {id(self)}
        while path:
            node, needs = path[-1]
            for needed in needs:
                if id(needed) not in begun:
                    if needed._is_input:
                        assert the_input is None, "Each DAG should only have one unique InputNode."
                        the_input = needed
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

        # The actor first, then what was bound to it before: calls keep their order.
        _replace((self._bound_other_args, self._bound_args, self._bound_kwargs), note)
        return iter(found)

    def __reduce__(self) -> NoReturn:
        raise ValueError(f"{self!r} is a description of a call and can't be pickled; pass what its execute() gives.")

    @property
    def remote(self) -> NoReturn:
        """AttributeError: the call is described already; `execute` makes it."""
        raise AttributeError(f".remote() cannot be used on {self!r}: it is bound already. Use .execute().")

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
