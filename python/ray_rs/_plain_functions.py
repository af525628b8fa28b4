"""Functions that need no pickling: code, and a few values that can't hold anything else.

Many functions that become tasks are of this kind: a script's `def` that uses its arguments, builtins, modules, and
some numbers. Python's own `marshal` writes and reads them in a third of the time that cloudpickle needs to take the
code to pieces and put it together again. What comes out is what cloudpickle would have made; whatever is not surely
plain is left to it.
"""

from __future__ import annotations

import builtins
import marshal
import sys
import types
from typing import Any

import cloudpickle

from ray_rs import _code_globals

__all__ = ["dumps", "loads"]

# Their values hold nothing but themselves, and marshal gives back the same.
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, type(...)})
# What cloudpickle keeps of a module's globals, whether the function names them or not.
_OF_THE_MODULE = ("__package__", "__name__", "__path__", "__file__")

_BUILTIN_TYPES = {value: name for name, value in vars(builtins).items() if isinstance(value, type)}


def dumps(function: Any) -> bytes | None:
    """Writes a function, if it is plain.

    Args:
        function: Anything.

    Returns:
        Bytes for `loads`; None for what only cloudpickle can take: what is not a function, or is found by its name in a
        module, or has a closure, attributes, decorations in its signature beyond the builtin types, or globals other
        than single modules and simple values.
    """
    # A function of any other module is pickled by its name, or by value if its module was registered for that.
    if type(function) is not types.FunctionType or function.__module__ != "__main__":
        return None
    if function.__closure__ or function.__dict__ or getattr(function, "__type_params__", None):
        return None
    code = function.__code__
    own = function.__globals__
    values: dict[str, Any] = {}
    modules: dict[str, str] = {}
    for name in _OF_THE_MODULE:
        if name in own:
            values[name] = own[name]
    for name in _code_globals.global_names(code):
        if name not in own:
            continue
        value = own[name]
        if type(value) is types.ModuleType:
            if not _is_single(value):
                return None
            modules[name] = value.__name__
        else:
            values[name] = value
    try:
        annotations = _annotations(function.__annotations__)
    except Exception:  # Python 3.14 runs code to find them
        return None
    defaults, by_name = function.__defaults__, function.__kwdefaults__
    doc = function.__doc__
    if annotations is None or not _all_plain((doc, *values.values(), *(defaults or ()), *(by_name or {}).values())):
        return None
    try:
        return marshal.dumps(
            (code, function.__name__, function.__qualname__, doc, values, modules, defaults, by_name, annotations)
        )
    except ValueError:  # code that somebody gave constants of another kind
        return None


def loads(written: bytes) -> types.FunctionType:
    """Makes the function that `dumps` wrote.

    Args:
        written: What `dumps` returned.

    Returns:
        The function, with globals of its own.

    Raises:
        ImportError: A module that it names is not there.
    """
    code, name, qualname, doc, values, modules, defaults, by_name, annotations = marshal.loads(written)
    values["__builtins__"] = __builtins__
    for alias, module in modules.items():
        __import__(module)
        values[alias] = sys.modules[module]
    function = types.FunctionType(code, values, name, defaults)
    function.__qualname__ = qualname
    function.__module__ = "__main__"
    function.__doc__ = doc
    if by_name:
        function.__kwdefaults__ = by_name
    if annotations:
        function.__annotations__ = {
            name: vars(builtins)[value] if is_type else value for name, (is_type, value) in annotations.items()
        }
    return function


def _all_plain(values: tuple[Any, ...]) -> bool:
    return all(type(value) in _ATOMS or (type(value) is tuple and _all_plain(value)) for value in values)


def _annotations(given: dict[str, Any]) -> dict[str, tuple[bool, Any]] | None:
    """Annotations that are text or None, and builtin types by their names."""
    written: dict[str, tuple[bool, Any]] = {}
    for name, value in given.items():
        if value is None or type(value) is str:
            written[name] = False, value
        elif type(value) is type and value in _BUILTIN_TYPES:
            written[name] = True, _BUILTIN_TYPES[value]
        else:
            return None
    return written


def _is_single(module: types.ModuleType) -> bool:
    """True for a module that is imported by its name and is no package: of those cloudpickle looks for submodules."""
    return (
        "__path__" not in module.__dict__
        and module.__name__ != "__main__"
        and sys.modules.get(module.__name__) is module
        and not cloudpickle.list_registry_pickle_by_value()
    )
