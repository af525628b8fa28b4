"""The functions of `ray.util.collective`, for the groups that this process belongs to.

A group's processes meet at an actor (`_meeting`), and their arrays lie in the object store: on one node nothing is
copied but into the result. That stands for the backend GLOO, without torch. There is no NCCL: its functions say so.
"""

from __future__ import annotations

import threading
from typing import Any, NoReturn

import ray_rs as ray
from ray_rs.exceptions import RayActorError
from ray_rs.util.collective._group import Group
from ray_rs.util.collective._meeting import Meeting
from ray_rs.util.collective.types import Backend, ReduceOp

__all__ = [
    "allgather",
    "allgather_multigpu",
    "allreduce",
    "allreduce_multigpu",
    "barrier",
    "broadcast",
    "broadcast_multigpu",
    "create_collective_group",
    "destroy_collective_group",
    "get_collective_group_size",
    "get_group_handle",
    "get_rank",
    "gloo_available",
    "init_collective_group",
    "is_backend_available",
    "is_group_initialized",
    "nccl_available",
    "recv",
    "recv_multigpu",
    "reduce",
    "reduce_multigpu",
    "reducescatter",
    "reducescatter_multigpu",
    "register_collective_backend",
    "send",
    "send_multigpu",
]

_NO_GPUS = "ray_rs's collective groups work in main memory only: use backend='gloo', and one tensor a process."

_lock = threading.Lock()
# The groups that this process has joined, by their names.
_groups: dict[str, Group] = {}
# Where groups meet that this process has joined. Who was first has made the actor, and only that process's handle keeps
# it: a later group of the same name meets there again.
_meetings: dict[str, Any] = {}
# Of the groups that this process has declared.
_declared: dict[str, Any] = {}


def nccl_available() -> bool:
    """Whether there is NCCL: never."""
    return False


def gloo_available() -> bool:
    """Whether groups in main memory can be made: always."""
    return True


def is_backend_available(backend: str) -> bool:
    """Whether groups can be made with a backend.

    Args:
        backend: Its name, in any case.
    """
    return backend.upper() in ("GLOO", "TORCH_GLOO")


def register_collective_backend(name: str, backend: type) -> NoReturn:
    """Refused: there are no backends but ray_rs's own.

    Raises:
        NotImplementedError: Always.
    """
    raise NotImplementedError("Backends of one's own are not supported: ray_rs's collective groups have one, GLOO.")


# ------------------------------------------------------------------------------------------------------------ groups


def init_collective_group(
    world_size: int,
    rank: int,
    backend: str = Backend.NCCL,
    group_name: str = "default",
    gloo_timeout: int = 30_000,
) -> None:
    """Joins a group. Every process of it calls this, in an actor or a task, with a rank of its own.

    Args:
        world_size: Number of processes in the group.
        rank: This process's number, from 0.
        backend: "gloo".
        group_name: Name of the group among those of the job.
        gloo_timeout: Milliseconds after which an operation that still waits for another process raises.

    Raises:
        RuntimeError: This is no worker; or this process or another has joined with that rank.
        ValueError: The rank is not below `world_size`, or the name is empty.
        NotImplementedError: The backend is NCCL.
    """
    _check_is_worker()
    _check_backend(backend)
    if not group_name:
        raise ValueError(f"group_name {group_name!r} needs to be a string.")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} must be at least 0 and less than world size {world_size}")
    with _lock:
        if group_name in _groups:
            raise RuntimeError("Trying to initialize a group a second time.")
        meeting = _meetings.get(group_name)
        # The actor has ended if the process has that made it.
        if meeting is None or not _lives(meeting):
            meeting = _meetings[group_name] = _meeting_of(group_name, world_size, {}, gloo_timeout, is_new=False)
        _groups[group_name] = Group(meeting, world_size, rank, group_name, gloo_timeout)


def create_collective_group(
    actors: list[Any],
    world_size: int,
    ranks: list[int],
    backend: str = Backend.NCCL,
    group_name: str = "default",
    gloo_timeout: int = 30_000,
) -> None:
    """Declares a group of actors, which join it with their first operation. It lives as long as this process.

    Args:
        actors: The handles of its members.
        world_size: Number of members.
        ranks: The rank of each.
        backend: "gloo".
        group_name: Name of the group among those of the job.
        gloo_timeout: Milliseconds after which an operation that still waits for another member raises.

    Raises:
        RuntimeError: There is a group of that name, or ranks and actors do not fit together.
        NotImplementedError: The backend is NCCL.
    """
    if len(ranks) != len(actors):
        raise RuntimeError(
            f"Each actor should correspond to one rank. Got '{len(ranks)}' ranks but '{len(actors)}' actors"
        )
    if world_size <= 0:
        raise RuntimeError(f"World size must be greater than zero. Got '{world_size}'.")
    if sorted(ranks) != list(range(world_size)):
        raise RuntimeError(f"Ranks must be a permutation from 0 to '{world_size - 1}'. Got {ranks}.")
    _check_backend(backend)
    by_actor = {actor._actor_id.hex(): rank for actor, rank in zip(actors, ranks, strict=True)}
    with _lock:
        _declared[group_name] = _meeting_of(group_name, world_size, by_actor, gloo_timeout, is_new=True)


