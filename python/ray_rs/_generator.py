"""`ObjectRefGenerator`: what a call of a remote generator gives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

if TYPE_CHECKING:
    from ray_rs import _core

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

__all__ = ["DynamicObjectRefGenerator", "ObjectRefGenerator"]

_NOT_SENT = (
    "You cannot return or pass a generator to other task. Serializing an ObjectRefGenerator is not allowed. "
    "Pass the references it gives instead."
)


class ObjectRefGenerator(Generic[T_co]):
    """The references to what a remote generator yields, each as soon as it is there.

    Iterate with `for` or `async for`. After the last item, or the reference that raises what the generator raised, the
    iteration ends. Not thread-safe. When this object goes, the items that were not taken go, too; the task runs on.
    """

    def __init__(self, generator_ref: _core.ObjectRef[None], stream: _core.Stream) -> None:
        self._generator_ref = generator_ref
        self._stream = stream

    # What `wait` waits for.
    @property
    def _ray_waitable(self) -> _core.ObjectRef[Any]:
        return self._stream.peek()

    def __iter__(self) -> Iterator[_core.ObjectRef[T_co]]:
        return self

    def __next__(self) -> _core.ObjectRef[T_co]:
        return self._next_sync()

    def __aiter__(self) -> AsyncIterator[_core.ObjectRef[T_co]]:
        return self

    async def __anext__(self) -> _core.ObjectRef[T_co]:
        return await self._next_async()

    def _next_sync(self, timeout_s: float | None = None) -> _core.ObjectRef[T_co]:
        """The next reference.

        Args:
            timeout_s: How long to wait, in seconds; None or -1: for ever.

        Returns:
            The reference; a nil one when nothing came in time.

        Raises:
            StopIteration: There is no next item.
        """
        from ray_rs import _core
        from ray_rs.exceptions import GetTimeoutError

        try:
            ref = self._stream.next(None if timeout_s is None or timeout_s < 0 else timeout_s)
        except GetTimeoutError:
            return _core.ObjectRef.nil()
        if ref is None:
            raise StopIteration
        return ref

    async def _next_async(self, timeout_s: float | None = None) -> _core.ObjectRef[T_co]:
        import asyncio

        from ray_rs import _core

        promise = self._stream.peek()
        ready = asyncio.get_running_loop().create_future()

        loop = asyncio.get_running_loop()

        def settle() -> None:
            if not ready.done():
                ready.set_result(None)

        def set_ready(_outcome: object) -> None:
            loop.call_soon_threadsafe(settle)

        promise._on_completed(set_ready)
        done, _ = await asyncio.wait([ready], timeout=None if timeout_s is None or timeout_s < 0 else timeout_s)
        if not done:
            ready.cancel()
            return _core.ObjectRef.nil()
        ref = self._stream.next()
        if ref is None:
            raise StopAsyncIteration
        return ref

    def completed(self) -> _core.ObjectRef[None]:
        """A reference that is None when the generator has ended, and raises what it raised."""
        return self._generator_ref

    def next_ready(self) -> bool:
        """Whether `next` would not wait: an item is there, or the end."""
        from ray_rs import _core

        ready, _ = _core.wait([self._stream.peek()], num_returns=1, timeout=0)
        return bool(ready) and not self._stream.is_over()

    def is_finished(self) -> bool:
        """Whether every item was taken and no more come."""
        return self._stream.is_over()

    def task_id(self) -> _core.TaskID:
        """The task that yields the items."""
        return self._generator_ref.task_id()

    def send(self, value: Any) -> NoReturn:
        """NotImplementedError, as in Ray."""
        raise NotImplementedError("`gen.send` is not supported.")

    def throw(self, *error: Any) -> NoReturn:
        """NotImplementedError, as in Ray."""
        raise NotImplementedError("`gen.throw` is not supported.")

    def close(self) -> NoReturn:
        """NotImplementedError, as in Ray."""
        raise NotImplementedError("`gen.close` is not supported.")

    async def asend(self, value: Any) -> NoReturn:
        """NotImplementedError, as in Ray."""
        raise NotImplementedError("`gen.asend` is not supported.")

    async def athrow(self, *error: Any) -> NoReturn:
        """NotImplementedError, as in Ray."""
        raise NotImplementedError("`gen.athrow` is not supported.")

    async def aclose(self) -> NoReturn:
        """NotImplementedError, as in Ray."""
        raise NotImplementedError("`gen.aclose` is not supported.")

    def __reduce__(self) -> NoReturn:
        raise TypeError(_NOT_SENT)

    def __repr__(self) -> str:
        return f"ObjectRefGenerator({self._generator_ref.hex()})"


class DynamicObjectRefGenerator(Generic[T_co]):
    """What a task with `num_returns="dynamic"` returns: references to all that its generator has yielded.

    Unlike an `ObjectRefGenerator` it is there only when the generator has ended, can be iterated over as often as
    wanted, and can be passed on. The items belong to the process that made them and are lost if that one dies.
    """

    def __init__(self, refs: Iterable[_core.ObjectRef[T_co]]) -> None:
        self._refs = list(refs)

    def __iter__(self) -> Iterator[_core.ObjectRef[T_co]]:
        return iter(self._refs)

    def __len__(self) -> int:
        return len(self._refs)

    def __getitem__(self, index: int) -> _core.ObjectRef[T_co]:
        return self._refs[index]

    def _append(self, ref: _core.ObjectRef[T_co]) -> None:
        """Adds the reference that raises what the generator has raised."""
        self._refs.append(ref)

    def __repr__(self) -> str:
        return f"DynamicObjectRefGenerator({self._refs!r})"


def collect(made: Any) -> tuple[DynamicObjectRefGenerator[Any], Exception | None]:
    """Runs a generator to its end, in the process of the task that is to return its items at once.

    Args:
        made: A generator of either kind.

    Returns:
        The references to what it has yielded, and what it has raised then.
    """
    from ray_rs import _core
    from ray_rs._async_loop import iterate

    refs: list[_core.ObjectRef[Any]] = []
    error = None
    try:
        for item in iterate(made) if hasattr(made, "__anext__") else made:
            refs.append(_core.put(item))
    except Exception as raised:
        error = raised
    return DynamicObjectRefGenerator(refs), error


def check_meant(made: Any, name: str) -> None:
    """Refuses a generator that a plain function has returned, as if it were a value.

    Args:
        made: The generator.
        name: Of the task.

    Raises:
        TypeError: The task's function is no generator itself: it was not meant.
    """
    from ray_rs import _core
    from ray_rs._signature import is_generator

    task = _core.current_task()
    if task is not None and task.function is not None and not is_generator(task.function):
        raise TypeError(
            f"{name} returned a generator, which cannot leave its process. Let the function itself be the generator "
            "('yield from ...'), so that the caller gets the items as they come; or return a list of them."
        )
    if hasattr(made, "__anext__"):
        raise TypeError(
            f"{name} is an asynchronous generator and has num_returns=1. Let it be num_returns='streaming', the "
            "default, so that the caller gets the items as they come."
        )
