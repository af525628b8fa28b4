"""Progress bars that work in tasks and actors too: the driver draws them."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

from ray_rs import _logs, _processes

__all__ = ["safe_print", "tqdm"]

T = TypeVar("T")

_numbers = itertools.count()


class tqdm(Generic[T]):
    """A progress bar.

    Args:
        iterable: What is iterated over; each item counts one.
        desc: Shown before the bar.
        total: How much there is to do; the length of `iterable`, if it has one, when None.
        unit: What is counted.
        position: Bars with lower numbers are shown first.
        flush_interval_s: Least seconds between two reports of a worker to the driver; one when None.

    Example:
        >>> for row in tqdm(rows, desc="clean"):
        ...     clean(row)
    """

    def __init__(
        self,
        iterable: Iterable[T] | None = None,
        desc: str | None = None,
        total: int | None = None,
        unit: str | None = None,
        position: int | None = None,
        flush_interval_s: float | None = None,
    ) -> None:
        if total is None and hasattr(iterable, "__len__"):
            total = len(iterable)  # type: ignore[arg-type]
        self._iterable = iterable
        self._number = next(_numbers)
        self._desc = desc or ""
        self._total = total
        self._unit = unit or "it"
        self._position = position or 0
        self._flush_interval_s = 1.0 if flush_interval_s is None else flush_interval_s
        self._n = 0
        self._closed = False
        self._reported_at = float("-inf")
        self._report(force=True)

    @property
    def n(self) -> int:
        """How much is done."""
        return self._n

    @n.setter
    def n(self, value: int) -> None:
        self._n = value

    @property
    def total(self) -> int | None:
        """How much there is to do, when known."""
        return self._total

    @total.setter
    def total(self, value: int | None) -> None:
        self._total = value

    def update(self, n: int = 1) -> None:
        """Counts on.

        Args:
            n: By how much.
        """
        self._n += n
        self._report(force=False)

    def set_description(self, desc: str) -> None:
        """Changes what is shown before the bar.

        Args:
            desc: The text.
        """
        self._desc = desc
        self._report(force=True)

    def refresh(self) -> None:
        """Shows how things are, at once."""
        self._report(force=True)

    def close(self) -> None:
        """Ends the bar; its last state stays on the screen."""
        if not self._closed:
            self._closed = True
            self._report(force=True, last=True)

    def __iter__(self) -> Iterator[T]:
        if self._iterable is None:
            raise ValueError("No iterable provided")
        try:
            for item in self._iterable:
                yield item
                self.update()
        finally:
            self.close()

    def __enter__(self) -> tqdm[T]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _report(self, *, force: bool, last: bool = False) -> None:
        if self._closed and not last:
            return
        in_worker = _processes.is_worker()
        now = time.monotonic()
        if in_worker and not force and now - self._reported_at < self._flush_interval_s:
            return
        self._reported_at = now
        state = {
            "id": self._number,
            "desc": self._desc,
            "n": self._n,
            "total": self._total,
            "unit": self._unit,
            "pos": self._position,
            "closed": self._closed,
        }
        if in_worker:
            import json

            sys.stdout.write(f"{_logs.PROGRESS_MARK}{json.dumps(state)}\n")
            sys.stdout.flush()
        else:
            from ray_rs import _progress

            _progress.display.report(self._number, state)


def safe_print(*args: Any, **kwargs: Any) -> None:
    """Prints without tearing the bars that are on the screen apart.

    Args:
        *args: As for `print`.
        **kwargs: As for `print`.
    """
    bars = _logs._bars
    if bars is None:
        print(*args, **kwargs)
        return
    bars.hide()
    try:
        print(*args, **kwargs)
    finally:
        bars.show()
