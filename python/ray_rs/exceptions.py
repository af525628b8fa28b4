"""What can go wrong, as classes.

Every error of the engine derives from `RayError`, carries plain values only, and survives pickling with all of its
attributes. Where a builtin means the same thing the class derives from it too (`GetTimeoutError` is a `TimeoutError`).

An error raised by user code travels as a `RayTaskError`. What `get` raises for it is made by
`RayTaskError.as_instanceof_cause`: an instance of a class that is both `RayTaskError` and the user's own class, so both
`except ValueError` and `except RayTaskError` catch it.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray_rs._special_exceptions import *  # noqa: F403

    RAY_EXCEPTION_TYPES: list[type[RayError]]

__all__ = [
    "RAY_EXCEPTION_TYPES",
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorHandleNotFoundError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "AsyncioActorExit",
    "AuthenticationError",
    "CrossLanguageError",
    "DeadlockError",
    "GetTimeoutError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "ObjectFetchTimedOutError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "ObjectRefStreamEndOfStreamError",
    "ObjectStoreFullError",
    "OufOfBandObjectRefSerializationException",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "PlasmaObjectNotAvailable",
    "RayActorError",
    "RayCgraphCapacityExceeded",
    "RayChannelError",
    "RayChannelTimeoutError",
    "RayDirectTransportError",
    "RayError",
    "RaySystemError",
    "RayTaskError",
    "ReferenceCountingAssertionError",
    "RpcError",
    "RuntimeEnvSetupError",
    "StreamingGeneratorReplayInconsistentError",
    "TaskCancelledError",
    "TaskPlacementGroupRemoved",
    "TaskTimeoutError",
    "TaskUnschedulableError",
    "UnserializableException",
    "UserCodeException",
    "WorkerCrashedError",
]


def _rebuild(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """Restores an error without running its constructor, whose parameters need not match `args`."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class RayError(Exception):
    """Base of all errors raised by the engine."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


# ------------------------------------------------------------------------------------------------ errors of user code


class RayTaskError(RayError):
    """User code raised while a task or an actor method ran.

    Attributes:
        function_name: Name of the function or method.
        traceback_str: The remote traceback as text, without the engine's own frames.
        cause: The user's exception. A `RayError` with its text when it could not be pickled.
        proctitle: Title of the process while it ran, such as ``ray::f``.
        pid: Process id of the worker.
        ip: Address of the worker's node.
        actor_repr: `repr` of the actor; None for tasks, and while its constructor runs.
        actor_id: Hexadecimal id of the actor; None for tasks.
    """

    def __init__(
        self,
        function_name: str,
        traceback_str: str,
        cause: BaseException,
        proctitle: str | None = None,
        pid: int | None = None,
        ip: str | None = None,
        actor_repr: str | None = None,
        actor_id: str | None = None,
    ) -> None:
        super().__init__(function_name, traceback_str, cause, proctitle, pid, ip)
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.cause = cause
        self.proctitle = proctitle or f"ray::{function_name}"
        self.pid = pid or os.getpid()
        self.ip = ip or "127.0.0.1"
        self.actor_repr = actor_repr
        self.actor_id = actor_id

    def __reduce__(self) -> tuple[Any, ...]:
        # The cause travels as bytes of its own: an exception class that refuses to be pickled, or to be restored on the
        # other side, then costs the cause only, and the text arrives in any case.
        from ray_rs._serialization import dumps_in_band

        state = {name: value for name, value in self.__dict__.items() if name != "cause"}
        try:
            cause = dumps_in_band(self.cause)
        except Exception as refusal:
            name = f"{type(self.cause).__module__}.{type(self.cause).__qualname__}"
            text = f"Exception {name} isn't serializable: {refusal}.\nOriginal exception details:\n{self.traceback_str}"
            cause = dumps_in_band(RayError(text))
        return _rebuild_task_error, (state, cause)

    def _head(self) -> str:
        title = self.proctitle if self.proctitle.endswith("()") else f"{self.proctitle}()"
        if not os.environ.get("NO_COLOR"):
            title = f"\033[36m{title}\033[39m"
        where = f"pid={self.pid}, ip={self.ip}"
        if self.actor_id is not None:
            where += f", actor_id={self.actor_id}"
        if self.actor_repr is not None:
            where += f", repr={self.actor_repr}"
        return f"{title} ({where})"

    def __str__(self) -> str:
        head = self._head()
        lines = self.traceback_str.rstrip("\n").split("\n")
        if _TRACEBACK_HEAD not in lines:  # an exception group draws a frame of its own
            lines.insert(0, head)
        return "\n".join(head if line == _TRACEBACK_HEAD else line for line in lines)

    def as_instanceof_cause(self) -> RayTaskError:
        """Gives the error that `get` raises: also an instance of the cause's class.

        Returns:
            An error of a class that inherits `RayTaskError` and the class of `cause`; this error itself when that is
            impossible (the class forbids subclasses or refuses construction) or needless.
        """
        if isinstance(self, type(self.cause)) or _steers(self.cause):
            return self
        try:
            return self.make_dual_exception_instance()
        except Exception as refusal:
            import logging

            logging.getLogger("ray_rs").warning(
                "The exception class %s can't be combined with RayTaskError (%s), so the error is raised as a plain "
                "RayTaskError; its `cause` is the original exception.",
                type(self.cause),
                refusal,
            )
            return self

    def make_dual_exception_instance(self) -> RayTaskError:
        """Makes the error that is both a `RayTaskError` and an instance of the cause's class.

        Returns:
            The new error.

        Raises:
            TypeError: The cause's class can't be subclassed.
        """
        cls = _dual_class(type(self.cause))
        if sys.version_info >= (3, 11) and isinstance(self.cause, BaseExceptionGroup):
            dual = cls.__new__(cls, self.cause.message, self.cause.exceptions)
        else:
            try:
                dual = cls.__new__(cls, self.cause)
            except TypeError:  # some builtins have constructors of their own, and make no others' instances
                dual = BaseException.__new__(cls, self.cause)
        dual.__init__(self)
        return dual  # type: ignore[no-any-return]


def _rebuild_task_error(state: dict[str, Any], cause: bytes) -> RayError:
    import pickle

    error = RayTaskError.__new__(RayTaskError)
    error.__dict__.update(state)
    try:
        error.cause = pickle.loads(cause)
    except Exception:
        error.cause = RayError("")
        return UnserializableException(str(error))
    error.args = (error.function_name, error.traceback_str, error.cause, error.proctitle, error.pid, error.ip)
    return error


def _steers(error: BaseException) -> bool:
    """Whether Python, or asyncio, takes it for an order: nobody pressed Ctrl-C here, or cancelled this coroutine."""
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
        return True
    asyncio = sys.modules.get("asyncio.exceptions")
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


_TRACEBACK_HEAD = "Traceback (most recent call last):"


def _dual_class(cause_class: type[BaseException]) -> Any:
    """The class `RayTaskError(E)`; one for each E, found again through E's own (weak) list of subclasses."""
    for known in type.__subclasses__(cause_class):
        if known.__dict__.get("_dual_of") is cause_class:
            return known

    class dual(RayTaskError, cause_class):  # type: ignore[misc, valid-type]
        def __init__(self, task_error: RayTaskError) -> None:
            cause = task_error.cause
            # Fields that live in the C part of builtin exceptions (errno, value, code...) have descriptors on the
            # class, so that __getattr__ below would never be asked for them.
            for base in cause_class.__mro__:
                if base is BaseException or base is object:
                    continue
                for name, member in vars(base).items():
                    if type(member) is _MemberDescriptor:
                        with suppress(AttributeError, TypeError):
                            setattr(self, name, getattr(cause, name))
            self.__dict__["_task_error"] = task_error
            self.__dict__["cause"] = cause
            self.__dict__["_args"] = (cause,)

        @property
        def args(self) -> tuple[Any, ...]:
            return self.__dict__["_args"]  # type: ignore[no-any-return]

        @args.setter
        def args(self, value: tuple[Any, ...]) -> None:
            self.__dict__["_args"] = value

        def __getattr__(self, name: str) -> Any:
            cause = self.__dict__.get("cause")
            if cause is None:
                raise AttributeError(name)
            return getattr(cause, name)

        def __str__(self) -> str:
            return str(self._task_error)

        def __repr__(self) -> str:
            return f"{type(self).__name__}({self.cause!r})"

        def __reduce__(self) -> tuple[Any, ...]:
            return _rebuild_dual, (self._task_error,)

        def as_instanceof_cause(self) -> RayTaskError:
            return self

    dual.__name__ = dual.__qualname__ = f"RayTaskError({cause_class.__name__})"
    # Last: a class whose `__init_subclass__` refused is still in that list for a while, and must not be found there.
    dual._dual_of = cause_class
    return dual


