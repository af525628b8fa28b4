"""`ray._private.client_mode_hook`: whether this process is a client, for which Ray sends most calls elsewhere.

Here a client is a process like any other, so that nothing has to be hooked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["client_mode_hook", "client_mode_should_convert", "disable_client_hook", "is_client_mode_enabled"]

_F = TypeVar("_F", bound=Callable[..., object])

is_client_mode_enabled = False


def client_mode_should_convert() -> bool:
    """Whether calls are to be sent elsewhere: no."""
    return False


def client_mode_hook(func: _F) -> _F:
    """Marks a function that a client would send elsewhere; here it stays what it is."""
    return func


@contextmanager
def disable_client_hook() -> Iterator[None]:
    """A block in which nothing is sent elsewhere, as nowhere."""
    yield
