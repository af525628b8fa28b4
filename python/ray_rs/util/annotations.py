"""Marks of how stable an interface is, for libraries that carry Ray's: they change nothing about what they mark."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from enum import Enum
from functools import wraps
from typing import Any, TypeVar

__all__ = ["AnnotationType", "Deprecated", "DeveloperAPI", "PublicAPI", "RayDeprecationWarning"]

F = TypeVar("F", bound=Callable[..., Any])


class RayDeprecationWarning(DeprecationWarning):
    """Something that will go."""


class AnnotationType(Enum):
    """The marks."""

    PUBLIC_API = "PublicAPI"
    DEVELOPER_API = "DeveloperAPI"
    DEPRECATED = "Deprecated"
    UNKNOWN = "Unknown"


def PublicAPI(*args: Any, **kwargs: Any) -> Any:
    """Marks an interface for everyone.

    Args:
        *args: What is marked, when used without parentheses.
        **kwargs: `stability` ("stable", "beta" or "alpha") and `api_group`.

    Returns:
        What is marked, or a decorator for it.
    """
    if len(args) == 1 and not kwargs and callable(args[0]):
        return PublicAPI(stability="stable")(args[0])
    stability = kwargs.get("stability", "stable")
    if stability not in ("stable", "beta", "alpha"):
        raise ValueError(f"stability must be 'stable', 'beta' or 'alpha', not {stability!r}")
    note = "" if stability == "stable" else f"PublicAPI ({stability}): this may change before it is stable."
    return _marker(AnnotationType.PUBLIC_API, note, kwargs.get("api_group", "Others"))


def DeveloperAPI(*args: Any, **kwargs: Any) -> Any:
    """Marks an interface for those who build libraries.

    Args:
        *args: What is marked, when used without parentheses.
        **kwargs: `api_group`.

    Returns:
        What is marked, or a decorator for it.
    """
    mark = _marker(AnnotationType.DEVELOPER_API, "DeveloperAPI: this may change.", kwargs.get("api_group", "Others"))
    return mark(args[0]) if len(args) == 1 and not kwargs and callable(args[0]) else mark


def Deprecated(*args: Any, **kwargs: Any) -> Any:
    """Marks an interface that will go.

    Args:
        *args: What is marked, when used without parentheses.
        **kwargs: `message`, added to its docstring, and `warning`: whether each use warns.

    Returns:
        What is marked, or a decorator for it.
    """
    if len(args) == 1 and not kwargs and callable(args[0]):
        return Deprecated()(args[0])
    message = kwargs.get("message", "")
    mark = _marker(AnnotationType.DEPRECATED, f"Deprecated: this will be removed. {message}".rstrip(), "Others")
    return lambda obj: mark(_warning(obj, message) if kwargs.get("warning") else obj)


def _marker(kind: AnnotationType, note: str, group: str) -> Callable[[F], F]:
    def mark(obj: F) -> F:
        if note:
            obj.__doc__ = f"{obj.__doc__ or ''}\n\n{note}".lstrip()
        obj._annotated = obj.__name__  # type: ignore[attr-defined]
        obj._annotated_type = kind  # type: ignore[attr-defined]
        obj._annotated_api_group = group  # type: ignore[attr-defined]
        return obj

    return mark


def _warning(obj: Any, message: str) -> Any:
    text = f"{obj.__name__} is deprecated. {message}".rstrip()
    if isinstance(obj, type):
        init = obj.__init__  # type: ignore[misc]

        @wraps(init)
        def warn_and_init(self: Any, *args: Any, **kwargs: Any) -> None:
            warnings.warn(text, RayDeprecationWarning, stacklevel=2)
            init(self, *args, **kwargs)

        obj.__init__ = warn_and_init  # type: ignore[misc]
        return obj

    @wraps(obj)
    def warn_and_call(*args: Any, **kwargs: Any) -> Any:
        warnings.warn(text, RayDeprecationWarning, stacklevel=2)
        return obj(*args, **kwargs)

    return warn_and_call
