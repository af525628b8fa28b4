"""The engine's Rust extension. Users never import it; `ray_rs.__init__` and the `_*.py` modules do.

What is user-facing here (`get`, `put`, `wait`, `kill`, `ObjectRef`, the ids, `ActorHandle`, ...) carries Ray's own
signatures, checks and error texts and is re-exported as it is, so that no Python frame sits on a hot path.

Python names that the extension looks up lazily, on first use (they must exist with exactly these signatures):

    ray_rs.api._auto_init() -> None
        Called when something is used before `init`: starts a local cluster, or raises RaySystemError when
        auto-connect is off. Must leave the process connected (see `connect`).
    ray_rs._serialization.dumps(obj) -> tuple[bytes, list[pickle.PickleBuffer]]
        For everything that is not made of exact builtin types: cloudpickle at protocol 5 with out-of-band buffers
        (registered serializers, `__main__` classes). ObjectRef and ActorHandle pickle themselves through copyreg.
    ray_rs._serialization.explain_failure(obj, what, exc, use) -> BaseException
        Returns the exception (TypeError) to raise when `obj` could not be pickled. `what` is one of "the put value",
        "the argument", "the result of f"; `use` is "for a task or actor f" or "".
    ray_rs._signature.raise_mismatch(signature, args, kwargs) -> None
        Called when the quick check in Rust does not accept a call: raises the TypeError that
        `inspect.Signature.bind` gives; returns when the call is right after all. `signature` as in `RemoteFunction`.
    ray_rs.remote_function._prepare(function: RemoteFunction) -> dict
        First `.remote()` of this object in a session. Keys: "blob" (bytes: the cloudpickled function; cache it in
        `function._shared` so that all option variants share it), "name" (display name), "resources"
        (dict[str, float], zero-valued ones left out), "max_retries" (int, -1 for ever), "retry_exceptions" (bytes:
        b"" never, b"\\x01" always, else a pickled tuple of classes), "max_calls" (int), "num_returns" (int),
        "backpressure" (int), "timeout_s" (float or None), "strategy" (see `create_actor`), "captures_children" (bool:
        what it makes runs in its placement group), "follows_caller" (bool: it runs in the placement group of a caller
        that captures; then `_prepare` is asked for each such group).
    ray_rs.remote_function._rebuild(function, name, signature, options) -> RemoteFunction
        Unpickles a RemoteFunction.
    ray_rs.remote_function._options(function: RemoteFunction, options: dict) -> object with `.remote`
    ray_rs.actor._method_options(method: ActorMethod, options: dict) -> object with `.remote`
        `.options(**options)` of the two classes. Use `_with_options` to build the result.
    ray_rs.exceptions: RayTaskError (with `as_instanceof_cause()`), GetTimeoutError(text), ObjectStoreFullError(text),
        RaySystemError(text), ActorAlreadyExistsError(text), ActorHandleNotFoundError(text),
        PendingCallsLimitExceeded(text), and these factories, which compose the texts:
    ray_rs.exceptions._worker_crashed(task_name, pid, exit_code, signal, last_stderr, detail) -> WorkerCrashedError
        `signal` is 0 when the process exited; `exit_code` is then its status.
    ray_rs.exceptions._actor_died(actor_id_hex, class_name, pid, name, namespace, cause, message, creation_error,
            ip) -> ActorDiedError
        `cause`: "unknown" "worker_died" "killed" "creation_failed" "out_of_scope" "exited_itself" "owner_died"
        "unschedulable"; `creation_error`: the RayTaskError of the constructor, or None; class_name may be "".
    ray_rs.exceptions._actor_unavailable(actor_id_hex, message) -> ActorUnavailableError
    ray_rs.exceptions._object_lost(object_ref_hex, owner_died, message) -> ObjectLostError | OwnerDiedError
    ray_rs.exceptions._argument_failed(names, inner) -> BaseException
        Called by pickles that the engine writes: the error of a task one of whose arguments failed.
    ray_rs.exceptions._deserialization_failed(exc) -> RaySystemError
        A value could not be unpickled; carries the traceback.
    ray_rs._worker_main.warn_blocking_get() -> None
        Blocking `get`/`wait` on the event loop of an async actor; called once per process.
    ray_rs._generator.collect(generator) -> (DynamicObjectRefGenerator, Exception | None)
        In a worker: a task with num_returns="dynamic" has given a generator.
    ray_rs._generator.check_meant(generator, name) -> None
        In a worker: a task with one return has given a generator.
    ray_rs._async_loop.make(engine) -> AbstractEventLoop, .use(loop), .construct(loop, construction), .run(loop, ended)
        The event loops of an async actor.

Errors arrive pickled: `pickle.loads` of what `make_error` gave makes a RayTaskError, or an UnserializableException when
its cause refuses to load. The extension raises what their `as_instanceof_cause()` returns.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from concurrent.futures import Future as ConcurrentFuture
from typing import Any, Generic, Literal, NoReturn, Protocol, TypeAlias, TypeVar, final, overload

from typing_extensions import Self, disjoint_base

from ray_rs._generator import ObjectRefGenerator

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)
_Waitable = TypeVar("_Waitable", bound="ObjectRef[Any] | ObjectRefGenerator[Any]")
_Id = TypeVar("_Id", bound="_BaseID")

# (name, kind as in inspect.Parameter.kind, has a default) of each parameter but `self`. None: not known, no check.
_Signature: TypeAlias = tuple[tuple[str, int, bool], ...] | None
# (key, test, values), and (kind, node id, soft, spill, fail, hard rules, preferred rules, selectors).
_Rule: TypeAlias = tuple[str, int, list[str]]
_Strategy: TypeAlias = tuple[int, bytes, bool, bool, bool, list[_Rule], list[_Rule], list[list[_Rule]]]

# --- ids -------------------------------------------------------------------------------------------------------------

class _BaseID:
    """Common to all ids below (each is its own final class; this base exists for type checkers only)."""

    def __new__(cls, id: bytes) -> Self:
        """TypeError "expected bytes" / ValueError "needs to have length N"."""
    def binary(self) -> bytes:
        """The id as bytes."""
    def hex(self) -> str:
        """The id in hexadecimal digits."""
    def is_nil(self) -> bool:
        """Whether it stands for nothing: all of its bits are set."""
    @classmethod
    def size(cls) -> int:
        """Length in bytes."""
    @classmethod
    def nil(cls: type[_Id]) -> _Id:
        """The id that stands for nothing."""
    @classmethod
    def from_binary(cls: type[_Id], id: bytes) -> _Id:
        """The id of these bytes; ValueError when there are too many or too few."""
    @classmethod
    def from_hex(cls: type[_Id], hex_id: str) -> _Id:
        """The id of these hexadecimal digits; ValueError when they are none."""
    @classmethod
    def from_random(cls: type[_Id]) -> _Id:
        """A new id that nothing has yet."""
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class JobID(_BaseID):
    """The id of a job: what one driver does, from its connection to its end."""

    @classmethod
    def from_int(cls, value: int) -> JobID:
        """The id of the job with this number."""
    def int(self) -> int:
        """The job's number in its cluster."""