_MemberDescriptor = type(ImportError.name)


def _rebuild_dual(task_error: RayTaskError | UnserializableException) -> RayError:
    return task_error.as_instanceof_cause()


class UnserializableException(RayError):
    """A remote exception arrived whose class refuses to be unpickled.

    Most often its constructor takes other parameters than those in its `args`; a `__reduce__` method helps.
    """

    def __init__(self, original_stack_trace: str) -> None:
        super().__init__(
            "Failed to deserialize exception. Its class can be pickled but not restored; give it a `__reduce__` method "
            "whose arguments match its constructor.\n"
            f"Original exception:\n{original_stack_trace}"
        )
        self.original_stack_trace = original_stack_trace

    def as_instanceof_cause(self) -> UnserializableException:
        """Gives the error that `get` raises: this one, as the cause is lost."""
        return self


class CrossLanguageError(RayError):
    """User code in another language raised."""


class TaskCancelledError(RayError):
    """The task was cancelled.

    Attributes:
        task_id: Id of the cancelled task, or None.
        error_message: What more is known, or None.
    """

    def __init__(self, task_id: Any = None, error_message: str | None = None) -> None:
        super().__init__(task_id, error_message)
        self.task_id = task_id
        self.error_message = error_message

    def __str__(self) -> str:
        text = f"Task: {self.task_id} was cancelled. " if self.task_id else ""
        return text + (self.error_message or "")


