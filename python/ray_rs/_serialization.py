"""Values to bytes and back, where the fast paths of the extension module give up.

The extension encodes exact builtin types itself. All else comes here: `dumps` runs cloudpickle with protocol 5, so that
large buffers (numpy arrays, for one) leave the stream and are copied once, straight into the object store. References
and actor handles reduce themselves natively while the extension collects them.

When something can't be pickled, `explain_failure` finds which object it was and says how to get to it.
"""

from __future__ import annotations

import io
import pickle
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cloudpickle

from ray_rs import _code_globals, _core

__all__ = ["dumps", "explain_failure", "find_culprit", "loads"]

loads = pickle.loads


# Functions that cloudpickle's own reductions call: four of them in each pickled function.
_HELPERS = cloudpickle.Pickler.__module__


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle with out-of-band buffers, views of memory, for which pickle has no rule, and files of functions."""

    def __init__(self, file: io.BytesIO, buffers: list[pickle.PickleBuffer] | None) -> None:
        super().__init__(file, protocol=5, buffer_callback=None if buffers is None else buffers.append)

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is types.FunctionType:
            if obj.__module__ == _HELPERS:
                # Pickle finds them by their names, which is all that cloudpickle would find out, at ten times the cost.
                return NotImplemented
            _code_globals.remember(obj.__code__)
            return super().reducer_override(obj)
        if type(obj) is memoryview:
            return bytes, (obj.tobytes(),)
        if type(obj) is types.CodeType:
            return _reduce_code(obj)
        if type(obj).__module__ == "pyarrow.lib" and type(obj) not in self.dispatch_table:
            from ray_rs import _arrow

            reduction = _arrow.reduce(obj)
            if reduction is not NotImplemented:
                return reduction
        return super().reducer_override(obj)


_FILE_NAME = 10  # Which argument of `CodeType` it is; the same in all versions of Python that we run on.


def _reduce_code(code: types.CodeType) -> tuple[Any, ...]:
    """cloudpickle's reduction, with the name of the file: a remote traceback finds its lines of source by it."""
    code_type, arguments = cloudpickle.Pickler.dispatch_table[types.CodeType](code)
    return code_type, (*arguments[:_FILE_NAME], code.co_filename, *arguments[_FILE_NAME + 1 :])


def dumps(value: Any) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """Pickles a value.

    Args:
        value: Anything cloudpickle can take.

    Returns:
        The stream, and the buffers that were left out of it.

    Raises:
        Exception: Whatever the value's own reduction raises, `TypeError` or `PicklingError` as a rule.
    """
    file = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    _Pickler(file, buffers).dump(value)
    return file.getvalue(), buffers


def dumps_in_band(value: Any) -> bytes:
    """Pickles a value into one stream without out-of-band buffers, for functions, classes and errors."""
    file = io.BytesIO()
    _Pickler(file, None).dump(value)
    return file.getvalue()


# ---------------------------------------------------------------------------------------------- explaining a failure


class Culprit(NamedTuple):
    """The innermost object found that can't be pickled.

    Attributes:
        path: How to reach it from the value, outermost step first.
        obj: The object.
        error: What pickling it raises.
    """

    path: list[str]
    obj: Any
    error: BaseException


# Steps tried before giving up the search, and how deep it goes.
_MAX_TRIES = 2_000
_MAX_DEPTH = 24


def explain_failure(value: Any, what: str, error: BaseException, use: str = "") -> TypeError:
    """Makes the error for a value that can't be pickled, naming the object at fault by its path.

    Args:
        value: What was to be pickled.
        what: How to call it: "the put value", "the argument", "the function f".
        error: What pickling raised.
        use: What it was for: "for a task or actor f".

    Returns:
        The error, to be raised from `error`.
    """
    culprit = find_culprit(value, error)
    lines = [f"Could not serialize {what} {_short(value)}{use and ' '}{use}: {_text(error)}"]
    if culprit.path:
        lines.append(f"  found at: {_join(culprit.path)}")
    lines.append(f"  {_short(culprit.obj)} ({_type_name(culprit.obj)}) was found to be non-serializable.")
    lines.append(
        "Create such objects (locks, sockets, open files, database connections, generators...) inside the task or "
        "actor that uses them, or give their class a __reduce__ method that says how to make them again."
    )
    return TypeError("\n".join(lines))


