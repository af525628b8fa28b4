"""What type checkers know of `remote`: for them only, there is no such module when a program runs.

`Remote[F, Out]` is anything with a method `.remote(...)` that takes the parameters of the callable `F`, each also as a
reference, and gives `Out`. Python's types have no "the same parameters, each also as a reference", so that method has
overloads: the parameters as they are (by position or keyword), then references by position for one to six parameters,
then calls that give keywords after a reference, which are not checked further.

An actor's handle is typed as Ray types it: `ActorProxy[T]` is a handle or the class `T`, so that attributes are looked
up in `T`. There a method under `@ray.method` has `.remote()`; in the class itself it stays what it was. The plugin
`ray_rs.mypy_plugin` tells mypy of decorated classes, whose type mypy otherwise leaves as it was, and of plain methods.
"""

# Of two overloads that both fit, the first is meant: a literal before `int`, a generator before any function.
# mypy: disable-error-code="overload-overlap"
# pyright: reportOverlappingOverload=false

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Concatenate, Generic, Literal, Protocol, TypeAlias, TypedDict, TypeVar, final, overload

from typing_extensions import Never, ParamSpec, Unpack

from ray_rs import _core
from ray_rs._generator import DynamicObjectRefGenerator, ObjectRefGenerator
from ray_rs.actor import ActorClass
from ray_rs.dag import FunctionNode

_P = ParamSpec("_P")
_R = TypeVar("_R")
_R_co = TypeVar("_R_co", covariant=True)
_Y = TypeVar("_Y")
_T = TypeVar("_T")
_F_co = TypeVar("_F_co", bound=Callable[..., Any], covariant=True)
_Out_co = TypeVar("_Out_co", covariant=True)
_A = TypeVar("_A")
_B = TypeVar("_B")
_C = TypeVar("_C")
_D = TypeVar("_D")
_E = TypeVar("_E")
_G = TypeVar("_G")

_Refs: TypeAlias = list[_core.ObjectRef[Any]]
_Ref: TypeAlias = _core.ObjectRef[_T]
_Arg: TypeAlias = _T | _core.ObjectRef[_T]

# --- options: a name here for each row of `ray_rs.options.OPTIONS` ---------------------------------------------------

class _Options(TypedDict, total=False):
    num_cpus: float | None
    num_gpus: float | None
    memory: float | None
    resources: dict[str, float] | None
    accelerator_type: str | None
    name: str | None
    scheduling_strategy: Any
    runtime_env: Mapping[str, Any] | None
    label_selector: dict[str, str] | None
    fallback_strategy: list[dict[str, Any]] | None
    placement_group: Any
    placement_group_bundle_index: int
    placement_group_capture_child_tasks: bool | None
    enable_task_events: bool
    _labels: dict[str, str] | None
    object_store_memory: int | None

class TaskOptions(_Options, total=False):
    """Options of a task but `num_returns`, which decides what a call gives."""

    max_retries: int | None
    retry_exceptions: bool | Sequence[type[Exception]]
    max_calls: int | None
    timeout_s: float | None
    _generator_backpressure_num_objects: int | None
    _num_objects_per_yield: int | None

class ActorOptions(_Options, total=False):
    """Options of an actor."""

    namespace: str | None
    get_if_exists: bool
    lifetime: Literal["detached", "non_detached"] | None
    max_restarts: int | None
    max_task_retries: int | None
    durable: bool
    checkpoint_every: int | None
    checkpoint_interval_s: float | None
    max_concurrency: int | None
    max_pending_calls: int | None
    allow_out_of_order_execution: bool | None
    concurrency_groups: dict[str, int] | list[dict[str, Any]] | None
    enable_tensor_transport: bool | None
    _actor_generator_backpressure_num_objects: int | None

class RemoteOptions(TaskOptions, ActorOptions, total=False):
    """What `@remote` takes besides `num_returns`, before it is known what is decorated."""

class MethodOptions(TypedDict, total=False):
    """Options of a call of an actor's method but `num_returns`."""

    name: str | None
    max_task_retries: int | None
    retry_exceptions: bool | Sequence[type[Exception]]
    timeout_s: float | None
    concurrency_group: str | None
    enable_task_events: bool
    tensor_transport: str | None
    _labels: dict[str, str] | None
    _generator_backpressure_num_objects: int | None
    _num_objects_per_yield: int | None

