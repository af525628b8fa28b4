"""Functions and classes as bytes.

A function or class is pickled once for each session, at its first use; the engine keeps it in the control store under
the hash of its bytes, so that what is defined again in a notebook's cell is another function.

The bytes hold the pickled function inside a call to `_load`, or to `_load_plain` where `_plain_functions` could write
it. When a worker unpickles them, `_load` remembers which bytes the function came from: a task that submits itself, or
an actor that creates its like, then sends the same bytes again, however differently a second pickling of the same
function would have come out.
"""

from __future__ import annotations

import pickle
from typing import Any

from ray_rs import _plain_functions, _reloads
from ray_rs._serialization import dumps_in_band, explain_failure

__all__ = ["forget", "pickle_classes", "pickle_definition"]

# Decimal, as in Ray.
_WARN_BYTES = 10 * 1000 * 1000
_MAX_BYTES = 100 * 1000 * 1000


class _Definition:
    """Stands for a function in the outer pickle."""

    def __init__(self, inner: bytes, is_plain: bool) -> None:
        self.inner = inner
        self.load = _load_plain if is_plain else _load

    def __reduce__(self) -> tuple[Any, ...]:
        reloaded = _reloads.reloaded
        return (self.load, (self.inner, dict(reloaded))) if reloaded else (self.load, (self.inner,))


# id of a function or class that was unpickled here -> (itself, so that the id stays its own; what it came from).
_loaded: dict[int, tuple[Any, _Definition]] = {}


def _load(inner: bytes, reloaded: dict[str, int] | None = None) -> Any:
    if reloaded:
        _reloads.follow(reloaded)
    definition = pickle.loads(inner)
    _loaded[id(definition)] = (definition, _Definition(inner, is_plain=False))
    return definition


def _load_plain(inner: bytes, reloaded: dict[str, int] | None = None) -> Any:
    if reloaded:
        _reloads.follow(reloaded)
    function = _plain_functions.loads(inner)
    _loaded[id(function)] = (function, _Definition(inner, is_plain=True))
    return function


def forget(definition: Any) -> None:
    """Lets go of what was unpickled here, if nobody will send it on."""
    _loaded.pop(id(definition), None)


def pickle_definition(definition: Any, what: str) -> bytes:
    """Pickles a function or class for the function table.

    Args:
        definition: The function or class.
        what: How to call it in messages: "the function f", "the actor class Counter".

    Returns:
        Its bytes.

    Raises:
        TypeError: It captures something that can't be pickled.
        ValueError: It is too large.
    """
    known = _loaded.get(id(definition))
    if known is not None and known[0] is definition:
        pickled = known[1]
    elif (plain := _plain_functions.dumps(definition)) is not None:
        pickled = _Definition(plain, is_plain=True)
    else:
        try:
            pickled = _Definition(dumps_in_band(definition), is_plain=False)
        except Exception as error:
            raise explain_failure(definition, what, error) from error
    _check_size(len(pickled.inner), what)
    return pickle.dumps(pickled, protocol=5)


def _check_size(size: int, what: str) -> None:
    if size > _MAX_BYTES:
        raise ValueError(
            f"{what} is too large ({size // 1_000_000} MB > {_MAX_BYTES // 1_000_000} MB). It probably captures a "
            "large object; put it into the object store with ray_rs.put() and pass the reference instead."
        )
    if size > _WARN_BYTES:
        from ray_rs import _logs

        _logs.warning(
            f"{what} is very large ({size // 1_000_000} MB). It probably captures a large object; put it into the "
            "object store with ray_rs.put() and pass the reference instead."
        )


def pickle_classes(classes: bool | tuple[type[Exception], ...]) -> bytes:
    """The exception classes that are retried, as the engine wants them: none, all (one byte), or a pickled tuple."""
    if isinstance(classes, bool):
        return b"\x01" if classes else b""
    return dumps_in_band(classes) if classes else b""