@final
class ActorID(_BaseID):
    """The id of an actor."""

    @property
    def job_id(self) -> JobID:
        """The job that it belongs to."""

@final
class TaskID(_BaseID):
    """The id of one task, or of one call of an actor's method."""

    def actor_id(self) -> ActorID:
        """The actor whose method it is; nil for a task."""
    def job_id(self) -> JobID:
        """The job that it belongs to."""

@final
class NodeID(_BaseID):
    """The id of a node."""

@final
class WorkerID(_BaseID):
    """The id of a process: a worker or a driver."""

@final
class FunctionID(_BaseID):
    """The id of a remote function, by the content of its pickle."""

@final
class ActorClassID(_BaseID):
    """The id of an actor class."""

@final
class UniqueID(_BaseID):
    """The id of anything."""

@final
class ClusterID(_BaseID):
    """The id of a cluster."""

@final
class PlacementGroupID(_BaseID):
    """The id of a placement group."""

@final
class ObjectRef(Awaitable[_T_co], Generic[_T_co]):
    """A counted reference to an object that is there or will be; `await` of it gives the value, as `get` does.

    The object lives as long as some process has a reference to it. `ObjectRef(bytes)` makes one of an object that
    another process owns, which is looked up by the id.
    """

    def __new__(cls, id: bytes) -> Self: ...
    def binary(self) -> bytes:
        """The object's id as bytes."""
    def hex(self) -> str:
        """The object's id in hexadecimal digits."""
    def is_nil(self) -> bool:
        """Whether it refers to nothing."""
    @classmethod
    def size(cls) -> int:
        """Length of an id in bytes."""
    @classmethod
    def nil(cls) -> ObjectRef[Any]:
        """A reference to nothing."""
    @classmethod
    def from_binary(cls, id: bytes) -> ObjectRef[Any]:
        """A reference to the object of this id, as `ObjectRef(id)`."""
    @classmethod
    def from_hex(cls, hex_id: str) -> ObjectRef[Any]:
        """NotImplementedError, as in Ray."""
    def task_id(self) -> TaskID:
        """The task that makes the object, or that has put it."""
    def job_id(self) -> JobID:
        """The job that it belongs to."""
    def owner_address(self) -> bytes:
        """Of the process that owns it: node id, worker id, pid (little-endian u32)."""
    def call_site(self) -> str:
        """The line of the program that made it, as "file.py:12"; empty where that was not noted."""
    def _glance(self) -> tuple[bool, int] | None:
        """(is an error, bytes) of a value that is there, None of one that is not. Waits for nothing, and counts as no
        look at an error."""
    def future(self) -> ConcurrentFuture[_T_co]:
        """A future of the value, for threads."""
    def as_future(self) -> asyncio.Future[_T_co]:
        """A future of the value, of the event loop that runs."""
    def _on_completed(self, callback: Callable[[Any], None]) -> None:
        """`callback(value_or_exception)` on a thread of the engine."""
    # These four are put here by `ray_rs.api`.
    def _repr_html_(self) -> str: ...
    def _standing(self) -> tuple[str, float] | None:
        """State of the task that makes it, until that has ended, and seconds since it was submitted; else None."""

    def _on_ready(self, callback: Callable[[Any], None]) -> Callable[[], None]: ...
    async def _ready(self) -> None: ...
    def tensor_transport(self) -> None:
        """Always None: tensors travel as other values do."""
    def __await__(self) -> Generator[Any, None, _T_co]: ...
    def __hash__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    @classmethod
    def __class_getitem__(cls, item: Any) -> Any: ...

# --- remote functions ------------------------------------------------------------------------------------------------

