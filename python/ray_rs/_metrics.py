"""What this process measured and has not told yet.

A second after something changed, the control store is told; a worker that ends tells it before (`_goodbye`).
"""

from __future__ import annotations

import threading
import time
from typing import Any

from ray_rs import _core, _goodbye

__all__ = ["COUNTER", "GAUGE", "HISTOGRAM", "flush", "record"]

COUNTER, GAUGE, HISTOGRAM = range(3)
_INTERVAL_S = 1.0

_lock = threading.Lock()
# By name and tags: [description, kind, value, boundaries, counts].
_pending: dict[tuple[str, tuple[str, ...]], list[Any]] = {}
_changed = threading.Event()
_thread: threading.Thread | None = None
# One at a time, so that the values of a gauge arrive in their order.
_sending = threading.Lock()


def record(
    kind: int, name: str, description: str, tags: dict[str, str], value: float, boundaries: tuple[float, ...] = ()
) -> None:
    """Notes a measurement. Without a session it is dropped.

    Args:
        kind: `COUNTER` (what is added), `GAUGE` (the value) or `HISTOGRAM` (what was observed).
        name: Of the metric.
        description: For people.
        tags: Value by key.
        value: What was measured.
        boundaries: Of a histogram.
    """
    if not _core.is_initialized():
        return
    key = (name, tuple(word for pair in sorted(tags.items()) for word in pair))
    with _lock:
        entry = _pending.get(key)
        if entry is None:
            entry = _pending[key] = [description, kind, 0.0, boundaries, [0] * (len(boundaries) + 1)]
        if kind == GAUGE:
            entry[2] = value
        else:
            entry[2] += value
        if kind == HISTOGRAM:
            entry[4][sum(boundary < value for boundary in boundaries)] += 1
        _start()
    _changed.set()


def _start() -> None:
    global _thread
    # Not there: nothing was measured yet, or this process was forked from one in which it is.
    if _thread is None or not _thread.is_alive():
        _thread = threading.Thread(target=_tell, name="ray_rs-metrics", daemon=True)
        _thread.start()
        _goodbye.offer()


def _tell() -> None:
    while True:
        _changed.wait()
        time.sleep(_INTERVAL_S)
        _changed.clear()
        flush()


def flush() -> None:
    """Tells what is pending now. What cannot be told, since the session ends, is lost."""
    from ray_rs.exceptions import RayError

    with _sending:
        with _lock:
            pending = dict(_pending)
            _pending.clear()
        if not pending or not _core.is_initialized():
            return
        series = [
            (name, description, kind, list(tags), value, list(boundaries), counts if kind == HISTOGRAM else [])
            for (name, tags), (description, kind, value, boundaries, counts) in pending.items()
        ]
        try:
            _core.send_metrics(series)
        except (RayError, ConnectionError):
            return