@final
class _Unsaid:
    """What nobody returns: only what is not annotated, `Any`, fits it."""

# --- calls -----------------------------------------------------------------------------------------------------------

class Remote(Generic[_F_co, _Out_co]):
    """Has `.remote(...)`, with the parameters of `F`."""

    @overload
    def remote(self: Remote[Callable[_P, Any], _Out_co], *args: _P.args, **kwargs: _P.kwargs) -> _Out_co: ...
    @overload
    def remote(self: Remote[Callable[[_A], Any], _Out_co], a: _Arg[_A], /) -> _Out_co: ...
    @overload
    def remote(self: Remote[Callable[[_A, _B], Any], _Out_co], a: _Arg[_A], b: _Arg[_B], /) -> _Out_co: ...
    @overload
    def remote(
        self: Remote[Callable[[_A, _B, _C], Any], _Out_co], a: _Arg[_A], b: _Arg[_B], c: _Arg[_C], /
    ) -> _Out_co: ...
    @overload
    def remote(
        self: Remote[Callable[[_A, _B, _C, _D], Any], _Out_co],
        a: _Arg[_A],
        b: _Arg[_B],
        c: _Arg[_C],
        d: _Arg[_D],
        /,
    ) -> _Out_co: ...
    @overload
    def remote(
        self: Remote[Callable[[_A, _B, _C, _D, _E], Any], _Out_co],
        a: _Arg[_A],
        b: _Arg[_B],
        c: _Arg[_C],
        d: _Arg[_D],
        e: _Arg[_E],
        /,
    ) -> _Out_co: ...
    @overload
    def remote(
        self: Remote[Callable[[_A, _B, _C, _D, _E, _G], Any], _Out_co],
        a: _Arg[_A],
        b: _Arg[_B],
        c: _Arg[_C],
        d: _Arg[_D],
        e: _Arg[_E],
        g: _Arg[_G],
        /,
    ) -> _Out_co: ...
    # Keywords after a reference.
    @overload
    def remote(
        self: Remote[Callable[Concatenate[_A, ...], Any], _Out_co], a: _Ref[_A], /, **kwargs: Any
    ) -> _Out_co: ...
    @overload
    def remote(
        self: Remote[Callable[Concatenate[_A, _B, ...], Any], _Out_co], a: _Arg[_A], b: _Ref[_B], /, **kwargs: Any
    ) -> _Out_co: ...
    @overload
    def remote(
        self: Remote[Callable[Concatenate[_A, _B, ...], Any], _Out_co], a: _Ref[_A], b: _Arg[_B], /, **kwargs: Any
    ) -> _Out_co: ...
    # More than can be told apart.
    @overload
    def remote(
        self, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, /, *args: Any, **kwargs: Any
    ) -> _Out_co: ...
    def _remote(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> _Out_co: ...

class RemoteFunction(Remote[Callable[_P, _R], _core.ObjectRef[_R]], _core.RemoteFunction, Generic[_P, _R]):
    """A function whose calls run as tasks, in other processes."""

    @property
    def _function(self) -> Callable[_P, _R]: ...
    @overload  # type: ignore[override]
    def options(
        self, *, num_returns: Literal[1] | None = None, **options: Unpack[TaskOptions]
    ) -> RemoteFunction[_P, _R]: ...
    @overload
    def options(self, *, num_returns: Literal[0], **options: Unpack[TaskOptions]) -> Remote[Callable[_P, _R], None]: ...
    @overload
    def options(
        self, *, num_returns: Literal["dynamic"], **options: Unpack[TaskOptions]
    ) -> Remote[Callable[_P, _R], _core.ObjectRef[DynamicObjectRefGenerator[Any]]]: ...
    @overload
    def options(
        self, *, num_returns: Literal["streaming"], **options: Unpack[TaskOptions]
    ) -> Remote[Callable[_P, _R], ObjectRefGenerator[Any]]: ...
    @overload
    def options(self, *, num_returns: int, **options: Unpack[TaskOptions]) -> Remote[Callable[_P, _R], _Refs]: ...
    def bind(self, *args: Any, **kwargs: Any) -> FunctionNode: ...

class RemoteGenerator(Remote[Callable[_P, Any], ObjectRefGenerator[_Y]], _core.RemoteFunction, Generic[_P, _Y]):
    """A generator whose calls run as tasks; it gives references while it runs."""

    @overload  # type: ignore[override]
    def options(
        self, *, num_returns: Literal["streaming"] | None = None, **options: Unpack[TaskOptions]
    ) -> RemoteGenerator[_P, _Y]: ...
    @overload
    def options(
        self, *, num_returns: Literal["dynamic"], **options: Unpack[TaskOptions]
    ) -> Remote[Callable[_P, Any], _core.ObjectRef[DynamicObjectRefGenerator[_Y]]]: ...
    @overload
    def options(self, *, num_returns: int, **options: Unpack[TaskOptions]) -> Remote[Callable[_P, Any], _Refs]: ...

# --- actors ----------------------------------------------------------------------------------------------------------

class TypedHandle(_core.ActorHandle[_T]):  # type: ignore[misc]
    """The handle in `ActorProxy[T]`, where attributes are looked up in `T`: it adds none of its own."""

    def __getattribute__(self, name: str, /) -> Never: ...

ActorProxy: TypeAlias = TypedHandle[_T] | type[_T]

class RemoteMethod(Remote[Callable[_P, _R], _Out_co], Generic[_P, _R, _Out_co]):
    """A method, as reached through a handle."""

    @overload
    def options(
        self, *, num_returns: None = None, **options: Unpack[MethodOptions]
    ) -> RemoteMethod[_P, _R, _Out_co]: ...
    @overload
    def options(
        self, *, num_returns: Literal[1], **options: Unpack[MethodOptions]
    ) -> RemoteMethod[_P, _R, _core.ObjectRef[_R]]: ...
    @overload
    def options(self, *, num_returns: Literal[0], **options: Unpack[MethodOptions]) -> RemoteMethod[_P, _R, None]: ...
    @overload
    def options(
        self, *, num_returns: Literal["dynamic"], **options: Unpack[MethodOptions]
    ) -> RemoteMethod[_P, _R, _core.ObjectRef[DynamicObjectRefGenerator[Any]]]: ...
    @overload
    def options(
        self, *, num_returns: Literal["streaming"], **options: Unpack[MethodOptions]
    ) -> RemoteMethod[_P, _R, ObjectRefGenerator[Any]]: ...
    @overload
    def options(self, *, num_returns: int, **options: Unpack[MethodOptions]) -> RemoteMethod[_P, _R, _Refs]: ...
    def bind(self, *args: Any, **kwargs: Any) -> Any: ...

class Method(Generic[_P, _R, _Out_co]):
    """What `@method` makes of a method: as before on an instance, remote on a handle."""

    @overload
    def __get__(self, instance: None, owner: Any, /) -> RemoteMethod[_P, _R, _Out_co]: ...
    @overload
    def __get__(self, instance: object, owner: Any, /) -> Callable[_P, _R]: ...

class MethodDecorator(Protocol):
    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, _P], _Unsaid], /
    ) -> Method[_P, Any, _core.ObjectRef[Any]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, _P], AsyncIterator[_Y]], /
    ) -> Method[_P, AsyncIterator[_Y], ObjectRefGenerator[_Y]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, _P], Iterator[_Y]], /
    ) -> Method[_P, Iterator[_Y], ObjectRefGenerator[_Y]]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[Any, _P], Coroutine[Any, Any, _R]], /
    ) -> Method[_P, Coroutine[Any, Any, _R], _core.ObjectRef[_R]]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, _P], _R], /) -> Method[_P, _R, _core.ObjectRef[_R]]: ...