@final
class RemoteCall:
    """`f.remote`: called, it calls the function elsewhere. Has the function's own signature, name and docstring."""

    @property
    def __wrapped__(self) -> Callable[..., Any]: ...
    @property
    def __name__(self) -> str: ...
    @property
    def __qualname__(self) -> str: ...
    @property
    def _function(self) -> Callable[..., Any]: ...
    @property
    def _function_name(self) -> str: ...
    @property
    def _default_options(self) -> dict[str, Any]: ...
    @property
    def _signature(self) -> _Signature: ...
    @property
    def _shared(self) -> Any: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """ObjectRef, a list of them (num_returns > 1), or None (num_returns = 0)."""
    def __reduce__(self) -> Any: ...

@disjoint_base
class RemoteFunction:
    """A function that runs elsewhere; `@remote` makes it.

    Libraries may use `_function`, `_function_name` and `_default_options`, and derive classes from it.
    """

    def __new__(
        cls,
        function: Callable[..., Any],
        name: str,
        signature: _Signature,
        options: Mapping[str, Any],
        shared: Any = None,
    ) -> Self:
        """`options`: the user's, validated, kept as `_default_options`. `shared`: any object, the same one for all
        option variants of one function (a fresh dict when None)."""
    @property
    def _function(self) -> Callable[..., Any]: ...
    @property
    def _function_name(self) -> str: ...
    @_function_name.setter
    def _function_name(self, value: str) -> None: ...
    @property
    def _default_options(self) -> dict[str, Any]: ...
    @property
    def _signature(self) -> _Signature: ...
    @property
    def _shared(self) -> Any: ...
    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function in a worker process: with its own arguments, each also as a reference.

        Returns:
            An ObjectRef, a list of them with num_returns > 1, None with 0, an ObjectRefGenerator of a generator.

        Raises:
            TypeError: The arguments do not fit the function, or can't be pickled.
        """
    @property
    def _call(self) -> RemoteCall:
        """Lies before `remote` in the `__dict__`."""
    def _remote(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any: ...
    def options(self, **options: Any) -> Any:
        """The same function with these options laid over its own; has `.remote`, `.bind` and `.options`.

        Args:
            **options: See `ray_rs.options.OPTIONS`.

        Raises:
            TypeError: An option of the wrong type.
            ValueError: An unknown option, or a bad value.
        """
    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Describes a call instead of making it; see `ray_rs.dag`."""
    @property
    def __signature__(self) -> Any:
        """The function's; put here by `ray_rs.api`."""
    def _with_options(self, options: Mapping[str, Any]) -> RemoteFunction:
        """Another one of the same function and `_shared`; `options` are the complete, merged ones."""
    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """TypeError "Remote functions cannot be called directly"."""
    def __reduce__(self) -> Any: ...

# --- actors ----------------------------------------------------------------------------------------------------------

@final
class ActorDescriptor:
    """What a handle must know of its actor's class. Immutable; `to_bytes` is what travels with handles."""

    def __new__(
        cls,
        class_name: str,
        module: str,
        methods: Sequence[tuple[str, _Signature, int, int, bytes, bool, bool, float | None, int, str]],
        max_pending_calls: int = ...,
        extra: Any = None,
        is_durable: bool = False,
    ) -> Self:
        """`methods`: (name, signature, num_returns, max_task_retries, retry_exceptions as in `_prepare`, is_async,
        unlisted, timeout_s, backpressure, concurrency_group), with the builtin ones (`__ray_ready__`, `__ray_call__`,
        `__ray_terminate__`, `__init__`) among them when they shall be callable. `extra`: plain picklable data for
        Python's own use."""
    @staticmethod
    def from_bytes(data: bytes) -> ActorDescriptor: ...
    def to_bytes(self) -> bytes: ...
    @property
    def class_name(self) -> str: ...
    @property
    def module(self) -> str: ...
    @property
    def extra(self) -> Any: ...
    @property
    def method_names(self) -> list[str]: ...

@final
class ActorHandle(Generic[_T]):
    """A handle on an actor: each of its methods is an attribute with `.remote()`.

    Handles can be passed to tasks and actors, and compare equal when they are of the same actor. The actor lives as
    long as one that was not got by name, unless it is detached.
    """

    @property
    def _actor_id(self) -> ActorID: ...
    @property
    def _ray_actor_id(self) -> ActorID: ...
    @property
    def _ray_descriptor(self) -> ActorDescriptor: ...
    @property
    def _ray_is_weak(self) -> bool: ...
    def _repr_html_(self) -> str:
        """Put here by `ray_rs.api`."""
    def __getattribute__(self, name: str, /) -> ActorMethod: ...
    @classmethod
    def __class_getitem__(cls, item: Any) -> Any: ...

