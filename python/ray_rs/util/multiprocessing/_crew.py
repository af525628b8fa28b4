"""Hands batches of calls to the pool's actors: `Crew`.

An actor has one batch that runs and one that waits behind it, so that uneven batches spread evenly, and more of them as
long as they take next to no time; the others wait here. Batches that end are learnt of by callback, on a thread of the
engine that must not wait for anything.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
import types
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import ray_rs as ray
from ray_rs.exceptions import RayActorError, RayError

__all__ = ["Batch", "Crew", "Failure"]

_FEWEST_AT_ONCE, _MOST_AT_ONCE = 2, 16
# A batch that is back so soon was waiting for the next rather than the next for it.
_NEXT_TO_NO_TIME_SECONDS = 0.01


class Failure:
    """Stands for the result of a call that raised.

    Attributes:
        error: What it raised.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Batch(NamedTuple):
    """Calls that one actor makes one after another.

    Attributes:
        function: What to call, or a reference to it.
        stars: What is given of each call: 0 its only argument, 1 the positional ones, 2 a pair of positional and
            keyword arguments.
        calls: The arguments of each call.
        done: Called with the results, a `Failure` in the place of each call that raised.
    """

    function: Any
    stars: int
    calls: list[Any]
    done: Callable[[list[Any]], None]


class _PoolActor:
    """A process of the pool."""

    def __init__(self, initializer: Callable[..., Any] | None, arguments: tuple[Any, ...]) -> None:
        self._globals: dict[str, Any] = {}
        if initializer is not None:
            before = dict(_own_globals(initializer))
            initializer(*arguments)
            after = _own_globals(initializer)
            self._globals = {name: value for name, value in after.items() if before.get(name, self) is not value}

    def run(self, function: Callable[..., Any], stars: int, calls: list[Any]) -> list[Any]:
        # Functions of `__main__` come by value, each with globals of its own: what the initializer has set in its own
        # is meant for them.
        if self._globals:
            _own_globals(function).update(self._globals)
        return [self._call(function, stars, arguments) for arguments in calls]

    def _call(self, function: Callable[..., Any], stars: int, arguments: Any) -> Any:
        try:
            if stars == 0:
                return function(arguments)
            if stars == 1:
                return function(*arguments)
            return function(*arguments[0], **arguments[1])
        except Exception as error:
            return Failure(_portable(error))


def _own_globals(function: Callable[..., Any]) -> dict[str, Any]:
    """The global variables of a function that came by value; none for what was imported here."""
    while isinstance(function, functools.partial):
        function = function.func
    if not isinstance(function, types.FunctionType) or function.__module__ != "__main__":
        return {}
    return function.__globals__


