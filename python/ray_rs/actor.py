"""Actors: what `@remote` makes of a class, and the handles it gives.

`ActorHandle` and `ActorMethod` are native, as every call goes through them. An actor class is described once (its
methods, their signatures and `@method` settings) and pickled once a session; `remote()` then needs one native call.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from ray_rs import _core, _durable, _environments, _reloads
from ray_rs import options as _table
from ray_rs._core import ActorHandle, ActorMethod
from ray_rs._signature import Signature, is_async, is_generator, signature_of
from ray_rs.exceptions import ActorAlreadyExistsError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ray_rs._typing import ActorOptions, ActorProxy, Remote, method
    from ray_rs.dag import ClassNode

__all__ = [
    "ActorClass",
    "ActorClassInheritanceException",
    "ActorHandle",
    "ActorMethod",
    "ActorProxy",
    "exit_actor",
    "method",
]

T = TypeVar("T")

if not TYPE_CHECKING:
    # For annotations: a handle whose methods are known to type checkers.
    ActorProxy = ActorHandle[T] | type[T]

# Callable on every actor besides the methods of its class.
_BUILTIN_METHODS: tuple[tuple[str, Signature], ...] = (
    ("__ray_ready__", ()),
    ("__ray_call__", (("function", 0, False), ("args", 2, False), ("kwargs", 4, False))),
    ("__ray_terminate__", ()),
)


class ActorClassInheritanceException(TypeError):
    """A class was derived from an actor class; derive from the plain class instead."""


if TYPE_CHECKING:

    class _Creates(Remote[type[T], ActorProxy[T]], Generic[T]):
        """Has `.remote(...)`, with the parameters of the constructor."""

else:

    class _Creates(Generic[T]):
        def remote(self, *args: Any, **kwargs: Any) -> ActorHandle[T]:
            """Creates an actor.

            Args:
                *args: Arguments of the constructor; references are resolved first.
                **kwargs: The same.

            Returns:
                A handle, at once; the constructor runs meanwhile.

            Raises:
                TypeError: The arguments do not fit the constructor, or can't be pickled.
                ActorAlreadyExistsError: The name is taken.
            """
            return self._ray_state.create(self._ray_options, args, kwargs)


class ActorClass(_Creates[T], Generic[T]):
    """A class whose instances live in processes of their own.

    The decorated class's attributes, static methods and class methods stay reachable on it.
    """

    # One class is generated for each decorated class; its only instance finds these on it.
    _ray_class: type[T]
    _ray_options: dict[str, Any]
    _ray_state: _ClassState

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        # Python calls this for `class B(A)` when A is an actor class; and a class method of the decorated class,
        # reached through the actor class, for `cls(...)`, which makes an instance here.
        if len(args) == 3 and isinstance(args[1], tuple):
            parents = [base._ray_class.__name__ for base in args[1] if isinstance(base, ActorClass)]
            if parents:
                raise ActorClassInheritanceException(
                    f"Attempted to define subclass '{args[0]}' of actor class '{', '.join(parents)}'. Inheriting from "
                    "actor classes is not supported. Inherit from a plain class instead, and make the derived class an "
                    "actor class (with @ray.remote)."
                )
        return cls._ray_class(*args, **kwargs)

    def options(self, **options: Unpack[ActorOptions]) -> _ActorClassWithOptions[T]:
        """Gives the same class with other options; this one stays as it is.

        Args:
            **options: See `ray_rs.options.OPTIONS`.

        Returns:
            Something with `.remote()`.
        """
        given: Any = options
        _table.validate_actor_options(given, in_options=True)
        merged = {**self._ray_options, **given}
        self._ray_state.check_durable(merged)
        return _ActorClassWithOptions(self, merged)

    def bind(self, *args: Any, **kwargs: Any) -> ClassNode:
        """Describes an actor instead of creating it; see `ray_rs.dag`."""
        from ray_rs.dag import ClassNode

        return ClassNode(self, self._ray_options, args, kwargs)

    def _remote(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        changed: Any = self.options(**options)
        return changed.remote(*(args or ()), **(kwargs or {}))

    @property
    def __ray_metadata__(self) -> _ClassState:
        return self._ray_state

    @property
    def __signature__(self) -> Any:
        """The constructor's, for `inspect.signature` and `help`."""
        import inspect

        return inspect.signature(self._ray_class)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        name = self._ray_class.__name__
        raise TypeError(f"Actors cannot be instantiated directly. Instead of '{name}()', use '{name}.remote()'.")

    # The user's class is a base, but this is not one of its instances: no special method of it may run here.

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return make_actor_class, (self._ray_class, self._ray_options)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__reduce_ex__(5)

    def __repr__(self) -> str:
        return f"{type(self).__name__}"

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __bool__(self) -> bool:
        return True

    def __del__(self) -> None:
        """Keeps the decorated class's own from being called on this, which is no instance of it."""


