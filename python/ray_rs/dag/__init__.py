"""Graphs of tasks and actor calls that are described first and run later.

`.bind(...)` on a remote function, an actor class or a method describes a call instead of making it; nodes may be
arguments of other nodes. `node.execute(...)` runs what the node needs, each node once, with ordinary tasks and actors.

Not here: compiled graphs (`experimental_compile`) and collectives.
"""

from __future__ import annotations

from typing import Any

from ray_rs import _core
from ray_rs.dag.class_node import ClassMethodNode, ClassNode, bind_method
from ray_rs.dag.dag_node import PARENT_CLASS_NODE_KEY, PREV_CLASS_METHOD_CALL_KEY, DAGNode
from ray_rs.dag.function_node import FunctionNode
from ray_rs.dag.input_node import DAGInputData, InputAttributeNode, InputNode
from ray_rs.dag.output_node import MultiOutputNode

__all__ = [
    "PARENT_CLASS_NODE_KEY",
    "PREV_CLASS_METHOD_CALL_KEY",
    "ClassMethodNode",
    "ClassNode",
    "DAGInputData",
    "DAGNode",
    "FunctionNode",
    "InputAttributeNode",
    "InputNode",
    "MultiOutputNode",
]


def bind_call(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DAGNode:
    """What `.bind` of the native classes does.

    Args:
        target: A remote function, or a method of a living actor.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Returns:
        The node.

    Raises:
        TypeError: The arguments do not fit the function.
    """
    if isinstance(target, _core.ActorMethod):
        return bind_method(target, args, kwargs)
    return FunctionNode(target, args, kwargs)
