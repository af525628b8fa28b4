"""Messages that are worth saying once: `log_once`."""

from __future__ import annotations

import time

__all__ = ["disable_log_once_globally", "enable_periodic_logging", "log_once", "reset_log_once"]

_PERIOD_SECONDS = 60.0

_said: set[str] = set()
_disabled = False
_periodic = False
_last_cleared = 0.0


def log_once(key: str) -> bool:
    """Whether to say something now: True the first time in this process that it is asked for a key.

    Args:
        key: What it is about.

    Returns:
        Whether it was not asked for before; always False once that is disabled.

    Example:
        >>> if log_once("slow_path"):
        ...     logger.info("Taking the slow path.")
    """
    global _last_cleared
    if _disabled:
        return False
    if key not in _said:
        _said.add(key)
        return True
    if _periodic and time.monotonic() - _last_cleared > _PERIOD_SECONDS:
        _said.clear()
        _said.add(key)
        _last_cleared = time.monotonic()
        return True
    return False


def reset_log_once(key: str | None = None) -> None:
    """Lets something be said again.

    Args:
        key: What; all when None.
    """
    if key is None:
        _said.clear()
    else:
        _said.discard(key)


def disable_log_once_globally() -> None:
    """Makes `log_once` say no, whatever it is asked."""
    global _disabled
    _disabled = True


def enable_periodic_logging() -> None:
    """Makes `log_once` forget, every minute, what was said."""
    global _periodic
    _periodic = True
