"""What libraries ask Ray's module of this name."""

from __future__ import annotations

from collections.abc import Callable

from ray_rs import _tracing

__all__ = ["is_tracing_enabled"]


def is_tracing_enabled() -> bool:
    """Whether calls of this process are traced.

    Returns:
        True after a hook was called, until `shutdown`.
    """
    return _tracing.is_on()


# By these names libraries know them.
_is_tracing_enabled = is_tracing_enabled


def _import_from_string(import_str: str) -> Callable[[], object]:
    return _tracing.load_hook(import_str)
