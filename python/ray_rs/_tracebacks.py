"""Tracebacks of tasks as text, for the process that gets the error."""

from __future__ import annotations

import os
import traceback

import cloudpickle

__all__ = ["format_remote_traceback"]

_OURS = tuple(os.path.dirname(os.path.abspath(module)) + os.sep for module in (__file__, cloudpickle.__file__))


def format_remote_traceback(error: BaseException) -> str:
    """The traceback of `error` and of all errors chained to it, without the frames of the engine."""
    report = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
    _strip(report, set())
    return "".join(report.format())


# Not a function inside the one above: that would be a cycle that every error leaves to the garbage collector.
def _strip(report: traceback.TracebackException | None, seen: set[int]) -> None:
    if report is None or id(report) in seen:
        return
    seen.add(id(report))
    kept = [frame for frame in report.stack if not frame.filename.startswith(_OURS)]
    report.stack = traceback.StackSummary.from_list(kept)
    _strip(report.__cause__, seen)
    _strip(report.__context__, seen)
    for child in getattr(report, "exceptions", None) or ():
        _strip(child, seen)