class TaskTimeoutError(TaskCancelledError, TimeoutError):
    """The task or call took longer than its `timeout_s`, and was cancelled. ray_rs only; Ray has no such option."""


class GetTimeoutError(RayError, TimeoutError):
    """`get` was given a timeout, and not all objects were ready in time."""


class DeadlockError(RayError):
    """A `get` or `await` inside a task or an actor can never end, because tasks wait for each other; the text has the
    cycle.

    Such as an actor whose method gets the result of another of its own methods, which cannot begin before this one
    ends. Of the waits on a cycle one raises; the others then go on, or fail with it.
    """


# ------------------------------------------------------------------------------------------------------------- actors


class RayActorError(RayError):
    """Base of the errors of calls to an actor.

    Attributes:
        actor_id: Hexadecimal id of the actor, or None.
        error_msg: The text.
        actor_init_failed: The constructor raised.
        preempted: The actor's node was taken away.
    """

    _BASE_MESSAGE = "The actor died unexpectedly before finishing this task."

    def __init__(
        self,
        actor_id: str | None = None,
        error_msg: str = _BASE_MESSAGE,
        actor_init_failed: bool = False,
        preempted: bool = False,
    ) -> None:
        super().__init__(error_msg)
        self.actor_id = actor_id
        self.error_msg = error_msg
        self.actor_init_failed = actor_init_failed
        self.preempted = preempted

    def __str__(self) -> str:
        return self.error_msg


