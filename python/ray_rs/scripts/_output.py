"""How rows are printed."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["FORMATS", "now", "structured", "table"]

FORMATS = ("default", "json", "yaml", "table")


def now() -> str:
    """The time, as heads of listings show it.

    Returns:
        Date and time.
    """
    return str(datetime.datetime.now())


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns side by side, numbered.

    Args:
        heads: Names of the columns.
        rows: Their values.

    Returns:
        Lines.
    """
    cells = [["", *(head.upper() for head in heads)]]
    cells += [[str(number), *map(_cell, row)] for number, row in enumerate(rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def _cell(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    return "" if value is None else str(value)


def structured(value: Any, format: str) -> str:
    """A value as JSON or YAML.

    Args:
        value: Dictionaries, lists and plain values.
        format: "json" or "yaml".

    Returns:
        The text.
    """
    return json.dumps(value, indent=2) if format == "json" else "\n".join(["---", *_yaml(value), "..."])


def _yaml(value: Any, indent: str = "") -> list[str]:
    """YAML of plain data. Text is written as JSON, which YAML contains, where it could be read as something else."""
    if isinstance(value, dict) and value:
        lines = []
        for key, each in value.items():
            below = _yaml(each, indent + "  ") if isinstance(each, (dict, list)) and each else None
            head = f"{indent}{_scalar(key)}:"
            lines += [head, *below] if below else [f"{head} {_scalar(each)}"]
        return lines
    if isinstance(value, list) and value:
        lines = []
        for each in value:
            inner = _yaml(each, indent + "  ")
            lines += [f"{indent}- {inner[0].lstrip()}", *inner[1:]]
        return lines
    return [f"{indent}{_scalar(value)}"]


def _scalar(value: Any) -> str:
    if isinstance(value, str) and value.replace("_", "").isalpha() and value.lower() not in _WORDS:
        return value
    return json.dumps(value)


# What YAML reads as no text.
_WORDS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf")
