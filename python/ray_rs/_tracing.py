"""OpenTelemetry's spans around calls of tasks and actors, and around what they run.

Nothing of this is imported unless a hook asks for it: `init(_tracing_startup_hook="module:function")`, or
`ray_rs start --tracing-startup-hook`. The hook is called in the driver and in each of its workers, and sets
OpenTelemetry up there; OpenTelemetry is no dependency of ray_rs. A call makes a span of kind PRODUCER named
`FUNCTION ray.remote`, its execution one of kind CONSUMER named `FUNCTION ray.remote_worker` that continues it, so that
what a task calls belongs to the same trace. The context goes along in the form of W3C, as a keyword argument that the
extension takes out again (`rust/bindings/src/spans.rs`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any

from ray_rs import _core, _goodbye

__all__ = [
    "CONTEXT",
    "VARIABLE",
    "Submission",
    "begin_submission",
    "execute",
    "flush",
    "is_on",
    "load_hook",
    "set_up_here",
    "set_up_in_worker",
]

# By this keyword the caller's context travels.
CONTEXT = "_ray_trace_ctx"

# Tells workers the hook of their job.
VARIABLE = "RAY_RS_TRACING_STARTUP_HOOK"

# How long a worker that ends may take to give its last spans away.
_FLUSH_LIMIT_MS = 1000

# Spans that a worker ends within so long go away together.
_GATHER_S = 0.02

# Hooks that were called in this process: OpenTelemetry is set up once.
_called: set[str] = set()


def load_hook(hook: str) -> Callable[[], object]:
    """Imports a hook.

    Args:
        hook: "module:function".

    Returns:
        The function.

    Raises:
        TypeError: `hook` is no text.
        ValueError: It is not of that form, there is no such module or function, or OpenTelemetry is not installed.
    """
    if not isinstance(hook, str):
        raise TypeError(f"_tracing_startup_hook must be a text such as 'module:function', not {type(hook).__name__}")
    module_name, _, attributes = hook.partition(":")
    if not module_name or not attributes:
        raise ValueError(f"The tracing hook {hook!r} is not of the form 'module:function'.")
    from importlib import import_module

    try:
        import_module("opentelemetry.trace")
    except ImportError:
        raise ValueError(
            "Tracing needs OpenTelemetry, which is not installed: pip install opentelemetry-api opentelemetry-sdk"
        ) from None
    try:
        found: Any = import_module(module_name)
    except ImportError as error:
        raise ValueError(f"The module of the tracing hook {hook!r} cannot be imported: {error}") from error
    for name in attributes.split("."):
        if not hasattr(found, name):
            raise ValueError(f"The tracing hook {hook!r} is not there: {module_name} has no {attributes}.")
        found = getattr(found, name)
    if not callable(found):
        raise ValueError(f"The tracing hook {hook!r} is no function.")
    return found  # type: ignore[no-any-return]


def is_on() -> bool:
    """Whether calls of this process are traced.

    Returns:
        True after a hook was called, until `shutdown`.
    """
    return _core.is_tracing()


def set_up_here(hook: str) -> None:
    """Calls a hook, unless this process has, and traces from now on.

    Args:
        hook: As for `load_hook`.

    Raises:
        ValueError: As for `load_hook`. What the hook itself raises is raised, too.
    """
    function = load_hook(hook)
    if hook not in _called:
        function()
        _called.add(hook)
    _core.set_tracing(True)


def set_up_in_worker() -> None:
    """Does in a worker what `init` did in its driver.

    A hook that fails here, as on a machine that lacks its module, is told on stderr, which the driver shows; the
    worker's tasks run without spans, since a trace is never worth a task.
    """
    global _flusher
    hook = os.environ.get(VARIABLE)
    if not hook:
        return
    try:
        set_up_here(hook)
        _flusher = _Flusher()
        _goodbye.offer()
    except Exception as error:
        print(f"Tasks of this worker are not traced: the hook {hook!r} failed: {error!r}", file=sys.stderr)


def flush() -> None:
    """Gives the last spans away, if a hook was called, within a second; before the process ends."""
    if not _called:
        return
    from opentelemetry import trace

    force_flush = getattr(trace.get_tracer_provider(), "force_flush", None)
    if force_flush is not None:
        force_flush(_FLUSH_LIMIT_MS)


class _Flusher:
    """Gives a worker's spans away soon after they have ended, on a thread of its own.

    A processor that sends spans in batches keeps them for some seconds. A worker that is killed has no time for them
    then; nor has one whose job ends, unless it is on its driver's node, which asks for them (`_goodbye`).
    """

    def __init__(self) -> None:
        import threading

        self.span_ended = threading.Event()
        self._never = threading.Event()
        threading.Thread(target=self._run, name="ray_rs-spans", daemon=True).start()

    def _run(self) -> None:
        while True:
            self.span_ended.wait()
            self._never.wait(_GATHER_S)
            self.span_ended.clear()
            flush()


# In workers that trace.
_flusher: _Flusher | None = None


def _end(span: Any) -> None:
    span.end()
    if _flusher is not None:
        _flusher.span_ended.set()


# ------------------------------------------------------------------------------------------- called by the extension


class Submission:
    """The span of one call while it is submitted.

    Attributes:
        carrier: Its context, as W3C's headers.
    """

    def __init__(self, span: Any, carrier: dict[str, str]) -> None:
        self._span = span
        self.carrier = carrier

    def end(self, error: BaseException | None) -> None:
        """Ends the span.

        Args:
            error: Why the call could not be submitted; None: it was.
        """
        if error is not None:
            _note_error(self._span, error)
        self._span.end()


def begin_submission(class_name: str, name: str, actor_id: str) -> Submission:
    """Begins the span of a call.

    Args:
        class_name: Of an actor; empty: a task's function is called.
        name: Of the function, with its module, or of the method.
        actor_id: In hex; empty for tasks, and for an actor that is about to be made.

    Returns:
        The span, with what is to travel along.
    """
    from opentelemetry import propagate, trace

    attributes = _attributes(class_name, name)
    if actor_id:
        attributes["ray.actor_id"] = actor_id
    span = _tracer().start_span(
        f"{attributes['ray.function']} ray.remote", kind=trace.SpanKind.PRODUCER, attributes=attributes
    )
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context=trace.set_span_in_context(span))
    return Submission(span, carrier)


def execute(
    target: Callable[..., Any],
    class_name: str,
    name: str,
    carrier: dict[str, str],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Calls a function inside a span that continues its caller's.

    Args:
        target: What is called.
        class_name: Of the actor; empty: `target` is a task's function.
        name: Of the method; empty for functions.
        carrier: What the caller sent along.
        args: Arguments by position.
        kwargs: Arguments by name.

    Returns:
        What it returns. A generator, coroutine or asynchronous generator comes back as another one of its kind: its
        span ends when it does.

    Raises:
        BaseException: What `target` raises.
    """
    from opentelemetry import context, propagate, trace

    if not class_name:
        name = f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', repr(target))}"
    parent = propagate.extract(carrier)
    attributes = _attributes(class_name, name)
    span = _tracer().start_span(
        f"{attributes['ray.function']} ray.remote_worker",
        context=parent,
        kind=trace.SpanKind.CONSUMER,
        attributes=attributes,
    )
    inside = trace.set_span_in_context(span, parent)
    token = context.attach(inside)
    try:
        value = target(*args, **kwargs)
    except BaseException as error:
        _end_with(span, error)
        raise
    finally:
        context.detach(token)
    kind = type(value)
    if kind is GeneratorType:
        return _items(value, span, inside)
    if kind is CoroutineType:
        return _outcome(value, span, inside)
    if kind is AsyncGeneratorType:
        return _items_async(value, span, inside)
    _end(span)
    return value


