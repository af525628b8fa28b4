"""Durable actors: what their classes may be, and their state as bytes.

A class that has `__ray_save__` and `__ray_restore__` says itself what its state is: the one gives any value that can be
pickled, the other gets it in a new process, after the constructor has run there with the arguments that it was first
given. Of any other class the instance itself is pickled, and its constructor runs once in the actor's whole life.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any

from ray_rs import _core
from ray_rs._serialization import _Pickler
from ray_rs._signature import is_async, is_generator

__all__ = ["check", "check_returns", "restore", "save"]

SAVE, RESTORE = "__ray_save__", "__ray_restore__"
# Instead of the actor's class: the process has it, and no other would do.
_THE_CLASS = "class"


def check(cls: type[Any], methods: Mapping[str, Callable[..., Any]], options: Mapping[str, Any]) -> None:
    """Checks whether a class can be durable with these options, if it is to be.

    Args:
        cls: The plain class.
        methods: Its methods as plain functions, by name.
        options: All options that are in force.

    Raises:
        ValueError: It can't, or an option is for durable actors only.
    """
    name = cls.__name__
    if not options.get("durable"):
        for option in ("checkpoint_every", "checkpoint_interval_s"):
            if options.get(option) is not None:
                raise ValueError(f"'{option}' is for durable actors, and {name} is none: set durable=True as well.")
        return
    reasons = {
        "max_concurrency": (options.get("max_concurrency") or 1) > 1,
        "concurrency_groups": bool(options.get("concurrency_groups")),
        "allow_out_of_order_execution": bool(options.get("allow_out_of_order_execution")),
    }
    for option, is_given in reasons.items():
        if is_given:
            raise ValueError(
                f"A durable actor runs one call at a time, so that its calls have an order in which they can be "
                f"replayed: {name} can't have '{option}'."
            )
    if hasattr(cls, SAVE) != hasattr(cls, RESTORE):
        raise ValueError(f"{name} needs both {SAVE} and {RESTORE} to be durable, or neither: then it is pickled.")
    for method, function in methods.items():
        if is_async(function):
            raise ValueError(
                f"A durable actor has no async methods, since they run at the same time: {name}.{method} is one."
            )
        returns = getattr(function, "__ray_num_returns__", None)
        if is_generator(function) or returns in ("streaming", "dynamic"):
            raise ValueError(
                f"A durable actor has no generator methods, since what was given of them can't be taken back: "
                f"{name}.{method} is one. Let it return a list."
            )


def check_returns(num_returns: int | str | None) -> None:
    """Checks `num_returns` of a call to a durable actor.

    Raises:
        ValueError: Items can't be given one by one.
    """
    if num_returns in ("streaming", "dynamic"):
        raise ValueError(f"A method of a durable actor can't have num_returns={num_returns!r}. Let it return a list.")


class _StatePickler(_Pickler):
    def __init__(self, file: io.BytesIO, cls: type[Any]) -> None:
        super().__init__(file, None)
        self._cls = cls

    def persistent_id(self, obj: Any) -> Any:
        return _THE_CLASS if obj is self._cls else None

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is _core.ObjectRef:
            raise ValueError(
                "The state of a durable actor can't hold an ObjectRef: what it refers to may be gone before the state "
                "is used again. Keep the value itself, or leave the reference out (__ray_save__, __getstate__)."
            )
        if type(obj) is _core.ActorHandle:
            # One that holds nothing: the counting of a process that is gone would end with it in any case.
            handle: Any = obj
            return _core._load_actor, (handle._actor_id.binary(), handle._ray_descriptor.to_bytes(), None)
        return super().reducer_override(obj)


class _StateUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, cls: type[Any]) -> None:
        super().__init__(file)
        self._cls = cls

    def persistent_load(self, pid: Any) -> Any:
        if pid == _THE_CLASS:
            return self._cls
        raise pickle.UnpicklingError(f"the state of a durable actor names {pid!r}, which nobody knows")


def save(instance: Any) -> bytes:
    """The state of an actor.

    Args:
        instance: The actor.

    Returns:
        What `restore` takes.

    Raises:
        Exception: What `__ray_save__` raises, or pickling.
    """
    own: Callable[[], Any] | None = getattr(instance, SAVE, None)
    file = io.BytesIO()
    _StatePickler(file, type(instance)).dump(instance if own is None else own())
    return file.getvalue()


def restore(cls: type[Any], args: tuple[Any, ...], kwargs: dict[str, Any], state: bytes) -> Any:
    """The actor that `save` was called with, in another process.

    Args:
        cls: Its class.
        args: What the constructor is called with, if the class restores itself.
        kwargs: The same.
        state: What `save` gave.

    Returns:
        The instance.
    """
    loaded = _StateUnpickler(io.BytesIO(state), cls).load()
    if not hasattr(cls, RESTORE):
        return loaded
    instance = cls(*args, **kwargs)
    getattr(instance, RESTORE)(loaded)
    return instance