def destroy_collective_group(group_name: str = "default") -> None:
    """Leaves a group, or in the process that has declared it, ends it. Nothing happens when there is none.

    Args:
        group_name: The group's name.
    """
    with _lock:
        group = _groups.pop(group_name, None)
        declared = _declared.pop(group_name, None)
    if group is not None:
        group.leave()
    if declared is not None:
        ray.kill(declared)


def is_group_initialized(group_name: str = "default") -> bool:
    """Whether this process has joined a group.

    Args:
        group_name: The group's name.
    """
    with _lock:
        return group_name in _groups


def get_rank(group_name: str = "default") -> int:
    """This process's rank in a group; -1 when it is no member of it.

    Args:
        group_name: The group's name.
    """
    _check_is_worker()
    group = _joined(group_name)
    return -1 if group is None else group.rank


def get_collective_group_size(group_name: str = "default") -> int:
    """The number of processes in a group; -1 when this process is no member of it.

    Args:
        group_name: The group's name.
    """
    _check_is_worker()
    group = _joined(group_name)
    return -1 if group is None else group.world_size


def get_group_handle(group_name: str = "default") -> Group:
    """This process's part in a group, with `rank`, `world_size` and the operations as methods.

    Args:
        group_name: The group's name.

    Raises:
        RuntimeError: This process is no member of the group.
    """
    _check_is_worker()
    group = _joined(group_name)
    if group is None:
        raise RuntimeError(
            f"The collective group '{group_name}' is not initialized in the process: call init_collective_group in it, "
            "or create_collective_group in the driver with this actor among the members."
        )
    return group


# -------------------------------------------------------------------------------------------------------- operations


def allreduce(tensor: Any, group_name: str = "default", op: ReduceOp = ReduceOp.SUM) -> None:
    """Makes each process's `tensor` the reduction of all, to the last bit the same everywhere.

    Args:
        tensor: A numpy array or a torch tensor in main memory, of the same shape and type in all processes.
        group_name: The group's name.
        op: How elements are reduced.

    Raises:
        RuntimeError: The processes do not fit together, or one does not come in time.
    """
    get_group_handle(group_name).allreduce(tensor, op)


def barrier(group_name: str = "default") -> None:
    """Waits until all processes of the group have come here.

    Args:
        group_name: The group's name.

    Raises:
        RuntimeError: One does not come in time.
    """
    get_group_handle(group_name).barrier()


def reduce(tensor: Any, dst_rank: int = 0, group_name: str = "default", op: ReduceOp = ReduceOp.SUM) -> None:
    """Makes the `tensor` of one process the reduction of all.

    Args:
        tensor: As for `allreduce`.
        dst_rank: Whose tensor it is; those of others stay as they are.
        group_name: The group's name.
        op: How elements are reduced.

    Raises:
        RuntimeError: The processes do not fit together, or one does not come in time.
        ValueError: There is no such rank.
    """
    group = get_group_handle(group_name)
    group.reduce(tensor, _checked(group, dst_rank), op)


def broadcast(tensor: Any, src_rank: int = 0, group_name: str = "default") -> None:
    """Makes each process's `tensor` that of one of them.

    Args:
        tensor: As for `allreduce`.
        src_rank: Whose it is.
        group_name: The group's name.

    Raises:
        RuntimeError: The processes do not fit together, or one does not come in time.
        ValueError: There is no such rank.
    """
    group = get_group_handle(group_name)
    group.broadcast(tensor, _checked(group, src_rank))


def allgather(tensor_list: list[Any], tensor: Any, group_name: str = "default") -> None:
    """Writes the tensors of all processes to `tensor_list`, in the order of ranks.

    Args:
        tensor_list: As many tensors as there are processes.
        tensor: As for `allreduce`.
        group_name: The group's name.

    Raises:
        RuntimeError: The processes or tensors do not fit together, or one process does not come in time.
    """
    get_group_handle(group_name).allgather(tensor_list, tensor)


