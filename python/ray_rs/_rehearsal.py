"""A first task that nobody asked for, as far as it needs no other process.

The first run of anything is the slow one: the interpreter has not specialized its bytecode, caches are empty. A driver
rehearses while the session's processes start and it would only wait; a zygote, before it forks.
"""

from __future__ import annotations

import types

from ray_rs import _core, _function_table, _serialization, _signature, options

__all__ = ["rehearse"]

# CPython specializes what has run a few times.
_TIMES = 3


def rehearse() -> None:
    """Makes a remote function of a function, pickles it, and runs what comes out of the pickle."""
    for _ in range(_TIMES):
        # One that no module has, so that it is pickled whole, as the functions of a script are.
        function = types.FunctionType(_nothing.__code__, {"__name__": "__main__"}, "rehearsal")
        options.validate_task_options({}, in_options=False)
        _core.RemoteFunction(function, "rehearsal", _signature.signature_of(function), {})
        options.task_plan({}, "rehearsal", is_generator=_signature.is_generator(function))
        _function_table.pickle_classes(False)
        _run(_function_table.pickle_definition(function, "rehearsal"))
        _serialization.loads(_serialization.dumps_in_band(function))()


def rehearse_after_fork() -> None:
    """Runs a function as a worker does: its first task does not wait while it gets pages of its own."""
    _run(_pickled)


def _run(pickled: bytes) -> None:
    function = _serialization.loads(pickled)
    _function_table.forget(function)
    function()


def _nothing() -> None:
    import os

    os.getpid()


_pickled = _function_table.pickle_definition(
    types.FunctionType(_nothing.__code__, {"__name__": "__main__"}, "rehearsal"), "rehearsal"
)
