"""The words of `ray.util.collective`: backends and reductions."""

from __future__ import annotations

from enum import Enum

__all__ = ["Backend", "ReduceOp"]


class Backend:
    """Names of backends. `Backend("gloo")` checks one and gives it as it is written here.

    Raises:
        ValueError: There is none of that name.
    """

    NCCL = "NCCL"
    GLOO = "GLOO"
    UNRECOGNIZED = "unrecognized"

    def __new__(cls, name: str) -> str:  # type: ignore[misc]
        known = {"NCCL": cls.NCCL, "GLOO": cls.GLOO, "TORCH_GLOO": cls.GLOO}.get(name.upper())
        if known is None:
            raise ValueError(f"Unrecognized backend: {name!r}. Only NCCL and GLOO are supported")
        return known


class ReduceOp(Enum):
    """How the processes' arrays become one, element by element."""

    SUM = 0
    PRODUCT = 1
    MIN = 2
    MAX = 3