def reducescatter(
    tensor: Any, tensor_list: list[Any], group_name: str = "default", op: ReduceOp = ReduceOp.SUM
) -> None:
    """Makes `tensor` the reduction of what all processes have at this process's rank in `tensor_list`.

    Args:
        tensor: What is written to.
        tensor_list: One tensor for each process.
        group_name: The group's name.
        op: How elements are reduced.

    Raises:
        RuntimeError: The processes or tensors do not fit together, or one process does not come in time.
    """
    get_group_handle(group_name).reducescatter(tensor, tensor_list, op)


def send(tensor: Any, dst_rank: int, group_name: str = "default") -> None:
    """Sends a tensor to another process, which need not wait for it yet.

    Args:
        tensor: As for `allreduce`.
        dst_rank: Whom to.
        group_name: The group's name.

    Raises:
        RuntimeError: It is sent to this very process.
        ValueError: There is no such rank.
    """
    group = get_group_handle(group_name)
    if _checked(group, dst_rank) == group.rank:
        raise RuntimeError(f"The destination rank '{dst_rank}' is self.")
    group.send(tensor, dst_rank)


def recv(tensor: Any, src_rank: int, group_name: str = "default") -> None:
    """Waits for the next tensor that another process sends to this one, and writes it to `tensor`.

    Args:
        tensor: Of the shape and type of what comes.
        src_rank: Whom from.
        group_name: The group's name.

    Raises:
        RuntimeError: Nothing comes in time, or something of another shape; or it is this very process.
        ValueError: There is no such rank.
    """
    group = get_group_handle(group_name)
    if _checked(group, src_rank) == group.rank:
        raise RuntimeError(f"The source rank '{src_rank}' is self.")
    group.recv(tensor, src_rank)


def _multi_gpu(*_arguments: Any, **_named: Any) -> NoReturn:
    """Refused: there are no groups of GPUs.

    Raises:
        NotImplementedError: Always.
    """
    raise NotImplementedError(_NO_GPUS)


allgather_multigpu = _multi_gpu
"""Refused: there are no groups of GPUs here."""
allreduce_multigpu = _multi_gpu
"""Refused: there are no groups of GPUs here."""
broadcast_multigpu = _multi_gpu
"""Refused: there are no groups of GPUs here."""
recv_multigpu = _multi_gpu
"""Refused: there are no groups of GPUs here."""
reduce_multigpu = _multi_gpu
"""Refused: there are no groups of GPUs here."""
reducescatter_multigpu = _multi_gpu
"""Refused: there are no groups of GPUs here."""
send_multigpu = _multi_gpu
"""Refused: there are no groups of GPUs here."""


# ------------------------------------------------------------------------------------------------------------ helpers


def _meeting_of(name: str, world_size: int, ranks: dict[str, int], timeout_ms: int, *, is_new: bool) -> Any:
    """The actor at which a group meets, by its name; it waits in calls, as many as there are ranks."""
    options: dict[str, Any] = {
        "name": f"collective_group_{name}",
        "num_cpus": 0,
        "max_concurrency": max(1000, 4 * world_size),
        "get_if_exists": not is_new,
    }
    try:
        return ray.remote(Meeting).options(**options).remote(world_size, ranks, timeout_ms)
    except ValueError:
        if not is_new:
            raise
        raise RuntimeError(f"Trying to initialize a group twice: there is one called {name!r}.") from None


def _lives(meeting: Any) -> bool:
    try:
        ray.get(meeting.describe.remote())
    except RayActorError:
        return False
    return True


def _joined(name: str) -> Group | None:
    """The group, which this process joins if it was declared for its actor."""
    with _lock:
        group = _groups.get(name)
        if group is None:
            own = ray.get_runtime_context().get_actor_id()
            try:
                meeting = ray.get_actor(f"collective_group_{name}")
            except ValueError:
                return None
            world_size, ranks, timeout_ms = ray.get(meeting.describe.remote())
            if own is None or own not in ranks:
                return None
            group = _groups[name] = Group(meeting, world_size, ranks[own], name, timeout_ms)
        return group


def _check_is_worker() -> None:
    if ray._core.process_info()["is_driver"]:
        raise RuntimeError("The collective APIs shall be only used inside a Ray actor or task.")


def _check_backend(backend: str) -> None:
    if Backend(backend) != Backend.GLOO:
        raise NotImplementedError(f"There is no NCCL here. {_NO_GPUS}")


def _checked(group: Group, rank: int) -> int:
    if rank < 0:
        raise ValueError(f"rank '{rank}' is negative.")
    if rank >= group.world_size:
        raise ValueError(f"rank '{rank}' must be less than world size '{group.world_size}'")
    return rank
