"""Several results of one graph: `MultiOutputNode`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ray_rs.dag.dag_node import DAGNode

__all__ = ["MultiOutputNode"]


class MultiOutputNode(DAGNode):
    """Runs several nodes; its result is the list of theirs.

    Args:
        args: The nodes.
    """

    def __init__(self, args: Sequence[DAGNode]) -> None:
        super().__init__(tuple(args), {}, {})

    def _run(self, resolve: Callable[[Any], Any], inputs: tuple[Any, ...], named_inputs: dict[str, Any]) -> Any:
        return list(resolve(self._bound_args))

    def __repr__(self) -> str:
        return f"MultiOutputNode({list(self._bound_args)!r})"
