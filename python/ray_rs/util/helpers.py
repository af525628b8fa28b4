"""Ray's own loops over tasks: `as_completed` and `map_unordered`. `ray_rs.as_completed` and `ray_rs.map` do more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import ray_rs as ray
from ray_rs._iterate import AsCompleted

__all__ = ["as_completed", "map_unordered"]


def as_completed(
    refs: Sequence[ray.ObjectRef[Any]], *, chunk_size: int = 10, yield_obj_refs: bool = False, **kwargs: Any
) -> Iterator[Any]:
    """Gives values as they become ready.

    Args:
        refs: References, each once.
        chunk_size: Without effect: whatever is ready is taken together.
        yield_obj_refs: Give the references instead of their values.
        **kwargs: For `wait`, but for `num_returns`.

    Returns:
        An iterator.

    Raises:
        ValueError: A `chunk_size` below one, or `num_returns`.
    """
    _check(chunk_size, kwargs)
    return AsCompleted(list(refs), yield_obj_refs=yield_obj_refs, **kwargs)


def map_unordered(
    fn: Any,
    items: Iterable[Any],
    *,
    backpressure_size: int | None = 100,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
    **kwargs: Any,
) -> Iterator[Any]:
    """Calls a remote function for each item, and gives the results as they become ready.

    Args:
        fn: The remote function.
        items: Its arguments; taken only so far ahead as `backpressure_size` says.
        backpressure_size: Most tasks that are under way at once; None for any number.
        chunk_size: Without effect: whatever is ready is taken together.
        yield_obj_refs: Give the references instead of their values.
        **kwargs: For `wait`, but for `num_returns`.

    Returns:
        An iterator.

    Raises:
        ValueError: A size below one, or `num_returns`.
    """
    _check(chunk_size, kwargs)
    if backpressure_size is None:
        return AsCompleted([fn.remote(item) for item in items], yield_obj_refs=yield_obj_refs, **kwargs)
    if backpressure_size < 1:
        raise ValueError("backpressure_size must be positive.")
    return _map_unordered(fn, iter(items), backpressure_size, yield_obj_refs, kwargs)


def _map_unordered(
    fn: Any, items: Iterator[Any], most: int, yield_obj_refs: bool, wait_options: dict[str, Any]
) -> Iterator[Any]:
    under_way: list[Any] = []
    exhausted = False
    while True:
        while not exhausted and len(under_way) < most:
            try:
                under_way.append(fn.remote(next(items)))
            except StopIteration:
                exhausted = True
        if not under_way:
            return
        ready, under_way = ray.wait(under_way, num_returns=1, **wait_options)
        for ref in ready:
            yield ref if yield_obj_refs else ray.get(ref)


def _check(chunk_size: int, wait_options: dict[str, Any]) -> None:
    if chunk_size < 1:
        raise ValueError("`chunk_size` must be >= 1")
    if "num_returns" in wait_options:
        raise ValueError("Use the `chunk_size` argument instead of `num_returns`.")
