"""What somebody has meant, most likely, who has typed a name that nobody knows."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["hint"]


def hint(name: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """The end of an error's text.

    Args:
        name: What was typed.
        known: What could have been.
        likeness: From 0 to 1: how like it must be.

    Returns:
        " Did you mean X?", or nothing if none is like it.
    """
    import difflib

    like = difflib.get_close_matches(name, list(known), n=1, cutoff=likeness)
    return f" Did you mean {like[0]}?" if like else ""