@final
class ActorMethod:
    """A method of an actor, as its handle gives it."""

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Calls it in the actor's process: ObjectRef, a list of them (num_returns > 1), or None (num_returns = 0)."""
    def _remote(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any: ...
    def options(self, **options: Any) -> Any:
        """The same method with these options, for one call; has `.remote`.

        Args:
            **options: `num_returns`, `max_task_retries`, `retry_exceptions`, `timeout_s`, `concurrency_group`, `name`.

        Raises:
            TypeError: An unknown option, or one of the wrong type.
            ValueError: A bad value.
        """
    def _with_options(
        self,
        *,
        name: str | None = None,
        num_returns: int | None = None,
        max_task_retries: int | None = None,
        retry_exceptions: bytes | None = None,
        timeout_s: float | None = None,
        backpressure: int | None = None,
        concurrency_group: str | None = None,
        unlisted: bool | None = None,
    ) -> ActorMethod: ...
    @property
    def _concurrency_groups(self) -> tuple[str, ...]: ...
    @property
    def _is_durable(self) -> bool: ...
    def bind(self, *args: Any, **kwargs: Any) -> Any:
        """Describes a call instead of making it; see `ray_rs.dag`."""
    @property
    def _num_returns(self) -> int | str: ...
    @property
    def _method_name(self) -> str: ...
    @property
    def _actor_id(self) -> ActorID: ...
    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """TypeError "Actor methods cannot be called directly"."""

def create_actor(
    descriptor: ActorDescriptor,
    class_blob: bytes,
    signature: _Signature,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    placement_resources: Mapping[str, float],
    running_resources: Mapping[str, float],
    max_restarts: int = 0,
    max_task_retries: int = 0,
    max_concurrency: int = 1,
    is_async: bool = False,
    detached: bool = False,
    name: str = "",
    namespace: str = "",
    get_if_exists: bool = False,
    extra: bytes = ...,
    concurrency_groups: Sequence[tuple[str, int]] = ...,
    runtime_env: str = "",
    strategy: _Strategy | None = None,
    captures_children: bool = False,
    unlisted: bool = False,
    durability: tuple[int, float | None] | None = None,
) -> ActorHandle[Any]:
    """Returns at once unless named. `namespace` "" is the job's. `class_blob` is exported once per content.
    Raises ActorAlreadyExistsError. `extra`: pickled dict given to the hosting worker's `start_actor` callback.
    `strategy` as in the message SchedulingStrategy; absent: any node. `durability`: checkpoint_every, and
    checkpoint_interval_s."""

def create_placement_group(
    bundles: Sequence[Mapping[str, float]],
    strategy: int,
    name: str = "",
    namespace: str = "",
    detached: bool = False,
    soft_target_node: bytes | None = None,
    selectors: Sequence[Sequence[tuple[str, int, Sequence[str]]]] = ...,
) -> PlacementGroupID:
    """Returns at once unless named; ValueError when the name is taken. `strategy` as in PlacementGroupSpec."""

def remove_placement_group(id: bytes) -> None: ...
def wait_placement_group(id: bytes, timeout_s: float | None) -> bool | None:
    """Whether it is created; None when it was removed. No timeout: None."""

def placement_group_ready(id: bytes, value: _T) -> ObjectRef[_T]:
    """A reference to `value`, which is there when the group is created; else TaskPlacementGroupRemoved."""

def get_placement_group(id: bytes | None = None, name: str = "", namespace: str = "") -> dict[str, Any] | None:
    """id (bytes), name, namespace, strategy (int), detached, state (int), detail, creation_ms, bundles, nodes (hex of
    each bundle's, or "")."""

def list_placement_groups() -> list[dict[str, Any]]: ...
def current_placement_group() -> tuple[PlacementGroupID, bool] | None:
    """Of the task or actor that asks, with whether it captures what it makes."""

def get_actor_handle(name: str, namespace: str = "") -> ActorHandle[Any] | None:
    """A weak handle, or None when there is no such actor."""

@final
class Stream:
    """The items of one remote generator, for `ray_rs._generator`. Dropping it drops what was not taken."""

    def next(self, timeout: float | None = None) -> ObjectRef[Any] | None:
        """The next item's reference, or None after the last; GetTimeoutError after so many seconds without either."""
    def peek(self) -> ObjectRef[Any]:
        """A reference that is ready as soon as `next` does not wait."""
    def is_over(self) -> bool:
        """Whether every item was taken, and no more come."""

def cancel(
    ray_waitable: ObjectRef[Any] | ObjectRefGenerator[Any], *, force: bool = False, recursive: bool = True
) -> None:
    """Gives up the task that makes an object, wherever it stands; returns before that has taken effect.

    One that has not begun never runs. One that runs gets a `KeyboardInterrupt` (a coroutine a `CancelledError`, another
    method of an actor only a flag, `get_runtime_context().is_canceled()`), or with `force` loses its process. `get` of
    the object raises `TaskCancelledError`. Nothing happens to tasks that have ended, or to objects that were put.

    Args:
        ray_waitable: A return of the task.
        force: End the process of a running task; not for calls of actors.
        recursive: Also cancel what the task has submitted itself.

    Raises:
        TypeError: Not a reference.
        ValueError: `force` for a call of an actor.
    """

def take_interrupt() -> bool:
    """For a worker's handler of SIGINT: whether the task that runs on this thread is to be interrupted. True once."""

def is_current_task_cancelled() -> bool | None:
    """Whether the task that runs here was cancelled; None when none runs."""

def kill(actor: ActorHandle[Any] | type[Any], *, no_restart: bool = True) -> None:
    """Ends an actor's process at once, whatever it does.

    Calls that wait, and later ones, fail with `ActorDiedError`; if the actor may restart, those that were under way
    fail with `ActorUnavailableError`. An actor whose handles are all dropped ends by itself, after its last call.

    Args:
        actor: A handle.
        no_restart: The actor is not to come back, whatever its `max_restarts` is.

    Raises:
        ValueError: Not a handle.
    """

# --- objects ---------------------------------------------------------------------------------------------------------

@overload
def get(
    object_refs: Sequence[ObjectRef[_T]],
    *,
    timeout: float | None = None,
    copy: bool | Literal["on_write"] | None = None,
    _use_object_store: bool = False,
) -> list[_T]: ...
@overload
def get(
    object_refs: ObjectRef[_T],
    *,
    timeout: float | None = None,
    copy: bool | Literal["on_write"] | None = None,
    _use_object_store: bool = False,
) -> _T:
    """Waits for a value, or for several, and gives them.

    Inside a task it lends the task's CPU to others while it waits. It can be interrupted by Ctrl-C.

    Args:
        object_refs: A reference, or a list of them.
        timeout: Seconds to wait for all of them; None: for ever; 0: only what is there.
        copy: Arrays lie in shared memory and are read-only. With True they are copied, and may be written to; with
            "on_write" they may be written to as well, and only pages that are written to are copied, when they are. The
            object stays in the store while such an array lives.

    Returns:
        The value; a list of values, in the order of the references.

    Raises:
        GetTimeoutError: It took longer.
        RayTaskError: The task that makes it raised; the error is also an instance of the class that was raised.
        RayError: It can't be had for another reason, as its class says; see `ray_rs.exceptions`.
        ValueError: Not a reference, or a list with something else in it.

    Example:
        >>> values = ray.get(ref, copy="on_write")
        >>> values[0] = 1  # nobody else sees it
    """

def put(value: _T, *, _owner: Any = None, _tensor_transport: Any = None) -> ObjectRef[_T]:
    """Stores a value once, so that many tasks can use it, and gives a reference to it.

    Up to 100 KiB it stays in this process; a larger one is copied into the node's shared memory, and arrays in it are
    read there without another copy. It can't be changed afterwards.

    Args:
        value: Anything that can be pickled, except a reference.
        _owner: An actor that is to own the object, instead of this process.
        _tensor_transport: Must be None.

    Returns:
        The reference; the value is freed when no process has one any more.

    Raises:
        TypeError: A reference, or what can't be pickled.
        ObjectStoreFullError: There is no room, and nothing that could be moved to disk.
        OutOfDiskError: There was something, but the disk is full too.
    """

def wait(
    ray_waitables: list[_Waitable], *, num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[_Waitable], list[_Waitable]]:
    """Waits until some of the references are ready: there is a value, or an error.

    Args:
        ray_waitables: References and generators, each once.
        num_returns: How many are to be ready.
        timeout: Seconds to wait; None: for ever.
        fetch_local: An object on another node is ready when it has been copied here.

    Returns:
        Two lists, in the order of `ray_waitables`: at most `num_returns` that are ready, and all others.

    Raises:
        TypeError: Not a list of references.
        ValueError: The same reference twice, or `num_returns` not between 1 and their number.
    """

@overload
def empty(shape: int, dtype: None = None) -> WritableBuffer: ...
@overload
def empty(shape: int | Sequence[int], dtype: Any) -> Any:
    """An array in the object store, to be filled and then `put` without a copy.

    Args:
        shape: Lengths of the array; without a dtype, a number of bytes.
        dtype: Anything that `numpy.dtype` takes, except what holds Python objects.

    Returns:
        A `numpy.ndarray` with any content; without a dtype, a `WritableBuffer`. `put` of it, or of a value that holds
        it and no other array, seals it where it lies: from then on it is read-only. (Slices of an array that were made
        before that keep their flag, and must not be written to.) Dropped without `put`, its memory is free again.

    Raises:
        ValueError: The dtype holds Python objects.
        ObjectStoreFullError: There is no room.

    Example:
        >>> array = ray.empty((1000, 1000), "f4")
        >>> array[:] = 0
        >>> ref = ray.put(array)
    """

@final
class WritableBuffer:
    """Writable memory of the object store, until it is `put`; then it is read-only. Made by `empty`.

    Goes through the buffer protocol: `memoryview(buffer)`, `file.readinto(buffer)`, `numpy.frombuffer(buffer)`. `get`
    of what was put gives a read-only `memoryview`.
    """

    if sys.version_info >= (3, 12):
        def __buffer__(self, flags: int, /) -> memoryview: ...
        def __release_buffer__(self, buffer: memoryview, /) -> None: ...

    def __len__(self) -> int: ...
    def __reduce_ex__(self, protocol: Any, /) -> Any: ...
    @property
    def readonly(self) -> bool:
        """Whether it was `put`, and so cannot be written to any more."""

@final
class SharedBuffer:
    """A read-only view of a part of a value, through the buffer protocol; what arrays that were read lie in."""

    if sys.version_info >= (3, 12):
        def __buffer__(self, flags: int, /) -> memoryview: ...

    def __len__(self) -> int: ...

# What references and handles are pickled as: a place in the table that travels beside a stream, or, when the user
# pickles them, all there is to know.
def pickle_on_trial(pickle: Callable[[Any], Any], value: Any) -> None: ...
def _reduce_ref(reference: ObjectRef[Any]) -> Any: ...
def _load_ref(index: int) -> ObjectRef[Any]: ...
def _load_out_of_band(id: bytes, owner: bytes) -> ObjectRef[Any]: ...
def _reduce_actor(handle: ActorHandle[Any]) -> Any: ...
def _load_actor(actor_id: bytes, descriptor: bytes, index: int | None) -> ActorHandle[Any]: ...
def _load_actor_out_of_band(actor_id: bytes, descriptor: bytes, handle_id: bytes, owner: bytes) -> ActorHandle[Any]: ...
def _object_getattribute(self: Any, name: str, /) -> Any: ...

# --- the process and its session -------------------------------------------------------------------------------------

def connect(
    session_dir: str,
    *,
    driver_config: bytes | None = None,
    fork_token: int | None = None,
    set_up_follows: bool = False,
    on_event: Callable[..., None] | None = None,
) -> None:
    """Makes this process a driver (`driver_config`: pickled dict of plain values, see raylet.proto) or a worker
    (`fork_token`; with `set_up_follows` it gets nothing to do before it calls `worker_ready`). Raises ConnectionError.
    `on_event` is called on a thread of the engine:
    on_event("log", name, pid, is_stderr, lines), on_event("notice", level, text) with level 0 info 1 warning 2 error,
    on_event("retried", task_name, retries_left, error_text), on_event("worker_crashed", text),
    on_event("unseen_error", text), on_event("raylet_died"). Installs the fork guard on first use."""

def redefine() -> None:
    """Functions are pickled once more before their next call: a module was loaded anew."""

def disconnect() -> None:
    """Ends the connection; refs and handles of the session become invalid. Safe to call at any time."""

def worker_ready() -> None:
    """Worker: its set-up is over."""

def give_back_code() -> None:
    """Zygote: unmaps code and constants of whatever is loaded; what is needed again is mapped again by the kernel."""

def prepare_to_fork() -> None:
    """Zygote: does once what each worker would do for itself, and leaves no gaps in the heap. Before the first fork."""

def mark_process(session_dir: str, zygote: int, worker: int) -> bool:
    """Zygote and worker: marks this process, and all that it starts from now on, as of this zygote and this worker.

    Args:
        session_dir: Directory of the session.
        zygote: The zygote's number.
        worker: Number of the order to fork; 0 in the zygote.

    Returns:
        False where the kernel refuses it.
    """

def end_marked_processes(session_dir: str) -> None:
    """Zygote whose raylet was killed: kills all workers of the session, and what they started, in two seconds."""

def is_initialized() -> bool:
    """Whether this process is part of a session."""

def flush_logs(timeout: float = 1.0) -> None:
    """Driver: returns when all lines printed so far by workers were given to `on_event`."""

def set_tracing(on: bool) -> None:
    """Whether calls of this process, and what it runs for calls that are traced, have spans of OpenTelemetry."""

def is_tracing() -> bool:
    """Whether they have."""

def process_info() -> dict[str, Any]:
    """Keys: worker_id, node_id, job_id (id objects), pid, session, session_dir, gcs_address, node_ip, namespace,
    node_resources (dict[str, float]), arena_bytes, is_driver, is_awaited (of a worker: the driver is answered when its
    loop begins). RaySystemError when not connected."""

def client_count() -> int:
    """Programs from outside of the cluster (`ray://`) that are connected to it, this one included if it is one."""

def cluster_view() -> list[dict[str, Any]]:
    """A dict a node: node_id (hex), alive, address, hostname, total, available (dict[str, float]), leases (counts)."""

@final
class Observer:
    """Asks a session, on a connection of its own that registers nothing. Rows are dictionaries of plain values.

    Args:
        session_dir: Of the session.
        timeout: Seconds to wait for each answer.

    Raises:
        ConnectionError: No raylet listens there.
        RaySystemError: No answer came, or the session ended.
    """

    def __new__(cls, session_dir: str, timeout: float = 30.0) -> Observer: ...
    def nodes(self) -> list[dict[str, Any]]: ...
    def cluster(self) -> dict[str, Any]:
        """The cluster as its control store knows it.

        Returns:
            `nodes` as of the method of this name; `waiting`: what waits for workers on any node, and `waiting_actors`:
            actors that have no node yet, by shape: `resources`, `count`, `why`, `infeasible`; `requested` in the same
            form; `autoscaler`: None, or its `instances`, `failures`, `pauses`, and shapes `infeasible` and `delayed`.
        """

    def store_stats(self) -> dict[str, int]: ...
    def store_objects(self) -> list[dict[str, Any]]:
        """Every object of the node's store.

        Returns:
            Of each: `offset` and `generation` (its name), `length`, `block_bytes` (of the arena, with header and
            rounding), `place` ("arena", "spilled", "restored", "written": not yet to its end, or "copy": of what lies
            on another node), `owner_pid`, `holder_pid` (whose extent it lies in; 0: the raylet's or none), and `pins`,
            how many processes look at it.
        """

    def why(self, id: str) -> str:
        """As the function `why`, of an id in hexadecimal digits."""

    def actors(self) -> list[dict[str, Any]]: ...
    def jobs(self) -> list[dict[str, Any]]: ...
    def kv_get(self, namespace: str, key: bytes) -> bytes | None: ...
    def kv_entries(self, namespace: str, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Keys that begin with the prefix, with their values."""
    def placement_groups(self) -> list[dict[str, Any]]: ...
    def dead_workers(self) -> list[dict[str, Any]]: ...
    def metrics(self) -> list[dict[str, Any]]: ...
    def trace_tasks(
        self, cursor: int, limit: int, numbers: dict[str, int], named: set[tuple[int, int]], as_text: bool
    ) -> tuple[Any, int, dict[str, int], set[tuple[int, int]]]:
        """A page of tasks that have ended, the oldest first, as events of Chrome's trace format.

        Args:
            cursor: Of the page before; 0 for the first one.
            limit: Tasks, 10,000 at most.
            numbers: Of nodes, by the digits of their ids.
            named: Rows that have a name: a node's number and a worker's pid.
            as_text: JSON objects with commas between them; else a list of dictionaries.

        Returns:
            The events; the next page's cursor, or 0; numbers and named with what was added.
        """

    def list_tasks(
        self,
        filters: list[tuple[str, bool, str | None]],
        *,
        limit: int,
        cursor: int = 0,
        ended_only: bool = False,
        counts: bool = False,
    ) -> dict[str, Any]:
        """A page of tasks: those that have not ended, then those that have, the latest first.

        Args:
            filters: Column, whether it has any other value, and the value, None for an empty column; all of them hold.
            limit: Rows, 10,000 at most.
            cursor: Of the page before; 0 for the first one.
            ended_only: Only those that have ended, the oldest first.
            counts: With numbers by name, type and state, on the first page.

        Returns:
            `rows`: tuples in the order of `TaskState`'s columns; `total`: how many pass the filters, on the first page;
            `cursor`: of the next page, 0 when there is none; `dropped`: tasks that are not kept; `counts`: tuples
            of name, type, state and number.
        """

    def describe_processes(
        self,
        *,
        tasks: bool = True,
        objects: bool = False,
        waiting: bool = False,
        environments: bool = False,
        moves: bool = False,
        stored: bool = False,
        limit: int = 0,
        first: list[str] = ...,
    ) -> dict[str, Any]:
        """As the function, with runtime environments, and what the object stores moved lately."""

@final
class TaskRecords:
    """Records of tasks that have ended, the latest 100,000, as they were when this was made. Texts are JSON.

    Args:
        observer: Of the session that is asked.

    Raises:
        RaySystemError: No answer came.
    """

    def __new__(cls, observer: Observer) -> TaskRecords: ...
    def __len__(self) -> int: ...
    @property
    def dropped(self) -> int:
        """How many there were before them."""

    def span_us(self) -> tuple[int, int] | None:
        """First start and last end, in microseconds since 1970."""

    def creations(self) -> list[str]:
        """Ids of the actors' constructors among them."""

    def by_name(self) -> str:
        """Sums for each name and type: `finished`, `failed`, `ran`; of what ran `run_us`, `longest_us`, `wait_us`."""

    def page(
        self, offset: int, limit: int, name: str | None = None, search: str = ..., failed: bool | None = None
    ) -> tuple[int, str]:
        """How many there are of those that are wanted, and rows of some of them, the latest first.

        Args:
            offset: So many are passed over.
            limit: So many rows at most.
            name: Only those of this name.
            search: A part of the name, or the beginning of the id.
            failed: Only those that have failed, or that have not.
        """

    def chart(self, from_us: int, to_us: int, columns: int) -> str:
        """What ran where between two times: `names`, and `rows` of workers with cells [column, width, index of the name
        that took most of the time, thousandths of the time in which something ran, whether something failed]."""

def send_metrics(series: list[tuple[str, str, int, list[str], float, list[float], list[int]]]) -> None:
    """Tells the control store what was measured: (name, description, kind, tags, value, boundaries, counts) each."""

def describe_processes(
    *,
    tasks: bool = True,
    objects: bool = False,
    waiting: bool = False,
    stored: bool = False,
    limit: int = 0,
    first: list[str] = ...,
) -> dict[str, Any]:
    """What every process of every node is about, from the processes themselves; a busy one answers, too.

    Args:
        tasks: Unfinished tasks, what runs, who waits, the actors called.
        objects: References owned or borrowed.
        waiting: What waits for the resources of nodes, and why.
        stored: What the object stores hold.
        limit: Most rows of a kind from one process; 0, and at most: 10,000, and less where there are many nodes.
        first: Ids in hexadecimal digits (tasks, objects) whose rows come before others.

    Returns:
        A dict of `processes`, `silent` (addresses of those that did not answer within two seconds), `silent_nodes` (the
        ids of nodes that did not within four), `waiting`, and `stores` (of each node its `objects`, as of
        `Observer.store_objects`). Ids are hexadecimal digits, times microseconds since 1970.
    """

def why(target: ObjectRef[Any] | TaskID | ActorID | str | Any) -> str:
    """Why something is not there yet, and why what it waits for is not; or where it is.

    Asks all processes of all nodes, and answers also while they are busy.

    Args:
        target: A reference, a generator, an actor's handle, a TaskID, an ActorID, or the hexadecimal digits of an id.

    Returns:
        Text, a line for each step: what the task runs on since when, which argument it waits for, what is before it in
        its actor's queue, which resources are missing.

    Raises:
        TypeError: It is none of these.
        ValueError: The digits are no id.

    Example:
        >>> print(ray.why(ref))
    """

def store_objects() -> list[dict[str, Any]]: ...
def store_stats() -> dict[str, int]: ...
def counters() -> dict[str, int]: ...
def named_actors() -> list[tuple[str, str]]: ...
def request_resources(shapes: list[tuple[dict[str, float], int]]) -> None:
    """Tells the control store what there is to be room for in the cluster; replaces what was told before.

    Args:
        shapes: Resources that are to be on one node, and how often.
    """

def kv_put(namespace: str, key: bytes, value: bytes, overwrite: bool = True) -> bool:
    """True when the key is new."""

def kv_get(namespace: str, key: bytes) -> bytes | None: ...
def kv_del(namespace: str, key: bytes) -> int: ...
def kv_keys(namespace: str, prefix: bytes) -> list[bytes]: ...
def gcs_call(method: str, payload: bytes) -> bytes:
    """Serialized protobuf in and out; for tests and tools."""

# --- starting and stopping a node ------------------------------------------------------------------------------------

def launch_head(config_json: str) -> str:
    """Starts gcs and raylet; JSON of `ray_rs_cli::HeadConfig` in, the session's facts out."""

def stop_head(session_dir: str) -> None:
    """Ends what `launch_head` of this process started: SIGTERM, bounded wait, SIGKILL."""

def drain_node(address: str, token_path: str, node_id: bytes, reason: int, message: str, remaining_ms: int) -> str:
    """Asks a node of a cluster to take nothing new, and to leave when what it runs has ended.

    Args:
        address: Of its control store, as for `list_nodes`.
        token_path: File with the cluster's token.
        node_id: The node.
        reason: As in `DrainInfo`: 1 idle termination; 2 preemption.
        message: For people.
        remaining_ms: It leaves after so long, whatever still runs; 0: when that has ended.

    Returns:
        Why the node does not agree; empty: it has agreed.

    Raises:
        ConnectionError: The control store cannot be reached, does not take the token, or does not answer.
    """

def list_nodes(address: str, token_path: str) -> list[dict[str, Any]]:
    """Nodes of a cluster, as `cluster_view` gives them, without being connected to it.

    Args:
        address: Of its control store: "host:port" with a number for the host, or the path of its socket.
        token_path: File with the cluster's token.

    Raises:
        ConnectionError: It cannot be reached, does not take the token, or does not answer within 5 s.
    """

def list_sessions() -> list[str]:
    """The living sessions of this user on this machine, each as JSON as from `launch_head`, oldest first."""

def discover(address: str) -> str | None:
    """ "auto" or "host:port" -> JSON as from `launch_head`, or None when nothing runs."""

def run_head(gcs_config_json: str, raylet_config_json: str) -> int:
    """Body of both daemons of a head node: this process is the gcs, and a fork of it the raylet. Returns the exit
    status of the one in which it returns. Standard input is the channel to the launcher."""

def run_gcs(config_json: str, raylet_pid: str) -> int:
    """Runs the control store of a session whose earlier one has ended, as a child of its raylet, to its end.

    Returns:
        The exit code.
    """

def run_raylet(config_json: str) -> int:
    """Body of the raylet of a node that has joined a cluster; returns its exit status."""

def serve_web(
    session_dir: str,
    page_dir: str,
    answer: Callable[[str, str], tuple[int, str, bytes]],
    printed: Callable[[str, int], tuple[int, bytes, bool]],
) -> None:
    """Serves on the socket that is standard input, until nobody has been connected for a while."""

def run_scheduler(config_json: str) -> int:
    """Body of a replica of the global scheduler; returns its exit status."""

# --- inside workers --------------------------------------------------------------------------------------------------

class _WorkerCallbacks(Protocol):
    """Not a class here: any object with these attributes is given to `run_worker_loop`."""

    def make_error(self, exc: BaseException, callee_name: str, from_argument: bool) -> bytes:
        """The pickled RayTaskError of `exc` (whose traceback is the user's frames and below). Never raises: what can't
        be pickled is replaced, and an exception that can't be unpickled too. `from_argument`: `exc` is the error of a
        top-level ref argument; the body did not run."""
    def should_retry(self, retry_exceptions: bytes, exc: BaseException) -> bool:
        """Only called for a pickled tuple of classes."""
    def start_actor(self, cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any], info: dict[str, Any]) -> Any:
        """Constructs and returns the instance. `info`: actor_id (ActorID), class_name, name, namespace, incarnation,
        max_concurrency, is_async, gpu_ids, resources, job_id (JobID), extra (bytes). `cls` is the unpickled blob."""
    def restore_actor(
        self, cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any], info: dict[str, Any], state: bytes
    ) -> Any:
        """The same of a durable actor that ran before. `args` is empty unless the class restores itself."""
    def save_actor(self, instance: Any) -> bytes:
        """The state of a durable actor, between two calls."""
    def say_creation_failed(self, class_name: str, error: bytes) -> None:
        """`start_actor`, or reading its arguments, has raised; `error` as from `make_error`."""
    def set_gpus(self, gpu_ids: list[int]) -> None:
        """Before a task or actor that has GPUs."""
    def set_cpus(self, cpus: float) -> None:
        """Before a task that holds more or fewer CPUs than the one before it."""
    def warn_return_ignored(self, callee_name: str) -> None:
        """A task with num_returns=0 returned something."""
    def warn_items_ignored(self, callee_name: str, num_returns: int, error: BaseException | None) -> None:
        """A generator with a fixed number of returns has yielded more than these, or raised `error` after the last."""
    def end_forked_child(self, error: BaseException | None) -> NoReturn:
        """This process was forked by a task and came back from its function, by `error` or not: only its parent is a
        worker. Ends the process as Python would."""
    special_methods: dict[str, Callable[..., Any]]
    """name -> function(instance, *args, **kwargs): `__ray_ready__`, `__ray_call__`, `__ray_terminate__`."""
    actor_exit: type[BaseException]
    """What `exit_actor()` raises. Leaving by it is intended; `SystemExit` with code 0 or None counts the same."""

def run_worker_loop(callbacks: _WorkerCallbacks) -> tuple[bool, int, str]:
    """Runs tasks, or becomes an actor, until told to end. Returns (graceful, exit code, reason); the caller runs atexit
    handlers when graceful and ends the process with the code. Call it on the main thread."""

@final
class TaskContext:
    task_id: TaskID
    name: str
    job_id: JobID
    attempt: int
    gpu_ids: list[int]
    actor_id: ActorID | None
    function: Callable[..., Any] | None
    """The function, or the method as found on the actor's class."""
    resources: dict[str, float]
    """Those of the lease, or of the actor while it runs."""

def current_task() -> TaskContext | None:
    """The task that the calling thread (or asyncio task) runs. None in a driver and between tasks."""

def current_task_name() -> str:
    """Its display name, "" when there is none. Cheap: for the log prefix."""

def current_actor() -> tuple[ActorID, Any] | None:
    """(id, instance) in a process that hosts an actor."""

def own_actor_handle() -> ActorHandle[Any] | None:
    """A weak handle to the actor hosted by this process (from its descriptor and id), None elsewhere."""