class ActorDiedError(RayActorError):
    """The actor is dead and will not come back.

    Args:
        cause: The error raised by the constructor, when that is why; else a text that gives the reason.
        actor_id: Hexadecimal id of the actor.
        class_name: Name of the actor's class.
        pid: Process id it had.
        name: Name it was registered under.
        namespace: Namespace of the name.
        ip: Address of its node.
    """

    def __init__(
        self,
        cause: RayTaskError | str | None = None,
        *,
        actor_id: str | None = None,
        class_name: str = "",
        pid: int | None = None,
        name: str = "",
        namespace: str = "",
        ip: str = "",
    ) -> None:
        if isinstance(cause, RayTaskError):
            task_error: RayTaskError = cause.__dict__.get("_task_error", cause)
            text = f"The actor died because of an error raised in its creation task, {task_error}"
            super().__init__(actor_id or task_error.actor_id, text, actor_init_failed=True)
            return
        lines = [self._BASE_MESSAGE]
        facts = {
            "class_name": class_name,
            "actor_id": actor_id,
            "pid": pid,
            "name": name,
            "namespace": namespace,
            "ip": ip,
        }
        lines += [f"\t{key}: {value}" for key, value in facts.items() if value]
        if cause:
            lines.append(cause)
        super().__init__(actor_id, "\n".join(lines))


class ActorUnavailableError(RayActorError):
    """The actor can't be reached now but may come back. Whether the call was executed is unknown."""

    def __init__(self, error_message: str, actor_id: bytes | str | None = None) -> None:
        hex_id = actor_id.hex() if isinstance(actor_id, bytes) else actor_id
        super().__init__(
            hex_id,
            f"The actor {hex_id} is unavailable: {error_message}. The task may or may not have been executed on the "
            "actor.",
        )


class ActorUnschedulableError(RayError):
    """The actor can never be placed.

    Attributes:
        error_message: Why.
    """

    def __init__(self, error_message: str) -> None:
        super().__init__(f"The actor is not schedulable: {error_message}")
        self.error_message = error_message


class ActorPlacementGroupRemoved(RayError):
    """The placement group that the actor was to run in was removed before the actor ran."""

    def __init__(
        self,
        message: str = "The placement group corresponding to this Actor has been removed. Make another with "
        "ray_rs.util.placement_group().",
    ) -> None:
        super().__init__(message)


class PendingCallsLimitExceeded(RayError):
    """More calls wait on one actor handle than its `max_pending_calls` allows."""


class ActorAlreadyExistsError(ValueError, RayError):
    """The name is taken by another actor in the namespace.

    Attributes:
        error_message: The text.
    """

    def __init__(self, error_message: str) -> None:
        super().__init__(error_message)
        self.error_message = error_message

    __reduce__ = RayError.__reduce__


class ActorHandleNotFoundError(ValueError, RayError):
    """The handle belongs to a session that has ended.

    Attributes:
        error_message: The text.
    """

    def __init__(self, error_message: str) -> None:
        super().__init__(error_message)
        self.error_message = error_message

    __reduce__ = RayError.__reduce__


# -------------------------------------------------------------------------------------------------- workers and nodes


class WorkerCrashedError(RayError):
    """The process that ran the task died, and no retries are left.

    The text names the task, the process, its exit code or signal, and the last lines of its stderr.
    """

    def __init__(self, message: str = "The worker died unexpectedly while executing this task.") -> None:
        super().__init__(message)


class LocalRayletDiedError(RayError):
    """The raylet of this node is gone, and with it the session."""

    def __init__(
        self,
        message: str = "The raylet of this node died, so the session is over. "
        "Call ray_rs.shutdown() and ray_rs.init() to start another.",
    ) -> None:
        super().__init__(message)


class NodeDiedError(RayError):
    """The node died or can't be reached."""


class OutOfMemoryError(RayError):
    """The worker was ended because its node ran out of memory.

    The text says what the node used, which processes used most of it, and what to try.
    """


class RuntimeEnvSetupError(RayError):
    """The runtime environment of a task or actor could not be built.

    Attributes:
        error_message: Why.
    """

    def __init__(self, error_message: str | None = None) -> None:
        super().__init__(f"Failed to set up runtime environment.\n{error_message or ''}".rstrip())
        self.error_message = error_message


