"""Signatures of remote functions and methods, in the form in which the extension checks calls against them.

A signature is a tuple of (name, kind, has a default) for each parameter, `kind` being that of `inspect.Parameter`;
None where it can't be known, and then calls are not checked. Plain functions are read from their code object, because
`inspect` takes longer to import than a session takes to start.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

__all__ = ["is_async", "is_generator", "raise_mismatch", "signature_of"]

Signature = tuple[tuple[str, int, bool], ...] | None

_POSITIONAL_ONLY, _POSITIONAL, _VAR_POSITIONAL, _KEYWORD_ONLY, _VAR_KEYWORD = range(5)
_HAS_VARARGS, _HAS_VARKEYWORDS, _GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x04, 0x08, 0x20, 0x80, 0x200


def signature_of(function: Callable[..., Any], *, bound: bool = False) -> Signature:
    """Reads a function's signature.

    Args:
        function: Anything callable.
        bound: Leave the first parameter (`self` or `cls`) out.

    Returns:
        The signature, or None when it can't be known.
    """
    if isinstance(function, types.FunctionType) and not (
        hasattr(function, "__wrapped__") or hasattr(function, "__signature__")
    ):
        parameters = _of_code(function)
    else:
        import inspect

        try:
            found = inspect.signature(function)
        except (TypeError, ValueError):
            return None
        parameters = [
            (each.name, int(each.kind), each.default is not inspect.Parameter.empty)
            for each in found.parameters.values()
        ]
    if bound and parameters and parameters[0][1] <= _POSITIONAL:
        del parameters[0]
    return tuple(parameters)


def _of_code(function: types.FunctionType) -> list[tuple[str, int, bool]]:
    code = function.__code__
    names = code.co_varnames
    positional, keyword_only = code.co_argcount, code.co_kwonlyargcount
    first_default = positional - len(function.__defaults__ or ())
    parameters = [
        (name, _POSITIONAL_ONLY if index < code.co_posonlyargcount else _POSITIONAL, index >= first_default)
        for index, name in enumerate(names[:positional])
    ]
    after = positional + keyword_only
    if code.co_flags & _HAS_VARARGS:
        parameters.append((names[after], _VAR_POSITIONAL, False))
        after += 1
    defaults = function.__kwdefaults__ or {}
    parameters += [(name, _KEYWORD_ONLY, name in defaults) for name in names[positional : positional + keyword_only]]
    if code.co_flags & _HAS_VARKEYWORDS:
        parameters.append((names[after], _VAR_KEYWORD, False))
    return parameters


def raise_mismatch(signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises what Python would for a call that does not fit.

    Args:
        signature: As given by `signature_of`.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Raises:
        TypeError: The call does not fit.
    """
    if signature is None:
        return
    import inspect

    any_kind: Any = type(inspect.Parameter.VAR_KEYWORD)
    kinds = {int(kind): kind for kind in any_kind}
    parameters = [
        inspect.Parameter(name, kinds[kind], default=None if has_default else inspect.Parameter.empty)
        for name, kind, has_default in signature
    ]
    inspect.Signature(parameters).bind(*args, **kwargs)


def is_async(function: Any) -> bool:
    """Whether calling it gives a coroutine or an async generator."""
    return _flags(function) & (_COROUTINE | _ASYNC_GENERATOR) != 0


def is_generator(function: Any) -> bool:
    """Whether calling it gives a generator of either kind."""
    return _flags(function) & (_GENERATOR | _ASYNC_GENERATOR) != 0


def _flags(function: Any) -> int:
    # functools.partial objects are what their function is.
    while not hasattr(function, "__code__") and hasattr(function, "func"):
        function = function.func
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return getattr(code, "co_flags", 0)
