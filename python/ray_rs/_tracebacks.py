"""Tracebacks of tasks as text, for the process that gets the error."""

from __future__ import annotations

import os
import traceback

import cloudpickle

__all__ = ["format_remote_traceback"]


def format_remote_traceback(error: BaseException) -> str:
    """The traceback of `error` and of all errors chained to it, without the frames of the engine."""
    ours = tuple(os.path.dirname(os.path.abspath(module)) + os.sep for module in (__file__, cloudpickle.__file__))

    def strip(report: traceback.TracebackException | None, seen: set[int]) -> None:
        if report is None or id(report) in seen:
            return
        seen.add(id(report))
        kept = [frame for frame in report.stack if not frame.filename.startswith(ours)]
        report.stack = traceback.StackSummary.from_list(kept)
        strip(report.__cause__, seen)
        strip(report.__context__, seen)
        for child in getattr(report, "exceptions", None) or ():
            strip(child, seen)

    report = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
    strip(report, set())
    return "".join(report.format())