class MethodDecoratorTo(Protocol[_R_co]):
    def __call__(self, function: Callable[Concatenate[Any, _P], _R], /) -> Method[_P, _R, _R_co]: ...

# --- decorators ------------------------------------------------------------------------------------------------------

class Decorator(Protocol):
    """`@remote(...)` without `num_returns`."""

    @overload
    def __call__(self, cls: type[_T], /) -> ActorClass[_T]: ...
    @overload
    def __call__(self, function: Callable[_P, _Unsaid], /) -> RemoteFunction[_P, Any]: ...
    @overload
    def __call__(self, function: Callable[_P, AsyncIterator[_Y]], /) -> RemoteGenerator[_P, _Y]: ...
    @overload
    def __call__(self, function: Callable[_P, Iterator[_Y]], /) -> RemoteGenerator[_P, _Y]: ...
    @overload
    def __call__(self, function: Callable[_P, _R], /) -> RemoteFunction[_P, _R]: ...

class DecoratorTo(Protocol[_R_co]):
    """`@remote(num_returns=...)`, where that alone says what a call gives."""

    def __call__(self, function: Callable[_P, Any], /) -> Remote[Callable[_P, Any], _R_co]: ...

class DynamicDecorator(Protocol):
    """`@remote(num_returns="dynamic")`."""

    def __call__(
        self, function: Callable[_P, Iterator[_Y]], /
    ) -> Remote[Callable[_P, Any], _core.ObjectRef[DynamicObjectRefGenerator[_Y]]]: ...

