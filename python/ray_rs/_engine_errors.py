"""What the extension calls when something of its own goes wrong; the texts of its errors are composed here.

It knows these functions by the name of `ray_rs.exceptions`, which gives them out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray_rs.exceptions import (
    _TRACEBACK_HEAD,
    ActorDiedError,
    ActorPlacementGroupRemoved,
    ActorUnavailableError,
    ActorUnschedulableError,
    ObjectLostError,
    ObjectReconstructionFailedError,
    OwnerDiedError,
    RayError,
    RaySystemError,
    RayTaskError,
    TaskCancelledError,
    TaskTimeoutError,
    WorkerCrashedError,
)

if TYPE_CHECKING:
    from ray_rs import ObjectRef

__all__ = ["argument_failed_text"]


def _worker_crashed(
    task_name: str, pid: int, exit_code: int, signal: int, last_stderr: str, detail: str
) -> WorkerCrashedError:
    if signal:
        how = f"was killed by {_signal_name(signal)}"
    else:
        how = f"exited with code {exit_code}" if exit_code >= 0 else "ended in a way that could not be learned"
    lines = [
        f"The worker died unexpectedly while executing this task. Task '{task_name}': its worker (pid={pid}) {how}."
    ]
    if detail:
        lines.append(detail)
    if signal == 9:
        lines.append("A process that nobody killed by hand was most likely ended because memory ran out.")
    if last_stderr.strip():
        lines.append("Its last lines on stderr:")
        lines += [f"  {line}" for line in last_stderr.rstrip("\n").split("\n")]
    return WorkerCrashedError("\n".join(lines))


def _signal_name(number: int) -> str:
    import signal

    try:
        known = signal.Signals(number)
    except ValueError:
        return f"signal {number}"
    return f"signal {number} ({known.name}: {signal.strsignal(number)})"


_ACTOR_DEATHS = {
    "unknown": "The actor is dead",
    "worker_died": "The actor is dead because its worker process has died",
    "killed": "The actor is dead because it was killed by `ray.kill`",
    "creation_failed": "The actor is dead because its constructor raised",
    "out_of_scope": "The actor is dead because all references to the actor were removed",
    "exited_itself": "The actor is dead because it left by exit_actor() or sys.exit(0)",
    "owner_died": "The actor is dead because its owner, the process that created it, has ended",
    "unschedulable": "The actor could not be created",
    "group_removed": "The actor died because its placement group was removed",
}


def _actor_died(
    actor_id_hex: str,
    class_name: str,
    pid: int | None,
    name: str,
    namespace: str,
    cause: str,
    message: str,
    creation_error: BaseException | None,
    ip: str,
) -> RayError:
    if cause == "group_removed_before":
        return ActorPlacementGroupRemoved()
    if cause == "no_node":
        return ActorUnschedulableError(message)
    if isinstance(creation_error, RayTaskError):
        return ActorDiedError(creation_error, actor_id=actor_id_hex)
    reason = f"{_ACTOR_DEATHS[cause]}: {message}" if message else f"{_ACTOR_DEATHS[cause]}."
    if creation_error is not None:
        reason += f"\n{creation_error}"
    error = ActorDiedError(
        reason, actor_id=actor_id_hex, class_name=class_name, pid=pid, name=name, namespace=namespace, ip=ip
    )
    error.actor_init_failed = cause == "creation_failed"
    return error


def _actor_unavailable(actor_id_hex: str, message: str) -> ActorUnavailableError:
    return ActorUnavailableError(message or "its process has died and it is being restarted", actor_id_hex)


def _task_given_up(task_id: str, timed_out: bool) -> TaskCancelledError:
    if timed_out:
        return TaskTimeoutError(task_id, "It took longer than its timeout_s.")
    return TaskCancelledError(task_id)


def _object_lost(object_ref_hex: str, owner_died: bool, message: str) -> ObjectLostError:
    return (OwnerDiedError if owner_died else ObjectLostError)(object_ref_hex, reason=message)


_WHY_NOT_MADE_AGAIN = {
    "put": "It was stored by ray.put(): there is no task that would make it again.",
    "retries_disabled": "Its task may not run again: it has max_retries=0.",
    "attempts_exceeded": "Its task has run as often as it may: set @ray.remote(max_retries=...) to more (it is 3, if "
    "nothing is said), or to -1 for any number.",
    "lineage_evicted": "What its task needs to run again was not kept, for want of room: set the environment variable "
    "RAY_max_lineage_bytes to more than 1 GiB, which it is otherwise.",
    "actor_call": "An actor's method made it, and that may not run again: set max_task_retries of the actor or the "
    "method to other than 0, which it is if nothing is said.",
    "generator": "It is an item of a generator that can't be run once more for it, or did not give it again. With "
    "_generator_backpressure_num_objects a generator may wait for the very reader that needs the item.",
    "not_kept": "Its task is not known any more.",
}


def _not_made_again(object_ref_hex: str, why: str, message: str) -> ObjectReconstructionFailedError:
    return ObjectReconstructionFailedError(
        object_ref_hex, f"{message[:1].upper()}{message[1:]}.", _WHY_NOT_MADE_AGAIN[why]
    )


def _deserialization_failed(error: BaseException) -> RaySystemError:
    import traceback

    text = "".join(traceback.format_exception(error))
    return RaySystemError(f"Failed to deserialize an object: {type(error).__name__}: {error}", text)


def argument_failed_text(error: BaseException) -> str:
    """The traceback of a task that never ran because of `error`."""
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    reason = "At least one of the input arguments for this task could not be computed:"
    return f"{_TRACEBACK_HEAD}\n  {reason}\n{name}: {error}\n"


def _argument_failed(names: str, inner: bytes | ObjectRef[Any]) -> BaseException:
    """The error of a task that never ran.

    The engine, which knows no Python, writes a pickle that calls this when it is loaded.

    Args:
        names: The tasks that waited, each for the next one, which stands on the next line.
        inner: The error of the first argument that failed: pickled, or a reference to the object that it is.
    """
    error = _error_of(inner)
    for name in reversed(names.split("\n")):
        if not isinstance(error, RayTaskError):
            break
        text = argument_failed_text(error)
        error = RayTaskError(name, text, error.cause, proctitle=f"ray::{name}", pid=error.pid, ip=error.ip)
    return error


def _error_of(inner: bytes | ObjectRef[Any]) -> BaseException:
    if isinstance(inner, bytes):
        import pickle

        loaded: BaseException = pickle.loads(inner)
        return loaded
    from ray_rs import get

    try:
        get(inner)
    except BaseException as error:
        original: BaseException = error.__dict__.get("_task_error", error)
        return original
    return RaySystemError("the argument was said to have failed, but there is a value")
