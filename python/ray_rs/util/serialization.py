"""How objects of a class are pickled: `register_serializer`."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable
from typing import Any, TypeVar

from ray_rs import _serialization

__all__ = ["deregister_serializer", "register_serializer"]

T = TypeVar("T")

# In front of cloudpickle's own table, which other users of it keep as it is.
_registered: dict[type[Any], Callable[[Any], tuple[Any, ...]]] = {}


def register_serializer(cls: type[T], *, serializer: Callable[[T], Any], deserializer: Callable[[Any], T]) -> None:
    """Tells how objects of a class become something that can be pickled, and come back.

    It holds in this process, for this very class and not for derived ones. The deserializer travels with each object.

    Args:
        cls: The class.
        serializer: Turns an object into something that can be pickled.
        deserializer: Turns that into an object again.

    Example:
        >>> ray.util.register_serializer(Connection, serializer=lambda c: c.url, deserializer=Connection)
    """
    table = _serialization._Pickler.dispatch_table
    if not isinstance(table, ChainMap) or table.maps[0] is not _registered:
        _serialization._Pickler.dispatch_table = ChainMap(_registered, table)
    _registered[cls] = lambda obj: (deserializer, (serializer(obj),))


def deregister_serializer(cls: type[Any]) -> None:
    """Takes back what `register_serializer` was told. Does nothing when it was told nothing.

    Args:
        cls: The class.
    """
    _registered.pop(cls, None)