def _join(path: list[str]) -> str:
    """Attributes and items in a row are written as in code (`.handlers[0]`); other steps stand for themselves."""
    parts: list[str] = []
    for step in path:
        if parts and step[0] in ".[" and parts[-1][0] in ".[":
            parts[-1] += step
        else:
            parts.append(step)
    return " → ".join(parts)


def find_culprit(value: Any, error: BaseException) -> Culprit:
    """Searches for the innermost object that makes `value` impossible to pickle.

    Args:
        value: Something that failed to pickle.
        error: What it failed with.

    Returns:
        The innermost object that still fails by itself, with the path to it.
    """
    path: list[str] = []
    seen = {id(value)}
    keep = [value]  # so that no id in `seen` is used again
    tries = 0
    current, current_error = value, error
    while len(path) < _MAX_DEPTH:
        for step, child in _children(current):
            if id(child) in seen:
                continue
            seen.add(id(child))
            keep.append(child)
            tries += 1
            if tries > _MAX_TRIES:
                return Culprit(path, current, current_error)
            child_error = _failure(child)
            if child_error is not None:
                path.append(step)
                current, current_error = child, child_error
                break
        else:
            break
    return Culprit(path, current, current_error)


def _failure(value: Any) -> BaseException | None:
    try:
        _core.pickle_on_trial(dumps, value)
    except Exception as error:
        # Its frames hold the value, and this search's holds the error: all of it would wait for the garbage collector.
        return error.with_traceback(None)
    return None


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """What `value` takes along when it is pickled, with the name of each step."""
    if isinstance(value, types.FunctionType):
        yield from _children_of_function(value)
    elif isinstance(value, types.MethodType):
        yield f"function of {_name(value)}", value.__func__
        yield f"object of bound method {_name(value)}", value.__self__
    elif isinstance(value, type):
        for name, member in list(vars(value).items()):
            if name not in ("__dict__", "__weakref__", "__doc__", "__module__"):
                inner = getattr(member, "__func__", None) or getattr(member, "fget", None) or member
                yield f"attribute '{name}' of class {value.__name__}", inner
    elif isinstance(value, dict):
        for key, item in list(value.items()):
            yield f"key {_short(key)}", key
            yield f"[{_short(key)}]", item
    elif isinstance(value, (list, tuple, set, frozenset)):
        ordered = isinstance(value, (list, tuple))
        for index, item in enumerate(value):
            yield (f"[{index}]" if ordered else f"member {_short(item)}"), item
    else:
        yield from _children_of_object(value)


def _children_of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    name = _name(function)
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"closure variable '{variable}' of {name}", cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    for variable in _global_names(function.__code__):
        if variable in function.__globals__:
            yield f"global variable '{variable}' of {name}", function.__globals__[variable]
    for variable, default in (function.__kwdefaults__ or {}).items():
        yield f"default of parameter '{variable}' of {name}", default
    for index, default in enumerate(function.__defaults__ or ()):
        yield f"default {index} of {name}", default
    for attribute, item in list(vars(function).items()):
        yield f"attribute '{attribute}' of {name}", item


def _global_names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _children_of_object(value: Any) -> Iterator[tuple[str, Any]]:
    state = getattr(value, "__dict__", None)
    if isinstance(state, dict):
        for name, item in list(state.items()):
            yield f".{name}", item
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            try:
                yield f".{name}", getattr(value, name)
            except AttributeError:
                continue
    try:
        reduced = value.__reduce_ex__(5)
    except Exception:
        reduced = None
    if isinstance(reduced, tuple):
        yield f"class {type(value).__name__}", type(value)
        for name, part in zip(("function", "arguments", "state", "items", "pairs"), reduced, strict=False):
            if isinstance(part, Iterator):
                part = list(part)
            yield f"{name} given by its __reduce__", part


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", None) or repr(function)


def _type_name(value: Any) -> str:
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:
        text = f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return text if len(text) <= 120 else f"{text[:117]}..."


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
