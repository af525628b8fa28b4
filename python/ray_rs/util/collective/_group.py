"""A process's part in a group: its rank, its count of operations, and how arrays are written and read."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import ray_rs as ray
from ray_rs.exceptions import GetTimeoutError
from ray_rs.util.collective.types import ReduceOp

__all__ = ["Group", "as_array", "write_back"]

# Below this, in bytes, each rank reads everything; above, each reduces one part for all.
_SPLIT_FROM_BYTES = 64 * 1024


class Group:
    """One process's part in a group.

    Operations of one process follow one another, as `MPI` has it: the n-th of one rank meets the n-th of the others.

    Attributes:
        rank: This process's number.
        world_size: How many there are.
        group_name: The group's name.

    Args:
        meeting: The actor at which the group meets.
        world_size: How many ranks there are.
        rank: This process's.
        group_name: The group's name.
        timeout_ms: Milliseconds after which an operation that still waits for another rank fails.
    """

    def __init__(self, meeting: Any, world_size: int, rank: int, group_name: str, timeout_ms: int) -> None:
        self.world_size = world_size
        self.rank = rank
        self.group_name = group_name
        self._meeting = meeting
        self._timeout_s = timeout_ms / 1000
        self._operations = 0
        ray.get(meeting.join.remote(rank, world_size))

    def allreduce(self, tensor: Any, op: ReduceOp) -> None:
        """Every rank's `tensor` becomes the reduction of all."""
        mine = as_array(tensor)
        said = f"allreduce of {_shape(mine)} by {op.name}"
        if mine.nbytes < _SPLIT_FROM_BYTES or self.world_size <= 2:
            write_back(tensor, _reduced(self._exchange(said, mine), op))
            return
        import numpy as np

        parts = np.array_split(mine.reshape(-1), self.world_size)
        own = _reduced(self._deal(said, parts), op)
        whole = np.concatenate(self._exchange(f"{said}, second half", own))
        write_back(tensor, whole.reshape(mine.shape))

    def reduce(self, tensor: Any, root: int, op: ReduceOp) -> None:
        """The `tensor` of `root` becomes the reduction of all; the others' stay as they are."""
        mine = as_array(tensor)
        brought = self._meet(f"reduce of {_shape(mine)} by {op.name} to rank {root}", mine)
        if self.rank == root:
            write_back(tensor, _reduced(self._read(brought), op))

    def broadcast(self, tensor: Any, root: int) -> None:
        """Every rank's `tensor` becomes that of `root`."""
        mine = as_array(tensor)
        brought = self._meet(f"broadcast of {_shape(mine)} from rank {root}", mine if self.rank == root else None)
        if self.rank != root:
            write_back(tensor, self._read([brought[root]])[0])

    def allgather(self, tensors: list[Any], tensor: Any) -> None:
        """`tensors` become those of all ranks, in their order."""
        if len(tensors) != self.world_size:
            raise RuntimeError(
                f"allgather needs {self.world_size} tensors to write to, one for each rank; there are {len(tensors)}."
            )
        mine = as_array(tensor)
        for target, array in zip(tensors, self._exchange(f"allgather of {_shape(mine)}", mine), strict=True):
            write_back(target, array)

    def reducescatter(self, tensor: Any, tensors: list[Any], op: ReduceOp) -> None:
        """`tensor` becomes the reduction of what all ranks have in this rank's place of `tensors`."""
        if len(tensors) != self.world_size:
            raise RuntimeError(
                f"reducescatter needs {self.world_size} tensors, one for each rank; there are {len(tensors)}."
            )
        parts = [as_array(each) for each in tensors]
        shapes = ", ".join(_shape(part) for part in parts)
        write_back(tensor, _reduced(self._deal(f"reducescatter of {shapes} by {op.name}", parts), op))

    def barrier(self) -> None:
        """Waits until all ranks have come."""
        self._meet("barrier", None)

    def send(self, tensor: Any, destination: int) -> None:
        """Sends `tensor`, without waiting for its receiver."""
        mine = as_array(tensor)
        ray.get(self._meeting.post.remote(self.rank, destination, [ray.put(mine)]))

    def recv(self, tensor: Any, source: int) -> None:
        """Waits for what `source` sends, and writes it to `tensor`."""
        as_array(tensor)
        answer = self._meeting.fetch.remote(source, self.rank)
        brought = self._waited(answer, "recv", lambda: f"rank {source} has sent nothing")
        write_back(tensor, self._read([brought])[0])

    def leave(self) -> None:
        """Gives the rank back."""
        ray.get(self._meeting.leave.remote(self.rank))

    # ------------------------------------------------------------------------------------------------ meeting

    def _exchange(self, said: str, mine: Any) -> list[Any]:
        """The arrays of all ranks."""
        return self._read(self._meet(said, mine))

    def _deal(self, said: str, parts: list[Any]) -> list[Any]:
        """The parts that all ranks have for this one."""
        brought = self._meet_with(said, [ray.put(part) for part in parts])
        return list(ray.get([references[self.rank] for references in brought]))

    def _meet(self, said: str, mine: Any) -> list[Any]:
        return self._meet_with(said, None if mine is None else [ray.put(mine)])

    def _meet_with(self, said: str, references: list[Any] | None) -> list[Any]:
        number = self._operations
        self._operations += 1

        def late() -> str:
            ranks = ray.get(self._meeting.absent.remote(number))
            return f"these ranks have not come: {', '.join(map(str, ranks)) or 'none by now'}"

        return self._waited(self._meeting.meet.remote(number, self.rank, said, references), said, late)

    def _waited(self, answer: Any, said: str, late: Callable[[], str]) -> list[Any]:
        try:
            brought: list[Any] = ray.get(answer, timeout=self._timeout_s)
            return brought
        except GetTimeoutError:
            raise RuntimeError(
                f"Rank {self.rank} of the group {self.group_name!r} has waited {self._timeout_s:g} s in {said}: "
                f"{late()}. "
                "The timeout is the group's gloo_timeout, in milliseconds."
            ) from None

    def _read(self, brought: list[Any]) -> list[Any]:
        return list(ray.get([reference for (reference,) in brought]))