def _items(generator: Any, span: Any, inside: Any) -> Generator[Any, None, None]:
    """Its items. Between two of them the caller's context is in force."""
    from opentelemetry import context

    try:
        while True:
            token = context.attach(inside)
            try:
                item = next(generator)
            except StopIteration:
                break
            finally:
                context.detach(token)
            yield item
    except BaseException as error:
        generator.close()
        _end_with(span, error)
        raise
    _end(span)


async def _items_async(generator: Any, span: Any, inside: Any) -> AsyncGenerator[Any, None]:
    from opentelemetry import context

    try:
        while True:
            token = context.attach(inside)
            try:
                item = await anext(generator)
            except StopAsyncIteration:
                break
            finally:
                context.detach(token)
            yield item
    except BaseException as error:
        await generator.aclose()
        _end_with(span, error)
        raise
    _end(span)


async def _outcome(coroutine: Coroutine[Any, Any, Any], span: Any, inside: Any) -> Any:
    from opentelemetry import context

    token = context.attach(inside)
    try:
        value = await coroutine
    except BaseException as error:
        _end_with(span, error)
        raise
    finally:
        context.detach(token)
    _end(span)
    return value


# --------------------------------------------------------------------------------------------------------- attributes


def _tracer() -> Any:
    from opentelemetry import trace

    return trace.get_tracer("ray_rs")


def _end_with(span: Any, error: BaseException) -> None:
    # A generator that nobody reads to its end is closed: no error. Nor is an actor that ends itself, or a cancellation
    # by interrupt, which are no `Exception`s; asyncio's cancellation is none either.
    if isinstance(error, Exception):
        _note_error(span, error)
    _end(span)


def _note_error(span: Any, error: BaseException) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.record_exception(error)
    span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))


def _attributes(class_name: str, name: str) -> dict[str, str]:
    """Those of Ray's spans."""
    info = _core.process_info() if _core.is_initialized() else None
    if class_name:
        attributes = {
            "ray.remote": "actor",
            "ray.actor_class": class_name,
            "ray.actor_method": name,
            "ray.function": f"{class_name}.{name}",
        }
    else:
        attributes = {"ray.remote": "function", "ray.function": name}
    attributes["ray.pid"] = str(os.getpid())
    if info is None:  # the call is the first use, which starts the session
        return attributes
    attributes |= {f"ray.{key}": info[key].hex() for key in ("job_id", "node_id", "worker_id")}
    if not info["is_driver"]:
        task, actor = _core.current_task(), _core.current_actor()
        if task is not None:
            attributes["ray.task_id"] = task.task_id.hex()
        if actor is not None:
            attributes["ray.actor_id"] = actor[0].hex()
    return attributes