class _ActorClassWithOptions(_Creates[T], Generic[T]):
    """What `ActorClass.options` gives."""

    def __init__(self, actor_class: ActorClass[T], options: dict[str, Any]) -> None:
        self._ray_state = actor_class._ray_state
        self._ray_options = options
        self._actor_class = actor_class

    def options(self, **options: Unpack[ActorOptions]) -> _ActorClassWithOptions[T]:
        """Gives the same class with these options laid over those that this has; see `ActorClass.options`."""
        given: Any = options
        _table.validate_actor_options(given, in_options=True)
        merged = {**self._ray_options, **given}
        self._ray_state.check_durable(merged)
        return _ActorClassWithOptions(self._actor_class, merged)

    def bind(self, *args: Any, **kwargs: Any) -> ClassNode:
        """Describes an actor instead of creating it; see `ray_rs.dag`."""
        from ray_rs.dag import ClassNode

        return ClassNode(self._actor_class, self._ray_options, args, kwargs)


class _ClassState:
    """What is worked out once about a decorated class.

    Attributes:
        class_name: Its name.
        modified_class: The class that runs in the actor's process.
    """

    def __init__(self, cls: type[Any]) -> None:
        self.class_name = cls.__name__
        self._cls = cls
        # Filled at the first `remote()`: an actor class unpickled with its own methods finds the class empty yet.
        self._methods: dict[str, Callable[..., Any]] | None = None
        self._is_async = False
        self._constructor: Signature = None
        # (max_task_retries, max_pending_calls, unlisted, durable) -> descriptor of the handles.
        self._descriptors: dict[tuple[int, int, bool, bool], _core.ActorDescriptor] = {}
        # (the options' environment, the text that the engine is told); for the session below.
        self._environment: tuple[Any, str] = (None, "")
        self._session: Any = None
        self._blob = b""

    @property
    def modified_class(self) -> type[Any]:
        cls = self._cls
        made = types.new_class(cls.__name__, (cls,), exec_body=lambda body: body.update(__module__=cls.__module__))
        made.__qualname__ = cls.__qualname__
        made.__ray_actor_class__ = cls  # type: ignore[attr-defined]
        return made

    def create(self, options: Mapping[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> ActorHandle[Any]:
        if not _core.is_initialized():
            from ray_rs import api

            api._auto_init()
        if self._methods is None:
            self._inspect()
        runtime_env = options.get("runtime_env")
        plan = _table.actor_plan(options, is_async=self._is_async, class_name=self.class_name)
        process = _core.process_info()
        namespace = plan.namespace or process["namespace"]
        session = process["worker_id"], _reloads.newest()
        if self._session != session:
            from ray_rs import _function_table

            self._blob = _function_table.pickle_definition(self._cls, f"the actor class {self.class_name}")
            self._session = session
            self._environment = (None, _environments.own_text())
        if plan.detached and plan.name and not plan.namespace:
            _notice_if_anonymous(plan.name, namespace)
        if self._environment[0] is not runtime_env:
            self._environment = (runtime_env, _environments.text_for(runtime_env))
        try:
            return self._create(plan, namespace, args, kwargs)
        except ActorAlreadyExistsError:
            raise ActorAlreadyExistsError(
                f"The name {plan.name} (namespace={namespace}) is already taken. Please use a different name or get "
                f"the existing actor using ray.get_actor('{plan.name}', namespace='{namespace}')"
            ) from None

    def _create(
        self, plan: _table.ActorPlan, namespace: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ActorHandle[Any]:
        return _core.create_actor(
            self._descriptor(plan),
            self._blob,
            self._constructor,
            args,
            kwargs,
            placement_resources=plan.placement_resources,
            running_resources=plan.running_resources,
            max_restarts=plan.max_restarts,
            max_task_retries=plan.max_task_retries,
            max_concurrency=plan.max_concurrency,
            is_async=self._is_async,
            detached=plan.detached,
            name=plan.name,
            namespace=namespace,
            get_if_exists=plan.get_if_exists,
            concurrency_groups=list(plan.concurrency_groups.items()),
            runtime_env=self._environment[1],
            strategy=plan.strategy,
            captures_children=plan.captures_children,
            unlisted=plan.unlisted,
            durability=plan.durability,
        )

    def check_durable(self, options: Mapping[str, Any]) -> None:
        """Checks what is durable about these options.

        Raises:
            ValueError: The class can't be durable with them.
        """
        if "durable" in options or "checkpoint_every" in options or "checkpoint_interval_s" in options:
            _durable.check(self._cls, {name: _unbound(member) for name, member in _methods_of(self._cls)}, options)

    def _inspect(self) -> None:
        cls = self._cls
        methods = dict(_methods_of(cls))
        self._is_async = any(is_async(_unbound(member)) for member in methods.values())
        constructor = methods.get("__init__")
        if constructor is not None:
            self._constructor = signature_of(_unbound(constructor), bound=True)
        elif getattr(cls, "__init__", None) is object.__init__ and getattr(cls, "__new__", None) is object.__new__:
            self._constructor = ()
        self._methods = methods

    def _descriptor(self, plan: _table.ActorPlan) -> _core.ActorDescriptor:
        is_durable = plan.durability is not None
        key = (plan.max_task_retries, plan.max_pending_calls, plan.unlisted, is_durable)
        if key not in self._descriptors:
            assert self._methods is not None, "create() inspects the class first"
            rows = [_describe(name, member, plan) for name, member in self._methods.items()]
            others: list[tuple[str, Signature]] = list(_BUILTIN_METHODS)
            if "__init__" not in self._methods:
                others.append(("__init__", None))
            rows += [(name, signature, 1, 0, b"", False, plan.unlisted, None, 0, "") for name, signature in others]
            groups = tuple(plan.concurrency_groups)
            for row in rows:
                assert not row[-1] or row[-1] in groups, (
                    f"{self.class_name}.{row[0]} belongs to the concurrency group {row[-1]!r}, but the class defines "
                    f"{sorted(groups) or 'none'}."
                )
            self._descriptors[key] = _core.ActorDescriptor(
                self.class_name, self._cls.__module__, rows, plan.max_pending_calls, groups, is_durable
            )
        return self._descriptors[key]


def make_actor_class(cls: type[T], options: Mapping[str, Any]) -> ActorClass[T]:
    """Makes an actor class.

    Args:
        cls: A plain class.
        options: What was given to the decorator, or for an unpickled one to the first decorator.

    Returns:
        The actor class.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: A bad option.
    """
    _table.validate_actor_options(options, in_options=False)
    state = _ClassState(cls)
    state.check_durable(options)
    body = {
        "_ray_class": cls,
        "_ray_options": dict(options),
        "_ray_state": state,
        "__module__": cls.__module__,
        "__doc__": cls.__doc__,
    }
    name = f"ActorClass({cls.__name__})"
    try:
        made = types.new_class(name, (ActorClass, cls), exec_body=lambda namespace: namespace.update(body))
    except Exception:  # a class that forbids subclasses: its attributes are looked up instead
        body["__getattr__"] = lambda self, attribute: getattr(cls, attribute)
        made = types.new_class(name, (ActorClass,), exec_body=lambda namespace: namespace.update(body))
    if getattr(made, "__abstractmethods__", None):
        made.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    # Neither the user's __new__ nor __init__ may run: ask the builtin type below them (`object` as a rule).
    heap_type = 1 << 9
    builtin: Any = next(base for base in made.__mro__ if not base.__flags__ & heap_type)
    return builtin.__new__(made)  # type: ignore[no-any-return]


def _methods_of(cls: type[Any]) -> Iterator[tuple[str, Any]]:
    for name in dir(cls):
        member = _find_method(cls, name)
        if member is not None:
            yield name, member


def _find_method(cls: type[Any], name: str) -> Any:
    """The method as it lies in the class that defines it, or None when the name is not that of a method."""
    for base in cls.__mro__:
        if name in base.__dict__:
            member = base.__dict__[name]
            inner = getattr(member, "__func__", member) if isinstance(member, (staticmethod, classmethod)) else member
            is_function = isinstance(inner, types.FunctionType) or (
                callable(inner) and hasattr(inner, "__wrapped__") and not isinstance(inner, type)
            )
            return member if is_function else None
    return None


def _unbound(member: Any) -> Callable[..., Any]:
    return member.__func__ if isinstance(member, (staticmethod, classmethod)) else member


def _describe(
    name: str, member: Any, actor: _table.ActorPlan
) -> tuple[str, Signature, int, int, bytes, bool, bool, float | None, int, str]:
    from ray_rs import _function_table

    function = _unbound(member)
    settings = _method_settings(function)
    plan = _table.method_plan(settings, actor.max_task_retries, is_generator=is_generator(function))
    return (
        name,
        signature_of(function, bound=not isinstance(member, staticmethod)),
        plan.num_returns,
        plan.max_task_retries,
        _function_table.pickle_classes(plan.retry_exceptions),
        is_async(function),
        not settings.get("enable_task_events", not actor.unlisted),
        plan.timeout_s,
        plan.backpressure,
        settings.get("concurrency_group", ""),
    )


# ----------------------------------------------------------------------------------------------------------- methods

_SETTINGS = (
    "num_returns",
    "max_task_retries",
    "retry_exceptions",
    "timeout_s",
    "_generator_backpressure_num_objects",
    "concurrency_group",
    "enable_task_events",
)


def _decorate_method(*args: Any, **options: Any) -> Any:
    """Says how a method of an actor class is to be called.

    Args:
        *args: The method, when used without parentheses.
        **options: `num_returns`, `max_task_retries`, `retry_exceptions`, `timeout_s`.

    Returns:
        The method itself, or a decorator for it.

    Raises:
        AssertionError: Wrong use, or an unknown option.

    Example:
        >>> @ray.remote
        ... class Pair:
        ...     @ray.method(num_returns=2)
        ...     def both(self):
        ...         return 1, 2
    """
    if len(args) == 1 and callable(args[0]) and not options:
        return args[0]
    if args or not options:
        raise AssertionError(_table.METHOD_USAGE)
    _table.validate_method_options(options, in_options=False)

    def decorate(function: Any) -> Any:
        for name, value in options.items():  # on the function itself: what a staticmethod carries is not pickled
            setattr(getattr(function, "__func__", function), f"__ray_{name}__", value)
        return function

    return decorate


if not TYPE_CHECKING:
    method = _decorate_method
    method.__name__ = method.__qualname__ = "method"


def _method_settings(function: Any) -> dict[str, Any]:
    """What `@method` left on the function, or on one that it wraps."""
    settings: dict[str, Any] = {}
    while function is not None:
        for name in _SETTINGS:
            value = getattr(function, f"__ray_{name}__", None)
            if value is not None:
                settings.setdefault(name, value)
        function = getattr(function, "__wrapped__", None)
    return settings


def _method_options(method: ActorMethod, options: dict[str, Any]) -> ActorMethod:
    """`handle.m.options(**options)`; called by the extension."""
    _table.validate_method_options(options, in_options=True)
    retry = options.get("retry_exceptions")
    num_returns = options.get("num_returns")
    backpressure = options.get("_generator_backpressure_num_objects")
    if method._is_durable:
        _durable.check_returns(num_returns)
    group = options.get("concurrency_group")
    listed = options.get("enable_task_events")
    known = method._concurrency_groups
    if group is not None and group not in known:
        raise ValueError(f"The actor has no concurrency group {group!r}; it has {sorted(known)}.")
    if retry is not None:
        from ray_rs import _function_table

        retry = _function_table.pickle_classes(_table.retried_classes(retry))
    return method._with_options(
        name=options.get("name"),
        num_returns=None if num_returns is None else _table.counted_returns(num_returns),
        max_task_retries=options.get("max_task_retries"),
        retry_exceptions=retry,
        timeout_s=options.get("timeout_s"),
        backpressure=None if backpressure is None else max(backpressure, 0),
        concurrency_group=group,
        unlisted=None if listed is None else not listed,
    )


# ------------------------------------------------------------------------------------------------- inside the process


class _ActorExit(SystemExit):
    """Raised by `exit_actor`; a `SystemExit`, so that `except Exception` in the user's code lets it pass."""


def exit_actor() -> NoReturn:
    """Ends the actor that the calling method belongs to.

    The call and those queued behind it fail with `ActorDiedError`; the actor is not restarted, and handlers registered
    with `atexit` run.

    Raises:
        TypeError: Not called in an actor.
    """
    if not _core.is_initialized() or _core.current_actor() is None:
        raise TypeError(
            "exit_actor API is called on a non-actor worker. Call this API inside an actor's methods if you'd like to "
            "exit the actor gracefully."
        )
    raise _ActorExit(0)


def _call_function(instance: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(instance, *args, **kwargs)


def _terminate(instance: Any) -> NoReturn:
    raise _ActorExit(0)


SPECIAL_METHODS: dict[str, Callable[..., Any]] = {
    "__ray_ready__": lambda instance: True,
    "__ray_call__": _call_function,
    "__ray_terminate__": _terminate,
}


def _notice_if_anonymous(name: str, namespace: str) -> None:
    from ray_rs import _processes

    if _processes.namespace_is_anonymous():
        from ray_rs import _logs

        _logs.info(
            f"The detached actor '{name}' lives in the anonymous namespace of this job. To find it from another "
            f"driver, pass namespace='{namespace}' there, or name a namespace in ray_rs.init()."
        )