def as_array(tensor: Any) -> Any:
    """The memory of a tensor as a numpy array.

    Raises:
        RuntimeError: It is neither a numpy array nor a torch tensor in main memory.
    """
    import numpy as np

    if isinstance(tensor, np.ndarray):
        return tensor
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tensor, torch.Tensor):
        if tensor.device.type != "cpu":
            raise RuntimeError(f"A tensor on {tensor.device} can't be used: ray_rs's groups work in main memory only.")
        return tensor.detach().numpy()
    raise RuntimeError(f"Unrecognized tensor type '{type(tensor)}'. Supported types are: np.ndarray, torch.Tensor.")


def write_back(tensor: Any, array: Any) -> None:
    """Writes an array into the memory of a tensor.

    Raises:
        RuntimeError: Their shapes differ, or it can't be written to.
    """
    import numpy as np

    target = as_array(tensor)
    if target.shape != array.shape:
        raise RuntimeError(f"A tensor of shape {array.shape} came for one of shape {target.shape}.")
    if not target.flags.writeable:
        raise RuntimeError(
            "The result can't be written to an array that is read-only, as those are that come out of the object "
            "store: give a copy of it."
        )
    np.copyto(target, array, casting="no")


def _reduced(arrays: list[Any], op: ReduceOp) -> Any:
    """In the order of ranks, so that all come to the same to the last bit."""
    import numpy as np

    combine = {ReduceOp.SUM: np.add, ReduceOp.PRODUCT: np.multiply, ReduceOp.MIN: np.minimum, ReduceOp.MAX: np.maximum}
    result = np.array(arrays[0])
    for array in arrays[1:]:
        combine[op](result, array, out=result)
    return result


def _shape(array: Any) -> str:
    return f"{array.dtype}{list(array.shape)}"