def _portable(error: Exception) -> Exception:
    """The error with its traceback as text; what can't be pickled, or not be unpickled, is replaced by its text."""
    import pickle

    from ray_rs import _serialization
    from ray_rs._tracebacks import format_remote_traceback

    text = format_remote_traceback(error)
    try:
        pickle.loads(_serialization.dumps_in_band(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.__cause__ = _RemoteTraceback(text)
    return _WithCause(error)


class _RemoteTraceback(Exception):
    """Shown above the error: where in the pool it was raised."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class _WithCause(Exception):
    """Takes an error's cause, which pickle leaves behind, along with it."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        cause = self._error.__cause__
        return _with_cause, (self._error, "" if cause is None else cause.text)  # type: ignore[attr-defined]


def _with_cause(error: Exception, text: str) -> Exception:
    error.__cause__ = _RemoteTraceback(text)
    return error


class _Member:
    """An actor, and what it has to do."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.unfinished = 0
        self.started = 0
        self.at_once = _FEWEST_AT_ONCE


class Crew:
    """The actors, and the batches that wait for them.

    Args:
        size: Number of actors.
        make_actor: Makes one.
        batches_per_actor: How many an actor may run before another takes its place; None for any number.
    """

    def __init__(self, size: int, make_actor: Callable[[], Any], batches_per_actor: int | None) -> None:
        self._make_actor = make_actor
        self._batches_per_actor = batches_per_actor
        # Held for a moment only, and never while a batch is sent or its caller told.
        self._lock = threading.Condition()
        self._members = [_Member(make_actor()) for _ in range(size)]
        self._waiting: deque[Batch] = deque()
        self._unfinished = 0
        self._closed = False
        # Resolved, if that is the word, when the actors have ended.
        self._ends: list[Any] = []
        try:
            # What the initializers do is done, and what they raise is raised, when the pool is there.
            ray.get([member.actor.__ray_ready__.remote() for member in self._members])
        except BaseException:
            self.kill()
            raise

    def submit(self, batches: Iterable[Batch]) -> None:
        """Takes batches on; they run in this order, as actors become free."""
        with self._lock:
            for batch in batches:
                self._waiting.append(batch)
                self._unfinished += 1
        self._send()

    def capacity(self) -> int:
        """How many batches the actors can have at once."""
        with self._lock:
            return sum(member.at_once for member in self._members)

    def _send(self) -> None:
        """Gives waiting batches to actors that have room, the least busy first."""
        while True:
            with self._lock:
                member = min(self._members, key=lambda member: member.unfinished, default=None)
                if not self._waiting or member is None or member.unfinished >= member.at_once:
                    return
                batch = self._waiting.popleft()
                member.unfinished += 1
                member.started += 1
                worn_out = member.started == self._batches_per_actor
                if worn_out:
                    self._members.remove(member)
            self._start(member, batch)
            if worn_out:
                # It ends once its batches have, as nothing refers to it any more.
                self._replace()

    def _start(self, member: _Member, batch: Batch) -> None:
        began = time.monotonic()

        def on_end(outcome: Any) -> None:
            quick = time.monotonic() - began < _NEXT_TO_NO_TIME_SECONDS
            member.at_once = min(member.at_once * 2, _MOST_AT_ONCE) if quick else _FEWEST_AT_ONCE
            self._finish(member, batch, outcome)

        try:
            ref = member.actor.run.remote(batch.function, batch.stars, batch.calls)
        except Exception as error:  # an argument that can't be pickled
            self._finish(member, batch, error)
        else:
            ref._on_completed(on_end)

    def _replace(self) -> None:
        fresh = _Member(self._make_actor())
        with self._lock:
            if not self._closed or self._waiting:
                self._members.append(fresh)

    def _finish(self, member: _Member, batch: Batch, outcome: Any) -> None:
        # The results are a list: an exception is what the batch as a whole came to, its actor's death for one.
        failed = isinstance(outcome, BaseException)
        try:
            batch.done([Failure(outcome)] * len(batch.calls) if failed else outcome)
        finally:  # a user's callback may raise
            with self._lock:
                member.unfinished -= 1
                self._unfinished -= 1
            self._send()
            self._release_if_idle()

    def close(self) -> None:
        """Lets the actors end when they have done what they have to do; nothing may be submitted any more."""
        with self._lock:
            self._closed = True
        self._release_if_idle()

    def _release_if_idle(self) -> None:
        with self._lock:
            if self._unfinished:
                return
            if self._closed:
                self._ends += [member.actor.__ray_terminate__.remote() for member in self._members]
                self._members.clear()
            self._lock.notify_all()

    def wait(self) -> None:
        """Returns when the actors of a closed crew have ended."""
        with self._lock:
            while self._unfinished or self._members:
                self._lock.wait()
            ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(RayActorError):  # the only answer that a call to terminate can have
                ray.get(end)

    def kill(self) -> None:
        """Ends the actors at once; what runs or waits fails."""
        with self._lock:
            self._closed = True
            members, self._members = self._members, []
            dropped, self._waiting = self._waiting, deque()
        for member in members:
            ray.kill(member.actor)
        for batch in dropped:
            try:
                batch.done([Failure(RayError("The pool was terminated before this was called"))] * len(batch.calls))
            finally:
                with self._lock:
                    self._unfinished -= 1
        self._release_if_idle()