class TaskUnschedulableError(RayError):
    """The task can never be placed.

    Attributes:
        error_message: Why.
    """

    def __init__(self, error_message: str) -> None:
        super().__init__(f"The task is not schedulable: {error_message}")
        self.error_message = error_message


class TaskPlacementGroupRemoved(RayError):
    """The placement group that the task was to run in was removed."""

    def __init__(
        self,
        message: str = "The placement group corresponding to this task has been removed. Make another with "
        "ray_rs.util.placement_group().",
    ) -> None:
        super().__init__(message)


class RaySystemError(RayError):
    """The engine could not do what was asked.

    Attributes:
        client_exc: What happened, as an exception or a text.
        traceback_str: The traceback that belongs to it, or None.
    """

    def __init__(self, client_exc: Any, traceback_str: str | None = None) -> None:
        super().__init__(client_exc, traceback_str)
        self.client_exc = client_exc
        self.traceback_str = traceback_str

    def __str__(self) -> str:
        text = f"System error: {self.client_exc}"
        return f"{text}\ntraceback: {self.traceback_str}" if self.traceback_str else text


# ------------------------------------------------------------------------------------------------------------ objects


class ObjectStoreFullError(RayError):
    """The object store has no room for the value."""


class OutOfDiskError(RayError):
    """The disk that the object store spills to, or that the control store writes to, is full."""


class ObjectLostError(RayError):
    """No copy of the object is left.

    Attributes:
        object_ref_hex: Hexadecimal id of the object.
        owner_address: Address of its owner.
        call_site: Where the reference was made, when that is recorded.
    """

    _REASON = "All copies of the object were lost."

    def __init__(
        self, object_ref_hex: str = "", owner_address: Any = None, call_site: str = "", reason: str = ""
    ) -> None:
        super().__init__(object_ref_hex, owner_address, call_site)
        self.object_ref_hex = object_ref_hex
        self.owner_address = owner_address
        self.call_site = call_site.replace("\n", "\n  ")
        self.reason = reason or self._REASON

    def __str__(self) -> str:
        text = f"Failed to retrieve object {self.object_ref_hex}. {self.reason}"
        return f"{text}\nThe ObjectRef was created at: {self.call_site}" if self.call_site else text


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The object was freed although a reference to it was left."""

    _REASON = "The object has already been deleted by the reference counting protocol. This should not happen."


class ObjectReconstructionFailedError(ObjectLostError):
    """The object was lost and could not be made again.

    Attributes:
        reason_message: Why not.
    """

    def __init__(
        self,
        object_ref_hex: str = "",
        reason: str = "",
        reason_message: str = "",
        owner_address: Any = None,
        call_site: str = "",
    ) -> None:
        super().__init__(object_ref_hex, owner_address, call_site, reason)
        self.reason_message = reason_message

    def __str__(self) -> str:
        return f"{super().__str__()} {self.reason_message}".rstrip()


class OwnerDiedError(ObjectLostError):
    """The process that owned the object died, and the object could not be had without it, as the message says."""

    _REASON = "The object's owner has exited. This is the process that first created the reference."


# Of `_engine_errors`: the extension, and pickles that it writes, know them by this module's name.
_ENGINES = frozenset(
    {
        "_actor_died",
        "_actor_unavailable",
        "_argument_failed",
        "_deserialization_failed",
        "_not_made_again",
        "_object_lost",
        "_task_given_up",
        "_worker_crashed",
    }
)


def __getattr__(name: str) -> Any:
    """Names that few programs need, and those by which the engine makes its errors."""
    if name in _ENGINES:
        from ray_rs import _engine_errors

        return getattr(_engine_errors, name)
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ray_rs import _special_exceptions

    if name == "RAY_EXCEPTION_TYPES":
        classes = [getattr(sys.modules[__name__], each) for each in __all__ if each != name]
        return [each for each in classes if issubclass(each, RayError)]
    return getattr(_special_exceptions, name)
