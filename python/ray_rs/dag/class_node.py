"""Actors that will be created, and calls to actors: `Cls.bind(...)` and `actor.method.bind(...)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ray_rs import _signature
from ray_rs import actor as _actor
from ray_rs.dag.dag_node import PARENT_CLASS_NODE_KEY, PREV_CLASS_METHOD_CALL_KEY, DAGNode
from ray_rs.dag.input_node import InputAttributeNode, InputNode

if TYPE_CHECKING:
    from ray_rs.actor import ActorMethod

__all__ = ["ClassMethodNode", "ClassNode"]


class ClassNode(DAGNode):
    """What `Cls.bind(...)` gives. Its attributes are the methods of the class, to be bound in turn.

    Each execution creates the actor anew. Calls bound to it run in the order in which they were bound.

    Args:
        actor_class: The actor class.
        options: Its options.
        args: Positional arguments of the constructor.
        kwargs: Keyword arguments of the constructor.

    Raises:
        TypeError: They do not fit the constructor.
    """

    def __init__(
        self,
        actor_class: _actor.ActorClass[Any],
        options: dict[str, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        constructor = _actor._find_method(actor_class._ray_class, "__init__")
        if constructor is not None:
            _check(constructor, args, kwargs)
        super().__init__(args, kwargs, options)
        if any(isinstance(node, (InputNode, InputAttributeNode)) for node in self._needs()):
            raise ValueError(
                "InputNode handles user dynamic input of the DAG, and cannot be used in the constructor of an actor, "
                "which is not part of what the input is for."
            )
        self._actor_class = actor_class
        # The newest call: the next one has to follow it.
        self._last_call: ClassMethodNode | None = None

    def __getattr__(self, name: str) -> _UnboundMethod:
        if name.startswith("__") or "_actor_class" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if name == "bind":
            raise AttributeError(f".bind() cannot be used again on {self!r}.")
        method = _actor._find_method(self._actor_class._ray_class, name)
        if method is None:
            raise AttributeError(f"{self._actor_class._ray_class.__name__!r} has no attribute {name!r}")
        return _UnboundMethod(self, name, method, {})

    def _run(self, resolve: Callable[[Any], Any], inputs: tuple[Any, ...], named_inputs: dict[str, Any]) -> Any:
        args, kwargs = resolve(self._bound_args), resolve(self._bound_kwargs)
        return self._actor_class._ray_state.create(self._bound_options, args, kwargs)

    def __repr__(self) -> str:
        return f"ClassNode({self._actor_class._ray_class.__name__})"


class _UnboundMethod:
    """A method of a class node, on its way to `bind`."""

    def __init__(self, node: ClassNode, name: str, method: Any, options: dict[str, Any]) -> None:
        self._node = node
        self._name = name
        self._method = method
        self._options = options

    def options(self, **options: Any) -> _UnboundMethod:
        """The same method with other options; see `@ray.method`."""
        return _UnboundMethod(self._node, self._name, self._method, {**self._options, **options})

    def bind(self, *args: Any, **kwargs: Any) -> ClassMethodNode:
        """Describes a call. Of a method with several returns the result is their list."""
        _check(self._method, args, kwargs)
        call = ClassMethodNode(self._node, self._name, args, kwargs, self._options, self._node._last_call)
        self._node._last_call = call
        return call

    @property
    def remote(self) -> NoReturn:
        raise AttributeError(f".remote() cannot be used on ClassMethodNodes ({self._name}). Use .bind().")


class ClassMethodNode(DAGNode):
    """What `actor.method.bind(...)` gives, for an actor that lives or for one that is itself a node.

    Args:
        target: The node of the actor, or a method of a living actor.
        method_name: Name of the method.
        args: Positional arguments.
        kwargs: Keyword arguments.
        options: Options of the call.
        previous: The call that was bound before this one to the same node of an actor.
    """

    def __init__(
        self,
        target: ClassNode | ActorMethod,
        method_name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: dict[str, Any],
        previous: ClassMethodNode | None = None,
    ) -> None:
        is_node = isinstance(target, ClassNode)
        other = {PARENT_CLASS_NODE_KEY: target, PREV_CLASS_METHOD_CALL_KEY: previous} if is_node else {}
        super().__init__(args, kwargs, options, other)
        self._target = target
        self._method_name = method_name

    def get_method_name(self) -> str:
        """Name of the method."""
        return self._method_name

    def _run(self, resolve: Callable[[Any], Any], inputs: tuple[Any, ...], named_inputs: dict[str, Any]) -> Any:
        target = self._target
        method = getattr(resolve(target), self._method_name) if isinstance(target, ClassNode) else target
        if self._bound_options:
            method = method.options(**self._bound_options)
        return method.remote(*resolve(self._bound_args), **resolve(self._bound_kwargs))

    def __repr__(self) -> str:
        return f"ClassMethodNode({self._method_name})"


def bind_method(method: ActorMethod, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ClassMethodNode:
    """`handle.method.bind(...)` of a living actor.

    Args:
        method: The method.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Returns:
        The node; of a method with several returns the result is their list.
    """
    return ClassMethodNode(method, method._method_name, args, kwargs, {})


def _check(method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """TypeError when arguments do not fit a method as it lies in its class."""
    signature = _signature.signature_of(_actor._unbound(method), bound=not isinstance(method, staticmethod))
    if signature is not None:
        _signature.raise_mismatch(signature, args, kwargs)