@overload
def remote(cls: type[_T], /) -> ActorClass[_T]: ...
@overload
def remote(function: Callable[_P, _Unsaid], /) -> RemoteFunction[_P, Any]: ...
@overload
def remote(function: Callable[_P, AsyncIterator[_Y]], /) -> RemoteGenerator[_P, _Y]: ...
@overload
def remote(function: Callable[_P, Iterator[_Y]], /) -> RemoteGenerator[_P, _Y]: ...
@overload
def remote(function: Callable[_P, _R], /) -> RemoteFunction[_P, _R]: ...
@overload
def remote(*, num_returns: Literal[1, "streaming"] | None = None, **options: Unpack[RemoteOptions]) -> Decorator:
    """Makes a function run as tasks, or a class's instances live in processes of their own.

    Used as `@ray.remote`, or with options as `@ray.remote(num_cpus=2)`.

    Args:
        num_returns: How many references a call gives; of a generator "streaming", as by default, or "dynamic".
        **options: See `ray_rs.options.OPTIONS`.

    Returns:
        A `RemoteFunction` or an `ActorClass`; with options, a decorator that makes one.

    Raises:
        AssertionError: Neither used as `@remote` nor as `@remote(option=...)`.
        TypeError: Not a function or class; an option of the wrong type.
        ValueError: A bad option.

    Example:
        >>> @ray.remote(num_cpus=2)
        ... def square(x):
        ...     return x * x
        >>> ray.get(square.remote(4))
        16
    """

@overload
def remote(*, num_returns: Literal["dynamic"], **options: Unpack[RemoteOptions]) -> DynamicDecorator: ...
@overload
def remote(*, num_returns: Literal[0], **options: Unpack[RemoteOptions]) -> DecoratorTo[None]: ...
@overload
def remote(*, num_returns: int, **options: Unpack[RemoteOptions]) -> DecoratorTo[_Refs]: ...
@overload
def method(function: Callable[Concatenate[Any, _P], _Unsaid], /) -> Method[_P, Any, _core.ObjectRef[Any]]: ...
@overload
def method(
    function: Callable[Concatenate[Any, _P], AsyncIterator[_Y]], /
) -> Method[_P, AsyncIterator[_Y], ObjectRefGenerator[_Y]]: ...
@overload
def method(
    function: Callable[Concatenate[Any, _P], Iterator[_Y]], /
) -> Method[_P, Iterator[_Y], ObjectRefGenerator[_Y]]: ...
@overload
def method(
    function: Callable[Concatenate[Any, _P], Coroutine[Any, Any, _R]], /
) -> Method[_P, Coroutine[Any, Any, _R], _core.ObjectRef[_R]]: ...
@overload
def method(function: Callable[Concatenate[Any, _P], _R], /) -> Method[_P, _R, _core.ObjectRef[_R]]: ...
@overload
def method(*, num_returns: Literal[1, "streaming"] | None = None, **options: Unpack[MethodOptions]) -> MethodDecorator:
    """Says how a method of an actor class is to be called.

    Args:
        num_returns: As in `remote`.
        **options: `max_task_retries`, `retry_exceptions`, `timeout_s`, `concurrency_group`.

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

@overload
def method(
    *, num_returns: Literal["dynamic"], **options: Unpack[MethodOptions]
) -> MethodDecoratorTo[_core.ObjectRef[DynamicObjectRefGenerator[Any]]]: ...
@overload
def method(*, num_returns: Literal[0], **options: Unpack[MethodOptions]) -> MethodDecoratorTo[None]: ...
@overload
def method(*, num_returns: int, **options: Unpack[MethodOptions]) -> MethodDecoratorTo[_Refs]: ...
